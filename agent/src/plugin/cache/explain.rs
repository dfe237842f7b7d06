//! What the cache knows of a query, for `nodens explain`: looked at without a trace in the book-keeping.

use std::sync::Arc;

use super::Cache;
use super::entry::{Entry, Key, Kind, bits};
use crate::request::{Request, Step};
use crate::trace::Notes;
use crate::wire::Reply;

impl Cache {
    /// As [`Cache::serve_kept`], without a change.
    pub(super) fn serve_dry(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Step {
        let Some(key) = self.key(&request.query) else { return Step::Next };
        let now = request.origin.received;
        let kept = self.kept(&key).filter(|entry| entry.is_fresh(now));
        let failure = || self.kept(&of_failure(&key)).filter(|entry| entry.is_fresh(now));
        match kept.or_else(failure) {
            Some(entry) => Step::Done(self.write_fresh(&entry, request, reply, 0)),
            None => Step::Wait,
        }
    }

    /// Notes what is kept, and what that means for the query.
    pub(super) fn notes_on(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        let Some(key) = self.key(&request.query) else {
            notes.describe("keeps no answers to such a question".to_owned());
            return;
        };
        let now = request.origin.received;
        let Some(entry) = self.kept(&key) else {
            match self.kept(&of_failure(&key)).filter(|entry| entry.is_fresh(now)) {
                Some(failure) => notes.describe(format!(
                    "a failure is kept: {}, asked for again in {} s",
                    failure.rcode(),
                    failure.remaining(now)
                )),
                None => notes.describe("nothing is kept".to_owned()),
            }
            return;
        };
        let age = now.seconds_since(entry.stored());
        let kind = match entry.kind() {
            Kind::Success => "an answer",
            Kind::NxDomain => "a denial of the name",
            Kind::NoData => "a denial of the type",
            Kind::Failure => "a failure",
        };
        if entry.is_fresh(now) {
            notes.describe(format!(
                "{kind} is kept: {age} s old, {} of {} s left",
                entry.remaining(now),
                entry.lifetime()
            ));
        } else {
            let ended = age.saturating_sub(entry.lifetime());
            let stale = match self.stale_for(&entry, now) {
                Some(_) if self.denied(&entry, now).is_some() => {
                    "; upstreams deny it, and it is given yet (stale_on_denial)"
                }
                Some(_) if step == Step::Wait => "; it may still be served if upstreams fail",
                _ => "",
            };
            notes.describe(format!("{kind} is kept that ended {ended} s ago{stale}"));
        }
    }

    fn kept(&self, key: &Key<'_>) -> Option<Arc<Entry>> {
        let found = self.store.peek(self.store.hash(&self.stats, key));
        found.filter(|entry| entry.answers(&self.stats, key))
    }
}

fn of_failure<'k>(key: &Key<'k>) -> Key<'k> {
    Key { bits: key.bits | bits::FAILURE, ..*key }
}
