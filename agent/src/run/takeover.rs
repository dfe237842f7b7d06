//! What this process begins with, and what it leaves to the next one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::mpsc;

use crate::admin::Readiness;
use crate::assemble::Assembled;
use crate::clock::CoarseInstant;
use crate::handover::{
    self, Asked, Channel, Handing, Inherited, Item, Keeper, Listening, Message, PREDECESSOR, Place,
    Predecessor, Record, memory,
};
use crate::in_hand::{self, Slot};
use crate::plan::Plan;
use crate::plugin::cache::export;
use crate::probe;
use crate::server::source::SocketSource;
use crate::server::{Liveness, Pool};
use crate::shared::Shared;
use crate::supervisor::{self, Link};
use crate::suspects::{self, Refused, Suspects};
use crate::upstream::registry;

/// How much of the cache is kept for the time after a crash, in bytes: some 20,000 answers. A hand-over passes on all of it.
const KEPT_CACHE: usize = 4 << 20;
/// The shortest time between two writings of what is kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Writing takes at most this part of the time.
const KEEP_SHARE: u32 = 100;
/// What a passed connection's name begins with; the listening address follows.
const CONNECTION: &str = "connection ";

/// What this process begins with.
pub(super) struct Before {
    /// Sockets and memory.
    pub(super) inherited: Arc<Inherited>,
    /// The supervisor, if there is one.
    pub(super) link: Option<Link>,
    /// How often it has started the server again, and why the last time.
    restarts: (u64, String),
    predecessor: Option<Predecessor>,
    /// An instance that does not answer: what is to be said of it.
    silent: Option<(Option<Pid>, String)>,
}

impl Before {
    /// Takes what the supervisor keeps, if there is one. To be called while there is one thread.
    pub(super) fn take() -> anyhow::Result<Self> {
        let inherited = Arc::new(Inherited::default());
        let (mut link, mut restarts) = (None, (0, String::new()));
        if Link::is_there() {
            let start = Link::take(&inherited).context("the supervisor has ended")?;
            restarts = (start.restarts, start.why);
            link = Some(start.link);
        }
        let predecessor = inherited.take(PREDECESSOR).map(Predecessor::again);
        Ok(Self { inherited, link, restarts, predecessor, silent: None })
    }

    /// Says in the log how the process before this one ended.
    pub(super) fn log(&self) {
        let (count, why) = &self.restarts;
        if !why.is_empty() {
            tracing::warn!(restarts = count, "the server was started again: {why}");
        }
    }

    /// Asks the instance that serves beside this one, if any, for everything. Not after a crash, when the sockets are here, nor if
    /// they share neither an address nor the link.
    ///
    /// # Errors
    /// Another instance is about to take over, or the running one could not hand over.
    pub(super) fn ask(
        &mut self,
        socket: Option<PathBuf>,
        plan: &Plan,
        link: Option<&str>,
    ) -> anyhow::Result<()> {
        let Some(path) = socket.filter(|_| !self.inherited.has_sockets()) else {
            return Ok(());
        };
        // Without its addresses the start will fail: that is said there.
        let Ok(own) = plan.own_addresses() else { return Ok(()) };
        let place = Place::new(link, own.addresses().iter().copied());
        match handover::ask(&path, &place, &self.inherited)? {
            Asked::Alone => {}
            Asked::Busy => anyhow::bail!(
                "another instance is about to take over at {}; start this one when it has",
                path.display()
            ),
            Asked::Silent(pid) => {
                let who = pid.map_or("an instance".to_owned(), |pid| format!("process {pid}"));
                let text = format!(
                    "{who} holds {} and does not answer: queries that the kernel gives to its sockets are lost until it ends",
                    path.display()
                );
                tracing::error!("{text}");
                self.silent = Some((pid, text));
            }
            Asked::Found(predecessor) => {
                tracing::info!(
                    release = predecessor.release,
                    "taking over from the instance that serves"
                );
                self.predecessor = Some(predecessor);
            }
        }
        Ok(())
    }

