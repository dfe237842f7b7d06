//! The embedded store: objects in a folder of files, instead of an API server.
//!
//! Every file whose name ends in `.yaml`, `.yml` or `.json` is read, in folders within the folder too; names that begin
//! with a dot are not, so that a mounted ConfigMap's hidden generations are seen once. Changes are noticed by inotify, and
//! at the latest by the next poll, since not every file system tells.
//!
//! - A file that does not parse keeps what it held before; a bad object within it likewise, and both are logged as
//!   `file:line`.
//! - A Namespace need not be written down: one exists where an object says that it is in it.
//! - An object that stands in two files is taken from the first, by path.
//! - Label selectors are for API servers: [`super::Store::start`] refuses them with a folder.

mod read;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hashbrown::HashMap;
use inotify::{Inotify, WatchMask};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use self::read::{Complaint, Contents, MAX_FILE};
use super::Sink;
use super::interner::Interner;
use super::object::{Event, Kind, Namespace, Object, ObjectId};
use super::spec::Wanted;
use super::status::{EventType, Status};

/// How long after the last change the folder is read: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a folder that never comes to rest is waited for.
const SETTLE_MOST: Duration = Duration::from_millis(500);
/// How often the folder is looked at without being told of a change.
const POLL: Duration = Duration::from_secs(5);
/// Folders within folders that are entered.
const DEPTH: usize = 4;
/// Files that are read at most.
const MAX_FILES: usize = 10_000;

/// Follows one folder.
pub(super) struct Folder {
    dir: PathBuf,
    wanted: Wanted,
    sink: Arc<dyn Sink>,
    status: Arc<Status>,
    interner: Arc<Interner>,
    files: BTreeMap<PathBuf, File>,
    /// What the sink was told.
    known: HashMap<(Kind, ObjectId), Object>,
    /// The last error of the folder itself, so that it is logged once.
    error: Option<String>,
}

/// What is known of a file.
struct File {
    stamp: Stamp,
    objects: Vec<Object>,
}

/// What tells that a file is not the one that was read. Files that are replaced within a clock tick, at the same size, have
/// another inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: (i64, i64),
    modified: (i64, i64),
    inode: u64,
    len: u64,
}

