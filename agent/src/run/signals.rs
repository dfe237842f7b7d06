//! The signals that the server takes.

use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the repetition of a signal takes to come.
const REPETITION: Duration = Duration::from_millis(20);

/// The signals that ask for the end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// The signals that ask to read the configuration again. One that comes during a reload is kept for the time after it.
pub(super) struct ReloadSignals {
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    /// Takes all of them from now on.
    pub(super) fn new() -> anyhow::Result<(Self, ReloadSignals)> {
        let on = |kind| signal(kind).context("cannot take signals");
        let (terminate, interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (hangup, user1) = (on(SignalKind::hangup())?, on(SignalKind::user_defined1())?);
        // A supervisor blocks those that it takes, and the mask is inherited. What came meanwhile is taken now.
        SigSet::all().thread_unblock().context("cannot take signals")?;
        Ok((Self { terminate, interrupt }, ReloadSignals { hangup, user1 }))
    }

    /// Takes the repetition of a signal that has asked for the end: where it goes to a whole control group, as systemd may send it, it
    /// comes once by itself and once from the supervisor. What comes later is a second one.
    pub(super) async fn settle(&mut self) {
        let _ = tokio::time::timeout(REPETITION, self.stop()).await;
    }

    /// Returns when one asks for the end.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl ReloadSignals {
    /// Returns when one has come.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            _ = self.user1.recv() => {}
        }
    }
}
