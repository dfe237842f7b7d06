//! What operators and the kubelet ask over HTTP: `/metrics`, `/health`, `/ready`.
//!
//! Every listener has SO_REUSEPORT, so that a second instance can start beside the first. Several directives may share an
//! address; on a reload, listeners that are still wanted stay open.

mod listener;
mod probe;
mod readiness;
mod respond;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use self::readiness::{Detail, Readiness, gather};
use crate::config::ListenAddress;
use crate::metrics::{Metrics, Source};

/// What is served at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages(u8);

impl Pages {
    /// `/metrics`.
    pub const METRICS: Self = Self(1);
    /// `/health`.
    pub const HEALTH: Self = Self(2);
    /// `/ready`.
    pub const READY: Self = Self(4);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(Self::METRICS, "/metrics"), (Self::HEALTH, "/health"), (Self::READY, "/ready")];
        let served: Vec<&str> =
            names.into_iter().filter(|(page, _)| self.has(*page)).map(|(_, name)| name).collect();
        f.write_str(&served.join(" and "))
    }
}

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
    /// What the kernel says.
    #[source]
    pub source: io::Error,
}

/// The HTTP servers. Dropping it ends them.
pub struct Admin {
    runtime: Handle,
    state: Arc<State>,
    listeners: Mutex<BTreeMap<(Option<std::net::IpAddr>, u16), Listener>>,
}

/// What the pages are made of.
pub(crate) struct State {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    health: probe::Health,
}

struct Listener {
    /// Bits of [`Pages`].
    pages: Arc<AtomicU8>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Servers on `runtime`, without listeners yet.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>) -> Self {
        let health = probe::Health::new();
        metrics.register(health.source());
        let readiness = Arc::<Readiness>::default();
        metrics.register(Arc::clone(&readiness) as Arc<dyn Source>);
        let state = Arc::new(State { metrics, readiness, health });
        Self { runtime, state, listeners: Mutex::default() }
    }

    /// What `/ready` answers from.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.state.readiness
    }

    /// Serves `wanted` and nothing else. The same address may come several times. Listeners that stay keep their connections;
    /// what cannot be listened on is returned, and everything else is served all the same.
    pub fn apply(
        &self,
        wanted: impl IntoIterator<Item = (ListenAddress, Pages)>,
    ) -> Vec<AdminError> {
        let mut by_address: BTreeMap<_, (ListenAddress, Pages)> = BTreeMap::new();
        for (address, pages) in wanted {
            let entry =
                by_address.entry((address.ip, address.port)).or_insert((address, Pages::default()));
            entry.1.0 |= pages.0;
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|key, _| by_address.contains_key(key));
        let mut errors = Vec::new();
        for (key, (address, pages)) in by_address {
            match listeners.get(&key) {
                Some(listener) => listener.pages.store(pages.0, Relaxed),
                None => match self.listen(address, pages) {
                    Ok(listener) => {
                        tracing::info!("serving {pages} on {}", listener.address);
                        listeners.insert(key, listener);
                    }
                    Err(source) => errors.push(AdminError { address, pages, source }),
                },
            }
        }
        self.state.health.probe(
            &self.runtime,
            listeners
                .values()
                .find(|listener| Pages(listener.pages.load(Relaxed)).has(Pages::HEALTH))
                .map(|listener| listener.address),
        );
        errors
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<(SocketAddr, Pages)> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners
            .values()
            .map(|listener| (listener.address, Pages(listener.pages.load(Relaxed))))
            .collect()
    }

    fn listen(&self, address: ListenAddress, pages: Pages) -> io::Result<Listener> {
        let _entered = self.runtime.enter();
        let pages = Arc::new(AtomicU8::new(pages.0));
        let socket = listener::open(address)?;
        let bound = socket.local_addr()?;
        let task = listener::serve(socket, Arc::clone(&pages), Arc::clone(&self.state));
        Ok(Listener { pages, address: bound, task: self.runtime.spawn(task) })
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
