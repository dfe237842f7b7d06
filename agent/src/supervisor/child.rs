//! The child of a supervisor: how it is started, and whether it makes progress.

#![allow(unsafe_code, reason = "fork(2)")]

use std::io;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork, setpgid};

use crate::handover::Channel;

/// Ticks without a sign of life, and without any work done, after which a child counts as stopped.
const STOPPED: u32 = 4;
/// Ticks without a sign of life after which it counts as hung, however hard it works.
const HUNG: u32 = 40;
/// Whether a child does its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It does, or is given more time.
    Some,
    /// It does not.
    None,
}

/// A running server.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) channel: Channel,
    /// It answers queries.
    pub(super) is_serving: bool,
    /// It was told to end.
    pub(super) is_stopping: bool,
    /// Another instance serves; it answers what is under way, and ends.
    pub(super) has_handed_over: bool,
    /// It was killed because it made no progress.
    pub(super) was_replaced: bool,
    /// It has closed its end of the channel: it is about to end.
    pub(super) has_closed: bool,
    /// Ticks since its last sign of life. Counted rather than timed: a supervisor that has no processor either, or was
    /// frozen, counts slower.
    missed: u32,
    /// Of them those in a row in which it did no work.
    idle: u32,
    /// Its CPU time at the last tick.
    worked: Duration,
}

/// On which side of a fork this process is.
pub(super) enum Forked {
    /// The supervisor, with its child.
    Parent(Child),
    /// The child, with its end of the channel.
    Child(Channel),
}

impl Child {
    /// Forks. A fork without exec(2) costs a fifth of the time and shares all memory that neither writes; what it lacks is another
    /// layout of the address space for each child. To be called while there is one thread.
    pub(super) fn start() -> io::Result<Forked> {
        let (ours, theirs) = Channel::pair()?;
        // SAFETY: the supervisor has one thread, so that no lock is held by one that the child does not have.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Forked::Parent(Self::new(child, ours))),
            ForkResult::Child => {
                // Signals of a terminal are for the supervisor, which passes them on.
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                Ok(Forked::Child(theirs))
            }
        }
    }

    fn new(pid: Pid, channel: Channel) -> Self {
        Self {
            pid,
            channel,
            is_serving: false,
            is_stopping: false,
            has_handed_over: false,
            was_replaced: false,
            has_closed: false,
            missed: 0,
            idle: 0,
            worked: Duration::ZERO,
        }
    }

    /// A sign of life has come.
    pub(super) fn is_alive(&mut self) {
        self.missed = 0;
        self.idle = 0;
    }

    /// Counts a tick.
    pub(super) fn tick(&mut self) -> Progress {
        let is_leaving = self.is_stopping || self.has_handed_over;
        if !self.is_serving || is_leaving || self.was_replaced {
            return Progress::Some;
        }
        self.missed += 1;
        let worked = self.cpu_time();
        let before = std::mem::replace(&mut self.worked, worked);
        let is_idle = worked.saturating_sub(before) < Duration::from_millis(1);
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        judge(self.missed, self.idle)
    }

    fn cpu_time(&self) -> Duration {
        let clock = clock_getcpuclockid(self.pid);
        clock.and_then(clock_gettime).map_or(Duration::ZERO, Duration::from)
    }
}

/// After so many ticks without a sign of life, and so many in a row without any work.
fn judge(missed: u32, idle: u32) -> Progress {
    if (missed >= STOPPED && idle >= STOPPED) || missed >= HUNG {
        Progress::None
    } else {
        Progress::Some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_child_is_found_soon_and_a_busy_one_has_time() {
        assert_eq!(judge(STOPPED - 1, STOPPED), Progress::Some);
        assert_eq!(judge(STOPPED, STOPPED), Progress::None);
        assert_eq!(judge(HUNG - 1, 0), Progress::Some);
        assert_eq!(judge(HUNG, 0), Progress::None);
    }
}
