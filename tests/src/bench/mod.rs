//! What the benchmark's programs share: batches of datagrams, questions, latencies, and the kernel's accounts of CPU time.
//!
//! ```text
//!   bench (driver, not pinned)
//!     ├── CPU 0: one contestant at work: bench-floor, nodens, unbound ...
//!     └── CPU 1: bench-load (asks), bench-upstream (answers what is forwarded)
//! ```
//!
//! `docs/benchmark.md` has the method.

pub mod account;
pub mod cluster;
pub mod contestant;
pub mod datagrams;
pub mod latency;
pub mod ping;
pub mod questions;
pub mod spawn;
pub mod table;
