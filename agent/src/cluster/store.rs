//! One watched cluster: the sink that is fed, the tasks that feed it, the snapshot, and how it all stands.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::Sink;
use super::client::{self, Connector};
use super::folder::Folder;
use super::interner::Interner;
use super::object::Event;
use super::report::Report;
use super::snapshot::{self, Snapshot, SnapshotError};
use super::spec::{SnapshotSpec, Source, Spec, Wanted};
use super::status::Status;
use super::watch::{Feed, Watcher};

/// Why a store cannot be started. What may yet change (a server that is away, a file that is missing) is no reason.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    /// Selectors are evaluated by the API server.
    #[error(
        "labels and namespace_labels need an API server; with objects, leave out of the folder what is not to be served"
    )]
    SelectorWithFolder,
    /// A folder is on disk already.
    #[error("snapshot needs an API server; objects are on disk already")]
    SnapshotWithFolder,
}

/// A cluster that is being watched, until the last reference to it is dropped.
pub struct Store<S: Sink> {
    spec: Spec,
    sink: Arc<S>,
    status: Arc<Status>,
    report: Arc<Report>,
    tasks: Vec<AbortHandle>,
    snapshot: Option<Arc<Saver>>,
}

impl<S: Sink> Store<S> {
    /// Loads the snapshot, if there is one, and begins to watch. Tasks run on `runtime`.
    pub fn start(spec: Spec, sink: Arc<S>, runtime: &Handle) -> Result<Arc<Self>, StartError> {
        let status = Arc::new(Status::new(&spec.wanted));
        let interner = Arc::new(Interner::default());
        let dynamic: Arc<dyn Sink> = sink.clone();
        let report = Arc::new(Report::new(spec.source.to_string(), status.clone(), &dynamic));
        let mut tasks = Vec::new();
        let mut saver = None;
        if let Source::Folder(dir) = &spec.source {
            if spec.wanted.labels.is_some() || spec.wanted.namespace_labels.is_some() {
                return Err(StartError::SelectorWithFolder);
            }
            if spec.snapshot.is_some() {
                return Err(StartError::SnapshotWithFolder);
            }
            let folder = Folder::new(dir.clone(), &spec.wanted, dynamic, status.clone(), interner);
            tasks.push(runtime.spawn(folder.run()).abort_handle());
        } else {
            if let Some(settings) = &spec.snapshot {
                let made = Arc::new(Saver::new(settings, &spec, dynamic.clone(), status.clone()));
                made.load(&interner);
                tasks.push(runtime.spawn(made.clone().run()).abort_handle());
                saver = Some(made);
            }
            let connector = Arc::new(Connector::new(spec.source.clone(), spec.timing));
            for kind in spec.wanted.kinds() {
                let feed = Feed::new(
                    kind,
                    &spec.wanted,
                    dynamic.clone(),
                    status.clone(),
                    interner.clone(),
                );
                let watcher =
                    Watcher::new(kind, &spec.wanted, spec.timing, connector.clone(), feed);
                tasks.push(runtime.spawn(watcher.run()).abort_handle());
            }
        }
        Ok(Arc::new(Self { spec, sink, status, report, tasks, snapshot: saver }))
    }

    /// What it was started with.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The sink that is fed.
    pub fn sink(&self) -> &Arc<S> {
        &self.sink
    }

    /// How it stands.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// What it tells of itself: the same for as long as it runs.
    pub fn report(&self) -> &Arc<Report> {
        &self.report
    }

    /// Waits until everything was listed, or `timeout` has passed; returns whether it was.
    pub async fn wait_synced(&self, timeout: Duration) -> bool {
        self.status.wait_synced(timeout).await
    }

    /// Writes the snapshot now, if anything changed since it was written last: before an exit. Blocks on the disk.
    pub fn save(&self) {
        if let Some(saver) = &self.snapshot {
            saver.save_logged();
        }
    }
}

impl<S: Sink> Drop for Store<S> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.save();
    }
}

/// The stores of a process, so that server blocks with equal settings, and the configuration after a reload, share one.
pub struct Clusters<S: Sink> {
    stores: Mutex<HashMap<Spec, Weak<Store<S>>>>,
}

impl<S: Sink> Default for Clusters<S> {
    fn default() -> Self {
        Self { stores: Mutex::default() }
    }
}

