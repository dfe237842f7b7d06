//! What this process begins with, and what it leaves to the next one.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::mpsc;

use super::configuration;
use super::losses::Used;
use super::signals::Signals;
use crate::args::Serve;
use crate::assemble::Assembled;
use crate::clock::CoarseInstant;
use crate::conditions::{Conditions, table};
use crate::corefile::File;
use crate::doctor::procfs::Process;
use crate::file_watch;
use crate::handover::{
    self, Asked, Channel, Inherited, Keeper, MAX_PREDECESSORS, Message, PREDECESSOR, Place,
    Predecessor, Record, connection_address, connection_name,
};
use crate::in_hand::{self, Slot};
use crate::node::Origin;
use crate::plan::Plan;
use crate::plugin::cache::export;
use crate::probe;
use crate::server::source::SocketSource;
use crate::server::{Liveness, Pool};
use crate::shared::Shared;
use crate::supervisor::{self, Link, Start};
use crate::suspects::{self, Refused, Suspects};
use crate::upgrade;
use crate::upstream::registry;

/// How long a start waits for its watches while another instance serves, and how often it looks.
const LIVE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);
/// How often it is looked for an instance in the place of the one before.
const TELL_TRIES: usize = 3;

/// What this process begins with.
pub(super) struct Before {
    /// Sockets and memory.
    pub(super) inherited: Arc<Inherited>,
    /// The supervisor, if there is one.
    pub(super) link: Option<Link>,
    /// The configuration that ran before a crash, if this start begins with it and not with the file.
    unread: Option<File>,
    /// How often it has started the server again, and why the last time.
    restarts: (u64, String),
    predecessor: Option<Predecessor>,
    /// Instances before that one, which may wait for the end of all that came after them.
    older: Vec<Arc<Predecessor>>,
    /// An instance that has nothing to do with this one has the sockets of commands and hand-overs.
    is_beside: bool,
    /// Where that one was asked, and for which place.
    asked: Option<(PathBuf, Place)>,
    /// An instance that does not answer: what is to be said of it.
    silent: Option<(Option<Pid>, String)>,
}

impl Before {
    /// With what the supervisor keeps, if there is one.
    pub(super) fn take(start: Option<Start>) -> Self {
        let inherited = Arc::new(Inherited::default());
        let (mut link, mut restarts) = (None, (0, String::new()));
        if let Some(mut start) = start {
            file_watch::forget_those_before(&mut start.items, &start.link);
            file_watch::keep_with(Arc::new(start.link.clone()));
            for (name, fd) in start.items {
                inherited.add(name, fd);
            }
            restarts = (start.restarts, start.why);
            link = Some(start.link);
        }
        let older = Predecessor::all_again(&inherited);
        Self {
            inherited,
            link,
            unread: None,
            restarts,
            predecessor: None,
            older,
            is_beside: false,
            asked: None,
            silent: None,
        }
    }

    /// The configuration with which the start begins.
    pub(super) fn configuration(&mut self, args: &Serve, origin: &Origin) -> Plan {
        let (plan, unread) =
            configuration::choose(args, origin, &self.inherited, self.link.as_ref());
        self.unread = unread;
        plan
    }

    /// Says in the log how the process before this one ended.
    pub(super) fn log(&self) {
        let (count, why) = &self.restarts;
        if !why.is_empty() {
            tracing::warn!(restarts = count, "the server was started again: {why}");
        }
    }

