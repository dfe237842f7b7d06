//! What this process got from the one before it, to be taken item by item.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{SockRef, Type};

use super::name::{SocketKind, SocketName, connection_address};
use super::{Keeper, memory};

/// Items that are taken in; more are closed at once. 64 addresses with 8 workers need 1,024.
const MAX_ITEMS: usize = 4_096;

/// Items by name. Each is taken once; what is left is closed by [`Inherited::clear`].
#[derive(Default, Debug)]
pub struct Inherited {
    sockets: Mutex<BTreeMap<SocketName, OwnedFd>>,
    others: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Inherited {
    /// Takes an item in.
    pub fn add(&self, name: String, fd: OwnedFd) {
        match name.parse::<SocketName>() {
            Ok(name) if fits(&name, &fd) => insert(&self.sockets, name, fd),
            Ok(name) => tracing::warn!("an inherited socket is not what it is called: {name}"),
            Err(()) => insert(&self.others, name, fd),
        }
    }

    /// The sockets of a kind and a configured address, in the order of their numbers.
    pub fn take_sockets(&self, kind: SocketKind, address: SocketAddr) -> Vec<OwnedFd> {
        let mut sockets = lock(&self.sockets);
        let is_wanted = |name: &SocketName| name.kind == kind && name.address == address;
        sockets.extract_if(.., |name, _| is_wanted(name)).map(|(_, fd)| fd).collect()
    }

    /// A descriptor that is no listening socket.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        lock(&self.others).remove(name)
    }

    /// Connections of clients: name, listening address, descriptor.
    pub fn take_connections(&self) -> Vec<(String, SocketAddr, OwnedFd)> {
        let mut others = lock(&self.others);
        let connections = others.extract_if(.., |name, _| connection_address(name).is_some());
        let with_address = |(name, fd): (String, OwnedFd)| {
            let address = connection_address(&name)?;
            Some((name, address, fd))
        };
        connections.filter_map(with_address).collect()
    }

    /// The content of sealed memory. What cannot be used is logged and dropped.
    pub fn take_memory(&self, name: &str) -> Option<Vec<u8>> {
        let fd = self.take(name)?;
        match memory::read(fd.as_fd()) {
            Ok(content) => Some(content),
            Err(error) => {
                tracing::warn!(name, "memory of the process before is not used: {error}");
                None
            }
        }
    }

    /// Has `keeper` keep everything that is no socket.
    pub fn keep_memory(&self, keeper: &dyn Keeper) {
        for (name, memory) in lock(&self.others).iter() {
            keeper.keep(name, memory.as_fd());
        }
    }

    /// The addresses of which there are sockets for DNS.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let sockets = lock(&self.sockets);
        let mut found: Vec<_> = sockets
            .keys()
            .filter(|name| name.kind != SocketKind::Http)
            .map(|name| name.address.ip())
            .collect();
        found.dedup();
        found
    }

    /// Whether there are listening sockets.
    pub fn has_sockets(&self) -> bool {
        !lock(&self.sockets).is_empty()
    }

    /// Closes everything that was not taken.
    pub fn clear(&self) {
        lock(&self.sockets).clear();
        lock(&self.others).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn insert<K: Ord>(into: &Mutex<BTreeMap<K, OwnedFd>>, name: K, fd: OwnedFd) {
    let mut items = lock(into);
    if items.len() < MAX_ITEMS {
        items.insert(name, fd);
    }
}

/// True if a descriptor is a socket of the type and address that its name says.
fn fits(name: &SocketName, fd: &OwnedFd) -> bool {
    let socket = SockRef::from(fd);
    let wanted = if name.kind == SocketKind::Udp { Type::DGRAM } else { Type::STREAM };
    let is_bound =
        socket.local_addr().ok().and_then(|address| address.as_socket()).is_some_and(|bound| {
            let same_port = name.address.port() == 0 || bound.port() == name.address.port();
            // `[::]` is served by an IPv4 socket where the kernel has no IPv6.
            let same_ip = bound.ip() == name.address.ip()
                || (bound.ip().is_unspecified() && name.address.ip().is_unspecified());
            same_port && same_ip
        });
    // A process that was about to stop may have connected a datagram socket: then it receives nothing any more.
    let listens = match name.kind {
        SocketKind::Udp => socket.peer_addr().is_err(),
        _ => socket.is_listener().unwrap_or(false),
    };
    socket.r#type().is_ok_and(|of| of == wanted) && is_bound && listens
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn items_are_taken_once_by_what_they_are() {
        let inherited = Inherited::default();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, zero) = (udp.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
        inherited.add(format!("udp {address} 1"), udp.try_clone().unwrap().into());
        inherited.add(format!("udp {address} 0"), udp.try_clone().unwrap().into());
        inherited.add("udp 127.0.0.1:0 0".into(), udp.try_clone().unwrap().into());
        // Neither of these is what its name says.
        inherited.add(format!("tcp {address} 0"), udp.try_clone().unwrap().into());
        inherited.add("udp 127.0.0.2:53 0".into(), udp.try_clone().unwrap().into());
        assert!(inherited.has_sockets());
        assert_eq!(inherited.addresses(), [address.ip()]);
        assert_eq!(inherited.take_sockets(SocketKind::Udp, address).len(), 2);
        assert_eq!(inherited.take_sockets(SocketKind::Udp, zero).len(), 1);
        assert!(!inherited.has_sockets());
        udp.connect("127.0.0.1:9").unwrap();
        inherited.add(format!("udp {address} 0"), udp.into());
        assert!(!inherited.has_sockets(), "a connected socket is of no use");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        inherited.add(format!("tcp {address} 0"), tcp.into());
        assert_eq!(inherited.take_sockets(SocketKind::Http, address).len(), 0);
        assert_eq!(inherited.take_sockets(SocketKind::Tcp, address).len(), 1);
        inherited.add("cache".into(), memory::write("c", |to| to.write_all(b"x")).unwrap());
        assert_eq!(inherited.take_memory("cache").as_deref(), Some(&b"x"[..]));
        assert_eq!(inherited.take_memory("cache"), None);
    }
}
