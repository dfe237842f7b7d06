//! Zones of Services: which name is whose.

use std::net::IpAddr;

use super::apex::write_address;
use super::ask::{Ask, NameWriter};
use super::endpoints::{Selected, Which};
use super::nearby::Chosen;
use super::ports::{Ports, asked_port, each_number, protocol, weight, write_srv};
use super::{Kubernetes, Verdict, stride};
use crate::chain::Local;
use crate::cluster::index::group::{Group, Kind, Service};
use crate::cluster::index::label::Label;
use crate::cluster::index::records::{A_LEN, AAAA_LEN, addresses_in};
use crate::cluster::index::slice;
use crate::cluster::object::Port;
use crate::request::Request;
use crate::wire::{Owner, RecordType, Reply, Section};

impl Kubernetes {
    /// A name in a zone of Services.
    pub(super) fn forward(
        &self,
        ask: &Ask<'_>,
        imported: bool,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        if ask.count() == 0 {
            return self.apex(ask, request, reply);
        }
        // As CoreDNS: a SOA record is asked for to find the zone, which every name in it has, existing or not.
        if ask.qtype == RecordType::SOA {
            return Verdict::NoData;
        }
        match (ask.count(), ask.above_zone(0)) {
            (3.., b"svc") => self.below_service(ask, imported, reply, local),
            (2..=5, b"pod") if !imported => self.pod(ask, reply),
            (2, b"svc") => {
                let namespace = ask.above_zone(1);
                let exists = self.is_exposed(namespace) && self.index.has_namespace(namespace);
                if exists { Verdict::NoData } else { Verdict::NoName }
            }
            (1, b"svc" | b"dns") => Verdict::NoData,
            (1, b"pod") if !imported => Verdict::NoData,
            (1, b"dns-version") => self.version(ask, imported, reply),
            (2, b"dns") if ask.label(0) == b"ns" => self.name_server(ask, reply),
            _ => Verdict::NoName,
        }
    }

    /// `<service>.<namespace>.svc` and what is below it.
    fn below_service(
        &self,
        ask: &Ask<'_>,
        imported: bool,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        let is_zonal = self.is_zonal(ask, imported);
        if ask.count() > 5 && !is_zonal || !self.is_exposed(ask.above_zone(1)) {
            return Verdict::NoName;
        }
        let verdict = self.index.group(ask.service_key(), imported, |group| {
            let Some(service) = &group.service else { return Verdict::NoName };
            if is_zonal {
                return self.zonal(ask, group, service, reply, local);
            }
            self.service(ask, group, service, reply, local)
        });
        verdict.unwrap_or(Verdict::NoName)
    }

    fn service(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        service: &Service,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        match &service.kind {
            Kind::ExternalName(name) => self.external_name(ask, name.as_ref(), reply),
            Kind::Unnamed(_) => Verdict::NoName,
            // Such a Service may be hidden by endpoints that are not known yet.
            Kind::ClusterIp if self.view.ignore_empty && group.ready() == 0 => {
                self.unless_listed(group.key.imported)
            }
            Kind::ClusterIp => match ask.count() {
                3 => self.cluster_ip(ask, Ports::All, group, service, reply, local),
                4 if self.is_protocol(ask, group, &service.ports) => Verdict::NoData,
                // Whoever imports a Service does not choose among the clusters behind it (KEP-1645).
                4 if group.key.imported => Verdict::NoName,
                4 => self.endpoint(ask, None, group, reply, local),
                _ => match asked_port(ask) {
                    Some(ports) if ports.of(&service.ports).next().is_some() => {
                        self.cluster_ip(ask, ports, group, service, reply, local)
                    }
                    _ => Verdict::NoName,
                },
            },
            Kind::Headless if !self.view.endpoints => Verdict::NoName,
            Kind::Headless if !self.endpoints_are_listed(group.key.imported) => Verdict::NotYet,
            Kind::Headless => match ask.count() {
                3 if group.a.is_empty() && group.aaaa.is_empty() => Verdict::NoName,
                3 => {
                    let chosen = self.chosen(group, service, Ports::All, ask.qtype);
                    self.headless(ask, chosen, reply, local)
                }
                4 | 5 if self.is_above_zonal(ask, group.key.imported) => Verdict::NoData,
                4 if self.is_protocol(ask, group, &[]) || is_cluster(ask.label(0), group) => {
                    Verdict::NoData
                }
                4 => self.endpoint(ask, None, group, reply, local),
                _ if group.key.imported && !has_underscore(ask) => {
                    self.endpoint(ask, Some(ask.label(1)), group, reply, local)
                }
                _ => match asked_port(ask) {
                    Some(ports) if port_lists(group).any(|(list, _)| ports.are_in(list)) => {
                        let chosen = self.chosen(group, service, ports, ask.qtype);
                        self.port_of_headless(ask, ports, chosen, reply, local)
                    }
                    _ => Verdict::NoName,
                },
            },
        }
    }

