//! The signals that the server takes.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Within this time a second signal is the first one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// The signals that mean something.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot take signals");
        let signals = Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            user1: on(SignalKind::user_defined1())?,
        };
        // A supervisor blocks those that it takes, and the mask is inherited. What came meanwhile is taken now.
        SigSet::all().thread_unblock().context("cannot take signals")?;
        Ok(signals)
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::Reload,
        }
    }

    /// Returns when one asks for the end once more. One that reaches supervisor and server alike, as systemd may send it, comes
    /// twice.
    pub(super) async fn stop_again(&mut self) {
        let begun = Instant::now();
        loop {
            self.stop().await;
            if begun.elapsed() > SAME_SIGNAL {
                return;
            }
        }
    }

    /// Returns when one asks for the end.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

/// What a signal asks for.
#[derive(PartialEq, Eq)]
pub(super) enum Asked {
    /// The end.
    Stop,
    /// To read the configuration again.
    Reload,
}
