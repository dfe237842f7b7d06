//! Reads the snapshot at the start, and writes it now and then.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::Sink;
use super::credentials;
use super::interner::Interner;
use super::object::Event;
use super::snapshot::{self, Snapshot, SnapshotError, Versions};
use super::spec::{SnapshotSpec, Source, Spec, Wanted};
use super::status::Status;

/// Reads and writes the snapshot: as a file, and as memory for the next process.
pub(super) struct Saver {
    /// Names cluster and settings: stores of several clusters, or of several views on one, are told apart by it.
    view: String,
    /// Without it there is no file.
    path: Option<PathBuf>,
    /// What was written before `pods node` was, or by a release that does not know it.
    plain: Option<Plain>,
    every: Duration,
    source: Source,
    wanted: Wanted,
    /// That of the start, empty if it could not be found out.
    identity: String,
    sink: Arc<dyn Sink>,
    status: Arc<Status>,
    /// What the file holds that was written last.
    saved: Mutex<Saved>,
    /// Only one writes at a time.
    writing: Mutex<()>,
}

/// The same cluster without the Pods of the node, which is as good for every name.
struct Plain {
    view: String,
    path: Option<PathBuf>,
    identity: String,
}

/// What tells whether a file is still the latest.
#[derive(Default, PartialEq, Eq)]
struct Saved {
    /// How many changes it knows.
    changes: u64,
    identity: String,
    versions: Versions,
}

/// On which occasion a snapshot is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Now and then: if an object has changed.
    Running,
    /// At the end: also if only the versions are newer, from which the next start continues.
    AtExit,
}

impl Saver {
    pub(super) fn new(
        settings: Option<&SnapshotSpec>,
        spec: &Spec,
        sink: Arc<dyn Sink>,
        status: Arc<Status>,
    ) -> Self {
        let view_of = |wanted: &Wanted| {
            let view = format!("{} {wanted:?}", spec.source);
            format!("cluster-{:08x}", crc32fast::hash(view.as_bytes()))
        };
        let file = |view: &str| Some(settings?.dir.join(format!("{view}.snapshot")));
        let view = view_of(&spec.wanted);
        let path = file(&view);
        let mut plain = None;
        let identity = match credentials::identity(&spec.source) {
            Ok(cluster) => {
                if spec.wanted.node.is_some() {
                    let wanted = Wanted { node: None, ..spec.wanted.clone() };
                    let (view, identity) = (view_of(&wanted), identity(&cluster, &wanted));
                    plain = Some(Plain { path: file(&view), view, identity });
                }
                identity(&cluster, &spec.wanted)
            }
            Err(error) => {
                if path.is_some() {
                    warn!(
                        "no snapshot is read or written, since its cluster cannot be identified: {error}"
                    );
                }
                String::new()
            }
        };
        let (saved, writing) = Default::default();
        let (source, wanted) = (spec.source.clone(), spec.wanted.clone());
        let every = settings.map_or(Duration::MAX, |settings| settings.every);
        Self { view, path, plain, every, source, wanted, identity, sink, status, saved, writing }
    }

    /// The identity now: a cluster's authority is replaced now and then, and the next start will know the new one only.
    /// If the server has another address by now, it may be another cluster than the one that was read.
    fn identity(&self) -> String {
        let server = |identity: &str| identity.split(' ').next().unwrap_or_default().to_owned();
        match credentials::identity(&self.source) {
            Ok(now) if server(&now) == server(&self.identity) => identity(&now, &self.wanted),
            Ok(_) | Err(_) => self.identity.clone(),
        }
    }

    /// The name of its memory.
    pub(super) fn name(&self) -> &str {
        &self.view
    }

