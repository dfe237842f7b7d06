//! Other people's servers, run for real: each in a folder of its own, on loopback and free ports, without root.
//!
//! ```text
//!   questions ──> nodens ──> unbound | dnsdist | dnsmasq | named | the DoQ front ──> knot, with the zones of `zone`
//!                    └─────> knot
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`zone`] | a signed zone of every kind of record, and 1,000 questions about it |
//! | [`content`] | the content of a response, octet for octet, whatever its compression |
//! | [`ask`] | a client that takes any octets for an answer |
//! | [`servers`] | how each peer is configured and started |
//! | [`quic`] | DNS over QUIC, which no server of Debian 12 speaks, in front of one of them |
//! | [`resolved`] | systemd-resolved, unpacked and in namespaces |
//! | [`meanwhile`] | cluster names that are asked for while upstreams go wrong |
//! | [`forger`] | an upstream that is flooded with other people's answers |
//!
//! A test whose peer is not installed prints SKIPPED and passes; with CI=true or NODENS_REQUIRE_PEERS=1 it fails.

pub mod ask;
pub mod content;
pub mod forger;
pub mod meanwhile;
pub mod quic;
pub mod resolved;
pub mod servers;
pub mod zone;

use std::env;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::log::Log;
use crate::poll;

/// How long a peer may take until it answers.
const START: Duration = Duration::from_secs(15);

/// A running peer; killed when dropped, its log printed if the test is failing.
#[derive(Debug)]
pub struct Peer {
    name: &'static str,
    child: Child,
    folder: TempDir,
    log: Log,
    address: SocketAddr,
}

impl Peer {
    /// Where it answers over UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        let sent = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), signal));
        assert!(matches!(sent, Ok(Ok(()))), "cannot send {signal} to {}: {sent:?}", self.name);
    }

    /// Ends it, so that its port is closed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Runs a command in a folder, and waits until it answers at `address`. `None` where it does not: its port was taken
    /// meanwhile, most likely.
    fn start(
        name: &'static str,
        folder: TempDir,
        command: &mut Command,
        address: SocketAddr,
    ) -> Option<Self> {
        command.current_dir(folder.path()).stdin(Stdio::null());
        let log = Log::of(command, &folder.path().join("log"));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
        let mut peer = Self { name, child, folder, log, address };
        let client = Client::new(address).within(Duration::from_millis(200));
        let up = poll::until(START, || {
            peer.child.try_wait().ok().flatten().is_some()
                || client.raw_udp(&ask::Ask::new("a1.peers.test.", zone::A).packet(1)).is_some()
        });
        let runs = matches!(peer.child.try_wait(), Ok(None));
        if up && runs {
            return Some(peer);
        }
        note(&format!("{name} did not start:\n{}", peer.log));
        None
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.to_string();
            let tail = log.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
            eprintln!("--- end of the log of {} ---\n{}\n---", self.name, &log[tail..]);
        }
    }
}

/// Whether all these programs are here. Prints SKIPPED if not, and panics if that is not allowed.
///
/// # Panics
/// With CI=true or NODENS_REQUIRE_PEERS=1, when one is missing.
#[must_use]
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|p| find(p).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("needs {} (scripts/test installs them)", missing.join(", ")));
    false
}

/// Prints SKIPPED and why.
///
/// # Panics
/// With CI=true or NODENS_REQUIRE_PEERS=1.
pub fn skip(why: &str) {
    let is = |name, value| env::var(name).is_ok_and(|v| v == value);
    let demanded = is("CI", "true") || is("NODENS_REQUIRE_PEERS", "1");
    assert!(!demanded, "this test {why} and may not be skipped here");
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    note(&format!("*** SKIPPED {name}: {why} ***"));
}

/// Writes a line past the test harness, which swallows what `println!` writes.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}");
}

/// A program of `PATH` or of the folders for administrators.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|p| p.is_file())
}
