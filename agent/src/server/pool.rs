//! The worker threads. Each has a runtime of its own and its own sockets for every address, so that the kernel spreads
//! clients over workers (SO_REUSEPORT) and workers share nothing that a query writes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use netsetup::privileges::run_in_slices;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::listener::Listener;
use super::metrics::PoolMetrics;
use super::places::Places;
use super::sockets::{BindError, Sockets};
use super::tcp::{self, Connections};
use super::worker::{MAX_PENDING, Worker};
use super::{Dispatch, pending, udp};
use crate::admission::Shares;
use crate::chain::Local;

/// How long a worker means to run at a time: some fifty queries. So a query that comes while another thread decodes a change
/// is answered first.
const SLICE: Duration = Duration::from_micros(100);

/// Queries that still wait when the server stops are given this long (CoreDNS's graceful stop).
pub const DRAIN: Duration = Duration::from_secs(5);

/// Sockets for a worker to serve, until `draining` turns true.
struct Task {
    listener: Arc<Listener>,
    sockets: Sockets,
    draining: watch::Receiver<bool>,
}

struct Thread {
    worker: Arc<Worker>,
    tasks: mpsc::UnboundedSender<Task>,
    handle: JoinHandle<()>,
    ended: std::sync::mpsc::Receiver<()>,
}

struct Open {
    listener: Arc<Listener>,
    draining: watch::Sender<bool>,
}

/// All workers and all listening addresses.
pub struct Pool {
    threads: Mutex<Vec<Thread>>,
    workers: Vec<Arc<Worker>>,
    places: Arc<Shares>,
    connections: Arc<Connections>,
    open: Mutex<BTreeMap<SocketAddr, Open>>,
}

impl Pool {
    /// Starts `workers` threads that have nothing to do yet.
    pub fn start(workers: usize) -> io::Result<Self> {
        let connections = Arc::new(Connections::default());
        let places = Shares::new(MAX_PENDING);
        let threads = (0..workers)
            .map(|number| spawn_thread(number, Arc::clone(&connections), Arc::clone(&places)))
            .collect::<io::Result<Vec<_>>>()?;
        let workers = threads.iter().map(|thread| Arc::clone(&thread.worker)).collect();
        let threads = Mutex::new(threads);
        Ok(Self { threads, workers, places, connections, open: Mutex::default() })
    }

    /// The workers, for their numbers.
    pub fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// What it hands in to metrics, for the life of the process.
    pub fn metrics(&self) -> Arc<PoolMetrics> {
        let connections = Arc::clone(&self.connections);
        Arc::new(PoolMetrics { workers: self.workers.clone(), connections })
    }

    /// What clients can fill, for the memory budget; `forwarded` are the places of queries for groups of upstreams.
    pub fn places(&self, forwarded: Arc<Shares>) -> Arc<Places> {
        let (pending, connections) = (Arc::clone(&self.places), Arc::clone(&self.connections));
        Arc::new(Places { pending, forwarded, connections })
    }

    /// Open TCP connections.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Makes the listening addresses those of `wanted`, with these dispatches. New addresses are opened first: if one
    /// cannot be had, nothing changes. Addresses that stay keep their sockets; those that go are drained.
    pub fn apply(&self, wanted: BTreeMap<SocketAddr, Arc<Dispatch>>) -> Result<(), BindError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for address in wanted.keys().filter(|address| !open.contains_key(address)) {
            let sockets = self
                .workers
                .iter()
                .map(|_| Sockets::open(*address))
                .collect::<Result<Vec<_>, _>>()?;
            new.push((*address, sockets));
        }
        open.retain(|address, old| {
            let stays = wanted.contains_key(address);
            if !stays {
                old.draining.send_replace(true);
            }
            stays
        });
        for (address, dispatch) in &wanted {
            if let Some(old) = open.get(address) {
                old.listener.dispatch.store(Arc::new(Arc::clone(dispatch)));
            }
        }
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, sockets) in new {
            let Some(dispatch) = wanted.get(&address) else { continue };
            let listener = Arc::new(Listener::new(address, Arc::clone(dispatch)));
            let (draining, watch) = watch::channel(false);
            for (thread, sockets) in threads.iter().zip(sockets) {
                let task =
                    Task { listener: Arc::clone(&listener), sockets, draining: watch.clone() };
                // A worker ends only when the pool stops.
                let _ = thread.tasks.send(task);
            }
            open.insert(address, Open { listener, draining });
        }
        Ok(())
    }

    /// Stops: no new connections, what is queued is still answered, what waits has `patience` to be answered. Blocks until
    /// the threads have ended.
    pub fn stop(&self, patience: Duration) {
        for (_, old) in
            std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
        {
            old.draining.send_replace(true);
        }
        let deadline = std::time::Instant::now() + patience + Duration::from_secs(1);
        for Thread { worker, tasks, handle, ended } in
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..)
        {
            drop(tasks);
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            // Either way the thread has ended: it says so, or its sender is gone because it panicked.
            if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!(worker = worker.number, "a worker did not end in time");
            } else if handle.join().is_err() {
                tracing::error!(worker = worker.number, "a worker thread panicked");
            }
        }
    }
}

