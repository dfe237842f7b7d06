//! Zones of addresses: PTR records.

use std::net::IpAddr;
use std::sync::Arc;

use super::ask::{Ask, NameWriter, Reversed, reversed};
use super::endpoints::push_endpoint;
use super::naming::{Label, LabelBuf};
use super::{Kubernetes, Verdict};
use crate::cluster::index::address::{Prefix, Reason};
use crate::cluster::index::group::{Group, Key};
use crate::cluster::index::slice::Slice;
use crate::request::Request;
use crate::wire::name::MAX_NAME;
use crate::wire::{Owner, RecordType, Reply, Section};

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

    /// The Service whose own the address is; else every endpoint that has it. Imports come after Services, since what has
    /// a name in the cluster needs no other (KEP-1645).
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
        if best.is_none() {
            return Verdict::NoName;
        }
        if ask.qtype != RecordType::PTR {
            return Verdict::NoData;
        }
        self.index.owners(address, |reason, key| {
            if rank(reason, key) != best {
                return true;
            }
            match reason {
                Reason::ClusterIp => {
                    self.write_ptr(None, key, reply);
                    false
                }
                Reason::Endpoint => {
                    self.index.group(key.wire(), key.imported, |group| {
                        self.endpoints_of(address, group, key, reply)
                    });
                    !reply.truncated()
                }
            }
        });
        Verdict::Answered
    }

    fn endpoints_of(&self, address: IpAddr, group: &Group, key: &Arc<Key>, reply: &mut Reply<'_>) {
        let naming = self.naming();
        for (number, slice) in group.slices.iter().enumerate() {
            for row in slice.rows_of(address) {
                let mut room = LabelBuf::new();
                let label = Label::of(naming, slice, row, &mut room);
                let has = |n: usize, row: usize, before: usize| {
                    let Some(other) = group.slices.get(n) else { return false };
                    let mut room = LabelBuf::new();
                    (n < number || row < before)
                        && other.cluster() == slice.cluster()
                        && naming.label(other, row, &mut room) == label.text
                };
                let earlier = group.slices.iter().take(number + 1).enumerate();
                if earlier
                    .into_iter()
                    .any(|(n, slice)| slice.rows_of(address).any(|other| has(n, other, row)))
                {
                    continue;
                }
                if !self.write_ptr(Some((&label, slice)), key, reply) {
                    return;
                }
            }
        }
    }

    /// `[<endpoint>.[<cluster>.]]<service>.<namespace>.svc.<first zone>`
    fn write_ptr(
        &self,
        endpoint: Option<(&Label<'_>, &Slice)>,
        key: &Key,
        reply: &mut Reply<'_>,
    ) -> bool {
        let Some(zone) = self.primary_zone(key.imported) else { return true };
        let mut name = NameWriter::new();
        if let Some((label, slice)) = endpoint {
            push_endpoint(label, slice, &mut name);
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
