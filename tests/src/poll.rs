//! Waiting for something to become true: polls with a deadline, so that no test sleeps a guessed time.

use std::time::{Duration, Instant};

/// The pause between two looks; short beside what tests measure, long beside a system call.
const PAUSE: Duration = Duration::from_millis(5);

/// What a deadline is on this machine: three times as long in the guest, whose processors are emulated.
pub fn patience(deadline: Duration) -> Duration {
    if std::env::var_os("NODENS_TEST_SLOW").is_some() { 3 * deadline } else { deadline }
}

/// Calls `look` until it yields a value or `deadline` (see [`patience`]) has passed; `None` then.
pub fn until_some<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience(deadline);
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(PAUSE);
    }
}

/// Calls `look` until it is true or `deadline` has passed; returns whether it became true.
pub fn until(deadline: Duration, mut look: impl FnMut() -> bool) -> bool {
    until_some(deadline, || look().then_some(())).is_some()
}

/// Like [`until`], but a test failure that names `what` when the deadline passes.
///
/// # Panics
/// When `look` stays false.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, look: impl FnMut() -> bool) {
    assert!(until(deadline, look), "waited {deadline:?} for: {what}");
}

/// Lets time pass: for polls, and for what is slow on purpose. Never to wait for something that can be looked at.
#[expect(clippy::disallowed_methods, reason = "the one place where the harness lets time pass")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