fn spawn_thread(
    number: usize,
    connections: Arc<Connections>,
    places: Arc<Shares>,
) -> io::Result<Thread> {
    let worker = Arc::new(Worker::new(number, Arc::clone(&places)));
    let (tasks, inbox) = mpsc::unbounded_channel();
    let shared = Arc::clone(&worker);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = std::sync::mpsc::channel();
    let handle = std::thread::Builder::new().name(format!("dns-{number}")).spawn(move || {
        Local::enter(number, places);
        // Without it, queries wait for whatever runs on this processor, and that is all.
        if let Err(error) = run_in_slices(SLICE) {
            tracing::debug!(worker = number, "{error}");
        }
        runtime.block_on(run(shared, inbox, connections));
        // Nobody listens where the pool is gone already.
        let _ = end.send(());
    })?;
    Ok(Thread { worker, tasks, handle, ended })
}

/// Serves what comes through `inbox` until that is closed and everything is drained.
async fn run(
    worker: Arc<Worker>,
    mut inbox: mpsc::UnboundedReceiver<Task>,
    connections: Arc<Connections>,
) {
    let mut serving = tokio::task::JoinSet::new();
    let pinged = Arc::clone(&worker);
    tokio::spawn(async move { pinged.answer_pings().await });
    while let Some(task) = inbox.recv().await {
        let Task { listener, sockets, draining } = task;
        let address = listener.address;
        let (serve, worker) = ((Arc::clone(&listener), draining.clone()), Arc::clone(&worker));
        serving.spawn(supervise("UDP", address, Arc::clone(&worker), sockets.udp, {
            let worker = Arc::clone(&worker);
            move |socket| {
                let (listener, draining) = serve.clone();
                udp::serve(socket, listener, Arc::clone(&worker), draining)
            }
        }));
        let connections = Arc::clone(&connections);
        serving.spawn(supervise("TCP", address, Arc::clone(&worker), sockets.tcp, move |socket| {
            let (listener, worker) = (Arc::clone(&listener), Arc::clone(&worker));
            tcp::serve(socket, listener, worker, Arc::clone(&connections), draining.clone())
        }));
        while serving.try_join_next().is_some() {}
    }
    while serving.join_next().await.is_some() {}
    let deadline = Instant::now() + DRAIN;
    while worker.waiting() + connections.count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pending::abandon();
}

/// Serves a socket until it has drained or failed. A panic is counted, and the socket is served anew: what waits in its
/// queue is not lost.
async fn supervise<F: Future<Output = io::Result<()>>>(
    kind: &'static str,
    address: SocketAddr,
    worker: Arc<Worker>,
    socket: OwnedFd,
    serve: impl Fn(OwnedFd) -> F,
) {
    loop {
        let served = match socket.try_clone() {
            Ok(socket) => AssertUnwindSafe(serve(socket)).catch_unwind().await,
            Err(error) => Ok(Err(error)),
        };
        match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(%error, %address, "the {kind} socket failed");
                return;
            }
            Err(_) => {
                worker.panicked();
                tracing::error!(%address, "serving the {kind} socket panicked; it is served again");
            }
        }
    }
}
