//! The API-watched store of the cluster's names.
//!
//! ```text
//! API server, or a folder of YAML  ->  source  ->  Event  ->  index  ->  readers: plugin::kubernetes, on every worker
//! ```
//!
//! A source turns what it learns into lean [`object`]s and forgets the rest; the index is a plain structure that is told
//! to apply, delete and reset, and can be tested without any API server.

pub mod index;
pub mod object;
