//! The query that each worker has in hand, in memory that outlives the process: after a crash it is known which ones it was about.
//!
//! ```text
//! worker 0   length: u16   packet, cut off at RECORD bytes
//! worker 1   ...
//! ```
//!
//! The memory is shared with the supervisor, which keeps it and reads nothing of it. A query costs a copy of some 40 bytes.
#![allow(unsafe_code, reason = "memory is mapped, which the compiler cannot check")]

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{Ordering, compiler_fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The name under which it is kept.
pub const NAME: &str = "in-hand";
/// Bytes of a worker. A question takes 12 bytes of header, 255 of its name and 4 more.
const SLOT: usize = 320;
/// Bytes of a packet that are kept.
const RECORD: usize = SLOT - 2;
/// Workers that are read at most.
const MAX_WORKERS: usize = 256;

thread_local! {
    static SLOT_OF_THREAD: RefCell<Option<Slot>> = const { RefCell::new(None) };
}

/// The place of one worker.
pub struct Slot(&'static mut [u8]);

/// Until it is dropped, a query is in hand.
pub struct InHand(());

/// Makes the memory for so many workers. The slots live as long as the process.
pub fn create(workers: usize) -> io::Result<(OwnedFd, Vec<Slot>)> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(NAME, flags)?);
    let len = workers * SLOT;
    file.set_len(len as u64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    let (protection, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has `len` bytes, which are zero, is never taken away, and is named nowhere else in this process. The
    // file cannot shrink, since it is sealed. Other processes only read it.
    let bytes: &'static mut [u8] = unsafe { std::slice::from_raw_parts_mut(at.cast(), len) };
    Ok((file.into(), bytes.chunks_exact_mut(SLOT).map(Slot).collect()))
}

/// Makes this thread a worker's with this slot.
pub fn enter(slot: Slot) {
    SLOT_OF_THREAD.replace(Some(slot));
}

/// Records that this thread's worker has `packet` in hand. Without a slot nothing is recorded.
pub fn begin(packet: &[u8]) -> InHand {
    SLOT_OF_THREAD.with_borrow_mut(|slot| {
        if let Some(Slot([high, low, record @ ..])) = slot {
            let len = packet.len().min(RECORD);
            if let (Some(to), Some(from)) = (record.get_mut(..len), packet.get(..len)) {
                to.copy_from_slice(from);
                // In memory before anything is done with the query.
                compiler_fence(Ordering::SeqCst);
                [*high, *low] = (len as u16).to_be_bytes();
                compiler_fence(Ordering::SeqCst);
            }
        }
    });
    InHand(())
}

impl Drop for InHand {
    fn drop(&mut self) {
        let _ = SLOT_OF_THREAD.try_with(|slot| {
            if let Ok(mut slot) = slot.try_borrow_mut()
                && let Some(Slot([high, low, ..])) = slot.as_mut()
            {
                compiler_fence(Ordering::SeqCst);
                [*high, *low] = [0, 0];
            }
        });
    }
}

/// The packets that the workers of the process before had in hand. Total: any descriptor gives some packets, or none.
pub fn read(memory: BorrowedFd<'_>) -> Vec<Vec<u8>> {
    let Ok(file) = memory.try_clone_to_owned().map(File::from) else { return Vec::new() };
    let mut packets = Vec::new();
    let mut slot = [0; SLOT];
    for worker in 0..MAX_WORKERS {
        if file.read_exact_at(&mut slot, (worker * SLOT) as u64).is_err() {
            break;
        }
        let [high, low, record @ ..] = &slot;
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        packets.extend(record.get(..len).filter(|packet| !packet.is_empty()).map(<[u8]>::to_vec));
    }
    packets
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_in_hand_can_be_read_by_others() {
        let (memory, mut slots) = create(3).unwrap();
        assert!(read(memory.as_fd()).is_empty());
        enter(slots.remove(1));
        {
            let _in_hand = begin(b"a query");
            assert_eq!(read(memory.as_fd()), [b"a query".to_vec()]);
        }
        assert!(read(memory.as_fd()).is_empty());
        let _in_hand = begin(&[7; 2_000]);
        assert_eq!(read(memory.as_fd()), [vec![7; RECORD]]);
        let other = std::thread::spawn(|| drop(begin(b"a thread without a slot")));
        other.join().unwrap();
        assert_eq!(read(memory.as_fd()).len(), 1);
        assert!(read(File::open("/dev/null").unwrap().as_fd()).is_empty());
    }
}
