//! The file with the process id (`--pidfile`).

use std::os::unix::process::parent_id;
use std::path::Path;

use anyhow::Context as _;

/// The process that signals are for: the supervisor, if there is one.
fn line(has_supervisor: bool) -> String {
    let pid = if has_supervisor { parent_id() } else { std::process::id() };
    format!("{pid}\n")
}

/// Writes it.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(path: &Path, has_supervisor: bool) -> anyhow::Result<()> {
    std::fs::write(path, line(has_supervisor))
        .with_context(|| format!("cannot write the process id to {}", path.display()))
}

/// Removes the file unless another instance has written its own id there.
pub(super) fn remove(path: &Path, has_supervisor: bool) {
    if std::fs::read_to_string(path).is_ok_and(|text| text == line(has_supervisor)) {
        // It may be gone already; then there is nothing to remove.
        let _ = std::fs::remove_file(path);
    }
}
