//! Sockets, and what happens between a packet and its reply.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | where listening sockets come from: inherited or opened |
//! | [`sockets`] | how they are made and set up |
//! | [`listener`] | an address and who answers there |
//! | [`pool`] | the worker threads: each its own runtime and its own sockets |
//! | [`udp`] | one worker's loop on one socket |
//! | [`batch`] | `recvmmsg` and `sendmmsg`: its one unsafe module |
//! | [`tcp`] | streams: pipelined, out of order, bounded |
//! | [`tls`] | certificates, streams that are encrypted |
//! | [`handshake`] | accepts connections over TLS, and gives them to workers |
//! | `https`, `responses` | queries over HTTP, and what became of them |
//! | [`dispatch`] | the longest zone suffix picks the server block |
//! | [`metrics`] | what the workers count besides queries |
//! | [`liveness`] | whether the workers still do their work |
//! | [`answer`] | one packet to one reply, now or later |
//! | `pending`, `miss` | misses that are resolved in place, without a task |
//! | `search` | goes through search lists (`autopath`) |
//! | `places` | what clients can fill, under the memory budget |
//! | `send_queue` | replies that were not written in the receive loop |

pub mod answer;
mod batch;
pub mod dispatch;
pub mod handshake;
mod https;
pub mod listener;
pub mod liveness;
pub mod metrics;
mod miss;
mod pending;
mod places;
pub mod pool;
mod responses;
mod search;
mod send_queue;
pub mod sockets;
pub mod source;
pub mod tcp;
pub mod tls;
mod udp;
pub mod worker;

pub use dispatch::Dispatch;
pub use liveness::Liveness;
pub use pool::Pool;
pub use sockets::BindError;
