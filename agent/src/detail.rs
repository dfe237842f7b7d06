//! What parts of the server report of themselves at `/ready?verbose` and in `nodens status`.

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