    /// Says to the instance that serves that this one will not.
    pub(super) fn failed(&self, why: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.failed(why);
        }
    }

    /// Of hand-overs and restarts.
    pub(super) fn record(&self) -> Arc<Record> {
        Record::new(self.restarts.0)
    }

    /// Where sockets come from.
    pub(super) fn source(&self) -> Arc<SocketSource> {
        let keeper = self.link.clone().map(|link| Arc::new(link) as Arc<dyn Keeper>);
        Arc::new(SocketSource::new(Arc::clone(&self.inherited), keeper))
    }

    /// Makes the record of what the workers have in hand, if there is a supervisor to keep it; and looks at that of the process
    /// before, if it has crashed.
    pub(super) fn crash_record(&self, workers: usize) -> (Vec<Slot>, Option<Arc<Refused>>) {
        let Some(link) = &self.link else { return (Vec::new(), None) };
        let now = CoarseInstant::now();
        let before = self.inherited.take(in_hand::NAME);
        let known = self.inherited.take_memory(suspects::NAME);
        let mut suspects = Suspects::read(&known.unwrap_or_default());
        if suspects::may_explain(&self.restarts.1) {
            suspects.crashed(&suspects::in_hand_before(before.as_ref()), now);
            match suspects.write() {
                Ok(memory) => link.keep(suspects::NAME, memory.as_fd()),
                Err(error) => tracing::warn!(%error, "this crash will not be remembered"),
            }
        }
        let slots = in_hand::create(workers).map(|(memory, slots)| {
            link.keep(in_hand::NAME, memory.as_fd());
            slots
        });
        let slots = slots.unwrap_or_else(|error| {
            tracing::warn!(%error, "after a crash it will not be known what the server was about");
            Vec::new()
        });
        (slots, suspects.refused(now).map(Arc::new))
    }

    /// Takes in what was known of upstreams. To be called before any is made.
    pub(super) fn fill_health(&self, shared: &Shared) {
        let known = self.inherited.take_memory(registry::NAME);
        if let Some(Err(error)) = known.map(|bytes| shared.health_registry.import(&bytes)) {
            tracing::warn!(%error, "what was known of upstreams is not used");
        }
    }

    /// Takes in the cache.
    pub(super) fn fill_cache(&self, assembled: &Assembled) {
        let Some(bytes) = self.inherited.take_memory(export::NAME) else { return };
        let (store, blocks) = &assembled.cache;
        match export::read(store, blocks, &bytes, CoarseInstant::now()) {
            Ok(answers) => tracing::info!(answers, "the cache of the process before is here"),
            Err(error) => tracing::warn!(%error, "the cache of the process before is not used"),
        }
    }

    /// Queries are answered from now on: says so, and takes over the connections of the instance before.
    pub(super) fn serving(
        self,
        pool: &Arc<Pool>,
        readiness: &Arc<Readiness>,
    ) -> anyhow::Result<Running> {
        // What the configuration does not want any more.
        self.inherited.clear();
        if let Some(link) = &self.link {
            link.serving();
        }
        if let Some((pid, text)) = self.silent {
            readiness.set_neighbour(Some(text));
            tokio::spawn(forget_when_gone(pid, Arc::clone(readiness)));
        }
        let waits = Arc::new(AtomicBool::new(false));
        let mut connection = None;
        if let Some(predecessor) = self.predecessor {
            let held = predecessor.connection()?;
            if let Some(link) = &self.link {
                link.keep(PREDECESSOR, held.as_fd());
            }
            connection = Some(held);
            if let Err(error) = predecessor.serving() {
                tracing::warn!(%error, "the instance before does not hear that this one serves");
            }
            let (pool, waits) = (Arc::clone(pool), Arc::clone(&waits));
            std::thread::Builder::new()
                .name("handover".into())
                .spawn(move || follow(&predecessor, &pool, &waits))?;
        }
        Ok(Running { link: self.link, connection, waits })
    }
}

