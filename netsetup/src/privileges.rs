//! Drops the privileges that the process does not need.
//!
//! Capabilities, `no_new_privs` and the ambient set belong to a *thread* and are inherited by the
//! threads that it starts. So call these functions first in `main`, before any runtime or
//! thread is started; a thread that is already running keeps what it has.
#![allow(unsafe_code, reason = "sched_setattr(2) has no safe form in rustix, nix or libc")]

use std::io;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs,
};
use serde::Serialize;
use thiserror::Error;

/// A capability that the agent has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Capability {
    /// CAP_NET_BIND_SERVICE: to listen on port 53.
    NetBindService,
    /// CAP_NET_ADMIN: to set up and mend link, addresses and rules.
    NetAdmin,
    /// CAP_SETUID: to become another user; not needed afterwards.
    SetUid,
    /// CAP_SETGID: the same for the groups.
    SetGid,
}

impl Capability {
    fn set(self) -> CapabilitySet {
        match self {
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::SetUid => CapabilitySet::SETUID,
            Self::SetGid => CapabilitySet::SETGID,
        }
    }
}

/// What the calling thread may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// The effective user.
    pub uid: u32,
    /// Bits of the capabilities in force.
    pub effective: u64,
    /// Bits of those that can be put in force.
    pub permitted: u64,
    /// Bits of those that a program started from here can inherit.
    pub inheritable: u64,
    /// Bits of those that any program started from here can ever have.
    pub bounding: u64,
    /// Whether programs started from here can gain nothing by set-user-ID files.
    pub no_new_privs: bool,
}

impl Privileges {
    /// Those of the calling thread. They come from system calls, since `/proc` may be hidden.
    ///
    /// # Errors
    ///
    /// The kernel refuses, which it never does for the calling thread.
    pub fn current() -> Result<Self, PrivilegeError> {
        let sets = capabilities(None).map_err(PrivilegeError::failed("read the capabilities"))?;
        let bounding = all_bits().filter(|bit| is_bounded(*bit)).collect::<CapabilitySet>();
        Ok(Self {
            uid: Uid::effective().as_raw(),
            effective: sets.effective.bits(),
            permitted: sets.permitted.bits(),
            inheritable: sets.inheritable.bits(),
            bounding: bounding.bits(),
            no_new_privs: no_new_privs() == Ok(true),
        })
    }

    /// Whether `capability` is in force.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective & capability.set().bits() != 0
    }
}

/// A privilege could not be dropped.
#[derive(Debug, Error)]
#[error("cannot {action}: {source}")]
pub struct PrivilegeError {
    action: &'static str,
    source: io::Error,
}

impl PrivilegeError {
    fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |errno| Self { action, source: errno.into() }
    }
}

/// Keeps of the capabilities only those in `keep` that the thread has, and sets `no_new_privs`.
/// The bounding set, which limits programs that are started later, is reduced to `bounding`.
///
/// The bounding set can be reduced only with CAP_SETPCAP. Without it, it stays as the container
/// runtime made it, which grants nothing once `no_new_privs` is set. CAP_SETPCAP is not in `keep`,
/// so the first call decides the bounding set.
///
/// # Errors
///
/// The kernel refuses. The thread has then no more privileges than before.
pub fn drop_capabilities(
    keep: &[Capability],
    bounding: &[Capability],
) -> Result<(), PrivilegeError> {
    reduce_bounding_set(bounding)?;
    let now = capabilities(None).map_err(PrivilegeError::failed("read the capabilities"))?;
    clear_ambient_capability_set()
        .map_err(PrivilegeError::failed("clear the ambient capabilities"))?;
    let keep = union(keep);
    let permitted = now.permitted & keep;
    let sets =
        CapabilitySets { effective: permitted, permitted, inheritable: now.inheritable & keep };
    set_capabilities(None, sets).map_err(PrivilegeError::failed("drop capabilities"))?;
    set_no_new_privs(true).map_err(PrivilegeError::failed("set no_new_privs"))?;
    Ok(())
}

/// Becomes `uid` and `gid`, without other groups, and keeps of the capabilities those in `keep`
/// that the thread has.
///
/// Keep [`Capability::NetAdmin`] only if the network is to be repaired later. Reloads that bind new
/// addresses on port 53 need [`Capability::NetBindService`].
///
/// # Errors
///
/// The kernel refuses: CAP_SETUID or CAP_SETGID is missing. The process should then end, since the
/// change may be incomplete.
pub fn become_user(uid: u32, gid: u32, keep: &[Capability]) -> Result<(), PrivilegeError> {
    // Before the change of user, which empties the effective set and CAP_SETPCAP with it.
    reduce_bounding_set(keep)?;
    set_keep_capabilities(true)
        .map_err(PrivilegeError::failed("keep capabilities over the change of user"))?;
    let gid = Gid::from_raw(gid);
    setgroups(&[gid]).map_err(PrivilegeError::failed("drop the supplementary groups"))?;
    setresgid(gid, gid, gid).map_err(PrivilegeError::failed("change the group"))?;
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid).map_err(PrivilegeError::failed("change the user"))?;
    set_keep_capabilities(false)
        .map_err(PrivilegeError::failed("end the keeping of capabilities"))?;
    // The change of user emptied the effective set but left the permitted one; dropping also puts
    // it in force again.
    drop_capabilities(keep, keep)
}

/// Asks the scheduler for time slices of `slice` (100 us or more) for the calling thread. From Linux 6.12
/// on, a thread that wakes up then preempts threads with longer slices (3 ms by default). Its share of the
/// processor stays the same. Older kernels ignore the slice.
///
/// # Errors
///
/// The kernel, or a filter of system calls, refuses.
pub fn run_in_slices(slice: Duration) -> Result<(), PrivilegeError> {
    let failed = || PrivilegeError {
        action: "set the length of a time slice",
        source: io::Error::last_os_error(),
    };
    let mut attributes = SchedulerAttributes::default();
    let size = size_of::<SchedulerAttributes>() as libc::c_uint;
    // SAFETY: the pointer is to a live, writable value of the size that is stated, of which
    // sched_getattr(2) fills no more; zero stands for the calling thread.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } != 0 {
        return Err(failed());
    }
    // Another policy was chosen on purpose: it stays.
    if attributes.policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the pointer is to a live value that states its own size; the kernel only reads it.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// Removes from the bounding set what is not in `keep`, if the thread has CAP_SETPCAP.
fn reduce_bounding_set(keep: &[Capability]) -> Result<(), PrivilegeError> {
    let now = capabilities(None).map_err(PrivilegeError::failed("read the capabilities"))?;
    if !now.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    let keep = union(keep);
    for bit in all_bits().filter(|bit| !keep.contains(*bit) && is_bounded(*bit)) {
        remove_capability_from_bounding_set(bit)
            .map_err(PrivilegeError::failed("reduce the capability bounding set"))?;
    }
    Ok(())
}

fn union(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().map(|capability| capability.set()).collect()
}

/// Every capability that there can be, each by itself. Those that the kernel does not know are in
/// no set.
fn all_bits() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}

fn is_bounded(bit: CapabilitySet) -> bool {
    // The kernel answers EINVAL for a capability that it does not know.
    let known: Result<bool, Errno> = capability_is_in_bounding_set(bit);
    known == Ok(true)
}

/// `struct sched_attr` of Linux 3.14.
#[repr(C)]
#[derive(Default)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_may_run_in_slices() {
        let done = std::thread::spawn(|| run_in_slices(Duration::from_micros(100))).join();
        assert!(matches!(done, Ok(Ok(()))), "{done:?}");
    }
}
