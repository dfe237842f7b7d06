//! What this process gives: everything to an instance that starts, and what is to outlive a crash to the supervisor.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock::CoarseInstant;
use crate::conditions::{Conditions, table};
use crate::handover::{
    self, Channel, Handing, Item, Keeper, Listening, PREDECESSOR, Place, Record, memory,
};
use crate::plugin::cache::export;
use crate::server::source::SocketSource;
use crate::shared::Shared;
use crate::supervisor::Link;
use crate::upstream::registry;

/// How much of the cache is kept for the time after a crash, in bytes: some 20,000 answers. A hand-over passes on all of it.
const KEPT_CACHE: usize = 4 << 20;
/// How much of that is the hottest part: some 500 answers, which are taken in within a millisecond.
const HOTTEST: usize = 64 << 10;
/// The shortest time between two writings of what is kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Writing takes at most this part of the time: a store of 150,000 endpoints that always changes is written every few seconds,
/// and after a crash its watches bring what is missing.
const KEEP_SHARE: u32 = 400;

/// Whether an instance that starts has been given everything.
#[derive(Default)]
pub(super) struct Giving(Mutex<GivingState>);

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum GivingState {
    #[default]
    Idle,
    Given,
    /// The server is about to stop, and gives nothing any more.
    Stopping,
}

impl Giving {
    fn lock(&self) -> MutexGuard<'_, GivingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server is to stop. True if an instance that starts has everything: it is to be awaited.
    pub(super) fn stop(&self) -> bool {
        let mut state = self.lock();
        if *state == GivingState::Idle {
            *state = GivingState::Stopping;
        }
        *state == GivingState::Given
    }

    /// True if that is still so.
    pub(super) fn is_given(&self) -> bool {
        *self.lock() == GivingState::Given
    }
}

/// Gives everything to the next instance.
pub(super) struct Giver {
    pub(super) shared: Arc<Shared>,
    pub(super) source: Arc<SocketSource>,
    pub(super) giving: Arc<Giving>,
    pub(super) handed_over: mpsc::Sender<Channel>,
    pub(super) record: Arc<Record>,
    /// The interface that this instance keeps.
    pub(super) link: Option<String>,
}

impl Handing for Giver {
    fn place(&self) -> Place {
        // A server that stops has nothing to do with any other.
        if *self.giving.lock() == GivingState::Stopping {
            return Place::new(None, []);
        }
        Place::new(self.link.as_deref(), self.source.addresses())
    }

    fn items(&self) -> io::Result<Vec<Item>> {
        {
            let mut state = self.giving.lock();
            if *state == GivingState::Stopping {
                return Err(io::Error::other("it is about to stop"));
            }
            *state = GivingState::Given;
            self.source.set_given(true);
        }
        let mut items = self.source.items()?;
        for (n, predecessor) in self.source.predecessors().iter().enumerate() {
            items.push((
                format!("{PREDECESSOR} {n}"),
                predecessor.connection().try_clone_to_owned()?,
            ));
        }
        items.push(cache(&self.shared, export::NAME, usize::MAX)?);
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
        let mut state = self.giving.lock();
        if *state == GivingState::Given {
            *state = GivingState::Idle;
        }
        drop(state);
        self.source.set_given(false);
        self.record.failed(why);
        tracing::error!(
            "another instance was to take over and did not; this one continues to serve: {why}"
        );
    }
}

fn cache(shared: &Shared, name: &str, budget: usize) -> io::Result<Item> {
    let store = shared.cache.load_full();
    let memory = memory::write(name, |to| {
        export::write(&store, CoarseInstant::now(), budget, to).map(drop)
    })?;
    Ok((name.to_owned(), memory))
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
            for (name, budget) in [(export::HOTTEST_NAME, HOTTEST), (export::NAME, KEPT_CACHE)] {
                let (name, memory) = cache(shared, name, budget)?;
                link.keep(&name, memory.as_fd());
            }
            self.cache = changes;
        }
        let running = shared.clusters.running();
        let names: Vec<&str> = running.iter().filter_map(|store| store.memory_name()).collect();
        self.stores.retain(|name, _| {
            let stays = names.contains(&name.as_str());
            if !stays {
                link.forget(name);
            }
            stays
        });
        for store in &running {
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

/// Lets the next instance find this one. Without it the next one starts beside this one.
pub(super) fn wait_for_successor(
    socket: Option<PathBuf>,
    giver: Giver,
    conditions: &Conditions,
) -> Option<Listening> {
    let path = socket?;
    match handover::listen(&path, Arc::new(giver)) {
        Ok(listening) => Some(listening),
        Err(error) => {
            let why = format!("cannot listen on {}: {error}", path.display());
            tracing::warn!("no instance can take over from this one: {why}");
            conditions.set(&table::TAKEOVER_IMPOSSIBLE, vec![why]);
            None
        }
    }
}
