//! The cache for the next process: entries with their times, the hottest first, within a budget.
//!
//! ```text
//! "NODENS\0C"  format: u16  written: u64 (milliseconds of CLOCK_MONOTONIC)
//! entry...     block: u64  bits: u8  kind: u8  stored: u64  lifetime: u32  asked: u32  length: u16  message, with OPT
//! ```
//!
//! Numbers are big-endian. [`crate::handover::memory`] has the checksum. An entry that cannot be read ends the reading.

use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::Store;
use super::entry::{Entry, Kind, Lifetime, bits};
use crate::clock::CoarseInstant;
use crate::handover::memory::{self, MemoryError};
use crate::wire::{Message, read_u16, write_u16};

const MAGIC: &[u8; 8] = b"NODENS\0C";
/// Raised with every change of the format; others are not read.
const FORMAT: u16 = 1;
/// An OPT record without options: root, type, size, extended code and flags, length.
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

/// The name under which it is passed on.
pub const NAME: &str = "cache";
/// The name of its hottest part by itself, which a start after a crash takes in before it serves. Each is memory of its own,
/// since all of one has to be read before any of it can be trusted.
pub const HOTTEST_NAME: &str = "cache hottest";

/// Why a cache is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The memory itself.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Of another program, or another version of the format.
    #[error("it has another format")]
    Format,
    /// Its times are of another clock: another boot, or another time namespace.
    #[error("its clock is not ours")]
    Clock,
}

/// Writes entries that are not stale to `to`, up to `budget` bytes: those that were used in the last seconds first, of
/// them those that are asked most. Returns how many.
pub fn write(
    store: &Store,
    now: CoarseInstant,
    budget: usize,
    to: &mut dyn Write,
) -> io::Result<usize> {
    to.write_all(MAGIC)?;
    to.write_all(&FORMAT.to_be_bytes())?;
    to.write_all(&now.as_millis().to_be_bytes())?;
    let hot = store.recently_used();
    let mut hottest: Vec<_> = hot.iter().filter_map(|hash| store.peek(*hash)).collect();
    hottest.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.asked()));
    let others = store.iter().filter(|entry| !hot.contains(&store.hash_of(entry)));
    let (mut count, mut left) = (0, budget);
    for entry in hottest.into_iter().chain(others).filter(|entry| entry.is_fresh(now)) {
        let bytes = encode(&entry);
        if bytes.len() > left {
            break;
        }
        left -= bytes.len();
        to.write_all(&bytes)?;
        count += 1;
    }
    Ok(count)
}

