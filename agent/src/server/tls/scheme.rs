//! What is spoken over TLS.

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
}

impl Scheme {
    /// The scheme, without `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Https => "https",
        }
    }

    /// What a client may ask for by ALPN. One that asks for nothing is served, too.
    pub(super) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Tls => vec![b"dot".to_vec()],
            Self::Https => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}
