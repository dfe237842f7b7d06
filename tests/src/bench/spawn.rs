//! Processes that run on one processor and in one account.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::account::{Account, processes};

/// A running process group, killed when it is dropped.
pub struct Running {
    child: Child,
    account: Arc<Account>,
    started: Instant,
    /// What the account held before.
    before: Duration,
}

impl Running {
    /// Starts `command` on processor `cpu`, accounted for in `account`.
    ///
    /// # Errors
    /// Whatever keeps the command from starting.
    pub fn start(mut command: Command, cpu: usize, account: &Arc<Account>) -> io::Result<Self> {
        let before = account.used_before();
        // A child inherits the processor and the control group of the thread that starts it.
        let starter = std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> io::Result<_> {
                pin(cpu)?;
                account.enter();
                let started = Instant::now();
                Ok((command.process_group(0).spawn()?, started))
            });
            thread.join()
        });
        let (child, started) = starter.map_err(|_| io::Error::other("the starter panicked"))??;
        Ok(Self { child, account: Arc::clone(account), started, before })
    }

    /// The process group's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// CPU time that it has used since it was started.
    #[must_use]
    pub fn used(&self) -> Duration {
        self.account.used(self.id()).saturating_sub(self.before)
    }

    /// The process, for its output.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// True until its first process has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        // Gone already: nothing to do.
        let _ = killpg(Pid::from_raw(self.id() as i32), signal);
    }
}

/// Keeps the calling thread, and what it starts, on processor `cpu`.
///
/// # Errors
/// There is no such processor, or it is not allowed.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

impl Drop for Running {
    fn drop(&mut self) {
        let id = self.id();
        for (signal, patience) in [(Signal::SIGTERM, 3_000), (Signal::SIGKILL, 1_000)] {
            self.signal(signal);
            let gone = crate::poll::until(Duration::from_millis(patience), || {
                // The first is a zombie until it is waited for.
                let _ = self.child.try_wait();
                processes(id).is_empty()
            });
            if gone {
                break;
            }
        }
        let _ = self.child.wait();
    }
}
