//! Unused memory goes back to the kernel: the allocator's, and pages of the program that only its start needed.
#![allow(unsafe_code, reason = "madvise(2)")]

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

use rustix::mm::{Advice, madvise};
use tikv_jemalloc_ctl::{Access, AsName, Result, background_thread};

/// Has a thread of the allocator give unused memory back to the kernel some 10 s later. Without it only a thread that
/// allocates does so, and a worker that answers hits does not: what a flood took would stay. Called once privileges are dropped,
/// since the thread inherits them.
pub fn give_back_later() {
    if let Err(error) = background_thread::write(true) {
        tracing::debug!(%error, "unused memory is given back late");
    }
}

/// Gives back at once what the calling thread's arena does not use: after a piece of work that took much and left little,
/// such as reading a folder of objects. Not for the workers: it takes as long as there are pages.
pub fn give_back_now() {
    if let Err(error) = purge() {
        tracing::debug!(%error, "unused memory is given back late");
    }
}

/// A time of decay of 0 frees all unused pages when it is set.
fn purge() -> Result<()> {
    let arena: u32 = b"thread.arena\0".name().read()?;
    let decay = format!("arena.{arena}.dirty_decay_ms\0");
    let before: isize = decay.as_str().name().update(0)?;
    decay.as_str().name().write(before)
}

/// Gives back the pages of the program's file. Those that are needed are mapped again when they are used, from the page cache; those
/// of the start are not. Takes about a millisecond. Not for the workers.
pub fn give_back_program() {
    if let Err(error) = unmap_program() {
        tracing::debug!(%error, "pages of the program stay mapped");
    }
}

fn unmap_program() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let smaps = BufReader::new(File::open("/proc/self/smaps")?);
    for Range { start, end } in clean_mappings(&program.to_string_lossy(), smaps)? {
        // SAFETY: the mapping belongs to a file that is being executed, which cannot be written to, and none of its pages was
        // written to in memory either: what is read again is what is there.
        unsafe { madvise(start as *mut _, end - start, Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// The private mappings of a file, by its path, that cannot be written to and have no page that ever was (proc_pid_smaps(5)):
/// where they begin and end. Those that were relocated, and made read-only afterwards, are left out.
fn clean_mappings(path: &str, smaps: impl BufRead) -> io::Result<Vec<Range<usize>>> {
    let (mut found, mut current) = (Vec::new(), None);
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if let Some((start, end)) = first.split_once('-') {
            let address = |text| usize::from_str_radix(text, 16).ok();
            let is_file = line.strip_suffix(path).is_some_and(|rest| rest.ends_with(' '));
            let is_fixed =
                second.starts_with('r') && second.ends_with('p') && !second.contains('w');
            current = address(start).zip(address(end)).filter(|_| is_file && is_fixed);
        } else if let ("Anonymous:", "0", Some((start, end))) =
            (first, second, current.take_if(|_| first == "Anonymous:"))
        {
            found.push(start..end);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_decay_is_as_before() {
        purge().unwrap();
        purge().unwrap();
        let arena: u32 = b"thread.arena\0".name().read().unwrap();
        let decay: isize =
            format!("arena.{arena}.dirty_decay_ms\0").as_str().name().read().unwrap();
        assert_eq!(decay, 10_000);
    }

    const SMAPS: &str = "\
5000-6000 r--p 00000000 fe:00 77   /nodens
Anonymous:             0 kB
6000-9000 r-xp 00001000 fe:00 77   /nodens
Rss:                 12 kB
Anonymous:             0 kB
9000-a000 r--p 00004000 fe:00 77   /nodens
Anonymous:             4 kB
a000-b000 rw-p 00005000 fe:00 77   /nodens
Anonymous:             0 kB
c000-d000 r-xp 00000000 fe:00 78   /libc.so
Anonymous:             0 kB
";

    #[test]
    fn only_pages_as_in_the_file_are_given_back() {
        assert_eq!(
            clean_mappings("/nodens", SMAPS.as_bytes()).unwrap(),
            [0x5000..0x6000, 0x6000..0x9000]
        );
        assert!(clean_mappings("/nodens", &b"nonsense"[..]).unwrap().is_empty());
        unmap_program().unwrap();
        // And it continues to run.
        unmap_program().unwrap();
    }
}