/// Takes connections over until the instance before has ended, on a thread of its own.
fn follow(predecessor: &Predecessor, pool: &Pool, waits: &AtomicBool) {
    let mut connections = 0_u64;
    while let Some(message) = predecessor.receive() {
        match message {
            Message::Item { name, fd } => {
                let address = name.strip_prefix(CONNECTION).and_then(|text| text.parse().ok());
                if let Some(address) = address {
                    pool.adopt(address, fd);
                    connections += 1;
                }
            }
            Message::Left(will_wait) => {
                waits.store(will_wait, Relaxed);
                tracing::info!(connections, "the instance before has left");
            }
            _ => {}
        }
    }
    waits.store(false, Relaxed);
}

/// Lets `/ready?verbose` and `nodens status` speak of an instance that does not answer until it has ended.
async fn forget_when_gone(pid: Option<Pid>, readiness: Arc<Readiness>) {
    let Some(pid) = pid else { return };
    while !matches!(kill(pid, None), Err(nix::Error::ESRCH)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    readiness.set_neighbour(None);
}

/// What a process that serves knows of the ones around it.
pub(super) struct Running {
    link: Option<Link>,
    /// To the instance before, if that waits; passed on to the next.
    connection: Option<OwnedFd>,
    waits: Arc<AtomicBool>,
}

impl Running {
    /// True if the instance before takes over again when this one ends: sockets and network stay as they are.
    pub(super) fn is_awaited(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// True if this process is the first of its container and has no supervisor: its end would have it started anew.
    pub(super) fn ends_container(&self) -> bool {
        self.link.is_none() && getpid() == Pid::from_raw(1)
    }

    /// Passes a connection of a client on.
    pub(super) fn pass_on(channel: &Channel, address: SocketAddr, connection: OwnedFd) {
        let item = Message::Item { name: format!("{CONNECTION}{address}"), fd: connection };
        if let Err(error) = channel.send(&item) {
            tracing::debug!(%error, "a connection was not passed on");
        }
    }

    /// Everything is drained: says so to the next instance, to the supervisor, and to probes.
    pub(super) fn left(&self, channel: Arc<Channel>, socket: &Path) {
        let waits = self.link.is_some() && getppid() == Pid::from_raw(1);
        if waits || self.ends_container() {
            probe::mark_handed_over(socket);
        }
        // If it has ended meanwhile, the supervisor finds out.
        let _ = channel.send(&Message::Left(waits));
        if let (Some(link), Ok(connection)) = (&self.link, channel.as_fd().try_clone_to_owned()) {
            link.handed_over(connection);
        }
    }

    /// The part of a hand-over that has to do with this one.
    pub(super) fn connection(&self) -> Option<OwnedFd> {
        self.connection.as_ref().and_then(|fd| fd.try_clone().ok())
    }
}

/// Gives everything to the next instance.
pub(super) struct Giver {
    pub(super) shared: Arc<Shared>,
    pub(super) source: Arc<SocketSource>,
    pub(super) connection: Option<OwnedFd>,
    pub(super) handed_over: mpsc::Sender<Channel>,
    pub(super) record: Arc<Record>,
    /// The interface that this instance keeps.
    pub(super) link: Option<String>,
}

impl Handing for Giver {
    fn place(&self) -> Place {
        Place::new(self.link.as_deref(), self.source.addresses())
    }

    fn items(&self) -> io::Result<Vec<Item>> {
        let mut items = self.source.items()?;
        if let Some(connection) = &self.connection {
            items.push((PREDECESSOR.to_owned(), connection.try_clone()?));
        }
        items.push(cache(&self.shared, usize::MAX)?);
        for store in self.shared.clusters.running() {
            items.extend(store.export(None)?.map(|(item, _)| item));
        }
        items.push(health(&self.shared.health_registry.export())?);
        Ok(items)
    }

    fn handed_over(&self, channel: Channel) {
        // The loop that reads it lives as long as the process.
        let _ = self.handed_over.blocking_send(channel);
    }

    fn failed(&self, why: &str) {
        self.record.failed(why);
        tracing::error!(
            "another instance was to take over and did not; this one goes on serving: {why}"
        );
    }
}

fn cache(shared: &Shared, budget: usize) -> io::Result<Item> {
    let store = shared.cache.load_full();
    let memory = memory::write(export::NAME, |to| {
        export::write(&store, CoarseInstant::now(), budget, to).map(drop)
    })?;
    Ok((export::NAME.to_owned(), memory))
}

fn health(known: &[u8]) -> io::Result<Item> {
    Ok((registry::NAME.to_owned(), memory::write(registry::NAME, |to| to.write_all(known))?))
}

/// Has the supervisor keep what is known, for the time after a crash. Writes what has changed, as often as that is cheap.
pub(super) async fn keep_memory(shared: Arc<Shared>, link: Link) {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let mut pause = KEEP_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let (shared, link, kept) = (Arc::clone(&shared), link.clone(), Arc::clone(&kept));
        // It walks all entries and objects: not on a thread that others wait for.
        let written = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = kept.renew(&shared, &link) {
                tracing::warn!(%error, "cache and store are not kept for the time after a crash");
            }
            begun.elapsed()
        });
        pause = written.await.map_or(KEEP_EVERY, |took| KEEP_EVERY.max(took * KEEP_SHARE));
    }
}

