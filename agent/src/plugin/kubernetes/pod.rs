//! Pods by address: `10-1-0-10.<namespace>.pod`.

use super::apex::{address_type, write_address};
use super::ask::{Ask, NameWriter};
use super::{Kubernetes, Pods, Verdict};
use crate::cluster::index::label::dashed;
use crate::cluster::object::Kind;
use crate::wire::{Owner, RecordType, Reply, Section};

impl Kubernetes {
    /// A name below `pod`; it has two labels at least.
    pub(super) fn pod(&self, ask: &Ask<'_>, reply: &mut Reply<'_>) -> Verdict {
        let namespace = ask.above_zone(1);
        if self.view.pods == Pods::Disabled
            || !self.is_exposed(namespace)
            || !self.index.has_namespace(namespace)
        {
            return Verdict::NoName;
        }
        if ask.count() == 2 {
            return Verdict::NoData;
        }
        // CoreDNS passes over labels in front of the address, but for those the Pods are asked, who have none.
        let Some(address) = dashed(ask.above_zone(2)) else { return Verdict::NoName };
        let verified = || ask.count() == 3 && self.index.has_pod(address, namespace);
        if self.view.pods == Pods::Verified && !verified() {
            return if self.index.synced(&[Kind::Pod]) { Verdict::NoName } else { Verdict::NotYet };
        }
        if ask.qtype == address_type(address) {
            write_address(reply, Section::Answer, Owner::Question, self.view.ttl, address);
            return Verdict::Answered;
        }
        if ask.qtype != RecordType::SRV {
            return Verdict::NoData;
        }
        let mut rdata = NameWriter::new();
        rdata.push(&[0, 0, 0, 100, 0, 0]);
        ask.write_suffix(0, &mut rdata);
        if let Some(rdata) = rdata.get() {
            reply.record(Section::Answer, Owner::Question, RecordType::SRV, self.view.ttl, rdata);
            write_address(reply, Section::Additional, Owner::Question, self.view.ttl, address);
        }
        Verdict::Answered
    }
}
