//! The kernel's accounts of a contestant's CPU time and memory.
//!
//! Where there is a `cpuacct` control group (version 1), its counter is exact and holds what children and ended threads took.
//! Elsewhere the scheduler's counts of every thread are added up, which are as exact but forget threads that ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CPUACCT: &str = "/sys/fs/cgroup/cpuacct/nodens-bench";
const CPU: &str = "/sys/fs/cgroup/cpu/nodens-bench";
/// Weight against whatever else runs on the machine; a process by itself has 1,024.
const SHARES: &str = "8192";

/// Where a group of processes is accounted for.
#[derive(Debug)]
pub struct Account {
    group: Option<PathBuf>,
    weighted: Option<PathBuf>,
}

impl Account {
    /// The account `name`; a control group of its own where there can be one.
    #[must_use]
    pub fn open(name: &str) -> Self {
        let make = |parent: &str| {
            let path = Path::new(parent).join(name);
            let made = Path::new(parent).parent().is_some_and(|root| root.join("tasks").exists())
                && fs::create_dir_all(&path).is_ok();
            made.then_some(path)
        };
        let weighted = make(CPU).filter(|_| fs::write(format!("{CPU}/cpu.shares"), SHARES).is_ok());
        Self { group: make(CPUACCT), weighted }
    }

    /// True where the control group counts.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.group.is_some()
    }

    /// Puts the calling thread, and so what it starts, into this account.
    pub fn enter(&self) {
        for group in self.group.iter().chain(&self.weighted) {
            // Zero stands for the thread that writes. Where it fails the group stays empty, and so the figures zero.
            let _ = fs::write(group.join("tasks"), "0");
        }
    }

    /// CPU time that is in the account already: a control group counts those that have ended, too.
    #[must_use]
    pub fn used_before(&self) -> Duration {
        let group = self.group.as_ref();
        Duration::from_nanos(group.map_or(0, |group| number(&group.join("cpuacct.usage"))))
    }

    /// CPU time that has been used by the processes of group `leader` (a process group).
    #[must_use]
    pub fn used(&self, leader: u32) -> Duration {
        let nanos = match &self.group {
            Some(group) => number(&group.join("cpuacct.usage")),
            None => processes(leader).into_iter().map(scheduled).sum(),
        };
        Duration::from_nanos(nanos)
    }

    /// The part of it that was spent in user space; zero if it is not reported.
    #[must_use]
    pub fn used_by_user(&self) -> Duration {
        let group = self.group.as_ref();
        Duration::from_nanos(group.map_or(0, |group| number(&group.join("cpuacct.usage_user"))))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        for group in self.group.iter().chain(&self.weighted) {
            // Busy while processes are in it; the next run finds it again.
            let _ = fs::remove_dir(group);
        }
    }
}

/// CPU time of those threads of group `leader` whose names begin with `name`; threads that have ended are forgotten.
#[must_use]
pub fn used_by_threads(leader: u32, name: &str) -> Duration {
    let threads = processes(leader).into_iter().flat_map(threads);
    let named = threads.filter(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.starts_with(name))
    });
    Duration::from_nanos(named.map(|thread| number(&thread.join("schedstat"))).sum())
}

/// CPU time of the kernel's thread that delivers packets for processor `cpu` when there are many.
#[must_use]
pub fn soft_interrupts(cpu: usize) -> Duration {
    let name = format!("ksoftirqd/{cpu}");
    let mut all = all_processes();
    let found = all.find(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == name
    });
    Duration::from_nanos(found.map_or(0, scheduled))
}

/// Resident octets of the processes of group `leader`; a page that several processes share counts once (Pss, proc(5)).
#[must_use]
pub fn resident(leader: u32) -> u64 {
    processes(leader).into_iter().map(proportional).sum()
}

/// The most that has been resident in the largest of the processes, with what the others hold now.
#[must_use]
pub fn peak(leader: u32) -> u64 {
    let mut peaks: Vec<(u64, u32)> =
        processes(leader).into_iter().map(|pid| (status(pid, "VmHWM:"), pid)).collect();
    peaks.sort_unstable();
    let largest = peaks.pop().map_or(0, |(peak, _)| peak);
    largest + peaks.into_iter().map(|(_, pid)| proportional(pid)).sum::<u64>()
}

fn proportional(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// The processes of a process group, and their children, which may have groups of their own.
#[must_use]
pub fn processes(leader: u32) -> Vec<u32> {
    let is_member = |pid| group_of(pid).is_some_and(|(_, group)| group == leader);
    let belongs =
        |pid: &u32| is_member(*pid) || group_of(*pid).is_some_and(|(parent, _)| is_member(parent));
    all_processes().filter(belongs).collect()
}

fn all_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Parent and process group of a process that has not ended.
fn group_of(pid: u32) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    (fields.next()? != "Z").then_some(())?;
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Nanoseconds that a process' threads have run.
fn scheduled(pid: u32) -> u64 {
    threads(pid).map(|thread| number(&thread.join("schedstat"))).sum()
}

fn threads(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|thread| thread.path())
}

/// The first number in a file of the kernel.
fn number(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_and_its_time_counted() {
        let me = std::process::id();
        let group = group_of(me).map(|(_, group)| group);
        assert!(group.is_some_and(|group| processes(group).contains(&me)));
        assert!(group.is_some_and(|group| used_by_threads(group, "") >= Duration::from_nanos(1)));
        assert!(scheduled(me) > 0 && status(me, "VmRSS:") > 1 << 20);
    }
}
