//! Finds upstreams that lead back here: makes probes, and recognises those that come back.
//!
//! Each upstream is asked for a name that nobody can guess or make: it carries a number of ours and a code of
//! authentication under a key of this process. If that question arrives here, whatever servers it passed on its way, the
//! upstream leads back. Nothing exits: the upstream is not asked until a later probe of it does not come back.
//!
//! The name has two labels below the zone that is forwarded and is asked for as HINFO, as CoreDNS's own probe is, so that
//! whatever lets that pass lets ours pass too. Strangers learn nothing from it: what is no probe of ours is passed on like
//! any query, and one that was seen on the wire is over when its answer is there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::hmac;

use crate::upstream::{Question, UpstreamError, random};
use crate::wire::{NameBuf, NameRef, RecordType};

/// Octets of a probe's number.
const NUMBER: usize = 15;
/// Octets of a probe's code: 120 bits.
const CODE: usize = 15;
/// Characters of either label, 5 bits each.
const LABEL: usize = 24;
/// How long a probe is waited for after its upstream has answered: the way round may be slower than the way back.
const GRACE: Duration = Duration::from_millis(200);
/// Lower-case base 32 (RFC 4648 section 7), which survives a change of letter case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// Makes probes and recognises them. One for the process, so that a probe is known on whatever address it arrives.
pub struct LoopGuard {
    key: hmac::Key,
    under_way: Mutex<HashMap<[u8; NUMBER], Seen>>,
}

/// Who brought a probe back, where it has arrived: the last hop of the loop.
type Seen = Option<IpAddr>;

/// What a probe has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The question came back to us, from this address.
    Loops(IpAddr),
    /// It was answered and did not come back.
    Clean,
    /// Nobody answered.
    Unknown,
}

impl LoopGuard {
    /// A guard with a key of its own.
    pub fn new() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::octets::<32>());
        Self { key, under_way: Mutex::new(HashMap::new()) }
    }

    /// Sends one probe for a name in `zone` by `ask`.
    pub async fn probe<F>(&self, zone: NameRef<'_>, ask: F) -> Verdict
    where
        F: AsyncFnOnce(Question) -> Result<(), UpstreamError>,
    {
        let Some((number, name)) = self.name(zone) else { return Verdict::Unknown };
        let _under_way = UnderWay::new(self, number);
        let asked = ask(Question::new(name.as_name(), RecordType::HINFO, true)).await;
        if let Some(by) = self.seen(&number) {
            return Verdict::Loops(by);
        }
        if asked.is_err() {
            return Verdict::Unknown;
        }
        tokio::time::sleep(GRACE).await;
        self.seen(&number).map_or(Verdict::Clean, Verdict::Loops)
    }

    /// Says in the log what is new: that an upstream loops, and by way of whom, or that it no longer does.
    pub fn report(upstream: &str, by: Option<IpAddr>) {
        if let Some(by) = by {
            tracing::error!(
                %upstream,
                "a loop: this server -> {upstream} -> ... -> {by} -> this server. The upstream is set aside, everything \
                 else goes on. Cure: let the upstream forward elsewhere, or forward to other servers from here; where it \
                 is systemd-resolved, take this server's address out of its DNS= and out of the links' DNS servers, or \
                 name /run/systemd/resolve/resolv.conf in the forward line"
            );
        } else {
            tracing::info!(%upstream, "the loop is gone: the upstream is in use again");
        }
    }

    fn name(&self, zone: NameRef<'_>) -> Option<([u8; NUMBER], NameBuf)> {
        let number: [u8; NUMBER] = random::octets();
        let mut name = NameBuf::new();
        name.push_label(&encode(&number)).ok()?;
        name.push_label(&encode(&self.code(&number))).ok()?;
        // A zone with a name so long that no probe fits below it cannot be guarded.
        name.push_name(zone).ok()?;
        Some((number, name))
    }

    fn code(&self, number: &[u8; NUMBER]) -> [u8; CODE] {
        let tag = hmac::sign(&self.key, number);
        std::array::from_fn(|n| tag.as_ref().get(n).copied().unwrap_or(0))
    }

    /// The number of a probe of ours, whether or not it is still waited for.
    pub(super) fn recognise(&self, name: NameRef<'_>) -> Option<[u8; NUMBER]> {
        let mut labels = name.labels();
        let (number, code) = (decode(labels.next()?)?, decode(labels.next()?)?);
        // Both are 120 bits of which nobody outside can try many: the time of the comparison tells nothing of use.
        (self.code(&number) == code).then_some(number)
    }

    pub(super) fn arrived(&self, number: &[u8; NUMBER], by: IpAddr) {
        if let Some(seen) = self.lock().get_mut(number) {
            *seen = Some(by);
        }
    }

    fn seen(&self, number: &[u8; NUMBER]) -> Option<IpAddr> {
        self.lock().get(number).copied().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; NUMBER], Seen>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LoopGuard {
    fn default() -> Self {
        Self::new()
    }
}

/// A probe is waited for as long as this lives.
struct UnderWay<'a> {
    guard: &'a LoopGuard,
    number: [u8; NUMBER],
}

