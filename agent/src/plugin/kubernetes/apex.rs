//! The zone itself: SOA, name servers, and the version of the DNS specification that is served.

use std::net::IpAddr;

use super::ask::{Ask, NameWriter, pointer};
use super::{Kubernetes, Verdict};
use crate::cluster::index::address::Reason;
use crate::request::Request;
use crate::wire::{NameRef, Owner, RecordType, Reply, Section};

/// `1.1.0`, the version of Kubernetes' DNS specification, as the data of a TXT record.
const VERSION: &[u8] = b"\x051.1.0";
/// `1.0.0`, that of the one for several clusters (KEP-1645).
const MULTICLUSTER_VERSION: &[u8] = b"\x051.0.0";
/// CoreDNS's: eight hours.
const VERSION_TTL: u32 = 28_800;
/// Refresh, retry and expiry of the SOA record, seconds; nobody transfers the zone, these are CoreDNS's.
const SOA_TIMES: [u32; 3] = [7_200, 1_800, 86_400];

impl Kubernetes {
    /// Appends the zone's SOA record. Its time to live and its minimum are the directive's `ttl` (RFC 2308 section 5).
    pub(super) fn write_soa(
        &self,
        section: Section,
        ask: &Ask<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) {
        let zone = pointer(ask.cut);
        let mut rdata = NameWriter::new();
        rdata.push(b"\x02ns\x03dns");
        rdata.push(&zone);
        rdata.push(b"\x0ahostmaster");
        rdata.push(&zone);
        rdata.push(&self.index.serial(request.origin.received).to_be_bytes());
        SOA_TIMES.iter().chain([&self.view.ttl]).for_each(|time| rdata.push(&time.to_be_bytes()));
        if let Some(rdata) = rdata.get() {
            reply.record(section, Owner::Suffix(ask.cut), RecordType::SOA, self.view.ttl, rdata);
        }
    }

    /// The name of the zone.
    pub(super) fn apex(
        &self,
        ask: &Ask<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        match ask.qtype {
            RecordType::SOA => {
                self.write_soa(Section::Answer, ask, request, reply);
                Verdict::Answered
            }
            RecordType::NS => self.name_servers(ask, reply),
            _ => Verdict::NoData,
        }
    }

    /// `dns-version`.
    pub(super) fn version(&self, ask: &Ask<'_>, imported: bool, reply: &mut Reply<'_>) -> Verdict {
        if ask.qtype != RecordType::TXT {
            return Verdict::NoData;
        }
        let version = if imported { MULTICLUSTER_VERSION } else { VERSION };
        reply.record(Section::Answer, Owner::Question, RecordType::TXT, VERSION_TTL, version);
        Verdict::Answered
    }

    /// `ns.dns`: our own addresses.
    pub(super) fn name_server(&self, ask: &Ask<'_>, reply: &mut Reply<'_>) -> Verdict {
        let mut verdict = Verdict::NoData;
        for address in self.own() {
            if address_type(address) == ask.qtype {
                write_address(reply, Section::Answer, Owner::Question, self.view.ttl, address);
                verdict = Verdict::Answered;
            }
        }
        verdict
    }

    /// NS of a zone, as CoreDNS has it: the Services that one of our addresses is an endpoint of, and `ns.dns` for the
    /// addresses that are nobody's endpoint. On loopback there is nothing to name.
    fn name_servers(&self, ask: &Ask<'_>, reply: &mut Reply<'_>) -> Verdict {
        let mut verdict = Verdict::NoData;
        let mut nameless = false;
        for address in self.own() {
            let mut owned = false;
            self.index.owners(address, |reason, key| {
                if reason == Reason::Endpoint && !key.imported && self.is_exposed(key.namespace()) {
                    owned = true;
                    let mut name = NameWriter::new();
                    name.push(key.wire());
                    name.push(b"\x03svc");
                    name.push(&pointer(ask.cut));
                    if let Some(name) = name.get() {
                        verdict = Verdict::Answered;
                        let (ttl, ns) = (self.view.ttl, RecordType::NS);
                        return reply.record(Section::Answer, Owner::Question, ns, ttl, name);
                    }
                }
                true
            });
            nameless |= !owned;
        }
        if nameless {
            let mut name = NameWriter::new();
            name.push(b"\x02ns\x03dns");
            name.push(&pointer(ask.cut));
            reply.record(
                Section::Answer,
                Owner::Question,
                RecordType::NS,
                self.view.ttl,
                name.get().unwrap_or(&[0]),
            );
            verdict = Verdict::Answered;
        }
        if verdict == Verdict::Answered && !reply.truncated() {
            self.glue(ask, reply);
        }
        verdict
    }

    fn glue(&self, ask: &Ask<'_>, reply: &mut Reply<'_>) {
        let ttl = self.view.ttl;
        for address in self.own() {
            let mut owned = false;
            self.index.owners(address, |reason, key| {
                if reason == Reason::Endpoint && !key.imported && self.is_exposed(key.namespace()) {
                    owned = true;
                    let mut name = NameWriter::new();
                    name.push(key.wire());
                    name.push(b"\x03svc");
                    ask.write_suffix(ask.cut, &mut name);
                    let name = name.get().and_then(|name| NameRef::parse(name).ok());
                    let cluster_ips =
                        self.index.group(key.wire(), false, |group| group.cluster_ips());
                    let mut ips = cluster_ips.unwrap_or_default().into_iter();
                    return name.is_none_or(|name| {
                        let owner = Owner::Name(name);
                        ips.all(|ip| write_address(reply, Section::Additional, owner, ttl, ip))
                    });
                }
                true
            });
            if !owned {
                let mut name = NameWriter::new();
                name.push(b"\x02ns\x03dns");
                ask.write_suffix(ask.cut, &mut name);
                if let Some(name) = name.get().and_then(|name| NameRef::parse(name).ok()) {
                    write_address(reply, Section::Additional, Owner::Name(name), ttl, address);
                }
            }
        }
    }

    fn own(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.view.own.iter().copied().filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    }
}

/// The record type of an address.
pub(super) fn address_type(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

/// Appends an address record; false where it does not fit.
pub(super) fn write_address(
    reply: &mut Reply<'_>,
    section: Section,
    owner: Owner<'_>,
    ttl: u32,
    address: IpAddr,
) -> bool {
    match address {
        IpAddr::V4(v4) => reply.record(section, owner, RecordType::A, ttl, &v4.octets()),
        IpAddr::V6(v6) => reply.record(section, owner, RecordType::AAAA, ttl, &v6.octets()),
    }
}
