//! One watched cluster: the sink that is fed, the tasks that feed it, the snapshot, and how it all stands.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Sink;
use super::applier::Applier;
use super::client::Connector;
use super::folder::Folder;
use super::interner::Interner;
use super::object::Kind;
use super::recovery;
use super::report::Report;
use super::saver::{Saver, When};
use super::server_view::ServerView;
use super::spec::{Source, Spec};
use super::status::Status;
use super::watch::Watcher;
use crate::handover::{Inherited, Item, memory};

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
    /// Loads what the process before has left in `inherited`, or the snapshot, if there is one, and begins to watch. Tasks run
    /// on `runtime`.
    pub fn start(
        spec: Spec,
        sink: Arc<S>,
        runtime: &Handle,
        inherited: &Inherited,
    ) -> Result<Arc<Self>, StartError> {
        let status = Arc::new(Status::new(&spec.source, &spec.wanted));
        let interner =
            Arc::new(Interner::new(spec.wanted.endpoint_pods, spec.wanted.keeps_places()));
        let dynamic: Arc<dyn Sink> = sink.clone();
        let report = Arc::new(Report::new(status.clone(), &dynamic));
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
            let settings = spec.snapshot.as_ref();
            let made = Arc::new(Saver::new(settings, &spec, dynamic.clone(), status.clone()));
            let memory = made.names().find_map(|name| inherited.take_memory(name));
            let versions = made.load(memory.as_deref(), &interner);
            if settings.is_some() {
                tasks.push(runtime.spawn(made.clone().run()).abort_handle());
            }
            saver = Some(made);
            let connector = Arc::new(Connector::new(&spec, status.read_delay.clone()));
            let view = Arc::new(ServerView::default());
            let pause = recovery::start_pause(status.snapshot_time(), sink.count(Kind::Service));
            for kind in spec.wanted.kinds() {
                let applier = Applier::new(
                    kind,
                    &spec.wanted,
                    dynamic.clone(),
                    status.clone(),
                    interner.clone(),
                );
                let server = (connector.clone(), view.clone());
                let version = versions.of(kind);
                let watcher =
                    Watcher::new(kind, &spec.wanted, spec.timing, server, applier, version);
                tasks.push(runtime.spawn(watcher.run(pause)).abort_handle());
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

    /// The name of what [`Store::export`] writes.
    pub fn memory_name(&self) -> Option<&str> {
        self.snapshot.as_ref().map(|saver| saver.name())
    }

    /// Writes what is known into memory for the next process, unless nothing has changed since the state `last`, or nothing is
    /// known yet. Returns the name of the memory, the memory, and the state.
    pub fn export(&self, last: Option<u64>) -> io::Result<Option<(Item, u64)>> {
        let Some(saver) = &self.snapshot else { return Ok(None) };
        let mut state = None;
        let memory = memory::write(saver.name(), |to| {
            state = saver.export(last, to)?;
            Ok(())
        })?;
        Ok(state.map(|state| ((saver.name().to_owned(), memory), state)))
    }

    /// Writes the snapshot now, if it is not the latest: before an exit. Blocks on the disk.
    pub fn save(&self) {
        if let Some(saver) = &self.snapshot {
            saver.save_logged(When::AtExit);
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
    inherited: Arc<Inherited>,
    stores: Mutex<HashMap<Spec, Weak<Store<S>>>>,
}

impl<S: Sink> Default for Clusters<S> {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl<S: Sink> Clusters<S> {
    /// Stores that begin with what the process before has left in `inherited`.
    pub fn new(inherited: Arc<Inherited>) -> Self {
        Self { inherited, stores: Mutex::default() }
    }

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
        let store = Store::start(spec.clone(), Arc::new(make()), runtime, &self.inherited)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Wanted;
    use crate::cluster::test_sink::Recorder;

    fn endpoint() -> Spec {
        // Port 1 of the loopback: nobody listens there.
        Spec::new(Source::Endpoint { url: "http://127.0.0.1:1".into(), tls: None })
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
        let store = Store::start(
            endpoint(),
            Arc::new(Recorder::default()),
            &Handle::current(),
            &Inherited::default(),
        )
        .unwrap();
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
        let started = Store::start(
            spec,
            Arc::new(Recorder::default()),
            &Handle::current(),
            &Inherited::default(),
        );
        assert_eq!(started.err(), Some(StartError::SelectorWithFolder));
    }
}