impl<S: Sink> Clusters<S> {
    /// The store for `spec`: one that runs, or a new one with the sink that `make` gives.
    pub fn open(
        &self,
        spec: Spec,
        runtime: &Handle,
        make: impl FnOnce() -> S,
    ) -> Result<Arc<Store<S>>, StartError> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&spec).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Store::start(spec.clone(), Arc::new(make()), runtime)?;
        stores.retain(|_, store| store.strong_count() > 0);
        stores.insert(spec, Arc::downgrade(&store));
        Ok(store)
    }

    /// Every store that runs, for metrics, readiness and the way out.
    pub fn running(&self) -> Vec<Arc<Store<S>>> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.values().filter_map(Weak::upgrade).collect()
    }
}

/// Reads and writes the snapshot.
struct Saver {
    path: PathBuf,
    every: Duration,
    source: Source,
    wanted: Wanted,
    /// That of the start, empty where it could not be found out.
    identity: String,
    sink: Arc<dyn Sink>,
    status: Arc<Status>,
    /// The number of changes that the file knows, and the identity that it bears.
    saved: Mutex<(u64, String)>,
    /// Only one writes at a time; holds the last error, so that it is logged once.
    writing: Mutex<Option<String>>,
}

impl Saver {
    fn new(settings: &SnapshotSpec, spec: &Spec, sink: Arc<dyn Sink>, status: Arc<Status>) -> Self {
        // Stores of several clusters, or of several views on one, may share a folder.
        let view = format!("{} {:?}", spec.source, spec.wanted);
        let path =
            settings.dir.join(format!("cluster-{:08x}.snapshot", crc32fast::hash(view.as_bytes())));
        let identity = match client::identity(&spec.source) {
            Ok(cluster) => identity(&cluster, &spec.wanted),
            Err(error) => {
                warn!(snapshot = %path.display(), "no snapshot is read or written, since it cannot be told whose it is: {error}");
                String::new()
            }
        };
        let (saved, writing) = Default::default();
        let (source, wanted) = (spec.source.clone(), spec.wanted.clone());
        let every = settings.every;
        Self { path, every, source, wanted, identity, sink, status, saved, writing }
    }

    /// The identity now: a cluster's authority is replaced now and then, and the next start will know the new one only.
    /// Where the server has another address by now, it may be another cluster than the one that we heard of.
    fn identity(&self) -> String {
        let server = |identity: &str| identity.split(' ').next().unwrap_or_default().to_owned();
        match client::identity(&self.source) {
            Ok(now) if server(&now) == server(&self.identity) => identity(&now, &self.wanted),
            Ok(_) | Err(_) => self.identity.clone(),
        }
    }

    /// Fills the sink with what the snapshot holds, if it is one of this cluster.
    fn load(&self, interner: &Interner) {
        if self.identity.is_empty() {
            return;
        }
        match self.try_load(interner) {
            Ok(0) => info!(snapshot = %self.path.display(), "there is no snapshot yet"),
            Ok(objects) => {
                let age = self
                    .status
                    .snapshot_time()
                    .and_then(|at| SystemTime::now().duration_since(at).ok());
                let age_s = age.unwrap_or_default().as_secs();
                warn!(snapshot = %self.path.display(), objects, age_s, "serving the snapshot of the last run until the first list is complete");
            }
            Err(error) => {
                warn!(snapshot = %self.path.display(), "the snapshot is not used: {error}")
            }
        }
    }

    fn try_load(&self, interner: &Interner) -> Result<usize, SnapshotError> {
        let Some(bytes) = snapshot::read(&self.path)? else { return Ok(0) };
        let snapshot = Snapshot::decode(&bytes)?;
        snapshot.check_identity(&self.identity)?;
        for kind in self.status.wanted() {
            self.sink.apply(Event::ResetBegin(kind));
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
            self.sink.apply(Event::ResetDone(kind));
        }
        self.status.note_snapshot(snapshot.written);
        Ok(count)
    }

    /// Writes now and then, until it is dropped.
    async fn run(self: Arc<Self>) {
        // The first one early: a node that restarts twice in a minute should not begin with nothing.
        self.status.wait_synced(Duration::MAX).await;
        loop {
            let saver = self.clone();
            let _ = tokio::task::spawn_blocking(move || saver.save_logged()).await;
            tokio::time::sleep(self.every).await;
        }
    }

