//! What a query to an upstream ends in.

use std::sync::Arc;
use std::time::Duration;

/// Why an upstream gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The kernel reports it: no socket listens there, there is no route, a firewall of the node forbids it.
    #[error("{0}")]
    Io(Arc<str>),
    /// No connection.
    #[error("connecting failed: {0}")]
    Connect(Arc<str>),
    /// No encrypted connection: a certificate that is not believed, most likely.
    #[error("setting up TLS failed: {0}")]
    Tls(Arc<str>),
    /// HTTPS or QUIC failed.
    #[error("{0}")]
    Exchange(Arc<str>),
    /// A connection that had worked has ended; not the upstream's failure.
    #[error("the connection was closed")]
    Lost,
    /// The answer has another letter case than the question.
    #[error("the upstream does not keep the letter case of questions")]
    Case,
    /// All ids of the socket are in use.
    #[error("too many queries are in flight")]
    TooMany,
    /// A truncated answer over a stream, which has no reason to truncate.
    #[error("the answer is truncated over TCP too")]
    Truncated,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An answer that cannot be read.
    #[error("the answer is malformed: {0}")]
    Malformed(#[from] crate::wire::MessageError),
}

impl UpstreamError {
    /// An error of the kernel, while `doing`.
    pub fn io(doing: &str, error: &std::io::Error) -> Self {
        Self::Io(format!("{doing} failed: {error}").into())
    }
}

/// Octets that answer a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The whole message.
    pub bytes: Vec<u8>,
    /// The datagram was longer than the buffer for it.
    pub oversize: bool,
    /// From sending to receiving.
    pub round_trip: Duration,
}