    /// Asks the instance that serves beside this one, if any, for everything, unless they share neither an address nor the link.
    /// After a crash that is one that has taken over meanwhile, or was about to.
    ///
    /// # Errors
    /// Another instance is about to take over, or the running one could not hand over.
    pub(super) fn ask(
        &mut self,
        socket: Option<PathBuf>,
        plan: &Plan,
        link: Option<&str>,
    ) -> anyhow::Result<()> {
        let Some(path) = socket else { return Ok(()) };
        // Without its addresses the start will fail: that is said there.
        let Ok(own) = plan.own_addresses() else { return Ok(()) };
        let place = Place::new(link, own.addresses().iter().copied());
        match handover::ask(&path, &place, &self.inherited)? {
            Asked::Alone if self.is_upgrade() => {
                anyhow::bail!("the instance to be upgraded was not found at {}", path.display())
            }
            Asked::Alone => {}
            Asked::Unrelated if self.is_upgrade() => anyhow::bail!(
                "the configuration listens at none of the running instance's addresses; `nodens reload` would hold it back, too"
            ),
            Asked::Unrelated => {
                tracing::warn!(
                    "an instance that listens elsewhere has {}: choose another --socket for this one; until then `nodens status` reaches the other, and no instance can take over from this one",
                    path.display()
                );
                self.is_beside = true;
            }
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
                self.older.extend(Predecessor::all_again(&self.inherited));
                if let Some(link) = &self.link {
                    // For a crash before this process has written its own.
                    self.inherited.keep_memory(link);
                }
            }
        }
        self.asked = Some((path, place));
        Ok(())
    }

    /// Waits for the API server's word that watches continue, if an instance serves meanwhile: it is not to leave to one that may
    /// not watch, or whose API server does not answer. Bounded, since that one may be cut off as well.
    pub(super) async fn wait_until_live(&self, assembled: &Assembled) {
        if self.predecessor.is_none() {
            return;
        }
        let until = Instant::now() + assembled.startup_timeout.min(LIVE);
        while Instant::now() < until {
            if assembled.stores.iter().all(|store| store.status().is_live()) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        if !assembled.stores.is_empty() {
            tracing::warn!("taking over although the API server has not confirmed every watch");
        }
    }

    /// True if another instance serves at the addresses, or the sockets are inherited: the network is in use.
    pub(super) fn is_shared(&self) -> bool {
        self.predecessor.is_some() || self.silent.is_some() || self.inherited.has_sockets()
    }

    /// The sockets of commands and hand-overs: none of those that another instance has.
    pub(super) fn sockets(&self, args: &Serve) -> (PathBuf, Option<PathBuf>) {
        if self.is_beside {
            return (PathBuf::new(), None);
        }
        (args.socket.clone(), args.handover_socket())
    }

    /// True for the first start of an instance that was started by an upgrade.
    fn is_upgrade(&self) -> bool {
        upgrade::is_begun() && self.restarts.0 == 0
    }

    /// Says to the instance that serves that this one will not.
    pub(super) fn failed(&self, why: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.failed(why);
        }
    }

    /// Of hand-overs and restarts.
    pub(super) fn record(&self) -> Arc<Record> {
        Record::new(self.restarts.0, &self.restarts.1)
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

    /// Has the supervisor keep the configuration that now runs.
    pub(super) fn keep_configuration(&self, file: &File) {
        // The kept one is kept already, and counts as tried until the file has been read.
        if let (Some(link), None) = (&self.link, &self.unread) {
            configuration::keep(link, file, 0);
        }
    }

    /// Takes in the cache: all of it while another instance serves, else the hottest part at once and the rest meanwhile.
    pub(super) fn fill_cache(&self, assembled: &Assembled) {
        let Some(all) = self.inherited.take(export::NAME) else { return };
        let hottest = self.inherited.take(export::HOTTEST_NAME);
        let (store, blocks) = assembled.cache.clone();
        let fill = move |memory: &OwnedFd| match export::read(memory, &store, &blocks) {
            Ok(answers) => tracing::info!(answers, "took over answers of the cache"),
            Err(error) => {
                tracing::warn!(%error, "the cache of the process before is not used");
            }
        };
        match hottest {
            Some(hottest) if self.predecessor.is_none() => fill(&hottest),
            _ => return fill(&all),
        }
        let rest = std::thread::Builder::new().name("handover".into());
        if let Err(error) = rest.spawn(move || fill(&all)) {
            tracing::warn!(%error, "only the hottest answers of the process before are taken over");
        }
    }

    /// Queries are answered from now on: says so, and takes over the connections of the instance before. Nothing in here may fail,
    /// since that instance leaves.
    pub(super) fn serving(
        mut self,
        pool: &Arc<Pool>,
        source: &Arc<SocketSource>,
        conditions: &Arc<Conditions>,
    ) -> Running {
        for (name, address, connection) in self.inherited.take_connections() {
            pool.adopt(address, connection, Some(name));
        }
        // What the configuration does not want any more.
        self.inherited.clear();
        if let Some(link) = &self.link {
            link.serving();
        }
        if let Some((pid, text)) = self.silent.take() {
            conditions.set(&table::NEIGHBOUR_SILENT, vec![text]);
            tokio::spawn(forget_when_gone(pid, Arc::clone(conditions)));
        }
        let newest = self.tell_predecessor().map(Arc::new);
        let known: Vec<_> = newest.iter().chain(&self.older).take(MAX_PREDECESSORS).collect();
        if let Some(link) = &self.link {
            for (n, predecessor) in known.iter().enumerate() {
                link.keep(&format!("{PREDECESSOR} {n}"), predecessor.connection());
            }
        }
        source.set_predecessors(known.into_iter().map(Arc::clone).collect());
        if let Some(predecessor) = newest {
            let pool = Arc::clone(pool);
            let following = std::thread::Builder::new()
                .name("handover".into())
                .spawn(move || follow(&predecessor, &pool));
            if let Err(error) = following {
                tracing::warn!(%error, "the connections of the instance before are not taken over");
            }
        }
        Running { link: self.link, source: Arc::clone(source), unread: self.unread }
    }

    /// Says that this instance serves to the one before, or to the one that has come in its place: one that crashed meanwhile is
    /// started again by its supervisor, with the same sockets.
    fn tell_predecessor(&mut self) -> Option<Predecessor> {
        let mut predecessor = self.predecessor.take()?;
        for _ in 0..TELL_TRIES {
            let Err(error) = predecessor.serving() else { return Some(predecessor) };
            tracing::warn!(%error, "the instance before has ended; it is looked whether another is in its place");
            let (path, place) = self.asked.as_ref()?;
            // What it has is here already.
            match handover::ask(path, place, &Inherited::default()) {
                Ok(Asked::Found(other)) => predecessor = other,
                _ => return None,
            }
        }
        None
    }
}

