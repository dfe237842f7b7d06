//! What is asked of `nodens explain`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What is to be explained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Question {
    /// The name, as an application gives it to its resolver.
    pub name: String,
    /// The types; none: A and AAAA, as `getaddrinfo` asks.
    pub types: Vec<String>,
    /// As a Pod of this namespace asks.
    pub namespace: Option<String>,
    /// As this Pod asks: `namespace/name`.
    pub pod: Option<String>,
    /// As this address asks.
    pub client: Option<IpAddr>,
    /// The search domains in the place of those that the kubelet writes.
    pub search: Option<Vec<String>>,
    /// `ndots` in the place of the kubelet's.
    pub ndots: Option<u8>,
    /// At this listening address.
    pub server: Option<SocketAddr>,
    /// Ask upstreams.
    pub ask: bool,
}
