//! netsetup against the real kernel, each test in a network namespace of its own.

mod notrack;
mod privileges;
mod reconcile;
mod setup;
mod support;
