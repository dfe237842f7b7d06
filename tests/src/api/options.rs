//! How the server is started, and the behaviour that tests may change while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::access::Policy;

/// How the server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Plain HTTP instead of TLS.
    pub plain_http: bool,
    /// The first bearer token; client certificates of the server's authority are welcome as well.
    pub token: String,
    /// Answer everybody, also without credentials.
    pub anonymous: bool,
    /// What can also be changed later.
    pub behaviour: Behaviour,
}

/// Behaviour that tests may change while the server runs.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Whether `sendInitialEvents` works.
    pub streaming_lists: StreamingLists,
    /// How a watch from a forgotten revision is told so.
    pub gone: GoneStyle,
    /// Whether objects can be had in protobuf.
    pub protobuf: Protobuf,
    /// Whether lists are compressed for clients that accept it.
    pub gzip: bool,
    /// Whether HTTP/2 is offered to new connections.
    pub http2: bool,
    /// Events that may wait for a watch to be read; with more it is ended.
    pub watch_buffer: usize,
    /// Time between bookmarks; a real server sends one a minute.
    pub bookmark_interval: Duration,
    /// Whether the multicluster CustomResourceDefinitions are installed; else their paths are 404.
    pub multicluster: bool,
    /// What `/version` says.
    pub version: String,
    /// How far its clock is ahead, in seconds, as the `Date` of its answers tells.
    pub ahead: i64,
    /// What kubelets say of themselves at `/api/v1/nodes/NAME/proxy/configz`, by node; 404 for others.
    pub configz: BTreeMap<String, Value>,
    /// The rules in force; `None` allows everything.
    pub policy: Option<Policy>,
}

/// Support for streaming lists (`sendInitialEvents`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamingLists {
    /// As servers with the `WatchList` feature, on by default from 1.34.
    Supported,
    /// 422, as servers that know the parameter but have the feature off.
    Refused,
    /// The parameter is unknown, and so ignored: initial events come, the closing bookmark does not.
    Ignored,
}

/// Support for protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protobuf {
    /// As every API server has it for the built-in kinds.
    Supported,
    /// JSON instead, if the client accepts that too: a proxy or another implementation of the API.
    Absent,
    /// 406 for every request that names protobuf.
    Refused,
}

/// How 410 Gone reaches a watch that begins too far back; running watches always get the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoneStyle {
    /// Status 200 and an ERROR event.
    Event,
    /// HTTP status 410.
    Http,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plain_http: false,
            token: "test-token-1".into(),
            anonymous: false,
            behaviour: Behaviour::default(),
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            streaming_lists: StreamingLists::Supported,
            protobuf: Protobuf::Supported,
            gzip: true,
            http2: true,
            gone: GoneStyle::Event,
            watch_buffer: 100_000,
            bookmark_interval: Duration::from_secs(60),
            multicluster: true,
            version: "v1.36.0".into(),
            ahead: 0,
            configz: BTreeMap::new(),
            policy: None,
        }
    }
}
