//! The thread that watches. Every store's tasks run on it, so that there is one writer, which no other waits for.
//!
//! Most of what a single event costs is waking up for it: the kernel, the runtime, HTTP and TLS take more than decoding
//! and the index. So where events come thick, the thread rests for a moment before it looks again, and takes what has come
//! meanwhile in one go. An event after a quiet moment is taken at once.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};

use super::object::Kind;

/// How long it rests: eight events at a thousand a second, and less than half of what a change may take to be answered.
const REST: Duration = Duration::from_millis(8);
/// How long it rests when only the Pods of this node change. What a kubelet tells of a Pod is older than that when it comes.
const REST_OF_PODS: Duration = Duration::from_millis(100);
/// Events that come this soon after a rest come thick.
const THICK: Duration = Duration::from_millis(2);
/// After so many events a worker that waits goes first: a fifth of a millisecond's work.
const TURN: u32 = 8;

/// A wait for sockets that lasted longer than this was for octets that had not come yet.
const WAITED: Duration = Duration::from_micros(100);

thread_local! {
    static EVENTS: Cell<u32> = const { Cell::new(0) };
    /// Whether an answer may hang on one of them.
    static OF_ANSWERS: Cell<bool> = const { Cell::new(false) };
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    /// When it began to wait for sockets.
    static PARKED: Cell<Option<Instant>> = const { Cell::new(None) };
    /// When it last read a socket, or found that nothing had come: what it reads next has come since.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The thread, begun when it is first asked for. It ends with the process.
#[derive(Default)]
pub struct WatchThread(OnceLock<Handle>);

impl WatchThread {
    /// Where to spawn what watches.
    pub fn handle(&self) -> io::Result<&Handle> {
        if self.0.get().is_none() {
            let started = start()?;
            // Should two have come at once, one thread has nothing to do.
            let _ = self.0.set(started);
        }
        self.0.get().ok_or_else(|| io::ErrorKind::Other.into())
    }
}

/// Says that this thread has taken in an event of that kind, and now and then lets a worker that waits for the processor go first: the
/// scheduler by itself would let this thread work off all that has come.
pub(super) fn note_event(kind: Kind) {
    if kind != Kind::NodePod {
        OF_ANSWERS.set(true);
    }
    let count = EVENTS.get().wrapping_add(1);
    EVENTS.set(count.max(1));
    if count.is_multiple_of(TURN) {
        thread::yield_now();
    }
}

/// Says that this thread has read a socket. Returns how long the octets may have waited for it at most.
pub(super) fn note_read() -> Duration {
    let now = Instant::now();
    LOOKED.replace(Some(now)).map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(parks)
        .on_thread_unpark(unparks)
        .build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("watch".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Called whenever there is nothing more to do.
fn parks() {
    rest();
    PARKED.set(Some(Instant::now()));
}

/// Called when there is something to do again.
fn unparks() {
    let now = Instant::now();
    if PARKED.take().is_some_and(|parked| now.saturating_duration_since(parked) > WAITED) {
        LOOKED.set(Some(now));
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread has nothing else to do meanwhile")]
fn rest() {
    if EVENTS.replace(0) == 0 {
        return;
    }
    let rest = if OF_ANSWERS.take() { REST } else { REST_OF_PODS };
    let now = Instant::now();
    if LAST.replace(Some(now)).is_some_and(|last| now.duration_since(last) < rest + THICK) {
        thread::sleep(rest);
    }
}
