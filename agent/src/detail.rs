//! What parts of the server report of themselves at `/ready?verbose` and in `nodens status`.

/// How long `/ready` is decided by what the handlers report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Monitor {
    /// For the life of the process.
    #[default]
    Continuously,
    /// Until everything was ready once.
    UntilReady,
}

/// A part that has details at `/ready?verbose`.
pub trait Detail: Send + Sync {
    /// Its key: a directive's name.
    fn name(&self) -> &str;
    /// Its details: the age of a store, upstreams that are not used.
    fn detail(&self) -> serde_json::Value;
}
