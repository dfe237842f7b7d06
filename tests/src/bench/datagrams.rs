//! Many datagrams with one system call, IPv4 only: what the floor, the load and the upstream are made of.
#![allow(
    unsafe_code,
    reason = "recvmmsg and sendmmsg take structures that point into other structures"
)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams of one call at most.
pub const BATCH: usize = 64;
/// Octets of one datagram at most.
pub const SIZE: usize = 1_500;

/// Where a datagram came from or goes to.
#[derive(Clone, Copy)]
pub struct Peer(libc::sockaddr_in);

impl Peer {
    /// The peer with this address.
    #[must_use]
    pub fn new(address: SocketAddrV4) -> Self {
        let mut peer = Self::default();
        peer.0.sin_port = address.port().to_be();
        peer.0.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
        peer
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        let ip = Ipv4Addr::from(self.0.sin_addr.s_addr.to_ne_bytes());
        SocketAddrV4::new(ip, u16::from_be(self.0.sin_port))
    }
}

impl Default for Peer {
    fn default() -> Self {
        // SAFETY: `sockaddr_in` is a plain C structure for which zero octets are a valid value.
        let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        raw.sin_family = libc::AF_INET as libc::sa_family_t;
        Self(raw)
    }
}

/// Buffers for [`BATCH`] datagrams. What was received can be changed in place and sent from where it is.
pub struct Batch {
    buffers: Box<[[u8; SIZE]]>,
    peers: Box<[Peer]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    connected: bool,
}

impl Batch {
    /// Buffers for a socket; a `connected` one needs no addresses.
    #[must_use]
    pub fn new(connected: bool) -> Self {
        // SAFETY: both are plain C structures for which zero octets are a valid value.
        let (iovec, header): (libc::iovec, libc::mmsghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut batch = Self {
            buffers: vec![[0; SIZE]; BATCH].into(),
            peers: vec![Peer::default(); BATCH].into(),
            iovecs: vec![iovec; BATCH].into(),
            headers: vec![header; BATCH].into(),
            connected,
        };
        for i in 0..BATCH {
            batch.iovecs[i].iov_base = batch.buffers[i].as_mut_ptr().cast();
            batch.headers[i].msg_hdr.msg_iov = &raw mut batch.iovecs[i];
            batch.headers[i].msg_hdr.msg_iovlen = 1;
        }
        batch
    }

    /// Receives what is there; `wait`: for the first one.
    ///
    /// # Errors
    /// The system call's, `WouldBlock` among them.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        for i in 0..BATCH {
            self.iovecs[i].iov_len = SIZE;
            self.address(i);
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: every header points to a live buffer of the length that it states and, unless connected, to a live
        // address of the length that it states; all belong to `self`, which is borrowed mutably.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        for i in 0..n {
            self.iovecs[i].iov_len = self.headers[i].msg_len as usize;
        }
        Ok(n)
    }

    /// Sends datagrams `from..to`. Returns up to which one the kernel took them.
    pub fn send(&mut self, socket: BorrowedFd<'_>, from: usize, to: usize) -> usize {
        let mut at = from;
        for i in from..to {
            self.address(i);
        }
        while at < to.min(BATCH) {
            // SAFETY: as in `receive`; the kernel only reads through the pointers.
            let n = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers[at..].as_mut_ptr(),
                    (to - at) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(n) {
                Ok(sent) if sent > 0 => at += sent,
                _ => break,
            }
        }
        at
    }

    /// Sends the first `n`, leaving out those that the kernel refuses.
    pub fn send_all(&mut self, socket: BorrowedFd<'_>, n: usize) {
        let mut at = 0;
        while at < n {
            at = self.send(socket, at, n);
            at += usize::from(at < n);
        }
    }

    /// Datagram `i`.
    #[must_use]
    pub fn packet(&self, i: usize) -> &[u8] {
        &self.buffers[i][..self.iovecs[i].iov_len]
    }

    /// Its whole buffer, for change; [`Batch::set_len`] sets how much of it counts.
    pub fn buffer(&mut self, i: usize) -> &mut [u8; SIZE] {
        &mut self.buffers[i]
    }

    /// The length of datagram `i`.
    pub fn set_len(&mut self, i: usize, len: usize) {
        self.iovecs[i].iov_len = len.min(SIZE);
    }

    /// Whose datagram `i` is.
    #[must_use]
    pub fn peer(&self, i: usize) -> Peer {
        self.peers[i]
    }

    /// To whom datagram `i` goes.
    pub fn set_peer(&mut self, i: usize, peer: Peer) {
        self.peers[i] = peer;
    }

    fn address(&mut self, i: usize) {
        let header = &mut self.headers[i].msg_hdr;
        if self.connected {
            header.msg_name = std::ptr::null_mut();
            header.msg_namelen = 0;
        } else {
            header.msg_name = (&raw mut self.peers[i].0).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was_sent() -> io::Result<()> {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        one.connect(other.local_addr()?)?;
        let mut out = Batch::new(true);
        for i in 0..3 {
            out.buffer(i)[..4].copy_from_slice(&[i as u8; 4]);
            out.set_len(i, 4);
        }
        assert_eq!(out.send(one.as_fd(), 0, 3), 3);
        let mut batch = Batch::new(false);
        assert_eq!(batch.receive(other.as_fd(), true)?, 3);
        assert_eq!(batch.packet(2), [2; 4]);
        assert_eq!(std::net::SocketAddr::V4(batch.peer(1).address()), one.local_addr()?);
        batch.send_all(other.as_fd(), 3);
        assert_eq!(out.receive(one.as_fd(), true)?, 3);
        Ok(())
    }
}
