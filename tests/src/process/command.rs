//! The binary itself, and commands that run to their end.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

/// The binary under test: `NODENS_BIN`, or `nodens` of the same build as the test.
///
/// # Panics
/// When there is none; building the tests alone does not build it.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NODENS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_default();
    let found =
        test.ancestors().skip(1).take(3).map(|folder| folder.join("nodens")).find(|p| p.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no nodens beside {}: run `cargo build -p nodens` first", test.display())
    })
}

/// Runs the binary to its end with these arguments; returns status, standard output and standard error.
///
/// # Panics
/// When it cannot be run.
#[must_use]
pub fn run(arguments: &[&str]) -> (ExitStatus, String, String) {
    let output = Command::new(binary()).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run nodens: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}
