//! A fresh port for every query, without a fresh socket for it.
//!
//! A socket that is made, watched and closed costs more than the query. A connected socket whose port the kernel drew gives
//! that port up when its connection is dissolved (`connect` with AF_UNSPEC), and draws another one with the next `connect`:
//! the file, its place in epoll and the task that reads it stay.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};

use crate::clock::CoarseInstant;

/// Sockets that are kept for the next query, of one upstream and worker.
const KEPT: usize = 256;
/// For how long.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The sockets of one upstream and worker that no query uses: without a port, and unknown to the network.
pub struct Idle<S> {
    sockets: Mutex<VecDeque<(Arc<S>, CoarseInstant)>>,
    tended: AtomicBool,
}

impl<S> Default for Idle<S> {
    fn default() -> Self {
        Self { sockets: Mutex::default(), tended: AtomicBool::new(false) }
    }
}

impl<S: Send + Sync + 'static> Idle<S> {
    /// A socket to connect, the one that was used last.
    pub fn take(&self) -> Option<Arc<S>> {
        self.lock().pop_back().map(|(socket, _)| socket)
    }

    /// Keeps a socket that is not connected any more. Has to be called within the worker's runtime.
    pub fn keep(idle: &Arc<Self>, socket: Arc<S>) {
        let mut sockets = idle.lock();
        sockets.push_back((socket, CoarseInstant::now()));
        let one_too_many = if sockets.len() > KEPT { sockets.pop_front() } else { None };
        // Closing is a system call, and nobody waits for it.
        drop(sockets);
        drop(one_too_many);
        if !idle.tended.swap(true, Relaxed) {
            tokio::spawn(Self::tend(Arc::downgrade(idle)));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Closes those that were not used of late, as long as there are any.
    async fn tend(idle: Weak<Self>) {
        loop {
            tokio::time::sleep(KEPT_FOR).await;
            let Some(idle) = idle.upgrade() else { return };
            let now = CoarseInstant::now();
            let mut sockets = idle.lock();
            let old = sockets.partition_point(|(_, since)| {
                since.plus_millis(KEPT_FOR.as_millis() as u64) <= now
            });
            let old: Vec<_> = sockets.drain(..old).collect();
            let is_empty = sockets.is_empty();
            if is_empty {
                idle.tended.store(false, Relaxed);
            }
            drop(sockets);
            drop(old);
            if is_empty {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Arc<S>, CoarseInstant)>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A datagram socket that is not connected, non-blocking.
pub fn open(to: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    Ok(socket2::Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?.into())
}

/// Connects a socket that is not connected. It gets a port that the kernel draws from its ephemeral range, which keeps clear
/// of the ports that the node has given to others.
pub fn connect(socket: &impl AsFd, to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).connect(&to.into())
}

/// Dissolves the connection. A port that the kernel drew is free again, and nothing is received any more.
pub fn dissolve(socket: &impl AsFd) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn each_connection_has_a_port_of_its_own_and_hears_its_peer_only() {
        let peers =
            ["127.0.0.1:0", "[::1]:0"].into_iter().filter_map(|any| UdpSocket::bind(any).ok());
        for peer in peers {
            let to = peer.local_addr().unwrap();
            let socket = open(to).unwrap();
            let mut ports = BTreeSet::new();
            let mut octets = [0; 8];
            for n in 0..50_u8 {
                connect(&socket, to).unwrap();
                ports.insert(socket.local_addr().unwrap().port());
                socket.send(&[n]).unwrap();
                let (_, from) = peer.recv_from(&mut octets).unwrap();
                assert_eq!((octets[0], from.port()), (n, socket.local_addr().unwrap().port()));
                dissolve(&socket).unwrap();
                assert_eq!(socket.local_addr().unwrap().port(), 0);
                // Too late: nobody has that port any more.
                peer.send_to(b"late", from).unwrap();
                assert_eq!(socket.recv(&mut octets).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            }
            assert!(ports.len() > 40, "{} ports in 50 connections", ports.len());
        }
    }
}
