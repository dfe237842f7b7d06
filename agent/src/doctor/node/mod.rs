//! The checks of a node. Each is a function from the facts to a finding; `super::table` lists them.

pub mod api;
pub mod config;
pub mod firewall;
pub mod instances;
pub mod lookups;
pub mod machine;
pub mod network;
pub mod pods;
pub mod server;
pub mod upstreams;
