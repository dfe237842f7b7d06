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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use tracing::{info, warn};

use self::read::{Complaint, Contents, MAX_FILE};
use super::Sink;
use super::interner::Interner;
use super::object::{Event, Kind, Namespace, Object, ObjectId};
use super::spec::Wanted;
use super::status::{EventType, Status};
use crate::file_watch::{self, FileVersion, FileWatch};
use crate::memory;

/// What happens to an object that does not read.
const STAYS: &str = "; what was known of it stays";
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
    known: HashMap<(Kind, ObjectId), Arc<Object>>,
    /// The last error of the folder itself, so that it is logged once.
    error: Option<String>,
}

/// What is known of a file.
struct File {
    version: FileVersion,
    objects: Vec<Arc<Object>>,
}

/// What [`collect`] finds.
#[derive(Default)]
struct Found {
    /// Folders, and links among the files: what has to be watched.
    watched: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileVersion>,
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
        let mut watch = FileWatch::new([], file_watch::POLL);
        let mut watched = Vec::new();
        loop {
            let found = self.scan();
            if found == watched {
                watch.due().await;
            } else {
                // What is new may have changed since it was read.
                watch.follow(found.iter().cloned());
                watched = found;
            }
        }
    }

    /// Reads what has changed and sends the differences to the sink; returns what has to be watched.
    pub(super) fn scan(&mut self) -> Vec<PathBuf> {
        let mut found = Found::default();
        if let Err(error) = collect(&self.dir, DEPTH, &mut found) {
            self.failed(format!("cannot read the folder {}: {error}", self.dir.display()));
            // It may be on its way back; until then everything known stays.
            return vec![self.dir.clone()];
        }
        if self.error.take().is_some() {
            info!(folder = %self.dir.display(), "reading the folder of objects again");
        }
        let mut changed = false;
        self.files.retain(|path, _| {
            let there = found.files.contains_key(path);
            changed |= !there;
            there
        });
        for (path, version) in found.files {
            if self.files.get(&path).is_none_or(|file| file.version != version) {
                self.load(path, version);
                changed = true;
            }
        }
        if changed || !self.status.is_synced() {
            self.tell();
            memory::give_back_now();
        }
        for kind in self.wanted.kinds() {
            let status = self.status.kind(kind);
            status.note_live(true);
            status.note_heard();
        }
        found.watched
    }

    fn failed(&mut self, error: String) {
        for kind in self.wanted.kinds() {
            self.status.kind(kind).note_error(error.clone(), false);
        }
        if self.error.as_ref() != Some(&error) {
            warn!("{error}; names are answered from what is known");
            self.error = Some(error);
        }
    }

    fn load(&mut self, path: PathBuf, version: FileVersion) {
        let before = self.files.remove(&path).map(|file| file.objects).unwrap_or_default();
        let node = self.wanted.node.as_deref();
        let contents = text(&path).and_then(|text| read::read(&path, &text, node, &self.interner));
        let objects = match contents {
            Ok(Contents { objects, complaints, unnamed }) => {
                let mut objects: Vec<_> = objects.into_iter().map(Arc::new).collect();
                for complaint in &unnamed {
                    self.complain(&path, complaint, "");
                }
                for complaint in &complaints {
                    self.complain(&path, complaint, STAYS);
                    // A slice may be that of a Service and of a ServiceImport.
                    let is_it = |object: &&Arc<Object>| {
                        let kind = match object.kind() {
                            Kind::ImportedSlice => Kind::EndpointSlice,
                            Kind::NodePod => Kind::Pod,
                            kind => kind,
                        };
                        Some(kind) == complaint.kind && Some(object.id()) == complaint.id
                    };
                    objects.extend(before.iter().filter(is_it).cloned());
                }
                objects
            }
            Err(complaint) => {
                self.complain(&path, &complaint, STAYS);
                before
            }
        };
        self.files.insert(path, File { version, objects });
    }

    fn complain(&self, path: &Path, complaint: &Complaint, stays: &str) {
        let Complaint { line, kind, id, text } = complaint;
        let what = kind.map_or("", Kind::name);
        let who = id.as_ref().map_or(String::new(), |id| format!(" {}/{}", id.namespace, id.name));
        let colon = if what.is_empty() { "" } else { ": " };
        warn!("{}:{line}: {what}{who}{colon}{text}{stays}", path.display());
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
                self.sink.apply(Event::Init(kind));
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
            self.sink.apply(Event::Apply(Object::clone(&object)));
            self.known.insert(key, object);
        }
        if first {
            for kind in self.wanted.kinds() {
                self.sink.apply(Event::InitDone(kind));
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
    fn objects(&self) -> HashMap<(Kind, ObjectId), Arc<Object>> {
        let mut all = HashMap::new();
        for object in self.files.values().flat_map(|file| &file.objects) {
            let (kind, id) = (object.kind(), object.id());
            let namespace = if kind == Kind::Namespace { &id.name } else { &id.namespace };
            if kind.is_of_node() {
                // A client, of whatever namespace, or this node.
                if kind == Kind::NodePod || self.wanted.topology.as_ref() == Some(&id.name) {
                    all.entry((kind, id)).or_insert_with(|| Arc::clone(object));
                }
                continue;
            }
            if !self.wanted.exposes(namespace) {
                continue;
            }
            let implied = Namespace { name: namespace.clone() };
            let empty = self.interner.intern("");
            let implied_id = ObjectId { namespace: empty, name: implied.name.clone() };
            all.entry((Kind::Namespace, implied_id))
                .or_insert_with(|| Arc::new(Object::Namespace(implied)));
            if self.wanted.includes(kind) {
                all.entry((kind, id)).or_insert_with(|| Arc::clone(object));
            }
        }
        all
    }
}

/// Finds the files and folders below `dir`. Only `dir` itself has to be readable.
fn collect(dir: &Path, depth: usize, found: &mut Found) -> std::io::Result<()> {
    found.watched.push(dir.to_owned());
    for entry in fs::read_dir(dir)? {
        let Ok(entry) = entry else { continue };
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || found.files.len() >= MAX_FILES || found.watched.len() >= MAX_FILES {
            continue;
        }
        let path = entry.path();
        // Of what a link points at: ConfigMaps are mounted as links.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth > 0 {
                let _ = collect(&path, depth - 1, found);
            }
        } else if metadata.is_file()
            && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                found.watched.push(path.clone());
            }
            found.files.insert(path, FileVersion::from(&metadata));
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, Complaint> {
    let complaint = |text: String| Complaint { line: 1, kind: None, id: None, text };
    let read = file_watch::read(path, MAX_FILE)
        .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
    read.map_err(|error| complaint(format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests;
