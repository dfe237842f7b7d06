//! The file, read when its time or size has changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

/// More than any block list has; a bound for what a mistake can cost.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// By what a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    size: u64,
}

/// Reads the file unless it is as `before`. What is no regular file (`/dev/null`) is empty.
pub(super) fn read_if_changed(
    path: &Path,
    before: Option<Stamp>,
) -> io::Result<Option<(String, Stamp)>> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    let stamp = Stamp { modified: meta.modified()?, size: meta.len() };
    if before == Some(stamp) {
        return Ok(None);
    }
    if !meta.is_file() {
        return Ok(Some((String::new(), stamp)));
    }
    let mut bytes = Vec::new();
    if File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)? as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), stamp)))
}
