//! What the server is called.

/// What the server says of itself in class CHAOS (RFC 4892).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `version.bind` and `version.server`.
    pub version: Box<str>,
    /// `hostname.bind` and `id.server`.
    pub hostname: Box<str>,
    /// `authors.bind`; empty: not answered.
    pub authors: Vec<Box<str>>,
}

impl Default for Identity {
    fn default() -> Self {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self {
            version: concat!("Nodens-", env!("CARGO_PKG_VERSION")).into(),
            hostname: hostname.unwrap_or_else(|| "localhost".to_owned()).into(),
            authors: Vec::new(),
        }
    }
}
