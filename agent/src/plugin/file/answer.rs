//! What a zone has for a question, written into a reply.

use super::zone::{Found, Node, Set, Zone};
use crate::wire::rdata::{negative_ttl, target};
use crate::wire::reply::RecordRef;
use crate::wire::{Class, Compressor, NameBuf, NameRef, Rcode, RecordType, Reply, Section, flags};

/// The longest chain of aliases within a zone.
const MAX_ALIASES: usize = 8;

/// What the writing of an answer comes to.
pub(super) enum Written {
    Done(Rcode),
    /// The last alias leads out of the zone, or is the last that is followed here.
    Outside(Rcode),
}

/// Writes what the zone has for `question`.
pub(super) fn write(
    zone: &Zone,
    question: NameRef<'_>,
    qtype: RecordType,
    reply: &mut Reply<'_>,
) -> Written {
    let written = Writing { zone, reply, names: Compressor::new() }.write(question, qtype);
    if !reply.overflowed() {
        return written;
    }
    reply.reset();
    Writing { zone, reply, names: Compressor::with_srv() }.write(question, qtype)
}

/// An answer being written.
struct Writing<'w, 'b> {
    zone: &'w Zone,
    reply: &'w mut Reply<'b>,
    names: Compressor,
}

impl Writing<'_, '_> {
    fn write(&mut self, question: NameRef<'_>, qtype: RecordType) -> Written {
        let zone = self.zone;
        let mut name = NameBuf::lower(question);
        self.reply.set_flags(flags::AA, true);
        for alias in 0..=MAX_ALIASES {
            let current = name;
            let current = current.as_name();
            let target = match zone.find(current, qtype) {
                Found::Node(node) => match node.set(RecordType::CNAME) {
                    Some(set) if !matches!(qtype, RecordType::CNAME | RecordType::ANY) => {
                        self.put(Section::Answer, current, set);
                        first_name(set).map(NameBuf::lower)
                    }
                    _ => {
                        self.answer(node, current, qtype);
                        return Written::Done(Rcode::NOERROR);
                    }
                },
                Found::Dname(owner, set) => {
                    self.put(Section::Answer, owner, set);
                    match first_name(set).and_then(|to| current.substituted(owner, to)) {
                        Some(target) => {
                            let data = target.as_name();
                            let (rtype, data) = (RecordType::CNAME, data.as_bytes());
                            self.record(Section::Answer, current, rtype, set.ttl, data);
                            if matches!(qtype, RecordType::CNAME) {
                                return Written::Done(Rcode::NOERROR);
                            }
                            Some(target)
                        }
                        // RFC 6672 section 2.2: the name would be too long.
                        None => {
                            self.reply.set_rcode(Rcode::YXDOMAIN);
                            return Written::Done(Rcode::YXDOMAIN);
                        }
                    }
                }
                Found::Delegation(owner, set) => {
                    // What leads here is ours, what is below the cut is not.
                    self.reply.set_flags(flags::AA, alias > 0);
                    self.put(Section::Authority, owner, set);
                    if let Some(ds) = zone.node(owner).and_then(|node| node.set(RecordType::DS)) {
                        self.put(Section::Authority, owner, ds);
                    }
                    self.addresses(set);
                    return Written::Done(Rcode::NOERROR);
                }
                Found::Nothing => {
                    self.negative();
                    self.reply.set_rcode(Rcode::NXDOMAIN);
                    return Written::Done(Rcode::NXDOMAIN);
                }
            };
            let Some(target) = target else { break };
            if !target.as_name().is_within(zone.origin()) {
                return Written::Outside(Rcode::NOERROR);
            }
            name = NameBuf::lower(target.as_name());
        }
        Written::Outside(Rcode::NOERROR)
    }

    /// The records of a node, with the addresses that they lead to, or that there are none.
    fn answer(&mut self, node: &Node, owner: NameRef<'_>, qtype: RecordType) {
        let mut any = false;
        for set in node.sets.iter().filter(|set| qtype == RecordType::ANY || set.rtype == qtype) {
            any = true;
            self.put(Section::Answer, owner, set);
        }
        if !any {
            self.negative();
            return;
        }
        if let Some(set) = node.set(qtype)
            && matches!(qtype, RecordType::MX | RecordType::SRV | RecordType::NS)
        {
            self.addresses(set);
        }
    }

    /// The SOA of a negative answer, with the TTL of RFC 2308 section 3.
    fn negative(&mut self) {
        let zone = self.zone;
        let Some(soa) = zone.soa() else { return };
        for data in &soa.data {
            let ttl = negative_ttl(soa.ttl, data);
            self.record(Section::Authority, zone.origin(), RecordType::SOA, ttl, data);
        }
    }

    /// The addresses that the zone has of the names in `set`, also below a cut, where they are glue.
    fn addresses(&mut self, set: &Set) {
        let zone = self.zone;
        for data in &set.data {
            let Some(target) = target(set.rtype, data).filter(|name| name.is_within(zone.origin()))
            else {
                continue;
            };
            let Some(node) = zone.node(target) else { continue };
            for rtype in [RecordType::A, RecordType::AAAA] {
                if let Some(found) = node.set(rtype) {
                    self.put(Section::Additional, target, found);
                }
            }
        }
    }

    fn put(&mut self, section: Section, owner: NameRef<'_>, set: &Set) {
        for data in &set.data {
            if !self.record(section, owner, set.rtype, set.ttl, data) {
                return;
            }
        }
    }

    fn record(
        &mut self,
        section: Section,
        owner: NameRef<'_>,
        rtype: RecordType,
        ttl: u32,
        rdata: &[u8],
    ) -> bool {
        let record = RecordRef { owner, rtype, class: Class::IN, ttl, rdata };
        self.reply.compressed(&mut self.names, section, &record)
    }
}

fn first_name(set: &Set) -> Option<NameRef<'_>> {
    target(set.rtype, set.data.first()?)
}
