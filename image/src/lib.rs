//! Packs the binary into an OCI image archive without a container engine.
//!
//! ```text
//!   binary ── elf        which architecture, and that nothing else has to be in the image
//!   cargo ─── crates     what it was linked from
//!               ├ sbom       CycloneDX
//!               └ licences   every text, each once
//!   all ───── files      the tree of the image ── layer    one tar, gzip
//!                                                  └ oci   config, manifest, index, archive
//!   archive              reads one again: checks every digest, lists, takes files out
//!
//!   release              what scripts/release publishes: bundles, notes, sums
//!    ├ provenance           a statement of where it comes from
//!    └ sign                 signatures by a key from outside
//! ```
//!
//! The same inputs give the same octets: nothing reads the clock, everything is sorted, times are SOURCE_DATE_EPOCH.

pub mod archive;
pub mod crates;
pub mod digest;
pub mod elf;
pub mod files;
pub mod layer;
pub mod licences;
pub mod oci;
pub mod provenance;
pub mod release;
pub mod sbom;
pub mod sign;
pub mod time;
