//! Gives away what the process does not need.
//!
//! Capabilities, `no_new_privs` and the ambient set belong to a *thread* and are inherited by the
//! threads that it starts. So call these functions first thing in `main`, before any runtime or
//! thread is started; a thread that is already running keeps what it has.
#![allow(unsafe_code)] // capset(2), prctl(2), sched_setattr(2): libc and nix have no safe form

use std::io;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::Serialize;
use thiserror::Error;

/// A capability that the agent has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Capability {
    /// CAP_NET_BIND_SERVICE: to listen on port 53.
    NetBindService,
    /// CAP_NET_ADMIN: to set up and mend link, addresses and rules.
    NetAdmin,
    /// CAP_SETUID: to become another user; good for nothing afterwards.
    SetUid,
    /// CAP_SETGID: the same for the groups.
    SetGid,
}

impl Capability {
    fn bit(self) -> u64 {
        match self {
            Self::NetBindService => 1 << 10,
            Self::NetAdmin => 1 << 12,
            Self::SetUid => 1 << 7,
            Self::SetGid => 1 << 6,
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
    /// Those of the calling thread. Asked of the kernel, not read from `/proc`, which may be
    /// hidden.
    ///
    /// # Errors
    ///
    /// The kernel refuses, which it never does for the calling thread.
    pub fn current() -> Result<Self, PrivilegeError> {
        let mut header = Header { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
        let mut data = [Data::default(); 2];
        // SAFETY: both pointers are to live, writable values of the layout that version 3 of
        // capget(2) uses: a header and two data records.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
        if result != 0 {
            let source = io::Error::last_os_error();
            return Err(PrivilegeError { action: "read the capabilities", source });
        }
        let [low, high] = data;
        let join = |field: fn(Data) -> u32| u64::from(field(high)) << 32 | u64::from(field(low));
        // Beyond the last capability that the kernel knows it answers EINVAL.
        let bounded = |capability| prctl(libc::PR_CAPBSET_READ, capability) == Ok(1);
        let bounding = (0..64).filter(|c| bounded(*c)).fold(0, |bits, c| bits | 1 << c);
        Ok(Self {
            uid: Uid::effective().as_raw(),
            effective: join(|data| data.effective),
            permitted: join(|data| data.permitted),
            inheritable: join(|data| data.inheritable),
            bounding,
            no_new_privs: prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1),
        })
    }

    /// Whether `capability` is in force.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective & capability.bit() != 0
    }
}

/// A privilege could not be given away.
#[derive(Debug, Error)]
#[error("cannot {action}: {source}")]
pub struct PrivilegeError {
    action: &'static str,
    source: io::Error,
}

impl PrivilegeError {
    fn failed(action: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |errno| Self { action, source: errno.into() }
    }
}

/// Keeps of the capabilities only those in `keep` that the thread has, and sets `no_new_privs`.
///
/// The bounding set can be reduced only with CAP_SETPCAP; without it, it stays as the container
/// runtime made it, which grants nothing once `no_new_privs` is set.
///
/// # Errors
///
/// The kernel refuses; nothing is then worse than before.
pub fn drop_capabilities(keep: &[Capability]) -> Result<(), PrivilegeError> {
    let keep = mask(keep);
    let now = Privileges::current()?;
    if now.effective & CAP_SETPCAP != 0 {
        for capability in (0..64).filter(|c| now.bounding & (1 << c) != 0 && keep & (1 << c) == 0) {
            prctl(libc::PR_CAPBSET_DROP, capability)
                .map_err(PrivilegeError::failed("reduce the capability bounding set"))?;
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
        .map_err(PrivilegeError::failed("clear the ambient capabilities"))?;
    set_capabilities(now.permitted & keep, now.inheritable & keep)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(PrivilegeError::failed("set no_new_privs"))?;
    Ok(())
}

/// Becomes `uid` and `gid`, without other groups, and keeps of the capabilities those in `keep`
/// that the thread has.
///
/// Keep [`Capability::NetAdmin`] only if the network is to be mended later. Reloads that bind new
/// addresses on port 53 need [`Capability::NetBindService`].
///
/// # Errors
///
/// The kernel refuses: CAP_SETUID or CAP_SETGID is missing. The process should then end, since it
/// may be half changed.
pub fn become_user(uid: u32, gid: u32, keep: &[Capability]) -> Result<(), PrivilegeError> {
    prctl(libc::PR_SET_KEEPCAPS, 1)
        .map_err(PrivilegeError::failed("keep capabilities over the change of user"))?;
    let gid = Gid::from_raw(gid);
    setgroups(&[gid]).map_err(PrivilegeError::failed("give up the supplementary groups"))?;
    setresgid(gid, gid, gid).map_err(PrivilegeError::failed("change the group"))?;
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid).map_err(PrivilegeError::failed("change the user"))?;
    prctl(libc::PR_SET_KEEPCAPS, 0)
        .map_err(PrivilegeError::failed("end the keeping of capabilities"))?;
    // The change of user emptied the effective set but left the permitted one; dropping also puts
    // it in force again.
    drop_capabilities(keep)
}

/// Says that the calling thread runs for no longer than `slice` (100 us or more) at a time: from Linux
/// 6.12 on it then goes before threads of longer slices, which are 3 ms by default, as soon as it has
/// something to do. Its share of the processor stays the same. Older kernels take note of nothing.
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
    // Whoever gave it another policy knows better.
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

fn mask(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |mask, capability| mask | capability.bit())
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> nix::Result<libc::c_int> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer; the unused arguments are zero as
    // prctl(2) demands.
    nix::errno::Errno::result(unsafe { libc::prctl(option, argument, zero, zero, zero) })
}

/// Puts `permitted` in force, too.
fn set_capabilities(permitted: u64, inheritable: u64) -> Result<(), PrivilegeError> {
    let header = Header { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (permitted >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: both pointers are to live values of the layout that version 3 of capset(2) reads (a
    // header and two data records); the kernel writes to neither, except the header's version if it
    // does not know it.
    let result =
        unsafe { libc::syscall(libc::SYS_capset, &header as *const Header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(PrivilegeError { action: "drop capabilities", source: io::Error::last_os_error() })
    }
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

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_SETPCAP: u64 = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_may_run_in_slices() {
        let done = std::thread::spawn(|| run_in_slices(Duration::from_micros(100))).join();
        assert!(matches!(done, Ok(Ok(()))), "{done:?}");
    }
}
