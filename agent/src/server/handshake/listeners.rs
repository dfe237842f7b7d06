//! All listeners over TLS, and the threads that shake hands for them. The threads begin with the first listener.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use super::{Accepting, Encrypted, Handshakes};
use crate::handover::SocketKind;
use crate::metrics::Scrape;
use crate::server::listener::Listener;
use crate::server::sockets::BindError;
use crate::server::source::SocketSource;
use crate::server::tcp::Connections;
use crate::server::tls::{Encryption, Scheme, Secured};
use crate::server::worker::Phase;

/// Gives a connection of a listener to one of the workers.
pub(in crate::server) type Give =
    Arc<dyn Fn(Arc<Listener>, Secured, watch::Receiver<Phase>) + Send + Sync>;

/// One for the process.
#[derive(Default)]
pub struct AllEncrypted {
    open: Mutex<BTreeMap<SocketAddr, Open>>,
    handshakes: Arc<Handshakes>,
    runtime: Mutex<Option<Runtime>>,
}

struct Open {
    listener: Arc<Listener>,
    phase: watch::Sender<Phase>,
}

/// Sockets that are open and not served yet.
pub(in crate::server) type NewSockets = Vec<(SocketAddr, OwnedFd)>;

impl Open {
    fn scheme(&self) -> Option<Scheme> {
        self.listener.encryption.as_ref().map(|encryption| encryption.scheme)
    }
}

impl AllEncrypted {
    /// Opens what of `wanted` is not open yet. Nothing changes if one cannot be had.
    pub(in crate::server) fn open_new(
        &self,
        wanted: &BTreeMap<SocketAddr, Encrypted>,
        source: &SocketSource,
    ) -> Result<NewSockets, BindError> {
        let open = self.lock();
        let mut new = NewSockets::new();
        for (&address, encrypted) in wanted {
            if open.get(&address).is_some_and(|old| old.scheme() == Some(encrypted.scheme)) {
                continue;
            }
            let failed = |source| BindError { address, transport: "tls", source };
            match self.runtime().map_err(failed).and_then(|_| source.tls(address)) {
                Ok(socket) => new.push((address, socket)),
                Err(error) => {
                    drop(open);
                    self.give_up(new, source);
                    return Err(error);
                }
            }
        }
        Ok(new)
    }

    /// Closes what [`AllEncrypted::open_new`] has opened.
    pub(in crate::server) fn give_up(&self, new: NewSockets, source: &SocketSource) {
        let open = self.lock();
        for (address, _) in new.iter().filter(|(address, _)| !open.contains_key(address)) {
            source.forget(&[SocketKind::Tls], *address);
        }
    }

    /// Makes the listeners those of `wanted`, for which `new` was opened. Those that go are left as `ending` says.
    pub(in crate::server) fn apply(
        &self,
        wanted: BTreeMap<SocketAddr, Encrypted>,
        new: NewSockets,
        connections: &Arc<Connections>,
        give: &Give,
        (source, ending): (&SocketSource, &Phase),
    ) {
        let mut open = self.lock();
        open.retain(|address, old| {
            let stays = wanted.get(address).map(|new| new.scheme) == old.scheme();
            if !stays {
                // With another scheme the same socket stays open, with all that waits in it.
                let ending = match wanted.contains_key(address) {
                    true => Phase::HandedOver(Arc::new(|_, _| {})),
                    false => {
                        source.forget(&[SocketKind::Tls], *address);
                        ending.clone()
                    }
                };
                old.phase.send_replace(ending);
            }
            stays
        });
        for (address, encrypted) in &wanted {
            if let Some(Open { listener, .. }) = open.get(address) {
                listener.dispatch.store(Arc::new(Arc::clone(&encrypted.dispatch)));
                if let Some(encryption) = &listener.encryption {
                    let certificates = Arc::clone(&encrypted.certificates);
                    encryption.certificates.store(Arc::new(certificates));
                }
            }
        }
        for (address, socket) in new {
            let (Some(encrypted), Ok(runtime)) = (wanted.get(&address), self.runtime()) else {
                continue;
            };
            let Encrypted { scheme, certificates, dispatch } = encrypted.clone();
            let encryption = Encryption::new(scheme, certificates);
            let listener = Arc::new(Listener::new(address, dispatch, Some(encryption)));
            let new = Open { listener, phase: watch::channel(Phase::Serving).0 };
            new.serve(socket, &runtime, connections, &self.handshakes, give);
            open.insert(address, new);
        }
    }

    /// Ends all listeners.
    pub(in crate::server) fn end(&self, phase: &Phase) {
        for (_, old) in std::mem::take(&mut *self.lock()) {
            old.phase.send_replace(phase.clone());
        }
    }

    /// Hands in what is counted.
    pub fn collect(&self, out: &mut Scrape) {
        self.handshakes.collect(out);
        for Open { listener, .. } in self.lock().values() {
            let dispatch = listener.dispatch.load();
            let encryption = listener.encryption.as_ref().zip(dispatch.chains().first());
            if let Some((encryption, chain)) = encryption
                && encryption.scheme == Scheme::Https
            {
                encryption.responses.collect(&chain.server_label, out);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of half as many threads as there are processors.
    fn runtime(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        let made = Builder::new_multi_thread()
            .worker_threads((processors / 2).max(1))
            .thread_name("tls")
            .enable_all()
            .build()?;
        Ok(runtime.insert(made).handle().clone())
    }
}

impl Drop for AllEncrypted {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed everywhere.
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl Open {
    fn serve(
        &self,
        socket: OwnedFd,
        runtime: &Handle,
        connections: &Arc<Connections>,
        handshakes: &Arc<Handshakes>,
        give: &Give,
    ) {
        let (listener, give, phase) =
            (Arc::clone(&self.listener), Arc::clone(give), self.phase.subscribe());
        let address = listener.address;
        let accepting = Arc::new(Accepting {
            listener: Arc::clone(&listener),
            connections: Arc::clone(connections),
            handshakes: Arc::clone(handshakes),
            give: Box::new(move |secured| give(Arc::clone(&listener), secured, phase.clone())),
        });
        let phase = self.phase.subscribe();
        runtime.spawn(async move {
            if let Err(error) = accepting.serve(socket, phase).await {
                tracing::error!(%error, %address, "the TLS socket failed");
            }
        });
    }
}