    /// The names of memory that it can begin with, the best first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let plain = self.plain.as_ref().map(|plain| plain.view.as_str());
        std::iter::once(self.name()).chain(plain)
    }

    /// Fills the sink with what `memory` of the process before holds, or else the file, if it is of this cluster. Returns the
    /// versions from which watches continue.
    pub(super) fn load(&self, memory: Option<&[u8]>, interner: &Interner) -> Versions {
        if self.identity.is_empty() {
            return Versions::default();
        }
        if let Some(bytes) = memory {
            match self.fill(bytes, interner) {
                Ok((objects, versions)) => {
                    info!(objects, "watches continue from what the process before knew");
                    return versions;
                }
                Err(error) => warn!("the store of the process before is not used: {error}"),
            }
        }
        let Some(path) = &self.path else { return Versions::default() };
        let read = |path: &Path| {
            let bytes = snapshot::read(path)?;
            bytes.map(|bytes| self.fill(&bytes, interner)).transpose()
        };
        let plain = self.plain.as_ref().and_then(|plain| plain.path.as_deref());
        let loaded = match (read(path), plain) {
            (Ok(None), Some(plain)) => read(plain),
            (loaded, _) => loaded,
        };
        match loaded {
            Ok(None) => {
                let others = snapshot::others(path);
                info!(snapshot = %path.display(), others, "there is no snapshot of this cluster and these settings yet");
            }
            Ok(Some((objects, versions))) => {
                let age = self
                    .status
                    .snapshot_time()
                    .and_then(|at| SystemTime::now().duration_since(at).ok());
                let age_s = age.unwrap_or_default().as_secs();
                warn!(snapshot = %path.display(), objects, age_s, "serving the snapshot of the last run until the API server has been heard");
                return versions;
            }
            Err(error) => warn!(snapshot = %path.display(), "the snapshot is not used: {error}"),
        }
        Versions::default()
    }

    fn fill(&self, bytes: &[u8], interner: &Interner) -> Result<(usize, Versions), SnapshotError> {
        let snapshot = Snapshot::decode(bytes)?;
        if self.plain.as_ref().is_none_or(|plain| plain.identity != snapshot.identity) {
            snapshot.check_identity(&self.identity)?;
        }
        for kind in self.status.wanted() {
            self.sink.apply(Event::Init(kind));
        }
        let mut count = 0;
        for object in snapshot.objects(interner) {
            match object {
                Ok(object) if self.status.kind(object.kind()).is_wanted() => {
                    self.sink.apply(Event::Apply(object));
                }
                Ok(_) => {}
                Err(error) => {
                    // All of it or nothing.
                    for object in snapshot.objects(interner).flatten() {
                        self.sink.apply(Event::Delete(object.kind(), object.id()));
                    }
                    return Err(error);
                }
            }
            count += 1;
        }
        for kind in self.status.wanted() {
            self.sink.apply(Event::InitDone(kind));
            if let Some(version) = snapshot.versions.of(kind) {
                self.status.kind(kind).note_version(version);
            }
        }
        self.status.note_snapshot(snapshot.written);
        Ok((count, snapshot.versions))
    }

    /// Writes now and then, until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        // The first one early: a node that restarts twice in a minute should not begin with nothing.
        self.status.wait_synced(Duration::MAX).await;
        loop {
            let saver = self.clone();
            let _ = tokio::task::spawn_blocking(move || saver.save_logged(When::Running)).await;
            tokio::time::sleep(self.every).await;
        }
    }

    pub(super) fn save_logged(&self, when: When) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let error = self.save(when).err().map(|error| error.to_string());
        // Each is logged once.
        if let Some(error) = error.as_ref().filter(|_| error != self.status.snapshot_error()) {
            warn!(
                "{error}; a restart without an API server would know nothing newer than the last one"
            );
        }
        self.status.note_snapshot_error(error);
    }

    fn save(&self, when: When) -> Result<(), SnapshotError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        // Before everything was listed once, the file of the last run may know more.
        let Some(now) = self.state().filter(|_| self.status.is_synced()) else { return Ok(()) };
        let same = saved.changes == now.changes && saved.identity == now.identity;
        if same && (when == When::Running || saved.versions == now.versions) {
            return Ok(());
        }
        let octets = snapshot::write(path, &now.head(), |visit| self.sink.walk(visit))?;
        tracing::debug!(snapshot = %path.display(), octets, "wrote the snapshot");
        *saved = now;
        Ok(())
    }

    /// What there is to save now; `None` before everything is known.
    fn state(&self) -> Option<Saved> {
        if self.identity.is_empty() || !self.status.is_known() {
            return None;
        }
        let kinds = || self.status.wanted().map(|kind| (kind, self.status.kind(kind)));
        // Versions are read before the objects, which may be newer then. What a watch repeats changes nothing.
        let now = Saved {
            changes: kinds().map(|(_, status)| status.changes()).sum(),
            identity: self.identity(),
            versions: kinds().filter_map(|(kind, of)| Some((kind, of.version()?))).collect(),
        };
        (now.versions != Versions::default()).then_some(now)
    }

    /// Writes what is known to `to`, unless that is what it was at `last`, or nothing. Returns the state that was written.
    pub(super) fn export(&self, last: Option<u64>, to: &mut dyn Write) -> io::Result<Option<u64>> {
        let Some(now) = self.state().filter(|now| Some(now.changes) != last) else {
            return Ok(None);
        };
        snapshot::encode(to, &now.head(), |visit| self.sink.walk(visit))?;
        Ok(Some(now.changes))
    }
}