fn encode(entry: &Entry) -> Vec<u8> {
    let (message, options) = (entry.message(), entry.options());
    let mut out = Vec::with_capacity(28 + message.len() + OPT.len() + options.len());
    out.extend_from_slice(&entry.stats().block.to_be_bytes());
    out.extend_from_slice(&[entry.bits(), entry.kind() as u8]);
    out.extend_from_slice(&entry.stored().as_millis().to_be_bytes());
    out.extend_from_slice(&entry.lifetime().to_be_bytes());
    out.extend_from_slice(&entry.asked().to_be_bytes());
    let extended = (entry.rcode().0 >> 4) as u8;
    let has_opt = extended != 0 || !options.is_empty();
    let opt_len = if has_opt { OPT.len() + options.len() } else { 0 };
    out.extend_from_slice(&((message.len() + opt_len) as u16).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(message);
    if has_opt {
        let [root, high, low, size_high, size_low, _, version, flags, more, ..] = OPT;
        out.extend_from_slice(&[
            root, high, low, size_high, size_low, extended, version, flags, more,
        ]);
        out.extend_from_slice(&(options.len() as u16).to_be_bytes());
        out.extend_from_slice(options);
        let additional = read_u16(&out, start + 10).unwrap_or(0);
        write_u16(&mut out, start + 10, additional + 1);
    }
    out
}

/// Takes what another process has written into `store`, as far as it is of `blocks`. Entries that are stale, and those that
/// `store` has, are left out. Returns how many were taken. Total: any memory gives a number or an error.
///
/// # Errors
/// None of it can be used.
pub fn read(memory: &OwnedFd, store: &Store, blocks: &[u64]) -> Result<usize, ImportError> {
    let bytes = memory::read(memory.as_fd())?;
    import(&bytes, store, blocks, CoarseInstant::now())
}

/// The same of bytes.
pub fn import(
    bytes: &[u8],
    store: &Store,
    blocks: &[u64],
    now: CoarseInstant,
) -> Result<usize, ImportError> {
    let mut reader = Reader(bytes);
    if reader.take::<8>() != Some(*MAGIC) || reader.take().map(u16::from_be_bytes) != Some(FORMAT) {
        return Err(ImportError::Format);
    }
    let written = reader.take().map(u64::from_be_bytes).ok_or(ImportError::Format)?;
    if written > now.as_millis() {
        return Err(ImportError::Clock);
    }
    let written = CoarseInstant::from_millis(written);
    let mut count = 0;
    while let Some(entry) = reader.entry(store, blocks, written) {
        let Some(entry) = entry.filter(|entry| entry.is_fresh(now)) else { continue };
        let hash = store.hash_of(&entry);
        if store.peek(hash).is_none() {
            store.insert(hash, Arc::new(entry));
            count += 1;
        }
    }
    Ok(count)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// The next entry; `Some(None)`: one that is not wanted. `None`: there is no further one.
    fn entry(
        &mut self,
        store: &Store,
        blocks: &[u64],
        written: CoarseInstant,
    ) -> Option<Option<Entry>> {
        let block = u64::from_be_bytes(self.take()?);
        let [of, kind] = self.take()?;
        let stored = CoarseInstant::from_millis(u64::from_be_bytes(self.take()?));
        let seconds = u32::from_be_bytes(self.take()?);
        let asked = u32::from_be_bytes(self.take()?);
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (message, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if !blocks.contains(&block) || stored > written {
            return Some(None);
        }
        let kinds = [Kind::Success, Kind::NxDomain, Kind::NoData, Kind::Failure];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
        let known = bits::DNSSEC_OK | bits::CHECKING_DISABLED | bits::FAILURE | bits::CUT;
        let message = Message::from_received(message.to_vec()).ok()?;
        if of & !known != 0 || (of & bits::FAILURE != 0) != (kind == Kind::Failure) {
            return None;
        }
        // They were within bounds when they were written.
        let lifetime = Lifetime { seconds, floor: 0, cap: u32::MAX };
        let entry = Entry::new(store.stats(block), of, kind, &message, lifetime, stored)?;
        entry.set_asked(asked);
        Some(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: CoarseInstant = CoarseInstant::from_millis(1_000_000);

    fn filled() -> Store {
        let store = Store::new(1 << 20);
        for n in 0..50 {
            let message = message(n);
            let lifetime = Lifetime { seconds: 60, floor: 0, cap: 300 };
            let of = if n % 2 == 0 { bits::DNSSEC_OK } else { 0 };
            let entry =
                Entry::new(store.stats(7), of, Kind::Success, &message, lifetime, NOW).unwrap();
            store.insert(store.hash_of(&entry), Arc::new(entry));
        }
        store
    }

    /// An address of a name of its own; every third one with an extended error.
    fn message(n: u8) -> Message {
        let mut bytes = vec![0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, u8::from(n.is_multiple_of(3))];
        bytes.extend_from_slice(&[3, b'n', b'0' + n / 10, b'0' + n % 10, 0, 0, 1, 0, 1]);
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n]);
        if n.is_multiple_of(3) {
            bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 3]);
        }
        Message::from_received(bytes).unwrap()
    }

    fn written(store: &Store, budget: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(store, NOW, budget, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let first = filled();
        let bytes = written(&first, 1 << 20);
        let next = Store::new(1 << 20);
        assert_eq!(import(&bytes, &next, &[7], NOW.plus_millis(1_000)).unwrap(), 50);
        for entry in first.iter() {
            let found = next.get(next.hash_of(&entry)).unwrap();
            assert_eq!((found.message(), found.options()), (entry.message(), entry.options()));
            assert_eq!((found.stored(), found.lifetime()), (entry.stored(), entry.lifetime()));
            assert_eq!((found.kind(), found.rcode()), (entry.kind(), entry.rcode()));
        }
        let later = Store::new(1 << 20);
        assert_eq!(
            import(&bytes, &later, &[7], NOW.plus_millis(10_000_000)).unwrap(),
            0,
            "all stale"
        );
        assert_eq!(import(&bytes, &later, &[8], NOW).unwrap(), 0, "of a block that is gone");
        let earlier = import(&bytes, &later, &[7], CoarseInstant::from_millis(1));
        assert!(matches!(earlier, Err(ImportError::Clock)));
    }

    #[test]
    fn the_hottest_are_written_first() {
        let store = filled();
        let hot: Vec<u64> = store.iter().take(5).map(|entry| store.hash_of(&entry)).collect();
        hot.iter().for_each(|hash| store.touch(*hash));
        let bytes = written(&store, 5 * 70);
        let next = Store::new(1 << 20);
        let count = import(&bytes, &next, &[7], NOW).unwrap();
        let taken = next.iter().filter(|entry| hot.contains(&store.hash_of(entry))).count();
        assert!(count >= 4 && taken >= count.min(5), "{taken} of {count} are hot");
    }

    #[test]
    fn damaged_bytes_are_read_as_far_as_they_are_sound() {
        let bytes = written(&filled(), 1 << 20);
        for cut in 0..bytes.len() {
            let _ = import(&bytes[..cut], &Store::new(1 << 20), &[7], NOW);
        }
        for at in 0..bytes.len().min(600) {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                let _ = import(&bytes, &Store::new(1 << 20), &[7], NOW);
            }
        }
        let none = import(b"", &Store::new(1 << 20), &[7], NOW);
        assert!(matches!(none, Err(ImportError::Format)));
    }
}