/// Takes connections over until the instance before has ended, on a thread of its own.
fn follow(predecessor: &Predecessor, pool: &Pool) {
    while let Some(message) = predecessor.receive() {
        match message {
            Message::Item { name, fd } => {
                if let Some(address) = connection_address(&name) {
                    pool.adopt(address, fd, None);
                }
            }
            Message::Left(waits) => tracing::info!(waits, "the previous instance has left"),
            _ => {}
        }
    }
}

/// Lets `/ready?verbose` and `nodens status` speak of an instance that does not answer until it has ended, or, if it was
/// stopped by a signal, until it continues: then both answer.
async fn forget_when_gone(pid: Option<Pid>, conditions: Arc<Conditions>) {
    let Some(pid) = pid else { return };
    let was_stopped = is_stopped(pid);
    while !matches!(kill(pid, None), Err(nix::Error::ESRCH)) && (!was_stopped || is_stopped(pid)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    conditions.set(&table::NEIGHBOUR_SILENT, Vec::new());
}

/// Whether a process is stopped by a signal. One that cannot be seen is not.
fn is_stopped(pid: Pid) -> bool {
    Process::read(pid.as_raw()).is_some_and(|process| process.is_stopped())
}

/// What a process that serves knows of the ones around it.
pub(super) struct Running {
    link: Option<Link>,
    source: Arc<SocketSource>,
    /// The configuration that the start began with, if the file is still to be read.
    unread: Option<File>,
}

impl Running {
    /// True if the start began with a kept configuration, and the file is to be read by a reload.
    pub(super) fn is_to_read(&self) -> bool {
        self.unread.is_some()
    }

    /// The file has been read, whatever came of it: the configuration that the start began with has served so long.
    pub(super) fn has_read(&mut self) {
        if let (Some(link), Some(file)) = (&self.link, self.unread.take()) {
            configuration::keep(link, &file, 0);
        }
    }

    /// Has the supervisor keep a configuration that runs from now on.
    pub(super) fn keep_configuration(&mut self, file: &File) {
        self.unread = None;
        if let Some(link) = &self.link {
            configuration::keep(link, file, 0);
        }
    }

    /// What clients use of `running`. Of what they used before the crash nothing is known here: all of it counts, where the
    /// file is another one.
    pub(super) fn used(&self, running: &Assembled) -> Used {
        if self.is_to_read() { Used::all_of(running, Instant::now()) } else { Used::default() }
    }

    /// True if this process is the child of a supervisor.
    pub(super) fn has_supervisor(&self) -> bool {
        self.link.is_some()
    }

    /// True if another instance continues with the sockets when this one ends: network and sockets stay as they are.
    pub(super) fn is_awaited(&self) -> bool {
        self.source.is_shared()
    }

    /// True if this process is the first of its container and has no supervisor: its end would have it started anew.
    pub(super) fn ends_container(&self) -> bool {
        self.link.is_none() && getpid() == Pid::from_raw(1)
    }

    /// Passes a connection of a client on.
    pub(super) fn pass_on(channel: &Channel, address: SocketAddr, connection: OwnedFd) {
        let item = Message::Item { name: connection_name(address, None), fd: connection };
        if let Err(error) = channel.send(&item) {
            tracing::debug!(%error, "a connection was not passed on");
        }
    }

    /// The next instance serves: says to it, to the supervisor and to probes that this one leaves. Before anything is drained, so
    /// that a crash from here on starts nothing again.
    pub(super) fn leave(&self, channel: &Channel, socket: &Path) {
        let waits = self.link.is_some() && getppid() == Pid::from_raw(1);
        if waits || self.ends_container() {
            probe::mark_handed_over(socket);
        }
        if let (Some(link), Ok(connection)) = (&self.link, channel.as_fd().try_clone_to_owned()) {
            link.handed_over(connection);
        }
        // If it has ended meanwhile, the supervisor finds out.
        let _ = channel.send(&Message::Left(waits));
    }
}

/// What ends serving.
pub(super) enum End {
    /// A signal.
    Stop,
    /// The supervisor is gone.
    Supervisor,
    /// Another instance serves in the place of this one.
    Successor(Channel),
}

/// Waits for the first of these.
pub(super) async fn end(
    signals: &mut Signals,
    handed_over: &mut mpsc::Receiver<Channel>,
    supervisor_ended: Pin<&mut impl Future<Output = ()>>,
) -> End {
    tokio::select! {
        Some(successor) = handed_over.recv() => End::Successor(successor),
        () = signals.stop() => End::Stop,
        () = supervisor_ended => End::Supervisor,
    }
}

/// Returns when the supervisor has ended; never without one.
pub(super) async fn supervisor_ended(link: Option<&Link>, record: Arc<Record>) {
    let Some(link) = link.cloned() else { return std::future::pending().await };
    // The thread that waits ends with the process.
    let (sender, ended) = tokio::sync::oneshot::channel();
    let waiting = std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        link.wait_for_end(|why| {
            tracing::error!("the upgrade has failed: {why}");
            record.failed(why);
        });
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
        if !liveness.is_dead() {
            link.alive();
        }
    }
}