/// What the supervisor keeps, as far as it tells whether that is still the latest.
#[derive(Default)]
struct Kept {
    cache: u64,
    stores: HashMap<String, u64>,
    health: Vec<u8>,
}

impl Kept {
    fn renew(&mut self, shared: &Shared, link: &Link) -> io::Result<()> {
        let changes = shared.cache.load().changes();
        if changes != self.cache {
            let (name, memory) = cache(shared, KEPT_CACHE)?;
            link.keep(&name, memory.as_fd());
            self.cache = changes;
        }
        for store in shared.clusters.running() {
            let last = store.memory_name().and_then(|name| self.stores.get(name).copied());
            if let Some(((name, memory), state)) = store.export(last)? {
                link.keep(&name, memory.as_fd());
                self.stores.insert(name, state);
            }
        }
        let known = shared.health_registry.export();
        if known != self.health {
            let (name, memory) = health(&known)?;
            link.keep(&name, memory.as_fd());
            self.health = known;
        }
        Ok(())
    }
}

/// Returns when the supervisor has ended; never without one.
pub(super) async fn supervisor_ended(link: Option<&Link>, record: Arc<Record>) {
    let Some(link) = link.cloned() else { return std::future::pending().await };
    // The thread that waits ends with the process.
    let (sender, ended) = tokio::sync::oneshot::channel();
    let waiting = std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        link.wait_for_end(|why| record.failed(why));
        let _ = sender.send(());
    });
    if waiting.is_err() || ended.await.is_err() {
        std::future::pending().await
    }
}

/// Tells the supervisor again and again that queries are answered, as long as they are.
pub(super) async fn show_life(link: Link, liveness: Arc<Liveness>) {
    let mut often = tokio::time::interval(supervisor::SIGN_OF_LIFE);
    loop {
        often.tick().await;
        if liveness.trouble().is_none() {
            link.alive();
        }
    }
}

/// Lets the next instance find this one. Without it the next one starts beside this one.
pub(super) fn wait_for_successor(socket: Option<PathBuf>, giver: Giver) -> Option<Listening> {
    let path = socket?;
    match handover::listen(&path, Arc::new(giver)) {
        Ok(listening) => Some(listening),
        Err(error) => {
            let path = path.display();
            tracing::warn!(
                "an instance that starts beside this one will begin with nothing: cannot listen on {path}: {error}"
            );
            None
        }
    }
}
