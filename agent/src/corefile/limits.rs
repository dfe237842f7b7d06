//! How much configuration there may be. Each limit is far above what anybody writes by hand and far below what
//! would harm the process; running into one is an error that names it.

/// The size of one file in bytes. A ConfigMap holds 1 MiB.
pub const FILE_BYTES: usize = 4 << 20;
/// Words in all, counted after imports and snippets.
pub const TOKENS: usize = 500_000;
/// Bytes of one word after environment variables were put in.
pub const TOKEN_BYTES: usize = 64 << 10;
/// Environment variables put into one word, counting those which other variables bring.
pub const EXPANSIONS: usize = 64;
/// Braces inside of braces.
pub const NESTING: usize = 16;
/// Imports inside of imports.
pub const IMPORT_DEPTH: usize = 16;
/// Imports carried out in all.
pub const IMPORTS: usize = 2_000;
/// Errors kept, and as many warnings; more are counted only.
pub const DIAGNOSTICS: usize = 100;
/// Zones in all, counted after networks became reverse zones.
pub const ZONES: usize = 20_000;
/// Views in all. Those of a zone are tried one after the other for each query.
pub const VIEWS: usize = 256;
