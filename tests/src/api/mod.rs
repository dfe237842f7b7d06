//! A Kubernetes API server for tests: the real protocol over TLS, in this process, with faults to order.
//!
//! ```text
//!   ApiServer (handle) ── put, delete, inject, refuse ...
//!       │ shares
//!       v
//!   Shared { Store, Faults, Behaviour, Policy, tokens, log }
//!       ^
//!       │ per request
//!   listener ─ TLS ─ hyper ─ answer::handle ─┬─ list::respond    (pages, snapshots)
//!                                            ├─ watch::respond   (events, bookmarks, streaming lists)
//!                                            └─ status           (every error is a Status object)
//! ```
//!
//! Objects are serialised once, when they are stored; lists and watches share the buffers. Nothing is validated:
//! a test may store what no real server would.

pub mod access;
pub mod certificates;
pub mod credentials;
pub mod fault;
pub mod generate;
pub mod log;
pub mod resource;
pub mod select;
pub mod store;

mod answer;
mod compress;
mod discovery;
mod list;
mod listener;
mod options;
mod protobuf;
mod request;
mod server;
mod status;
mod watch;

pub use access::Policy;
pub use fault::{Fault, Garbage, Scope};
pub use log::RequestRecord;
pub use options::{Behaviour, GoneStyle, Options, Protobuf, StreamingLists};
pub use resource::Resource;
pub use server::ApiServer;
pub use store::Store;
