//! The worker threads. Each has a runtime of its own and its own sockets for every address, so that the kernel spreads
//! clients over workers (SO_REUSEPORT) and workers share nothing that a query writes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use netsetup::privileges::run_in_slices;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::handshake::Encrypted;
use super::handshake::listeners::{AllEncrypted, Give};
use super::listener::Listener;
use super::metrics::PoolMetrics;
use super::places::Places;
use super::sockets::{BindError, Sockets};
use super::source::SocketSource;
use super::tcp::{self, Connections};
use super::tls::{Scheme, Secured};
pub use super::worker::DRAIN;
use super::worker::{MAX_PENDING, PassOn, Phase, Worker};
use super::{Dispatch, https, pending, udp};
use crate::admission::Shares;
use crate::chain::Local;
use crate::clients::{ClientShares, Clients};
use crate::handover::SocketKind;
use crate::in_hand::{self, Slot};
use crate::suspects::Refused;

/// How long a worker means to run at a time: some fifty queries. So a query that comes while another thread decodes a change
/// is answered first.
const SLICE: Duration = Duration::from_micros(100);

/// What belongs to an address.
const DNS: [SocketKind; 2] = [SocketKind::Udp, SocketKind::Tcp];

/// What a worker is to serve, until `phase` changes.
struct Task {
    listener: Arc<Listener>,
    work: Work,
    phase: watch::Receiver<Phase>,
}

enum Work {
    /// Listening sockets.
    Sockets(Sockets),
    /// A connection that another process has accepted, and the name under which the supervisor keeps it, if it does.
    Connection(OwnedFd, Option<String>),
    /// A connection within TLS, whose handshake is done.
    Secured(Box<Secured>),
}

struct Thread {
    worker: Arc<Worker>,
    tasks: mpsc::UnboundedSender<Task>,
    handle: JoinHandle<()>,
    ended: std::sync::mpsc::Receiver<()>,
}

struct Open {
    listener: Arc<Listener>,
    phase: watch::Sender<Phase>,
}

/// All workers and all listening addresses.
pub struct Pool {
    threads: Mutex<Vec<Thread>>,
    workers: Vec<Arc<Worker>>,
    places: ClientShares,
    connections: Arc<Connections>,
    source: Arc<SocketSource>,
    /// Counts connections of other processes, so that workers get them in turns.
    adopted: AtomicUsize,
    open: Mutex<BTreeMap<SocketAddr, Open>>,
    encrypted: Arc<AllEncrypted>,
}

