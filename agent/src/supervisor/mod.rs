//! The process that starts the server and starts it again.
//!
//! ```text
//! supervisor   holds the listening sockets and sealed memory; passes signals on; watches its child
//!   server     everything else; gives the supervisor what is to outlive it
//! ```
//!
//! It has one thread, no runtime, and reads nothing that comes from outside the node: command line, signals, and messages of
//! its own child, of which it understands the kind and the name. So it has no reason to fail where the server does. Its
//! child is a fork(2) of it, which has everything that is kept. While there is no child, the kernel queues what arrives at
//! the sockets.
//!
//! What ends it: its child exits with 0 (a signal asked for it, or another instance has taken over), or the first child fails
//! before it serves, or none has served for a while. A child that crashes, or makes no progress, is replaced at once, and
//! after that at growing distances up to a second. Where cgroup v2 has `memory.oom.group`, the kernel kills both: [`crate::server`]'s bounds keep memory from there.

mod child;
mod link;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use self::child::{Child, Forked, Progress};
pub use self::link::{Link, Start};
use crate::descriptors;
use crate::handover::{Channel, Message};
use crate::memory;
use crate::systemd::Manager;
use crate::upgrade;

/// How often the child gives a sign of life.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
/// How often it is looked whether the child makes progress.
const TICK: Duration = SIGN_OF_LIFE;
/// The longest pause before a child is started again.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The pause after a child that ended soon after its start.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// A child that has served for so long is started again without a pause.
const STABLE: Duration = Duration::from_secs(1);
/// After so long without a start that succeeds, the supervisor ends: the sockets close, and clients turn to other servers.
const HOPELESS: Duration = Duration::from_secs(20);
/// How long the new instance of an upgrade may take to serve.
const UPGRADE: Duration = Duration::from_secs(60);
/// Items that are kept; more are refused.
const MAX_ITEMS: usize = 4_096;

/// How [`run`] ends, in which process.
pub enum Ended {
    /// In the supervisor, which is to exit with this.
    Supervisor(ExitCode),
    /// In a child of it, which is to serve.
    Child(Start),
}

/// What a child ended with.
enum End {
    /// The supervisor is to exit with this.
    Exit(ExitCode),
    /// It is to be started again; why it ended.
    Lost(String),
    /// Another instance serves; the connection to it, and whether the child was told to end meanwhile.
    HandedOver(OwnedFd, bool),
}

struct Supervisor {
    signals: SignalFd,
    items: BTreeMap<String, OwnedFd>,
    manager: Option<Manager>,
    program: PathBuf,
    has_served: bool,
    /// Since when the present child serves.
    served_since: Option<Instant>,
    /// The new instance of an upgrade.
    upgrading: Option<(Pid, Instant)>,
}

/// Runs the server as a child until that ends by itself. To be called while there is one thread, once the log has been started.
///
/// # Errors
/// Signals cannot be taken, or no process can be started at all.
pub fn run() -> anyhow::Result<Ended> {
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    let mut taken = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD]
    {
        taken.add(signal);
    }
    taken.thread_block().context("cannot take signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&taken, flags).context("cannot take signals")?;
    let supervisor = Supervisor {
        signals,
        items: BTreeMap::new(),
        manager: Manager::from_env(),
        program: std::env::current_exe().context("cannot find the program's file")?,
        has_served: false,
        served_since: None,
        upgrading: None,
    };
    supervisor.run()
}

impl Supervisor {
    fn run(mut self) -> anyhow::Result<Ended> {
        let mut pause = Duration::ZERO;
        let (mut why, mut restarts) = (String::new(), 0);
        let mut failing = None;
        loop {
            let begun = Instant::now();
            self.served_since = None;
            let end = match Child::start() {
                Ok(Forked::Parent(child)) => self.watch(child)?,
                Ok(Forked::Child(channel)) => {
                    let link = Link::over(channel)?;
                    return Ok(Ended::Child(Start { link, items: self.items, why, restarts }));
                }
                Err(error) if self.has_served => {
                    End::Lost(format!("it cannot be started: {error}"))
                }
                Err(error) => return Err(error).context("cannot start the server's process"),
            };
            why = match end {
                End::Exit(code) => return Ok(Ended::Supervisor(code)),
                End::Lost(why) => {
                    let since = *failing.get_or_insert(begun);
                    if self.served_since.is_some() {
                        failing = None;
                    } else if since.elapsed() > HOPELESS {
                        // Clients are to be refused rather than to wait, and the service manager is to know.
                        tracing::error!("the server does not start any more: {why}");
                        return Ok(Ended::Supervisor(ExitCode::FAILURE));
                    }
                    why
                }
                End::HandedOver(_, true) => return Ok(Ended::Supervisor(ExitCode::SUCCESS)),
                End::HandedOver(successor, false) => match self.wait_for_end_of(&successor)? {
                    Some(code) => return Ok(Ended::Supervisor(code)),
                    None => "the instance that had taken over has ended".to_owned(),
                },
            };
            let served = self.served_since.map_or(Duration::ZERO, |since| since.elapsed());
            pause = match served < STABLE {
                true if pause.is_zero() => FIRST_PAUSE,
                true => (pause * 2).min(MAX_PAUSE),
                false => Duration::ZERO,
            };
            // The first time at once, however young it was.
            let now = if pause == FIRST_PAUSE { Duration::ZERO } else { pause };
            tracing::error!(pause_ms = now.as_millis(), "the server is started again: {why}");
            restarts += 1;
            if self.is_stopped_within(now)? {
                return Ok(Ended::Supervisor(ExitCode::SUCCESS));
            }
        }
    }

