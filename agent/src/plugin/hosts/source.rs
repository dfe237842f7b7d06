//! The file, read when its version has changed.

use std::io;
use std::path::Path;

use crate::file_watch::{self, FileVersion};

/// More than any block list has; a bound for what a mistake can cost.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Reads the file unless it is the version `before`. Anything else than a regular file (`/dev/null`) is empty.
pub(super) fn read_if_changed(
    path: &Path,
    before: Option<FileVersion>,
) -> io::Result<Option<(String, FileVersion)>> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    let version = FileVersion::from(&meta);
    if before == Some(version) {
        return Ok(None);
    }
    let bytes = match meta.is_file() {
        true => file_watch::read(path, MAX_FILE)?,
        false => Vec::new(),
    };
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), version)))
}
