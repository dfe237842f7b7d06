//! Where listening sockets come from: the process before this one, or the kernel. DNS and HTTP alike.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sockets::{BindError, Sockets};
use crate::handover::{Inherited, Item, Keeper, Predecessor, SocketKind, SocketName};

/// The listening sockets of this process. Each is inherited or opened, is kept by the supervisor if there is one, and is
/// passed on in a hand-over.
#[derive(Default)]
pub struct SocketSource {
    inherited: Arc<Inherited>,
    keeper: Option<Arc<dyn Keeper>>,
    /// A duplicate of each, to be passed on.
    open: Mutex<BTreeMap<SocketName, OwnedFd>>,
    /// They were given to an instance that starts.
    given: AtomicBool,
    /// Instances from which they came.
    predecessors: Mutex<Vec<Arc<Predecessor>>>,
}

impl SocketSource {
    /// Takes sockets from `inherited` first, and has `keeper` keep all.
    pub fn new(inherited: Arc<Inherited>, keeper: Option<Arc<dyn Keeper>>) -> Self {
        Self { inherited, keeper, ..Self::default() }
    }

    /// At least `count` pairs of sockets for DNS at `address`: all that were inherited, and as many new ones as that takes.
    ///
    /// # Errors
    /// The kernel refuses one; then none is held.
    pub fn dns(&self, address: SocketAddr, count: usize) -> Result<Vec<Sockets>, BindError> {
        let mut udp = self.inherited.take_sockets(SocketKind::Udp, address);
        let mut tcp = self.inherited.take_sockets(SocketKind::Tcp, address);
        let count = count.max(udp.len()).max(tcp.len());
        while udp.len() < count {
            udp.push(Sockets::open_udp(address)?);
        }
        while tcp.len() < count {
            tcp.push(Sockets::open_tcp(address)?);
        }
        let all: Vec<Sockets> =
            udp.into_iter().zip(tcp).map(|(udp, tcp)| Sockets { udp, tcp }).collect();
        for (number, Sockets { udp, tcp }) in (0..).zip(&all) {
            self.hold(SocketName { kind: SocketKind::Udp, address, number }, udp);
            self.hold(SocketName { kind: SocketKind::Tcp, address, number }, tcp);
        }
        Ok(all)
    }

    /// A listening socket for TLS at `address`, inherited or opened.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn tls(&self, address: SocketAddr) -> Result<OwnedFd, BindError> {
        let name = SocketName { kind: SocketKind::Tls, address, number: 0 };
        if let Some(held) = self.lock().get(&name) {
            // It is used further, with another scheme.
            let failed = |source| BindError { address, transport: "tls", source };
            return held.try_clone().map_err(failed);
        }
        let inherited = self.inherited.take_sockets(SocketKind::Tls, address).into_iter().next();
        let socket = inherited.map_or_else(|| Sockets::open_tcp(address), Ok)?;
        self.hold(name, &socket);
        Ok(socket)
    }

    /// A listening socket for HTTP at `address`, inherited or as `open` makes it.
    pub fn http(
        &self,
        address: SocketAddr,
        open: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let inherited = self.inherited.take_sockets(SocketKind::Http, address).into_iter().next();
        let socket = inherited.map_or_else(open, Ok)?;
        self.hold(SocketName { kind: SocketKind::Http, address, number: 0 }, &socket);
        Ok(socket)
    }

    /// Who keeps descriptors for the next process.
    pub fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        self.keeper.clone()
    }

    fn hold(&self, name: SocketName, socket: &OwnedFd) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(&name.to_string(), socket.as_fd());
        }
        match socket.try_clone() {
            Ok(copy) => drop(self.lock().insert(name, copy)),
            Err(error) => tracing::warn!(%error, "{name} cannot be passed on"),
        }
    }

    /// Says whether an instance that starts has them.
    pub fn set_given(&self, given: bool) {
        self.given.store(given, Relaxed);
    }

    /// Says from which instances they came.
    pub fn set_predecessors(&self, predecessors: Vec<Arc<Predecessor>>) {
        *self.predecessors.lock().unwrap_or_else(PoisonError::into_inner) = predecessors;
    }

    /// The instances from which they came and that have not ended.
    pub fn predecessors(&self) -> Vec<Arc<Predecessor>> {
        let mut known = self.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| !known.has_ended());
        known.clone()
    }

    /// True if another instance that lives has the same sockets: they are to be left as they are.
    pub fn is_shared(&self) -> bool {
        self.given.load(Relaxed) || !self.predecessors().is_empty()
    }

    /// Gives up the sockets of some kinds at `address`: they are no longer served.
    pub fn forget(&self, kinds: &[SocketKind], address: SocketAddr) {
        let is_gone = |name: &SocketName| kinds.contains(&name.kind) && name.address == address;
        self.give_up(is_gone);
    }

    /// Gives up all: the server stops.
    pub fn forget_all(&self) {
        self.give_up(|_| true);
    }

    fn give_up(&self, is_gone: impl Fn(&SocketName) -> bool) {
        let gone: Vec<_> = self.lock().extract_if(.., |name, _| is_gone(name)).collect();
        for (name, _) in &gone {
            if let Some(keeper) = &self.keeper {
                keeper.forget(&name.to_string());
            }
        }
    }

    /// The addresses of DNS.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let open = self.lock();
        let udp = open.keys().filter(|name| name.kind == SocketKind::Udp && name.number == 0);
        udp.map(|name| name.address).collect()
    }

    /// A duplicate of each, by name.
    pub fn items(&self) -> io::Result<Vec<Item>> {
        let open = self.lock();
        open.iter().map(|(name, fd)| Ok((name.to_string(), fd.try_clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketName, OwnedFd>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Keeper for Kept {
        fn keep(&self, name: &str, _: BorrowedFd<'_>) {
            self.0.lock().unwrap().push(name.to_owned());
        }

        fn forget(&self, name: &str) {
            self.0.lock().unwrap().retain(|kept| kept != name);
        }

        fn try_keep(&self, name: &str, fd: BorrowedFd<'_>) -> bool {
            self.keep(name, fd);
            true
        }

        fn try_forget(&self, name: &str) {
            self.forget(name);
        }
    }

    #[test]
    fn sockets_are_passed_on_until_they_are_given_up() {
        let address = "127.0.0.1:0".parse().unwrap();
        let kept = Arc::new(Kept::default());
        let first = SocketSource::new(Arc::default(), Some(Arc::clone(&kept) as Arc<dyn Keeper>));
        let sockets = first.dns(address, 2).unwrap();
        assert_eq!((sockets.len(), kept.0.lock().unwrap().len()), (2, 4));
        let inherited = Arc::new(Inherited::default());
        first.items().unwrap().into_iter().for_each(|(name, fd)| inherited.add(name, fd));
        // More workers than before: what is missing is opened.
        let next = SocketSource::new(inherited, None);
        let port = |sockets: &[Sockets], n: usize| sockets[n].local_addr().unwrap().port();
        let again = next.dns(address, 3).unwrap();
        assert_eq!(again.len(), 3);
        assert_eq!((port(&again, 0), port(&again, 1)), (port(&sockets, 0), port(&sockets, 1)));
        first.forget(&[SocketKind::Udp, SocketKind::Tcp], address);
        assert!(first.items().unwrap().is_empty() && kept.0.lock().unwrap().is_empty());
    }
}
