//! File descriptors of the process: their limit, the part of it that clients may take, and a few that are kept for
//! `nodens status` when there are no others.

use std::fs::File;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that connections of clients leave free: for sockets to upstreams, probes, `/health`, the API server, the
/// control socket and files. Sockets to upstreams are the most of them, a few hundred under load.
const RESERVE: usize = 1_024;

/// Raises the soft limit to the hard one, once, before anything is opened. Container runtimes and systemd set a soft limit
/// of 1024 for programs that use `select(2)`, which this one does not.
///
/// # Errors
/// The kernel refuses, which it does only under a filter of system calls.
pub fn raise_limit() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Descriptors that are open for nothing, so that closing one makes room where the limit of the process is reached: one who
/// asks what is wrong then gets an answer.
#[derive(Debug, Default)]
pub struct Spare(Vec<File>);

impl Spare {
    /// How many are kept.
    const KEPT: usize = 4;

    /// Opens what lacks, as far as the limit allows.
    pub fn fill(&mut self) {
        while self.0.len() < Self::KEPT {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Closes one; false if there is none. What it makes room for should be opened at once: others wait for room, too.
    pub fn release(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

/// How many connections of clients the limit allows beside the reserve; half of a small limit.
pub fn for_clients() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    beside_reserve(usize::try_from(soft).unwrap_or(usize::MAX))
}

fn beside_reserve(limit: usize) -> usize {
    limit.saturating_sub(RESERVE).max(limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_limit_is_halved() {
        let shares = [0, 100, 1_024, 2_048, 4_096, usize::MAX].map(beside_reserve);
        assert_eq!(shares, [0, 50, 512, 1_024, 3_072, usize::MAX - 1_024]);
    }
}
