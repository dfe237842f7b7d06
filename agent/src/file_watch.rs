//! The one watcher of files: what counts as changed, and how a change is noticed.
//!
//! Every reader of a file that may change uses it: the Corefile and its imports, NodeLocal DNSCache's template and ConfigMap,
//! resolv.conf, hosts files, zone files, folders of objects.
//!
//! - [`FileVersion`] is the one notion of "changed". It is taken of what a path leads to, so that a file that is written in
//!   place, renamed over, removed and written again, reached over a symbolic link that is swapped (as a mounted ConfigMap's
//!   `..data`), or replaced by an older copy of the same size has another version each time.
//! - [`FileWatch`] wakes its task when a version may have changed. inotify reports within [`SETTLE`]; a poll is the net
//!   beneath it, since inotify is silent on network file systems and across some mounts, and the kernel limits its
//!   instances and watches.
//!
//! The order that loses no change: watch ([`FileWatch::new`] or [`FileWatch::follow`]), read the files, await the next
//! change. A change between the first two is at worst read twice.

mod kept;
mod places;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, timeout_at};

use self::kept::Kept;
use self::places::Places;

pub use self::kept::{forget_those_before, keep_with};

/// The usual time between two polls.
pub const POLL: Duration = Duration::from_secs(5);
/// The rest that follows an event before the files are read: most writers write in several steps.
pub const SETTLE: Duration = Duration::from_millis(50);
/// Files that never come to rest are read this long after the first event.
const SETTLE_MOST: Duration = Duration::from_millis(500);
/// Bytes of events that are read at once.
const EVENT_BUFFER: usize = 4_096;

/// Which version of a file a path leads to. Two equal versions have the same content.
///
/// The change time (ctime) is part of it: it cannot be set back, so that a copy that keeps the times of its source counts as
/// a change. A change of mode or owner counts too, since it may make a file readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// The version of the file behind `path` and its links; `None` if there is none that can be reached.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for FileVersion {
    fn from(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The versions of some files as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileVersions {
    /// One entry for each path, in the caller's order.
    seen: Vec<(PathBuf, Option<FileVersion>)>,
}

impl FileVersions {
    /// Takes the versions of `paths` as they are now.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let version = |path: PathBuf| {
            let version = FileVersion::of(&path);
            (path, version)
        };
        Self { seen: paths.into_iter().map(version).collect() }
    }

    /// Adds the version of one more path; to be called before the file is read.
    pub fn add(&mut self, path: &Path) {
        self.seen.push((path.to_owned(), FileVersion::of(path)));
    }

    /// Takes the versions again; true if one differs from what it was.
    pub fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.seen {
            let now = FileVersion::of(path);
            changed |= *seen != now;
            *seen = now;
        }
        changed
    }

    /// The paths, in the caller's order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.seen.iter().map(|(path, _)| path.as_path())
    }
}

/// Reads a regular file of at most `max` bytes. FIFOs and devices, which could block or never end, are errors.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let bytes = read_start(path, max + 1)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is longer than {max} bytes")));
    }
    Ok(bytes)
}

/// Reads at most the first `max` bytes of a regular file.
pub fn read_start(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits for changes of files and folders.
#[derive(Debug)]
pub struct FileWatch {
    versions: FileVersions,
    poll: Duration,
    /// `None` if the kernel gives no instance: then there is only the poll.
    events: Option<EventStream<Vec<u8>>>,
    /// Every watch that is set.
    watched: HashSet<WatchDescriptor>,
    /// Those of followed folders: each event in them counts, whatever its name.
    folders: HashSet<WatchDescriptor>,
    /// The names that count in all other folders.
    names: HashSet<OsString>,
    /// After `events`, so that the supervisor closes the instance and not this process.
    _kept: Option<Kept>,
    /// When the next poll is due.
    poll_at: Instant,
    /// While events come in: when the files are read, and when at the latest.
    settle: Option<(Instant, Instant)>,
}

impl FileWatch {
    /// Watches `paths`, which need not exist, and polls them every `poll` besides. For a folder, its entries are watched, but
    /// not those of the folders in it. To be called within a runtime.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>, poll: Duration) -> Self {
        let events = Inotify::init()
            .and_then(|inotify| {
                let kept = Kept::of(&inotify);
                Ok((inotify.into_event_stream(vec![0; EVENT_BUFFER])?, kept))
            })
            .inspect_err(|error| {
                tracing::debug!(%error, ?poll, "no inotify: changes of files are noticed by polling");
            })
            .ok();
        let (events, kept) = events.unzip();
        let mut watch = Self {
            versions: FileVersions::default(),
            poll,
            events,
            watched: HashSet::new(),
            folders: HashSet::new(),
            names: HashSet::new(),
            _kept: kept.flatten(),
            poll_at: Instant::now() + poll,
            settle: None,
        };
        watch.follow(paths);
        watch
    }

    /// Watches `paths` from now on, and nothing else. What is read after this call is followed without a gap.
    pub fn follow(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        self.versions = FileVersions::of(paths);
        self.attach();
    }

    /// Returns when the version of a path has changed. May be dropped and called again without missing a change.
    pub async fn changed(&mut self) {
        loop {
            self.due().await;
            if self.versions.has_changed() {
                return;
            }
        }
    }

    /// Returns when something may have changed: after each event, and at each poll. For callers that compare what they read.
    /// May be dropped and called again without missing a change.
    pub async fn due(&mut self) {
        loop {
            let at = self.settle.map_or(self.poll_at, |(at, most)| at.min(most).min(self.poll_at));
            let event = async {
                match &mut self.events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            match timeout_at(at, event).await {
                Ok(Some(Ok(event))) => self.take_in(&event),
                // The stream is broken; from now on there is only the poll.
                Ok(_) => self.events = None,
                Err(_) => break,
            }
        }
        self.settle = None;
        self.poll_at = Instant::now() + self.poll;
        // Paths may lead to other files and folders by now.
        self.attach();
    }

    fn take_in(&mut self, event: &EventOwned) {
        let counts = event.mask.contains(EventMask::Q_OVERFLOW)
            || self.folders.contains(&event.wd)
            || event.name.as_ref().is_none_or(|name| self.names.contains(name));
        // Reported once a watch is gone; its reason has been reported before.
        if !counts || event.mask.contains(EventMask::IGNORED) {
            return;
        }
        let now = Instant::now();
        let most = self.settle.map_or(now + SETTLE_MOST, |(_, most)| most);
        self.settle = Some((now + SETTLE, most));
    }

    /// Sets the watches that the paths need as they are now, and removes the others.
    fn attach(&mut self) {
        let Some(events) = &self.events else { return };
        let mut watches = events.watches();
        let places = Places::of(self.versions.paths());
        let mut add = |path: &Path| watches.add(path, mask()).ok();
        // What cannot be watched is polled.
        let folders: HashSet<_> = places.folders.iter().filter_map(|path| add(path)).collect();
        let mut watched: HashSet<_> = places.others.iter().filter_map(|path| add(path)).collect();
        watched.extend(folders.iter().cloned());
        for gone in self.watched.difference(&watched) {
            // The kernel has removed it already if its file is gone.
            let _ = watches.remove(gone.clone());
        }
        (self.watched, self.folders, self.names) = (watched, folders, places.names);
    }
}

fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
}

#[cfg(test)]
mod tests;
