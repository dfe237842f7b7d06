//! Sockets, and what happens between a packet and its reply.
//!
//! | module | what |
//! |---|---|
//! | [`dispatch`] | the longest zone suffix picks the server block |
//! | [`answer`] | one packet to one reply, now or later |

pub mod answer;
pub mod dispatch;

pub use dispatch::Dispatch;
