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

/// How long it rests: a fifth of what a change may take to be answered, and four events at a thousand a second.
const REST: Duration = Duration::from_millis(4);
/// Events that come this soon after others come thick.
const THICK: Duration = Duration::from_millis(6);

thread_local! {
    static EVENTS: Cell<bool> = const { Cell::new(false) };
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
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

/// Says that this thread has taken in an event, and lets a worker that waits for the processor go first: the scheduler by
/// itself would let this thread work off all that has come.
pub(super) fn note_event() {
    EVENTS.set(true);
    thread::yield_now();
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().on_thread_park(rest).build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("watch".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Called whenever there is nothing more to do.
#[expect(clippy::disallowed_methods, reason = "this thread has nothing else to do meanwhile")]
fn rest() {
    if !EVENTS.replace(false) {
        return;
    }
    let now = Instant::now();
    if LAST.replace(Some(now)).is_some_and(|last| now.duration_since(last) < THICK) {
        thread::sleep(REST);
    }
}