impl<'a> UnderWay<'a> {
    fn new(guard: &'a LoopGuard, number: [u8; NUMBER]) -> Self {
        guard.lock().insert(number, None);
        Self { guard, number }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.guard.lock().remove(&self.number);
    }
}

fn encode(octets: &[u8; NUMBER]) -> [u8; LABEL] {
    let mut label = [0; LABEL];
    for (five, three) in octets.chunks_exact(5).zip(label.chunks_exact_mut(8)) {
        let bits = five.iter().fold(0u64, |bits, &octet| bits << 8 | u64::from(octet));
        for (n, letter) in three.iter_mut().enumerate() {
            let index = (bits >> (35 - 5 * n) & 31) as usize;
            *letter = ALPHABET.get(index).copied().unwrap_or(b'0');
        }
    }
    label
}

fn decode(label: &[u8]) -> Option<[u8; NUMBER]> {
    if label.len() != LABEL {
        return None;
    }
    let mut octets = [0; NUMBER];
    for (letters, five) in label.chunks_exact(8).zip(octets.chunks_exact_mut(5)) {
        let mut bits = 0u64;
        for letter in letters {
            let value = match letter {
                b'0'..=b'9' => letter - b'0',
                b'a'..=b'v' => letter - b'a' + 10,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        for (n, octet) in five.iter_mut().enumerate() {
            *octet = (bits >> (32 - 8 * n)) as u8;
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chain::{Handler, Local};
    use crate::plugin::testing::request_of;
    use crate::request::Step;
    use crate::wire::{Query, Rcode, Reply};

    /// What a handler says to a name, as it would arrive.
    fn arrive(guard: &Arc<LoopGuard>, name: &str, qtype: RecordType) -> (bool, Rcode) {
        request_of(name, qtype, |request| {
            let mut buf = Vec::new();
            let mut reply = Reply::begin(&mut buf, &request.query, false);
            let handler = super::super::Loop(Arc::clone(guard));
            let step = handler.serve(request, &mut reply, &mut Local::new(0));
            (matches!(step, Step::Done(_)), reply.rcode())
        })
    }

    fn name_of(question: &Question) -> String {
        Query::parse(question.packet()).unwrap().name_as_asked().to_string()
    }

    #[tokio::test]
    async fn a_probe_that_comes_back_is_a_loop_and_any_other_is_not() {
        let guard = Arc::new(LoopGuard::new());
        let back = guard
            .probe(NameRef::ROOT, async |question| {
                let name = name_of(&question);
                assert_eq!(
                    arrive(&guard, &name.to_uppercase(), RecordType::HINFO),
                    (true, Rcode::NXDOMAIN)
                );
                Ok(())
            })
            .await;
        assert_eq!(back, Verdict::Loops("192.0.2.7".parse().unwrap()));
        assert_eq!(guard.probe(NameRef::ROOT, async |_| Ok(())).await, Verdict::Clean);
        assert_eq!(
            guard.probe(NameRef::ROOT, async |_| Err(UpstreamError::Lost)).await,
            Verdict::Unknown
        );
        // The loop may bring the query back and no answer.
        let lost = guard
            .probe(NameRef::ROOT, async |question| {
                arrive(&guard, &name_of(&question), RecordType::HINFO);
                Err(UpstreamError::Lost)
            })
            .await;
        assert!(matches!(lost, Verdict::Loops(_)));
        assert!(guard.lock().is_empty());
    }

    #[tokio::test]
    async fn strangers_can_neither_make_a_probe_nor_use_an_old_one() {
        let guard = Arc::new(LoopGuard::new());
        let stranger = LoopGuard::new();
        let mut old = String::new();
        guard
            .probe(NameRef::ROOT, async |question| {
                old = name_of(&question);
                Ok(())
            })
            .await;
        let forged = stranger.name(NameRef::ROOT).unwrap().1.as_name().to_string();
        let looped = guard
            .probe(NameRef::ROOT, async |question| {
                assert!(!arrive(&guard, &forged, RecordType::HINFO).0);
                // Ours, but over: it ends here, and changes nothing.
                assert!(arrive(&guard, &old, RecordType::HINFO).0);
                assert!(!arrive(&guard, &name_of(&question), RecordType::A).0);
                assert!(!arrive(&guard, "a.b.", RecordType::HINFO).0);
                Ok(())
            })
            .await;
        assert_eq!(looped, Verdict::Clean);
    }

    #[test]
    fn probes_stand_below_the_zone() {
        let guard = LoopGuard::new();
        let zone = crate::wire::Name::from_text("example.org").unwrap();
        let (number, name) = guard.name(zone.as_ref()).unwrap();
        assert!(name.as_name().is_within(zone.as_ref()));
        assert_eq!(guard.recognise(name.as_name()), Some(number));
    }

    proptest::proptest! {
        #[test]
        fn labels_are_read_back(octets: [u8; NUMBER]) {
            proptest::prop_assert_eq!(decode(&encode(&octets)), Some(octets));
        }
    }
}
