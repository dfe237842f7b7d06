//! Name compression (RFC 1035 section 4.1.4) for replies that are put together from records.

use super::name::{MAX_NAME, MAX_POINTER};
use super::rdata::{self, Part};
use super::{HEADER_LEN, NameRef, RecordType};

/// Suffixes that are remembered. The first ones of a message, which most others end in, are what matters.
const SLOTS: usize = 256;
/// Labels of the longest name.
const MAX_LABELS: usize = MAX_NAME / 2;
/// Pointers that a suffix may lead through, so that no name of ours leads through more than receivers follow.
const MAX_DEPTH: usize = 8;

/// Remembers where the suffixes of names are in a message. Allocates nothing. Entries are hints: each is compared with the
/// message before it is used, so records may be taken back.
pub struct Compressor {
    slots: [Slot; SLOTS],
    with_srv: bool,
    seeded: bool,
}

/// Where a suffix with this hash begins; zero: empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    at: u16,
}

/// The suffixes of a name, longest first.
struct Suffixes {
    starts: [u8; MAX_LABELS],
    hashes: [u32; MAX_LABELS],
    count: usize,
}

impl Compressor {
    /// Compresses owners, and names in the data of the types of RFC 1035 (RFC 3597 section 4).
    pub fn new() -> Self {
        Self { slots: [Slot::default(); SLOTS], with_srv: false, seeded: false }
    }

    /// Compresses the targets of SRV records too. RFC 2782 forbids it, though receivers expand them: only for answers that
    /// cannot be sent otherwise.
    pub fn with_srv() -> Self {
        Self { with_srv: true, ..Self::new() }
    }

    /// Appends `name` to `buf`, in which the message begins at `base`. `any_case`: a suffix that differs in case will do,
    /// as for owners.
    pub(super) fn name(
        &mut self,
        buf: &mut Vec<u8>,
        base: usize,
        name: NameRef<'_>,
        any_case: bool,
    ) {
        let message = buf.get(base..).unwrap_or(&[]);
        if !self.seeded {
            self.seeded = true;
            let question = message.get(HEADER_LEN..).and_then(|rest| NameRef::parse(rest).ok());
            if let Some(question) = question {
                let suffixes = Suffixes::of(question);
                self.remember(&suffixes, suffixes.count, HEADER_LEN);
            }
        }
        let suffixes = Suffixes::of(name);
        let bytes = name.as_bytes();
        let found = (0..suffixes.count).find_map(|number| {
            let (start, hash) = suffixes.at(number)?;
            let slot = self.slot(hash);
            let suffix = NameRef::parse(bytes.get(start..)?).ok()?;
            let known = slot.at != 0
                && slot.hash == hash
                && is_at(message, slot.at.into(), suffix, any_case);
            known.then_some((number, start, slot.at))
        });
        let at = message.len();
        match found {
            Some((number, start, target)) => {
                buf.extend_from_slice(bytes.get(..start).unwrap_or(&[]));
                buf.extend_from_slice(&(0xc000 | target).to_be_bytes());
                self.remember(&suffixes, number, at);
            }
            None => {
                buf.extend_from_slice(bytes);
                self.remember(&suffixes, suffixes.count, at);
            }
        }
    }

    /// Appends data without compression, with their names compressed.
    pub(super) fn rdata(
        &mut self,
        buf: &mut Vec<u8>,
        base: usize,
        rtype: RecordType,
        rdata: &[u8],
    ) {
        let compressible = rdata::is_well_known(rtype) || self.with_srv && rtype == RecordType::SRV;
        let mut at = 0;
        let parts = if compressible { rdata::parts(rtype) } else { &[] };
        for part in parts {
            // Data that are odd for their type are copied.
            let Ok(octets) = rdata::length(*part, rdata, at) else { break };
            let Some(bytes) = rdata.get(at..at + octets) else { break };
            match (part, NameRef::parse(bytes)) {
                (Part::Name, Ok(name)) => self.name(buf, base, name, false),
                (Part::Name, Err(_)) => break,
                _ => buf.extend_from_slice(bytes),
            }
            at += octets;
        }
        buf.extend_from_slice(rdata.get(at..).unwrap_or(&[]));
    }

    fn slot(&self, hash: u32) -> Slot {
        self.slots.get(hash as usize % SLOTS).copied().unwrap_or_default()
    }

