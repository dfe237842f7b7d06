//! The child of a supervisor: how it is started, and whether it makes progress.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, getpid};

use super::link::{PARENT, RESTARTS};
use crate::handover::{Channel, Message, VERSION};

/// Ticks without a sign of life, and without any work done, after which a child counts as stopped.
const STOPPED: u32 = 4;
/// Ticks without a sign of life after which it counts as hung, however hard it works.
const HUNG: u32 = 40;
/// How long the child may take to read what it is given.
const PATIENCE: Duration = Duration::from_secs(10);

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

impl Child {
    /// Starts the program of this process with its arguments, and gives it `items`. `why` is how the last
    /// one ended, `restarts` how often that has happened.
    pub(super) fn start(
        items: &BTreeMap<String, OwnedFd>,
        restarts: u64,
        why: &str,
    ) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        ours.set_patience(Some(PATIENCE))?;
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command
            .args(std::env::args_os().skip(1))
            .env(PARENT, getpid().to_string())
            .env(RESTARTS, restarts.to_string())
            // Signals of a terminal are for the supervisor, which passes them on.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = command.spawn()?;
        // Our copy of its end would keep the channel open after its end.
        drop(command);
        let pid = i32::try_from(process.id()).map_err(io::Error::other)?;
        let child = Self {
            pid: Pid::from_raw(pid),
            channel: ours,
            is_serving: false,
            is_stopping: false,
            has_handed_over: false,
            was_replaced: false,
            has_closed: false,
            missed: 0,
            idle: 0,
            worked: Duration::ZERO,
        };
        child.give(items, why);
        Ok(child)
    }

    /// A child that ends meanwhile is found by its end.
    fn give(&self, items: &BTreeMap<String, OwnedFd>, why: &str) {
        let hello = Message::Hello { version: VERSION, text: why.to_owned() };
        let given = self.channel.send(&hello).and_then(|()| {
            items.iter().try_for_each(|(name, fd)| self.channel.send_item(name, fd.as_fd()))
        });
        let given = given.and_then(|()| self.channel.send(&Message::End));
        if let Err(error) = given {
            tracing::warn!(%error, "the server does not take what is kept for it");
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