    fn save_logged(&self) {
        let mut last_error = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.save() {
            Ok(()) => *last_error = None,
            Err(error) => {
                let error = error.to_string();
                if last_error.as_ref() != Some(&error) {
                    warn!(
                        "{error}; a restart without an API server would know nothing newer than the last one"
                    );
                }
                *last_error = Some(error);
            }
        }
    }

    fn save(&self) -> Result<(), SnapshotError> {
        // Before everything was listed once, the file of the last run knows more than we do.
        if self.identity.is_empty() || !self.status.is_synced() {
            return Ok(());
        }
        let changes: u64 = self.status.wanted().map(|kind| self.status.kind(kind).changes()).sum();
        let state = (changes, self.identity());
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if *saved == state || changes == 0 {
            return Ok(());
        }
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let octets = snapshot::write(&self.path, &state.1, now, |visit| self.sink.walk(visit))?;
        tracing::debug!(snapshot = %self.path.display(), octets, "wrote the snapshot");
        *saved = state;
        Ok(())
    }
}

/// What a snapshot is told by: the cluster, and how much of it.
fn identity(cluster: &str, wanted: &Wanted) -> String {
    format!("{cluster}, {wanted:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decode::tests::conformance_cluster;
    use crate::cluster::test_sink::Recorder;

    fn endpoint() -> Spec {
        // Port 1 of the loopback: nobody listens there.
        Spec::new(Source::Endpoint { url: "http://127.0.0.1:1".into(), tls: None })
    }

    fn saver(spec: &Spec, dir: &std::path::Path, sink: Arc<Recorder>) -> (Saver, Arc<Status>) {
        let status = Arc::new(Status::new(&spec.wanted));
        (Saver::new(&SnapshotSpec::new(dir.into()), spec, sink, status.clone()), status)
    }

    #[tokio::test]
    async fn equal_specs_share_a_store() {
        let clusters = Clusters::<Recorder>::default();
        let open = |spec| clusters.open(spec, &Handle::current(), Recorder::default).unwrap();
        let (a, b) = (open(endpoint()), open(endpoint()));
        assert!(Arc::ptr_eq(&a, &b));
        let wanted = Wanted { imports: true, ..Wanted::default() };
        let c = open(Spec { wanted, ..endpoint() });
        assert!(!Arc::ptr_eq(&a, &c));
        assert_eq!(clusters.running().len(), 2);
        drop((a, b));
        assert_eq!(clusters.running().len(), 1);
    }

    #[tokio::test]
    async fn tasks_end_with_the_store() {
        let store =
            Store::start(endpoint(), Arc::new(Recorder::default()), &Handle::current()).unwrap();
        let sink = Arc::downgrade(store.sink());
        assert!(!store.wait_synced(Duration::from_millis(20)).await);
        drop(store);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while sink.strong_count() > 0 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_folder_takes_no_selectors() {
        let mut spec = Spec::new(Source::Folder("/tmp".into()));
        spec.wanted.labels = Some("a=b".into());
        let started = Store::start(spec, Arc::new(Recorder::default()), &Handle::current());
        assert_eq!(started.err(), Some(StartError::SelectorWithFolder));
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
        saving.save_logged();
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "written before anything was listed"
        );
        for kind in status.wanted() {
            status.note_synced(kind);
            status.kind(kind).note_change();
        }
        saving.save_logged();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let next = Arc::new(Recorder::default());
        let (loading, status) = saver(&first, dir.path(), next.clone());
        loading.load(&Interner::default());
        assert_eq!(next.names(), sink.names());
        assert!(status.is_known() && !status.is_synced());

        let other = Spec { wanted: Wanted { imports: true, ..Wanted::default() }, ..endpoint() };
        let empty = Arc::new(Recorder::default());
        let (loading, status) = saver(&other, dir.path(), empty.clone());
        loading.load(&Interner::default());
        assert!(empty.names().is_empty() && !status.is_known());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_whole() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Arc::new(Recorder::default());
        let (loading, status) = saver(&endpoint(), dir.path(), sink.clone());
        std::fs::write(&loading.path, b"NODENS\0S and so on, and so forth").unwrap();
        loading.load(&Interner::default());
        assert!(sink.names().is_empty() && !status.is_known());
    }
}
