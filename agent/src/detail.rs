//! What parts of the server report of themselves at `/ready?verbose` and in `nodens status`.

use std::time::Duration;

use crate::conditions::Watched;

/// How long `/ready` is decided by what the handlers report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Monitor {
    /// For the life of the process.
    #[default]
    Continuously,
    /// Until everything was ready once.
    UntilReady,
}

/// A part of the running configuration that has details at `/ready?verbose`, and knows what is wrong with it.
pub trait Detail: Watched {
    /// Its key: a directive's name.
    fn name(&self) -> &str;
    /// Its details: the age of a store, upstreams that are not used.
    fn detail(&self) -> serde_json::Value;
}

/// A duration as people say it: two units at most, seconds being the smallest.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}