    /// Watches a child until it has ended.
    fn watch(&mut self, mut child: Child) -> anyhow::Result<End> {
        let mut next_tick = Instant::now() + TICK;
        let mut successor = None;
        loop {
            let (signalled, spoken) = self.wait(Some(&child), next_tick)?;
            while let Some(signal) = signalled.then(|| self.next_signal()).flatten() {
                if signal == Signal::SIGCHLD {
                    if let Some(status) = self.reap(&child) {
                        self.receive_all(&mut child, &mut successor);
                        return Ok(self.end_of(&child, status, successor));
                    }
                } else {
                    child.is_stopping |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
                    // It may have ended meanwhile.
                    let _ = kill(child.pid, signal);
                }
            }
            if spoken {
                match child.channel.receive() {
                    Ok(Some(message)) => self.take(message, &mut child, &mut successor),
                    Ok(None) | Err(_) => child.has_closed = true,
                }
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.bound_upgrade(&child);
                if child.tick() == Progress::None {
                    tracing::error!("the server makes no progress and is killed");
                    child.was_replaced = true;
                    let _ = kill(child.pid, Signal::SIGKILL);
                }
            }
        }
    }

    /// Waits for a signal or the child; returns which of them are there.
    fn wait(&self, child: Option<&Child>, until: Instant) -> anyhow::Result<(bool, bool)> {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(child) = child.filter(|child| !child.has_closed) {
            polled.push(PollFd::new(child.channel.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up, so that it does not wake too soon and again.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::Error::EINTR) => Ok((false, false)),
            Err(error) => Err(error).context("cannot wait"),
            Ok(_) => {
                let is_there = |of: Option<&PollFd<'_>>| of.and_then(PollFd::any).unwrap_or(false);
                Ok((is_there(polled.first()), is_there(polled.get(1))))
            }
        }
    }

    fn next_signal(&self) -> Option<Signal> {
        let signal = self.signals.read_signal().ok().flatten()?;
        Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()
    }

    /// Collects every process that has ended, as process 1 has to; returns how `child` did.
    fn reap(&mut self, child: &Child) -> Option<WaitStatus> {
        let mut ended = None;
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status.pid() {
                None => break,
                Some(pid) if pid == child.pid => ended = Some(status),
                Some(pid) if self.upgrading.is_some_and(|(new, _)| new == pid) => {
                    self.upgrading = None;
                    let why = format!(
                        "the new instance ended before it took over ({}); the log says why",
                        told(&status)
                    );
                    let _ = child.channel.try_send(&Message::Failed(why));
                }
                Some(_) => {}
            }
        }
        ended
    }

    /// Takes what the child has said before it ended.
    fn receive_all(&mut self, child: &mut Child, successor: &mut Option<OwnedFd>) {
        while let (false, Ok(Some(message))) = (child.has_closed, child.channel.receive()) {
            self.take(message, child, successor);
        }
    }

    fn take(&mut self, message: Message, child: &mut Child, successor: &mut Option<OwnedFd>) {
        match message {
            Message::Item { name, fd }
                if self.items.len() < MAX_ITEMS || self.items.contains_key(&name) =>
            {
                self.items.insert(name, fd);
            }
            Message::Forget(name) => drop(self.items.remove(&name)),
            Message::Serving => {
                child.is_serving = true;
                self.has_served = true;
                self.served_since.get_or_insert_with(Instant::now);
                memory::give_back_program();
            }
            Message::Alive => child.is_alive(),
            Message::Notify(text) => {
                if let Some(manager) = &self.manager {
                    manager.tell(&text);
                }
            }
            Message::Upgrade => {
                if let Err(why) = self.upgrade() {
                    tracing::error!("the upgrade has failed: {why}");
                    let _ = child.channel.try_send(&Message::Failed(why));
                }
            }
            Message::HandedOver(connection) => {
                child.has_handed_over = true;
                *successor = Some(connection);
            }
            _ => {}
        }
    }