    /// Remembers the first `count` suffixes of a name that was written out at `at`.
    fn remember(&mut self, suffixes: &Suffixes, count: usize, at: usize) {
        for (start, hash) in (0..count).filter_map(|number| suffixes.at(number)) {
            let at = at + start;
            let Some(slot) = self.slots.get_mut(hash as usize % SLOTS) else { return };
            // A suffix that is there in another case gives way to the newer one.
            if at <= MAX_POINTER && (slot.at == 0 || slot.hash == hash) {
                *slot = Slot { hash, at: at as u16 };
            }
        }
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Suffixes {
    fn of(name: NameRef<'_>) -> Self {
        let mut suffixes = Self { starts: [0; MAX_LABELS], hashes: [0; MAX_LABELS], count: 0 };
        let mut at = 0;
        for (label, start) in name.labels().zip(&mut suffixes.starts) {
            *start = at as u8;
            at += label.len() + 1;
            suffixes.count += 1;
        }
        let mut hash = 0x811c_9dc5_u32;
        let bytes = name.as_bytes();
        let mut end = at;
        let all = suffixes.starts.iter().zip(&mut suffixes.hashes).take(suffixes.count);
        for (start, slot) in all.rev() {
            let start = usize::from(*start);
            for octet in bytes.get(start..end).unwrap_or(&[]) {
                hash = (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
            }
            *slot = hash ^ hash >> 15;
            end = start;
        }
        suffixes
    }

    fn at(&self, number: usize) -> Option<(usize, u32)> {
        let start = *self.starts.get(number)?;
        (number < self.count).then_some((start.into(), *self.hashes.get(number)?))
    }
}

/// True if `name` is what the message has at `at`, by few enough pointers.
fn is_at(message: &[u8], mut at: usize, name: NameRef<'_>, any_case: bool) -> bool {
    let mut depth = 0;
    let mut rest = name.as_bytes();
    loop {
        let Some(&len) = message.get(at) else { return false };
        if len & 0xc0 == 0xc0 {
            let Some(&low) = message.get(at + 1) else { return false };
            at = usize::from(len & 0x3f) << 8 | usize::from(low);
            depth += 1;
            if depth > MAX_DEPTH {
                return false;
            }
            continue;
        }
        let octets = usize::from(len) + 1;
        let (Some(theirs), Some(ours)) = (message.get(at..at + octets), rest.get(..octets)) else {
            return false;
        };
        let same = if any_case { theirs.eq_ignore_ascii_case(ours) } else { theirs == ours };
        if !same || len == 0 {
            return same;
        }
        at += octets;
        rest = rest.get(octets..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Name, NameBuf};

    fn name(text: &str) -> NameBuf {
        let mut name = NameBuf::new();
        name.push_text(text).unwrap();
        name
    }

    #[test]
    fn suffixes_are_shared_and_the_case_of_data_is_kept() {
        let mut buf = vec![0xee; 12 + 3];
        let question = name("wWw.Example.org");
        buf.extend_from_slice(question.as_name().as_bytes());
        let mut names = Compressor::new();
        let start = buf.len();
        names.name(&mut buf, 3, name("a.example.org").as_name(), true);
        assert_eq!(buf.len() - start, 4, "an owner in any case");
        let start = buf.len();
        names.name(&mut buf, 3, name("b.example.org").as_name(), false);
        assert_eq!(buf.len() - start, 2 + 8 + 2, "`org` is there in this case, `example` is not");
        let start = buf.len();
        names.name(&mut buf, 3, name("c.b.example.org").as_name(), false);
        assert_eq!(buf.len() - start, 4);
        let message = &buf[3..];
        let (read, end) = NameBuf::expand_as_written(message, message.len() - 4).unwrap();
        assert_eq!((read.as_name().to_string().as_str(), end), ("c.b.example.org.", message.len()));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(
            names in proptest::collection::vec("[a-c]{1,2}(\\.[a-bA-B]){0,40}", 1..40),
        ) {
            let mut buf = vec![0; 12];
            buf.extend_from_slice(Name::from_text(&names[0]).unwrap().as_bytes());
            let mut compressor = Compressor::new();
            for text in &names {
                let at = buf.len();
                let name = name(text);
                compressor.name(&mut buf, 0, name.as_name(), false);
                let (read, end) = NameBuf::expand_as_written(&buf, at).unwrap();
                proptest::prop_assert_eq!(read.as_name(), name.as_name());
                proptest::prop_assert_eq!(end, buf.len());
            }
        }
    }
}