    /// A Service with addresses of its own, or one of its ports.
    fn cluster_ip(
        &self,
        ask: &Ask<'_>,
        ports: Ports<'_>,
        group: &Group,
        service: &Service,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        match ask.qtype {
            RecordType::A | RecordType::AAAA => {
                self.addresses(ask, Chosen { group, first: None }, reply, local)
            }
            RecordType::SRV => self.cluster_srv(ask, ports, group, service, reply),
            _ => Verdict::NoData,
        }
    }

    /// SRV of a Service with addresses of its own: one record for each port number, the Service itself as target.
    fn cluster_srv(
        &self,
        ask: &Ask<'_>,
        ports: Ports<'_>,
        group: &Group,
        service: &Service,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        let addresses = group.a.len() / A_LEN + group.aaaa.len() / AAAA_LEN;
        let chosen = ports.of(&service.ports);
        let weight = weight(addresses * chosen.clone().count());
        let mut rdata = NameWriter::new();
        let mut verdict = Verdict::NoData;
        let whole = each_number(chosen, |number| {
            write_srv(&mut rdata, 0, weight, number);
            ask.write_suffix(ask.service_start(), &mut rdata);
            let Some(data) = rdata.get() else { return true };
            verdict = Verdict::Answered;
            reply.record(Section::Answer, Owner::Question, RecordType::SRV, self.view.ttl, data)
        });
        if whole && verdict == Verdict::Answered {
            let mut record = rdata;
            record.truncate(0);
            ask.write_pointer(ask.service_start(), &mut record);
            let owner = record.len();
            for address in addresses_in(&group.a, &group.aaaa) {
                record.truncate(owner);
                record.push_address_record(self.view.ttl, address);
                reply.records(Section::Additional, 1, record.get().unwrap_or(&[]));
            }
        }
        verdict
    }

    /// A headless Service with ready endpoints.
    pub(super) fn headless(
        &self,
        ask: &Ask<'_>,
        chosen: Chosen<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        match ask.qtype {
            RecordType::A | RecordType::AAAA => self.addresses(ask, chosen, reply, local),
            RecordType::SRV => {
                let selected = Selected::every(Ports::All, chosen, stride(local));
                self.composed_srv(ask, chosen.group, &selected, reply)
            }
            _ => Verdict::NoData,
        }
    }

    /// One port of a headless Service: the endpoints whose slices have it, of which there are some.
    fn port_of_headless(
        &self,
        ask: &Ask<'_>,
        ports: Ports<'_>,
        chosen: Chosen<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        let group = chosen.group;
        let rows_with_port = |(list, rows): (&slice::Ports, usize)| {
            if ports.are_in(list) { rows } else { 0 }
        };
        let ready: usize = port_lists(group).map(rows_with_port).sum();
        // Those that come first are in the answer by their ports, too.
        let all_have_it = ready == group.ready();
        match ask.qtype {
            RecordType::A | RecordType::AAAA if all_have_it => {
                self.addresses(ask, chosen, reply, local)
            }
            RecordType::A | RecordType::AAAA => {
                let octets = ready * if ask.qtype == RecordType::A { A_LEN } else { AAAA_LEN };
                let start = self.rotation(octets, reply, local);
                let selected = Selected::every(ports, chosen, start);
                self.composed_addresses(ask, group, &selected, reply)
            }
            RecordType::SRV => {
                let selected = Selected::every(ports, chosen, stride(local));
                self.composed_srv(ask, group, &selected, reply)
            }
            _ => Verdict::NoData,
        }
    }

