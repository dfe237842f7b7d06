//! NXDOMAIN for a name holds for every name below it (RFC 8020), where `nxdomain_cut` is on.

use super::entry::{Entry, Key, bits};
use super::{Cache, Question};
use crate::clock::CoarseInstant;
use crate::request::{Answer, CacheUse, Outcome, Plugin};
use crate::wire::{Compressor, Layout, Rcode, Record, RecordType, Section};

impl Cache {
    /// NXDOMAIN, where a name above the one asked for is known not to exist. A look at the store for each label: small
    /// beside the way to an upstream that it may save.
    pub(super) fn answer_from_cut(
        &self,
        question: &Question<'_>,
        now: CoarseInstant,
    ) -> Option<Answer> {
        if question.key.bits & bits::DNSSEC_OK != 0 {
            return None;
        }
        let mut name = question.key.name;
        while let Some(parent) = name.parent().filter(|parent| !parent.is_root()) {
            name = parent;
            let key = Key { name, qtype: RecordType(0), bits: question.key.bits | bits::CUT };
            let found = self.find(self.store.hash(&self.stats, &key), &key);
            if let Some(entry) = found.filter(|entry| entry.is_fresh(now)) {
                return Some(write(&entry, question, now));
            }
        }
        None
    }
}

/// NXDOMAIN with the SOA of the entry, its names written out as the question is another one here.
fn write(entry: &Entry, question: &Question<'_>, now: CoarseInstant) -> Answer {
    let message = entry.message();
    Answer::written(question.view, |reply| {
        reply.set_rcode(Rcode::NXDOMAIN);
        if let Ok(layout) = Layout::parse(message)
            && let Some(soa) =
                layout.section(Section::Authority).find(|record| record.rtype == RecordType::SOA)
            && let Ok(soa) = Record::of(message, soa)
        {
            let soa = Record { ttl: entry.remaining(now), ..soa };
            reply.compressed(&mut Compressor::new(), Section::Authority, &soa.as_ref());
        }
        Outcome::new(Plugin::Cache, Rcode::NXDOMAIN).with_cache(CacheUse::Denial)
    })
}
