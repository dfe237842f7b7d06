//! What happens when an answer enters the cache: which entry it becomes, and with which times it is handed on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::config::Stale;
use super::entry::{Entry, Key, Kind, Lifetime, bits};
use super::rules::{self, Refusal};
use super::{Cache, Question};
use crate::clock::CoarseInstant;
use crate::request::{Answer, CacheUse};
use crate::wire::{Message, Rcode, RecordType, Section, flags};

impl Cache {
    /// Keeps an answer by the rules and hands it on with its times to live within bounds.
    pub(super) fn keep(
        &self,
        question: &Question<'_>,
        old: Option<&Arc<Entry>>,
        answer: Answer,
    ) -> Answer {
        let mut answer = Answer { outcome: answer.outcome.with_cache(CacheUse::Miss), ..answer };
        // Without recursion the answer is whatever the upstream happened to know.
        if !question.view.query.recursion_desired() || answer.outcome.silent {
            return answer;
        }
        if answer.is_passing && answer.outcome.rcode == Rcode::SERVFAIL {
            return answer;
        }
        let key = question.key;
        let (kind, lifetime) = match rules::judge(&self.config, &answer.message, key) {
            Ok(kept) => kept,
            Err(Refusal::NotOurs) => {
                self.stats.drops.fetch_add(1, Relaxed);
                return answer;
            }
            Err(Refusal::Unwanted(kind)) => {
                let instead = self.instead_of_denial(question, old, kind, (self.now)());
                return instead.unwrap_or(answer);
            }
            Err(_) => return answer,
        };
        bound(&mut answer, kind, lifetime);
        let now = (self.now)();
        if let Some(answer) = self.instead_of_denial(question, old, kind, now) {
            return answer;
        }
        if let Some(old) =
            old.filter(|old| self.config.prefer_positive && self.outranks(old, kind, now))
        {
            let stale = self.config.stale.unwrap_or(Stale::DEFAULT);
            old.defer(now, stale.recheck.max(1));
            return match old.is_fresh(now) {
                true => self.fresh_answer(old, question.view),
                false => self.stale_answer(old, &stale, question.view),
            };
        }
        let failed = if kind == Kind::Failure { bits::FAILURE } else { 0 };
        if kind != Kind::Failure && old.is_none() && !self.store.admits(question.hash) {
            self.stats.not_admitted.fetch_add(1, Relaxed);
            if self.config.nxdomain_cut && kind == Kind::NxDomain {
                self.keep_cut(key, &answer.message, lifetime, now);
            }
            return answer;
        }
        let stats = Arc::clone(&self.stats);
        let Some(mut entry) =
            Entry::new(stats, key.bits | failed, kind, &answer.message, lifetime, now)
        else {
            return answer;
        };
        if kind == Kind::Failure {
            let key = Key { bits: entry.bits(), ..*key };
            self.store.insert(self.store.hash(&self.stats, &key), Arc::new(entry));
            return answer;
        }
        if let Some(old) = old {
            entry.inherit(old, self.ended_lately(old, now));
            old.set_replaced();
        }
        self.store.insert(question.hash, Arc::new(entry));
        if self.config.nxdomain_cut && kind == Kind::NxDomain {
            self.keep_cut(key, &answer.message, lifetime, now);
        }
        answer
    }

    /// Keeps an NXDOMAIN for what is below its name too. Not where a CNAME led to it: then another name is missing (RFC
    /// 8020 section 2). Not with DNSSEC: who validates wants the proof for its own name.
    fn keep_cut(&self, key: &Key<'_>, message: &Message, lifetime: Lifetime, now: CoarseInstant) {
        let direct = message.layout().section(Section::Answer).next().is_none();
        if !direct || key.bits & bits::DNSSEC_OK != 0 {
            return;
        }
        let key = Key { qtype: RecordType(0), bits: key.bits | bits::CUT, ..*key };
        let stats = Arc::clone(self.stats());
        if let Some(entry) = Entry::new(stats, key.bits, Kind::NxDomain, message, lifetime, now) {
            self.store.insert(self.store.hash(&self.stats, &key), Arc::new(entry));
        }
    }

    /// True where `prefer_positive` keeps `old` although a denial has come.
    fn outranks(&self, old: &Entry, kind: Kind, now: CoarseInstant) -> bool {
        let usable = old.is_fresh(now) || self.stale_for(old, now).is_some();
        kind.is_denial() && kind != Kind::Failure && old.kind() == Kind::Success && usable
    }
}

/// Sets the times to live of an answer within the bounds of its lifetime, and takes AA away: from here on it is told like
/// this, first and later. The records that hold a denial live as long as it does (RFC 2308 section 5).
fn bound(answer: &mut Answer, kind: Kind, lifetime: Lifetime) {
    let message = Arc::make_mut(&mut answer.message);
    message.set_ttls(|record| {
        if kind.is_denial() && record.section == Section::Authority {
            lifetime.seconds
        } else {
            record.ttl.clamp(lifetime.floor, lifetime.cap)
        }
    });
    // What comes from a cache is not authoritative (RFC 1035 section 4.1.1).
    message.clear_flags(flags::AA);
}
