//! The test harness of Nodens: everything that a test needs around the real binary.
//!
//! ```text
//!   kubernetes objects ──> api::ApiServer ──┐ list, watch (TLS, tokens, faults)
//!                                           v
//!   client::Client ── questions ──> process::Nodens (the real binary, its own folder)
//!                                           │ misses and foreign names
//!                                           v
//!   zone file, hooks ─────────────> upstream::Upstream
//! ```
//!
//! [`api`] speaks the Kubernetes API as a real server does, its faults too; [`upstream`] is a scripted DNS server;
//! [`client`] asks over UDP and TCP and writes answers in the normal form of the conformance record;
//! [`process`] runs the binary; [`cluster`] puts the two together for scenarios; [`conformance`] compares it with the record;
//! [`manifests`] renders what is deployed. All of them are plain blocking handles:
//! what needs a runtime keeps one on a thread of its own, so that a test is an ordinary function.

pub mod advisories;
pub mod api;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod conformance;
pub mod doctor;
pub mod http;
pub mod load;
pub mod log;
pub mod manifests;
pub mod metrics;
pub mod mutate;
pub mod normal;
pub mod peers;
pub mod poll;
pub mod ports;
pub mod process;
pub mod sink;
pub mod tls;
pub mod upstream;
pub mod zone;
