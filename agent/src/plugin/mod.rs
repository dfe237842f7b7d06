//! One module per Corefile directive. Each has the same parts: `Config` with `parse` (what the directive means), a handler
//! or a service built from it, its metrics, and a section in `docs/corefile.md`.
