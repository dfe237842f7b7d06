//! The server of a node's DNS.
//!
//! The way of one query, and the modules that it passes:
//!
//! ```text
//! pod
//!  -> server::udp       a batch of datagrams: bytes, source, local address
//!  -> wire::Query       header, question and EDNS checked in place; else FORMERR, NOTIMP or silence
//!  -> server::dispatch  the longest zone suffix of the lower-cased wire name picks the server block
//!  -> chain             the block's handlers in their fixed order
//!       plugin::hosts, plugin::kubernetes, ...   what we know ourselves: a reply at once
//!       plugin::cache                            a fresh hit: copy, patch the times, done
//!       plugin::forward                          has to wait: a miss, see server::miss
//!  -> wire::Reply       cut to the client's size, OPT, the question in the client's case
//!  -> metrics::cells    one Outcome, recorded once
//!  -> server::udp       the batch of replies leaves from the addresses that were asked
//! ```

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test fails by a panic"
    )
)]

pub mod admin;
pub mod admission;
pub mod args;
pub mod assemble;
pub mod budget;
pub mod chain;
pub mod check;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod config;
pub mod config_state;
pub mod control;
pub mod corefile;
pub mod descriptors;
pub mod detail;
pub mod doctor;
pub mod explain;
pub mod file_watch;
pub mod handover;
pub mod history;
pub mod in_hand;
pub mod kubectl;
pub mod logging;
pub mod lookup;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod outline;
pub mod own_socket;
pub mod plan;
pub mod plots;
pub mod plugin;
pub mod probe;
pub mod redact;
pub mod request;
pub mod run;
pub mod saving;
pub mod search_list;
pub mod server;
pub mod shared;
pub mod status;
pub mod supervisor;
pub mod suspects;
pub mod systemd;
pub mod trace;
pub mod upgrade;
pub mod upstream;
pub mod version;
pub mod wire;