impl Pool {
    /// Starts `workers` threads that have nothing to do yet. Their sockets come from `source`; what they have in hand is recorded in
    /// `slots`, one for each, as far as there are some; they refuse `refused`.
    /// What `clients` takes for one client has one client's share of all places.
    pub fn start(
        workers: usize,
        clients: &Arc<Clients>,
        source: Arc<SocketSource>,
        slots: Vec<Slot>,
        refused: Option<Arc<Refused>>,
    ) -> io::Result<Self> {
        let connections = Arc::new(Connections::new(source.keeper(), clients));
        let places = ClientShares::new(MAX_PENDING, clients);
        let mut slots = slots.into_iter();
        let threads = (0..workers)
            .map(|number| {
                let (connections, places) = (Arc::clone(&connections), places.clone());
                spawn_thread(number, connections, places, (slots.next(), refused.clone()))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let workers = threads.iter().map(|thread| Arc::clone(&thread.worker)).collect();
        let (threads, open) = (Mutex::new(threads), Mutex::default());
        let adopted = AtomicUsize::new(0);
        let encrypted = Arc::default();
        Ok(Self { threads, workers, places, connections, source, adopted, open, encrypted })
    }

    /// The workers, for their numbers.
    pub fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// What it hands in to metrics, for the life of the process.
    pub fn metrics(&self) -> Arc<PoolMetrics> {
        let connections = Arc::clone(&self.connections);
        let encrypted = Arc::clone(&self.encrypted);
        Arc::new(PoolMetrics { workers: self.workers.clone(), connections, encrypted })
    }

    /// What clients can fill, for the memory budget; `forwarded` are the places of queries for groups of upstreams.
    pub fn places(&self, forwarded: Arc<Shares>) -> Arc<Places> {
        let (pending, connections) = (self.places.clone(), Arc::clone(&self.connections));
        Arc::new(Places { pending, forwarded, connections })
    }

    /// Open TCP connections.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.lock().keys().copied().collect()
    }

    /// Makes the listening addresses those of `wanted`, with these dispatches. New addresses are opened first: if one
    /// cannot be had, nothing changes. Addresses that stay keep their sockets; those that go are drained.
    /// `encrypted` are addresses of TCP, none of which is in `wanted`.
    pub fn apply(
        &self,
        wanted: BTreeMap<SocketAddr, Arc<Dispatch>>,
        encrypted: BTreeMap<SocketAddr, Encrypted>,
    ) -> Result<(), BindError> {
        let mut open = self.lock();
        let secured = self.encrypted.open_new(&encrypted, &self.source)?;
        let mut new: Vec<(SocketAddr, Vec<Sockets>)> = Vec::new();
        for address in wanted.keys().filter(|address| !open.contains_key(address)) {
            match self.source.dns(*address, self.workers.len()) {
                Ok(sockets) => new.push((*address, sockets)),
                Err(error) => {
                    new.iter().for_each(|(address, _)| self.source.forget(&DNS, *address));
                    self.encrypted.give_up(secured, &self.source);
                    return Err(error);
                }
            }
        }
        let ending = self.ending();
        open.retain(|address, old| {
            let stays = wanted.contains_key(address);
            if !stays {
                self.source.forget(&DNS, *address);
                old.phase.send_replace(ending.clone());
            }
            stays
        });
        for (address, dispatch) in &wanted {
            if let Some(old) = open.get(address) {
                old.listener.dispatch.store(Arc::new(Arc::clone(dispatch)));
            }
        }
        for (address, sockets) in new {
            let Some(dispatch) = wanted.get(&address) else { continue };
            let listener = Arc::new(Listener::new(address, Arc::clone(dispatch), None));
            let new = Open { listener, phase: watch::channel(Phase::Serving).0 };
            for (number, sockets) in sockets.into_iter().enumerate() {
                self.give(number, &new, Work::Sockets(sockets));
            }
            open.insert(address, new);
        }
        let left = (&*self.source, &ending);
        self.encrypted.apply(encrypted, secured, &self.connections, &self.giver(), left);
        Ok(())
    }

    /// Gives connections to workers in turns, for as long as these live.
    fn giver(&self) -> Give {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let inboxes: Vec<_> = threads.iter().map(|thread| thread.tasks.downgrade()).collect();
        let next = AtomicUsize::new(0);
        Arc::new(move |listener, secured, phase| {
            let number = next.fetch_add(1, Relaxed) % inboxes.len().max(1);
            if let Some(inbox) = inboxes.get(number).and_then(mpsc::WeakUnboundedSender::upgrade) {
                // Without a worker the connection is closed.
                let work = Work::Secured(Box::new(secured));
                let _ = inbox.send(Task { listener, work, phase });
            }
        })
    }

    /// Serves a connection that another process has accepted at `address`. It is closed if that is not listened on.
    /// `kept`: the name under which the supervisor has it.
    pub fn adopt(&self, address: SocketAddr, connection: OwnedFd, kept: Option<String>) {
        match (self.lock().get(&address), kept) {
            (Some(open), kept) => {
                let number = self.adopted.fetch_add(1, Relaxed);
                self.give(number, open, Work::Connection(connection, kept));
            }
            (None, Some(name)) => {
                if let Some(keeper) = self.source.keeper() {
                    keeper.forget(&name);
                }
            }
            (None, None) => {}
        }
    }

    /// Gives one of the workers something to serve.
    fn give(&self, number: usize, open: &Open, work: Work) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = threads.get(number % threads.len().max(1)) else { return };
        let (listener, phase) = (Arc::clone(&open.listener), open.phase.subscribe());
        // A worker ends only when the pool stops.
        let _ = thread.tasks.send(Task { listener, work, phase });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops: no new connections, what is queued is still answered, what waits has `patience` to be answered. Blocks until
    /// the threads have ended.
    pub fn stop(&self, patience: Duration) {
        let ending = self.ending();
        self.source.forget_all();
        self.end(&ending, patience);
    }

    /// What happens to sockets that are given up: those that another instance has, too, are only left.
    fn ending(&self) -> Phase {
        match self.source.is_shared() {
            true => Phase::HandedOver(Arc::new(|_, _| {})),
            false => Phase::Draining,
        }
    }

    /// Stops without touching the sockets, which another process serves now: what has been received is still answered, and
    /// `pass_on` gets each connection once it is idle. Blocks until the threads have ended.
    pub fn hand_over(&self, patience: Duration, pass_on: PassOn) {
        self.end(&Phase::HandedOver(pass_on), patience);
    }

    fn end(&self, phase: &Phase, patience: Duration) {
        for (_, old) in std::mem::take(&mut *self.lock()) {
            old.phase.send_replace(phase.clone());
        }
        self.encrypted.end(phase);
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
    places: ClientShares,
    (slot, refused): (Option<Slot>, Option<Arc<Refused>>),
) -> io::Result<Thread> {
    let worker = Arc::new(Worker::new(number, places.clone()));
    let (tasks, inbox) = mpsc::unbounded_channel();
    let (shared, tally) = (Arc::clone(&worker), Arc::clone(&worker.tally));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = std::sync::mpsc::channel();
    let handle = std::thread::Builder::new().name(format!("dns-{number}")).spawn(move || {
        Local::enter(number, places, tally, refused);
        if let Some(slot) = slot {
            in_hand::enter(slot);
        }
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
    let mut by_address: BTreeMap<SocketAddr, Arc<tcp::Shared>> = BTreeMap::new();
    let pinged = Arc::clone(&worker);
    tokio::spawn(async move { pinged.answer_pings().await });
    while let Some(Task { listener, work, phase }) = inbox.recv().await {
        let address = listener.address;
        let shared = by_address
            .entry(address)
            .or_insert_with(|| tcp::Shared::new(&listener, &worker, &connections));
        if !Arc::ptr_eq(&shared.listener, &listener) {
            // The address was given up and came back.
            *shared = tcp::Shared::new(&listener, &worker, &connections);
        }
        let shared = Arc::clone(shared);
        let sockets = match work {
            Work::Sockets(sockets) => sockets,
            Work::Connection(connection, kept) => {
                tcp::adopt(connection, kept, &shared, &phase);
                continue;
            }
            Work::Secured(secured) => {
                match listener.encryption.as_ref().map(|encryption| encryption.scheme) {
                    Some(Scheme::Https) => https::serve(*secured, &shared, &phase),
                    _ => tcp::secured(*secured, &shared, &phase),
                }
                continue;
            }
        };
        let serve = (listener, phase.clone());
        serving.spawn(supervise("UDP", address, Arc::clone(&worker), sockets.udp, {
            let worker = Arc::clone(&worker);
            move |socket| {
                let (listener, phase) = serve.clone();
                udp::serve(socket, listener, Arc::clone(&worker), phase)
            }
        }));
        serving.spawn(supervise("TCP", address, Arc::clone(&worker), sockets.tcp, move |socket| {
            tcp::serve(socket, Arc::clone(&shared), phase.clone())
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[tokio::test]
    async fn a_socket_whose_serving_panics_is_served_again_with_what_is_queued() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(DRAIN)).unwrap();
        let address = socket.local_addr().unwrap();
        socket.send_to(b"queued", address).unwrap();
        let worker = Arc::new(Worker::new(0, ClientShares::new(1, &Arc::default())));
        let (begun, received) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
        let serve = |socket: OwnedFd| async move {
            assert!(begun.fetch_add(1, Relaxed) > 0, "a bug");
            received.store(UdpSocket::from(socket).recv(&mut [0; 8])?, Relaxed);
            Ok::<(), io::Error>(())
        };
        supervise("UDP", address, Arc::clone(&worker), socket.into(), serve).await;
        assert_eq!((begun.load(Relaxed), received.load(Relaxed)), (2, b"queued".len()));
        assert_eq!(worker.panics(), 1);
    }
}
