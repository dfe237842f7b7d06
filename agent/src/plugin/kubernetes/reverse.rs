//! Zones of addresses: PTR records.

use std::net::IpAddr;

use super::ask::{Ask, NameWriter, Reversed, reversed};
use super::endpoints::push_endpoint;
use super::{Kubernetes, Verdict};
use crate::cluster::index::address::{Prefix, Reason};
use crate::cluster::index::group::Key;
use crate::cluster::index::label::Label;
use crate::request::Request;
use crate::wire::name::MAX_NAME;
use crate::wire::{Owner, RecordType, Reply, Section};

/// Among so many Services with one address, names that are hostnames come first.
const MAX_SORTED: usize = 256;

/// Which of an address's names are written.
#[derive(Clone, Copy)]
enum Which {
    /// Hostnames, and names of Pods.
    Own,
    /// Those that are made of the address.
    Address,
    /// Both.
    Every,
}

impl Kubernetes {
    /// A name in a zone of addresses.
    pub(super) fn reverse(
        &self,
        ask: &Ask<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Verdict {
        if ask.count() == 0 {
            return self.apex(ask, request, reply);
        }
        if ask.qtype == RecordType::SOA {
            return Verdict::NoData;
        }
        match reversed(request.query.name()) {
            None => Verdict::NoName,
            Some(Reversed::Whole(address)) => self.names_of(address, ask, reply),
            Some(Reversed::Part(address, steps)) => {
                let below = self.index.has_addresses_below(Prefix::of(address, steps));
                if below { Verdict::NoData } else { Verdict::NoName }
            }
        }
    }

    /// The Service whose own the address is; else every endpoint that has it, those with a hostname first, since that is the
    /// name that is meant to be found (kubernetes#124418). Imports come after Services, since what has a name in the cluster
    /// needs no other (KEP-1645).
    fn names_of(&self, address: IpAddr, ask: &Ask<'_>, reply: &mut Reply<'_>) -> Verdict {
        let rank = |reason: Reason, key: &Key| {
            let endpoint = reason == Reason::Endpoint;
            let counts = (self.view.endpoints || !endpoint)
                && self.primary_zone(key.imported).is_some()
                && self.is_exposed(key.namespace());
            counts.then_some((key.imported, endpoint))
        };
        let mut best = None;
        self.index.owners(address, |reason, key| {
            best = match (best, rank(reason, key)) {
                (Some(best), Some(this)) => Some(this.min(best)),
                (best, this) => best.or(this),
            };
            best != Some((false, false))
        });
        let Some((_, is_endpoint)) = best else { return Verdict::NoName };
        if ask.qtype != RecordType::PTR {
            return Verdict::NoData;
        }
        let (mut looked_up, mut fits) = (0, true);
        if is_endpoint {
            self.index.owners(address, |reason, key| {
                if rank(reason, key) != best {
                    return true;
                }
                looked_up += 1;
                fits = looked_up > MAX_SORTED || self.write_names(address, key, Which::Own, reply);
                fits && looked_up <= MAX_SORTED
            });
        }
        if !fits {
            return Verdict::Answered;
        }
        let mut number = 0;
        self.index.owners(address, |reason, key| {
            if rank(reason, key) != best {
                return true;
            }
            number += 1;
            match reason {
                Reason::ClusterIp => {
                    self.write_ptr(None, key, reply);
                    false
                }
                Reason::Endpoint if number <= MAX_SORTED => {
                    self.write_names(address, key, Which::Address, reply)
                }
                Reason::Endpoint => self.write_names(address, key, Which::Every, reply),
            }
        });
        Verdict::Answered
    }

    /// Writes the names below one Service; false once one does not fit.
    fn write_names(&self, address: IpAddr, key: &Key, which: Which, reply: &mut Reply<'_>) -> bool {
        let mut write = |label: Label<'_>, cluster: Option<&[u8]>| {
            let is_own = matches!(label, Label::Own(_));
            let wanted = match which {
                Which::Own => is_own,
                Which::Address => !is_own,
                Which::Every => true,
            };
            !wanted || self.write_ptr(Some((label, cluster)), key, reply)
        };
        let all = self.index.group(key.wire(), key.imported, |group| match group.targets() {
            Some(targets) => self
                .index
                .target_address(targets, address)
                .is_none_or(|known| known.names().all(|(label, cluster)| write(label, cluster))),
            None => {
                group.plain_label(address).is_none_or(|label| write(label, group.plain_cluster()))
            }
        });
        all.unwrap_or(true)
    }

    /// `[<endpoint>.[<cluster>.]]<service>.<namespace>.svc.<first zone>`
    fn write_ptr(
        &self,
        endpoint: Option<(Label<'_>, Option<&[u8]>)>,
        key: &Key,
        reply: &mut Reply<'_>,
    ) -> bool {
        let Some(zone) = self.primary_zone(key.imported) else { return true };
        let mut name = NameWriter::new();
        if let Some((label, cluster)) = endpoint {
            push_endpoint(label, cluster, &mut name);
        }
        name.push(key.wire());
        name.push(b"\x03svc");
        name.push(zone.as_bytes());
        // A name of more than 255 octets is none.
        let Some(name) = name.get().filter(|name| name.len() <= MAX_NAME) else {
            return true;
        };
        reply.record(Section::Answer, Owner::Question, RecordType::PTR, self.view.ttl, name)
    }
}