    /// Starts a new instance from the program's file, with our arguments. It takes over from our child, or ends with a reason.
    fn upgrade(&mut self) -> Result<(), String> {
        if getpid() == Pid::from_raw(1) {
            // Its end would be that of the new instance.
            return Err(
                "this is process 1 of a container: replace the container instead".to_owned()
            );
        }
        if self.upgrading.is_some() {
            return Err("another upgrade is under way".to_owned());
        }
        let mut command = Command::new(&self.program);
        // The id is ours; without it systemd's watchdog means the one that it watches.
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null()).env_remove("WATCHDOG_PID");
        command.env(upgrade::BEGUN, "1");
        let new = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        tracing::info!(pid = new.id(), "an upgrade has begun");
        let pid = i32::try_from(new.id()).map(Pid::from_raw).map_err(|error| error.to_string())?;
        self.upgrading = Some((pid, Instant::now()));
        Ok(())
    }

    /// Ends a new instance that takes too long. Its end is reported when it is collected.
    fn bound_upgrade(&mut self, child: &Child) {
        if let Some((pid, begun)) = self.upgrading
            && !child.has_handed_over
            && begun.elapsed() > UPGRADE
        {
            tracing::error!(%pid, "the new instance has not taken over in time and is killed");
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    fn end_of(&self, child: &Child, status: WaitStatus, successor: Option<OwnedFd>) -> End {
        if let Some(successor) = successor {
            // However it ended: the other instance serves.
            return End::HandedOver(successor, child.is_stopping);
        }
        let failed = match status {
            WaitStatus::Exited(_, 0) => return End::Exit(ExitCode::SUCCESS),
            WaitStatus::Exited(_, code) if !self.has_served || child.is_stopping => {
                return End::Exit(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(_, signal, _) if !self.has_served || child.is_stopping => {
                // As a shell tells it.
                tracing::error!("the server was ended by {signal}");
                return End::Exit(ExitCode::from(128 + signal as u8));
            }
            WaitStatus::Signaled(..) if child.was_replaced => "it made no progress".to_owned(),
            other => format!("it {}", told(&other)),
        };
        End::Lost(failed)
    }

    /// Another instance serves. As process 1 of a container, whose end would have it started anew, this one stays until it is
    /// told to end, or until the other instance has ended: then it serves again (`None`).
    fn wait_for_end_of(&self, successor: &OwnedFd) -> anyhow::Result<Option<ExitCode>> {
        if let (Some(manager), Some((new, _))) = (&self.manager, self.upgrading) {
            // From now on it is the process that the service manager is to watch.
            manager.tell(&format!("MAINPID={new}"));
        }
        if getpid() != Pid::from_raw(1) {
            return Ok(Some(ExitCode::SUCCESS));
        }
        tracing::info!("another instance serves; this one waits for the end of its container");
        loop {
            let mut polled = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(successor.as_fd(), PollFlags::POLLIN),
            ];
            if let Err(error) = poll(&mut polled, PollTimeout::NONE)
                && error != nix::Error::EINTR
            {
                return Err(error).context("cannot wait");
            }
            while let Some(signal) = self.next_signal() {
                match signal {
                    Signal::SIGTERM | Signal::SIGINT => return Ok(Some(ExitCode::SUCCESS)),
                    _ => reap_all(),
                }
            }
            let has_ended = polled.get(1).and_then(PollFd::any).unwrap_or(false);
            let connection = Channel::over(successor.try_clone()?);
            if has_ended && !matches!(connection.receive(), Ok(Some(_))) {
                return Ok(None);
            }
        }
    }

    /// Waits; true if a signal asks for the end meanwhile.
    fn is_stopped_within(&self, pause: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + pause;
        loop {
            while let Some(signal) = self.next_signal() {
                if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                    return Ok(true);
                }
                reap_all();
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.wait(None, until)?;
        }
    }
}

/// How a process has ended.
fn told(status: &WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exited with {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
        other => format!("ended: {other:?}"),
    }
}

/// Collects every process that has ended.
fn reap_all() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
}