    /// True where the one label below a Service is the protocol above one of its named ports; `ports` is empty for those
    /// of its slices.
    fn is_protocol(&self, ask: &Ask<'_>, group: &Group, ports: &[Port]) -> bool {
        let Some(protocol) = ask.label(0).strip_prefix(b"_").and_then(protocol) else {
            return false;
        };
        let named = |port: &Port| port.protocol == protocol && !port.name.is_empty();
        ports.iter().any(named)
            || ports.is_empty() && port_lists(group).any(|(list, _)| list.iter().any(named))
    }

    /// An endpoint, of that cluster where it is an import's.
    fn endpoint(
        &self,
        ask: &Ask<'_>,
        cluster: Option<&[u8]>,
        group: &Group,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        if !self.view.endpoints {
            return Verdict::NoName;
        }
        if !self.endpoints_are_listed(group.key.imported) {
            return Verdict::NotYet;
        }
        let label = Label::read(ask.label(0));
        if self.find_endpoint(group, label, cluster).is_none() {
            return Verdict::NoName;
        }
        let selected = Selected {
            ports: Ports::All,
            target: Which::One(label, cluster),
            start: self.rotation(0, reply, local),
            first: None,
        };
        match ask.qtype {
            RecordType::A | RecordType::AAAA => {
                self.composed_addresses(ask, group, &selected, reply)
            }
            RecordType::SRV => self.composed_srv(ask, group, &selected, reply),
            _ => Verdict::NoData,
        }
    }

    /// The Service's own address records of the type asked for, copied as they are kept.
    fn addresses(
        &self,
        ask: &Ask<'_>,
        chosen: Chosen<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        let (records, stride) = records_of(chosen.group, ask.qtype);
        if records.is_empty() {
            return Verdict::NoData;
        }
        let start = self.rotation(records.len(), reply, local);
        let ttl = self.view.ttl;
        let (near, _) = chosen.first.map_or((&[][..], 0), |first| records_of(first, ask.qtype));
        // They are among the others: as many are all.
        let Some(first) = chosen.first.filter(|_| !near.is_empty() && near.len() < records.len())
        else {
            reply.addresses_from(Section::Answer, stride, records, start, ttl);
            return Verdict::Answered;
        };
        // Where they do not fit, no other is looked at; where they do, as many are passed over at most.
        if reply.addresses_from(Section::Answer, stride, near, start, ttl) {
            addresses_of(records, stride, start)
                .filter(|address| !first.has_address(*address))
                .all(|address| {
                    write_address(reply, Section::Answer, Owner::Question, ttl, address)
                });
        }
        Verdict::Answered
    }

    fn unless_listed(&self, imported: bool) -> Verdict {
        if self.endpoints_are_listed(imported) { Verdict::NoName } else { Verdict::NotYet }
    }
}

/// The addresses in records of one type, from some of them on.
fn addresses_of(records: &[u8], stride: usize, start: usize) -> impl Iterator<Item = IpAddr> {
    let at = start.checked_rem(records.len() / stride).unwrap_or(0) * stride;
    let (before, from) = records.split_at_checked(at).unwrap_or((&[], records));
    let of = move |records| match stride {
        A_LEN => addresses_in(records, &[]),
        _ => addresses_in(&[], records),
    };
    of(from).chain(of(before))
}

/// The address records of a type, and the octets of each.
fn records_of(group: &Group, qtype: RecordType) -> (&[u8], usize) {
    match qtype {
        RecordType::A => (&group.a, A_LEN),
        _ => (&group.aaaa, AAAA_LEN),
    }
}

/// True where one of the two labels below a Service says that they are a port.
fn has_underscore(ask: &Ask<'_>) -> bool {
    ask.label(0).starts_with(b"_") || ask.label(1).starts_with(b"_")
}

/// The lists of ports that endpoints have, each with the number of rows.
fn port_lists(group: &Group) -> impl Iterator<Item = (&slice::Ports, usize)> {
    let plain = if group.targets().is_none() { group.plain_ports() } else { None };
    let merged = group.targets().into_iter().flat_map(|targets| targets.ports().iter());
    plain.map(|list| (list, group.ready())).into_iter().chain(merged)
}

/// True where endpoints of an import have names below this label: those of that cluster.
fn is_cluster(label: &[u8], group: &Group) -> bool {
    group.slices.iter().any(|slice| !slice.is_empty() && slice.cluster() == Some(label))
}
