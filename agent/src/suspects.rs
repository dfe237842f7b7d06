//! Queries that were being answered when the server crashed. One that was there at two crashes is refused for ten minutes, so that
//! no client can keep the server from answering the others.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::clock::CoarseInstant;
use crate::conditions::{Found, Watched, table};
use crate::handover::memory;
use crate::in_hand;
use crate::wire::{Name, NameRef, Query, RecordType};

/// The name under which it is kept.
pub const NAME: &str = "suspects";
/// How long a query is refused, and how long a crash counts, in milliseconds.
const TERM_MS: u64 = 600_000;
/// Crashes from which on it is refused.
const ENOUGH: u32 = 2;
/// Questions that are remembered; of more the latest.
const MAX: usize = 1_024;

/// One question, and when it was in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    name: String,
    qtype: u16,
    crashes: u32,
    /// Of the last crash, in milliseconds of CLOCK_MONOTONIC.
    at: u64,
}

/// What is remembered from process to process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspects(Vec<Suspect>);

/// The questions that this process refuses.
#[derive(Debug)]
pub struct Refused {
    until: CoarseInstant,
    questions: Vec<(Name, RecordType)>,
}

/// Whether a query can be the reason for such an end of a child, in the supervisor's words. A signal from outside is no sign of it.
pub fn may_explain(why: &str) -> bool {
    const CRASHES: [&str; 9] = [
        "SIGSEGV",
        "SIGABRT",
        "SIGBUS",
        "SIGILL",
        "SIGFPE",
        "SIGTRAP",
        "SIGSYS",
        // A panic that nothing has caught.
        "exited with 101",
        "made no progress",
    ];
    CRASHES.iter().any(|crash| why.contains(crash))
}

impl Suspects {
    /// Reads what the process before has written. What cannot be read is forgotten.
    pub fn read(bytes: &[u8]) -> Self {
        let mut read: Self = serde_json::from_slice(bytes).unwrap_or_default();
        read.0.truncate(MAX);
        read
    }

    /// Adds the queries that were in hand at a crash, and logs them.
    pub fn crashed(&mut self, packets: &[Vec<u8>], now: CoarseInstant) {
        let now = now.as_millis();
        self.0.retain(|suspect| now.saturating_sub(suspect.at) < TERM_MS);
        for (name, qtype) in questions(packets) {
            let known =
                self.0.iter_mut().find(|known| known.name == name && known.qtype == qtype.0);
            let crashes = known.as_ref().map_or(0, |known| known.crashes) + 1;
            if crashes >= ENOUGH {
                tracing::error!(%name, %qtype, crashes, "refused for ten minutes: the server has crashed while it answered this");
            } else {
                tracing::warn!(%name, %qtype, "the server has crashed while it answered this");
            }
            let suspect = Suspect { name, qtype: qtype.0, crashes, at: now };
            match known {
                Some(known) => *known = suspect,
                None => self.0.insert(0, suspect),
            }
        }
        self.0.truncate(MAX);
    }

    /// What is to be refused; `None`: nothing.
    pub fn refused(&self, now: CoarseInstant) -> Option<Refused> {
        let guilty = self.0.iter().filter(|suspect| suspect.crashes >= ENOUGH);
        let questions: Vec<_> = guilty
            .filter_map(|suspect| {
                Some((Name::from_text(&suspect.name).ok()?, RecordType(suspect.qtype)))
            })
            .collect();
        (!questions.is_empty()).then(|| Refused { until: now.plus_millis(TERM_MS), questions })
    }

    /// The memory for the next process.
    pub fn write(&self) -> std::io::Result<OwnedFd> {
        // It is plain data.
        let text = serde_json::to_vec(self).unwrap_or_default();
        memory::write(NAME, |to| to.write_all(&text))
    }
}

/// The questions of the process before, by its memory.
pub fn in_hand_before(memory: Option<&OwnedFd>) -> Vec<Vec<u8>> {
    memory.map(|memory| in_hand::read(memory.as_fd())).unwrap_or_default()
}

/// The questions of packets, each once. Packets that are none were not the reason.
fn questions(packets: &[Vec<u8>]) -> BTreeMap<String, RecordType> {
    let questions = packets.iter().filter_map(|packet| {
        let query = Query::parse(packet).ok()?;
        Some((query.name().to_string(), query.qtype()))
    });
    questions.collect()
}

impl Refused {
    /// True if this question is refused at this moment.
    pub fn contains(&self, name: NameRef<'_>, qtype: RecordType, now: CoarseInstant) -> bool {
        now < self.until
            && self.questions.iter().any(|(known, of)| known.as_ref() == name && *of == qtype)
    }
}

impl Watched for Refused {
    fn look(&self, found: &mut Found) {
        if CoarseInstant::now() < self.until {
            // `/ready?verbose` shows it to every pod: not what a client has asked for, least of all a query that crashes the server.
            let count = self.questions.len();
            let evidence =
                format!("{count} questions: the log has them after \"refused for ten minutes\"");
            found.add(&table::SUSPECTS_REFUSED, evidence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: CoarseInstant = CoarseInstant::from_millis(5_000_000);

    fn packet(name: &str) -> Vec<u8> {
        let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend_from_slice(&[0, 0, 1, 0, 1]);
        packet
    }

    #[test]
    fn what_is_there_twice_is_refused_for_a_time() {
        let mut suspects = Suspects::default();
        suspects.crashed(&[packet("BAD.example"), packet("other.example"), vec![1, 2]], NOW);
        assert!(suspects.refused(NOW).is_none());
        let later = NOW.plus_millis(60_000);
        let mut next = Suspects::read(&memory::read(suspects.write().unwrap().as_fd()).unwrap());
        assert_eq!(next, suspects);
        next.crashed(&[packet("bad.example"), packet("third.example")], later);
        let refused = next.refused(later).unwrap();
        let name = |text| Name::from_text(text).unwrap();
        let is_refused = |text, qtype, at| refused.contains(name(text).as_ref(), qtype, at);
        assert!(is_refused("bad.example", RecordType::A, later));
        assert!(!is_refused("bad.example", RecordType::AAAA, later));
        assert!(!is_refused("other.example", RecordType::A, later));
        assert!(!is_refused("bad.example", RecordType::A, later.plus_millis(TERM_MS)));
        // A crash that is long past does not count.
        suspects.crashed(&[packet("bad.example")], NOW.plus_millis(TERM_MS));
        assert!(suspects.refused(NOW.plus_millis(TERM_MS)).is_none());
        assert_eq!(Suspects::read(b"nonsense"), Suspects::default());
    }

    #[test]
    fn only_crashes_are_explained_by_queries() {
        for why in ["it was ended by SIGSEGV", "it exited with 101", "it made no progress"] {
            assert!(may_explain(why), "{why}");
        }
        for why in ["it was ended by SIGKILL", "it exited with 1", "", "it was ended by SIGTERM"] {
            assert!(!may_explain(why), "{why}");
        }
    }
}
