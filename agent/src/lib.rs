//! Nodens.
pub mod wire;