impl Folder {
    pub(super) fn new(
        dir: PathBuf,
        wanted: &Wanted,
        sink: Arc<dyn Sink>,
        status: Arc<Status>,
        interner: Arc<Interner>,
    ) -> Self {
        let (files, known) = Default::default();
        Self { dir, wanted: wanted.clone(), sink, status, interner, files, known, error: None }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; 4_096];
        let mut events = match Inotify::init()
            .and_then(|inotify| inotify.into_event_stream(&mut buffer))
        {
            Ok(events) => Some(events),
            Err(error) => {
                warn!(
                    "cannot use inotify ({error}); the folder of objects is looked at every {} s",
                    POLL.as_secs()
                );
                None
            }
        };
        loop {
            let dirs = self.scan();
            if let Some(events) = &mut events {
                for dir in dirs {
                    // Adding a watch again is no harm. A folder that cannot be watched is polled.
                    let _ = events.watches().add(&dir, mask());
                }
            }
            let poll = Instant::now() + POLL;
            match &mut events {
                None => sleep(POLL).await,
                Some(events) => {
                    if timeout_at(poll, events.next()).await.is_ok_and(|event| event.is_some()) {
                        let most = Instant::now() + SETTLE_MOST;
                        while timeout_at((Instant::now() + SETTLE).min(most), events.next())
                            .await
                            .is_ok()
                        {}
                    }
                }
            }
        }
    }

    /// Reads what has changed and tells the sink; returns the folders that there are.
    pub(super) fn scan(&mut self) -> Vec<PathBuf> {
        let (mut dirs, mut found) = (Vec::new(), BTreeMap::new());
        let listed = collect(&self.dir, DEPTH, &mut dirs, &mut found);
        if let Err(error) = listed {
            self.failed(format!("cannot read the folder {}: {error}", self.dir.display()));
            // It may be on its way back; until then everything known stays.
            return vec![self.dir.clone()];
        }
        if self.error.take().is_some() {
            info!(folder = %self.dir.display(), "reading the folder of objects again");
        }
        let mut changed = false;
        self.files.retain(|path, _| {
            let there = found.contains_key(path);
            changed |= !there;
            there
        });
        for (path, stamp) in found {
            if self.files.get(&path).is_none_or(|file| file.stamp != stamp) {
                self.load(path, stamp);
                changed = true;
            }
        }
        if changed || !self.status.is_synced() {
            self.tell();
        }
        for kind in self.wanted.kinds() {
            let status = self.status.kind(kind);
            status.note_live(true);
            status.note_heard();
        }
        dirs
    }

    fn failed(&mut self, error: String) {
        for kind in self.wanted.kinds() {
            self.status.kind(kind).note_error(error.clone());
        }
        if self.error.as_ref() != Some(&error) {
            warn!("{error}; names are answered from what is known");
            self.error = Some(error);
        }
    }

    fn load(&mut self, path: PathBuf, stamp: Stamp) {
        let before = self.files.remove(&path).map(|file| file.objects).unwrap_or_default();
        let contents = text(&path).and_then(|text| read::read(&path, &text, &self.interner));
        let objects = match contents {
            Ok(Contents { mut objects, complaints }) => {
                for complaint in complaints {
                    self.complain(&path, &complaint);
                    let was = before
                        .iter()
                        .find(|o| Some(o.kind()) == complaint.kind && Some(o.id()) == complaint.id);
                    objects.extend(was.cloned());
                }
                objects
            }
            Err(complaint) => {
                self.complain(&path, &complaint);
                before
            }
        };
        self.files.insert(path, File { stamp, objects });
    }

    fn complain(&self, path: &Path, complaint: &Complaint) {
        let Complaint { line, kind, id, text } = complaint;
        let what = kind.map_or("", Kind::name);
        let who = id.as_ref().map_or(String::new(), |id| format!(" {}/{}", id.namespace, id.name));
        let colon = if what.is_empty() { "" } else { ": " };
        warn!("{}:{line}: {what}{who}{colon}{text}; what was known of it stays", path.display());
        match kind {
            Some(kind) => self.status.kind(*kind).note_skipped(),
            None => self.status.kind(Kind::Service).note_skipped(),
        }
    }

    /// Tells the sink what is different from what it knows.
    fn tell(&mut self) {
        let now = self.objects();
        let first = !self.status.is_synced();
        if first {
            for kind in self.wanted.kinds() {
                self.sink.apply(Event::ResetBegin(kind));
            }
        }
        let gone: Vec<_> =
            self.known.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        for (kind, id) in gone {
            self.known.remove(&(kind, id.clone()));
            self.noted(kind, EventType::Deleted);
            self.sink.apply(Event::Delete(kind, id));
        }
        for (key, object) in now {
            let event = match self.known.get(&key) {
                Some(known) if *known == object => continue,
                Some(_) => EventType::Modified,
                None => EventType::Added,
            };
            self.noted(key.0, event);
            self.sink.apply(Event::Apply(object.clone()));
            self.known.insert(key, object);
        }
        if first {
            for kind in self.wanted.kinds() {
                self.sink.apply(Event::ResetDone(kind));
                self.status.kind(kind).note_relist();
                self.status.note_synced(kind);
            }
        }
    }

    fn noted(&self, kind: Kind, event: EventType) {
        let status = self.status.kind(kind);
        status.note_event(event);
        status.note_change();
    }

    /// Everything that all files say together, as far as it is wanted.
    fn objects(&self) -> HashMap<(Kind, ObjectId), Object> {
        let mut all = HashMap::new();
        for object in self.files.values().flat_map(|file| &file.objects) {
            let (kind, id) = (object.kind(), object.id());
            let namespace = if kind == Kind::Namespace { &id.name } else { &id.namespace };
            if !self.wanted.exposes(namespace) {
                continue;
            }
            let implied = Namespace { name: namespace.clone() };
            let empty = self.interner.intern("");
            let implied_id = ObjectId { namespace: empty, name: implied.name.clone() };
            all.entry((Kind::Namespace, implied_id)).or_insert(Object::Namespace(implied));
            if self.wanted.includes(kind) {
                all.entry((kind, id)).or_insert_with(|| object.clone());
            }
        }
        all
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
        | WatchMask::ONLYDIR
}

/// Finds the files and folders below `dir`. Only `dir` itself has to be readable.
fn collect(
    dir: &Path,
    depth: usize,
    dirs: &mut Vec<PathBuf>,
    files: &mut BTreeMap<PathBuf, Stamp>,
) -> std::io::Result<()> {
    dirs.push(dir.to_owned());
    for entry in fs::read_dir(dir)? {
        let Ok(entry) = entry else { continue };
        if entry.file_name().as_encoded_bytes().starts_with(b".") || files.len() >= MAX_FILES {
            continue;
        }
        let path = entry.path();
        // Of what a link points at: ConfigMaps are mounted as links.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth > 0 {
                let _ = collect(&path, depth - 1, dirs, files);
            }
        } else if metadata.is_file()
            && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            let stamp = Stamp {
                changed: (metadata.ctime(), metadata.ctime_nsec()),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                inode: metadata.ino(),
                len: metadata.len(),
            };
            files.insert(path, stamp);
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, Complaint> {
    let complaint = |text: String| Complaint { line: 1, kind: None, id: None, text };
    let file =
        fs::File::open(path).map_err(|error| complaint(format!("cannot be read: {error}")))?;
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    let len = read.map_err(|error| complaint(format!("cannot be read: {error}")))?;
    if len as u64 > MAX_FILE {
        return Err(complaint(format!("is longer than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