impl Saved {
    fn head(&self) -> snapshot::Head<'_> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = since.as_millis() as u64;
        snapshot::Head { identity: &self.identity, written, versions: self.versions }
    }
}

/// Identity of a snapshot: the cluster, and how much of it.
fn identity(cluster: &str, wanted: &Wanted) -> String {
    format!("{cluster}, {wanted:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decode::tests::conformance_cluster;
    use crate::cluster::object::Kind;
    use crate::cluster::test_sink::Recorder;

    fn endpoint() -> Spec {
        Spec::new(Source::Endpoint { url: "http://127.0.0.1:1".into(), tls: None })
    }

    fn saver(spec: &Spec, dir: &std::path::Path, sink: Arc<Recorder>) -> (Saver, Arc<Status>) {
        let status = Arc::new(Status::new(&spec.source, &spec.wanted));
        (Saver::new(Some(&SnapshotSpec::new(dir.into())), spec, sink, status.clone()), status)
    }

    #[test]
    fn a_snapshot_is_taken_up_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let (first, sink) = (endpoint(), Arc::new(Recorder::default()));
        let (saving, status) = saver(&first, dir.path(), sink.clone());
        for object in conformance_cluster(&Interner::default()) {
            if status.kind(object.kind()).is_wanted() {
                sink.apply(Event::Apply(object));
            }
        }
        saving.save_logged(When::Running);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "written before anything was listed"
        );
        for kind in status.wanted() {
            status.note_synced(kind);
            status.kind(kind).note_change();
            status.kind(kind).note_version(7);
        }
        saving.save_logged(When::Running);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let next = Arc::new(Recorder::default());
        let (loading, status) = saver(&first, dir.path(), next.clone());
        let versions = loading.load(None, &Interner::default());
        assert_eq!(versions.of(Kind::Service), Some(7));
        assert_eq!(versions.of(Kind::Pod), None, "it was not watched");
        assert_eq!(next.names(), sink.names());
        assert!(status.is_known() && !status.is_synced());

        // With the Pods of the node beside it.
        let wanted = Wanted { node: Some("n1".into()), ..Wanted::default() };
        let (loading, status) =
            saver(&Spec { wanted, ..endpoint() }, dir.path(), Arc::new(Recorder::default()));
        let versions = loading.load(None, &Interner::default());
        assert_eq!((versions.of(Kind::Service), versions.of(Kind::NodePod)), (Some(7), None));
        assert!(status.is_known());

        let other = Spec { wanted: Wanted { imports: true, ..Wanted::default() }, ..endpoint() };
        let empty = Arc::new(Recorder::default());
        let (loading, status) = saver(&other, dir.path(), empty.clone());
        loading.load(None, &Interner::default());
        assert!(empty.names().is_empty() && !status.is_known());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_whole() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Arc::new(Recorder::default());
        let (loading, status) = saver(&endpoint(), dir.path(), sink.clone());
        std::fs::write(loading.path.as_ref().unwrap(), b"NODENS\0S and so on, and so forth")
            .unwrap();
        loading.load(None, &Interner::default());
        assert!(sink.names().is_empty() && !status.is_known());
    }
}
