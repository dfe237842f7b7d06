//! Memory that outlives the process that wrote it: an anonymous file (memfd_create(2)), sealed, so that neither side can
//! change it any more.
//!
//! ```text
//! content   CRC-32 of the content: u32, big-endian
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The most that is read of one, in bytes: a store of 150,000 endpoints takes 1.2 MB, the kept part of the cache 4 MB.
const MAX_LEN: u64 = 256 << 20;
const SUM: usize = 4;

/// Why memory is not used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It could be changed while it is read, or is no such file.
    #[error("it is not sealed memory")]
    NotSealed,
    /// It is longer than any that is written.
    #[error("it is longer than {} MiB", MAX_LEN >> 20)]
    Long,
    /// Its checksum does not match.
    #[error("it is damaged: its checksum does not match")]
    Damaged,
    /// The kernel's error.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Writes what `fill` gives and seals it. `name` is what `/proc/PID/fd` shows.
pub fn write(
    name: &str,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    let mut sum = Summed { to: BufWriter::with_capacity(1 << 16, file), sum: Default::default() };
    fill(&mut sum)?;
    let Summed { mut to, sum } = sum;
    to.write_all(&sum.finalize().to_be_bytes())?;
    let file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

/// The content of sealed memory. Total: any descriptor gives bytes or an error.
pub fn read(fd: BorrowedFd<'_>) -> Result<Vec<u8>, MemoryError> {
    let sealed = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| MemoryError::NotSealed)?;
    if !SealFlag::from_bits_truncate(sealed).contains(seals()) {
        return Err(MemoryError::NotSealed);
    }
    let file = File::from(fd.try_clone_to_owned()?);
    let len = file.metadata()?.len();
    if len > MAX_LEN {
        return Err(MemoryError::Long);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    let (content, sum) = bytes.split_last_chunk::<SUM>().ok_or(MemoryError::Damaged)?;
    if crc32fast::hash(content) != u32::from_be_bytes(*sum) {
        return Err(MemoryError::Damaged);
    }
    bytes.truncate(bytes.len().saturating_sub(SUM));
    Ok(bytes)
}

struct Summed<W> {
    to: W,
    sum: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_was_written_is_read_by_any_number_of_readers() {
        let fd = write("test", |to| to.write_all(b"what is known")).unwrap();
        for _ in 0..2 {
            assert_eq!(read(fd.as_fd()).unwrap(), b"what is known");
        }
        assert!(File::from(fd).write_at(b"x", 0).is_err(), "it is sealed");
    }

    #[test]
    fn what_can_be_changed_or_is_damaged_is_refused() {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let open = memfd_create("open", flags).unwrap();
        assert!(matches!(read(open.as_fd()), Err(MemoryError::NotSealed)));
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(read(null.as_fd()), Err(MemoryError::NotSealed)));
        for content in [&b""[..], b"abc", b"some text and a sum that is wrong"] {
            let file = File::from(memfd_create("damaged", flags).unwrap());
            file.write_all_at(content, 0).unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).unwrap();
            assert!(matches!(read(file.as_fd()), Err(MemoryError::Damaged)), "{content:?}");
        }
    }
}
