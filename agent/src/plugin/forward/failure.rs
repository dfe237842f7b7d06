//! Why a query has no answer.

use std::sync::Arc;

use crate::request::ede;
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::Rcode;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// `max_concurrent`, or the client's share of it.
    #[error("max_concurrent: too many queries are being forwarded")]
    MaxConcurrent,
    /// The share of this group of upstreams among all queries that wait.
    #[error("too many queries wait for these upstreams")]
    Share,
    /// No upstream at all.
    #[error("there is no upstream to forward to: {0}")]
    NoUpstream(Arc<str>),
    /// All of them lead back here.
    #[error("queries to every upstream come back here: see the log for the loop and its cure")]
    AllLoop,
    /// All of them are down, and `failfast_all_unhealthy_upstreams` is set.
    #[error("every upstream is down")]
    AllDown,
    /// The last of several errors.
    #[error("{upstream}: {error}")]
    Upstream {
        /// Whose.
        upstream: Arc<str>,
        /// Which.
        error: UpstreamError,
    },
}

impl Failure {
    pub(super) fn upstream(upstream: &Upstream, error: UpstreamError) -> Self {
        Self::Upstream { upstream: Arc::clone(upstream.label()), error }
    }

    pub(super) fn ede(&self) -> u16 {
        match self {
            Self::Upstream { .. } | Self::AllDown => ede::NO_REACHABLE_AUTHORITY,
            Self::NoUpstream(_) | Self::AllLoop => ede::NETWORK_ERROR,
            Self::MaxConcurrent | Self::Share => ede::OTHER,
        }
    }

    pub(super) fn rcode(&self) -> Rcode {
        if *self == Self::MaxConcurrent { Rcode::REFUSED } else { Rcode::SERVFAIL }
    }

    /// No upstream has failed at the question itself: it was not asked, or its answer could not be read.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Upstream { error, .. } => {
                matches!(error, UpstreamError::Malformed(_) | UpstreamError::TooMany)
            }
            _ => true,
        }
    }
}
