//! What operators and the kubelet ask over HTTP: `/metrics`, `/health`, `/ready`, and `/`, a page for people.
//!
//! Every listener has SO_REUSEPORT, so that a second instance can start beside the first. Several directives may share an
//! address; on a reload, listeners that are still wanted stay open.

mod listener;
mod page;
mod pages;
mod probe;
mod readiness;
mod respond;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use self::page::Tells;
pub use self::pages::Pages;
pub use self::readiness::{Readiness, gather};
use self::respond::State;
use crate::conditions::{Conditions, table};
use crate::config::ListenAddress;
use crate::handover::SocketKind;
use crate::metrics::{Metrics, Source};
use crate::server::source::SocketSource;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve {pages} on {address}: {source}; free the address or write another one behind the directive"
)]
pub struct AdminError {
    /// The address as it was written.
    pub address: ListenAddress,
    /// What was to be served there.
    pub pages: Pages,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// An address that could not be listened on is tried again so often.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The HTTP servers. Dropping it ends them.
pub struct Admin {
    runtime: Handle,
    servers: Arc<Servers>,
}

struct Servers {
    source: Arc<SocketSource>,
    state: Arc<State>,
    health: probe::Health,
    listening: Mutex<Listening>,
}

type Key = (Option<IpAddr>, u16);

/// The name under which the socket of an address is passed on.
fn named((ip, port): Key) -> SocketAddr {
    SocketAddr::new(ip.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port)
}

#[derive(Default)]
struct Listening {
    open: BTreeMap<Key, Listener>,
    /// What is wanted and could not be listened on.
    refused: BTreeMap<Key, AdminError>,
    /// A task tries `refused` again; it ends when that is empty.
    retrying: bool,
}

struct Listener {
    /// Bits of [`Pages`].
    pages: Arc<AtomicU8>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Servers on `runtime`, without listeners yet; their sockets come from `source`.
    pub fn new(
        runtime: Handle,
        metrics: Arc<Metrics>,
        conditions: Arc<Conditions>,
        source: Arc<SocketSource>,
    ) -> Self {
        let health = probe::Health::new();
        metrics.register(health.source());
        let readiness = Arc::<Readiness>::default();
        metrics.register(Arc::clone(&readiness) as Arc<dyn Source>);
        conditions.register(Arc::clone(&readiness) as _);
        let state = Arc::new(State { metrics, readiness, conditions, teller: Default::default() });
        let servers = Servers { source, state, health, listening: Mutex::default() };
        Self { runtime, servers: Arc::new(servers) }
    }

    /// What `/ready` answers from.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.servers.state.readiness
    }

    /// Shows on the page what `tells` knows from now on; the first one stays.
    pub fn tell(&self, tells: Arc<dyn Tells>) {
        self.servers.state.teller.set(tells);
    }

    /// Serves `wanted` and nothing else. The same address may come several times. Listeners that stay keep their connections.
    /// What cannot be listened on is returned and tried again every [`TRY_AGAIN`]; everything else is served all the same.
    pub fn apply(&self, wanted: impl IntoIterator<Item = (ListenAddress, Pages)>) -> Vec<String> {
        let mut by_address: BTreeMap<_, (ListenAddress, Pages)> = BTreeMap::new();
        for (address, pages) in wanted {
            let entry =
                by_address.entry((address.ip, address.port)).or_insert((address, Pages::default()));
            entry.1 = entry.1.and(pages);
        }
        let mut listening = self.servers.lock();
        listening.open.retain(|key, _| {
            let stays = by_address.contains_key(key);
            if !stays {
                self.servers.source.forget(&[SocketKind::Http], named(*key));
            }
            stays
        });
        listening.refused.clear();
        for (key, (address, pages)) in by_address {
            match listening.open.get(&key) {
                Some(listener) => listener.pages.store(pages.bits(), Relaxed),
                None => self.servers.open(&mut listening, &self.runtime, address, pages),
            }
        }
        self.servers.opened(&listening, &self.runtime);
        if !listening.refused.is_empty() && !std::mem::replace(&mut listening.retrying, true) {
            let servers = Arc::downgrade(&self.servers);
            self.runtime.spawn(try_again(servers, self.runtime.clone()));
        }
        listening.refused.values().map(ToString::to_string).collect()
    }

    /// Stops accepting connections, since another process does from now on. Those that are open end with their answers.
    pub fn hand_over(&self) {
        let mut listening = self.servers.lock();
        listening.open.clear();
        listening.refused.clear();
    }

    /// The addresses that it listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<(SocketAddr, Pages)> {
        let listening = self.servers.lock();
        let served = |listener: &Listener| (listener.address, listener.served());
        listening.open.values().map(served).collect()
    }
}

impl Servers {
    fn lock(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(
        &self,
        listening: &mut Listening,
        runtime: &Handle,
        address: ListenAddress,
        pages: Pages,
    ) {
        let key = (address.ip, address.port);
        match self.listen(runtime, address, pages) {
            Ok(listener) => {
                tracing::info!("serving {pages} on {}", listener.address);
                listening.open.insert(key, listener);
            }
            Err(source) => {
                listening.refused.insert(key, AdminError { address, pages, source });
            }
        }
    }

    fn listen(
        &self,
        runtime: &Handle,
        address: ListenAddress,
        pages: Pages,
    ) -> io::Result<Listener> {
        let _entered = runtime.enter();
        let pages = Arc::new(AtomicU8::new(pages.bits()));
        let named = named((address.ip, address.port));
        let socket = self.source.http(named, || listener::open(address))?;
        let socket = TcpListener::from_std(socket.into())?;
        let bound = socket.local_addr()?;
        let task = listener::serve(socket, Arc::clone(&pages), Arc::clone(&self.state));
        Ok(Listener { pages, address: bound, task: runtime.spawn(task) })
    }

    /// Lets the probe and `nodens status` know what is served and what is not. Called after each change.
    fn opened(&self, listening: &Listening, runtime: &Handle) {
        let health = listening.open.values().find(|listener| listener.served().has(Pages::HEALTH));
        self.health.probe(runtime, health.map(|listener| listener.address));
        let refused = listening.refused.values().map(ToString::to_string).collect();
        self.state.conditions.set(&table::PAGES_UNSERVED, refused);
    }
}

/// Tries again what could not be listened on, until nothing is left or the servers are gone.
async fn try_again(servers: Weak<Servers>, runtime: Handle) {
    loop {
        tokio::time::sleep(TRY_AGAIN).await;
        let Some(servers) = servers.upgrade() else { return };
        let mut listening = servers.lock();
        for (_, AdminError { address, pages, .. }) in std::mem::take(&mut listening.refused) {
            servers.open(&mut listening, &runtime, address, pages);
        }
        servers.opened(&listening, &runtime);
        if listening.refused.is_empty() {
            listening.retrying = false;
            return;
        }
    }
}

impl Listener {
    fn served(&self) -> Pages {
        Pages::from_bits(self.pages.load(Relaxed))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The connections are tasks of their own and end with their last answer.
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
