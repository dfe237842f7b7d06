//! Many datagrams with one system call: `recvmmsg` and `sendmmsg` over buffers that are made once.
//!
//! The only unsafe module of the server. nix wraps these calls too, but builds its headers anew for each call and copies each address
//! twice; here a datagram costs what the kernel takes for it (`docs/benchmark.md`).
#![allow(
    unsafe_code,
    reason = "the two system calls take arrays of structures that point into other arrays"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Datagrams for one call. More win nothing measurable, fewer cost: the kernel's part dominates from 16 on.
pub const BATCH: usize = 32;
/// Room for one query. A query is at most a name, a question and an OPT record with a few options; a longer datagram is
/// cut off by the kernel and then is FORMERR.
const PACKET_LEN: usize = 2_048;
/// Room that replies of one batch start with; it grows if many are large, and stays so.
const OUT_LEN: usize = BATCH * 1_024;

/// A `sockaddr_in` or `sockaddr_in6`, as octets that are read without unsafe code.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct RawAddr([u8; 32]);

/// One control message: the address that a datagram was sent to.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Where a control message's data begin: after `cmsghdr`, which is 16 octets on 64-bit Linux.
const CMSG_DATA: usize = 16;
const _: () =
    assert!(size_of::<libc::cmsghdr>() == CMSG_DATA && size_of::<libc::sockaddr_in6>() <= 32);

/// One worker's buffers for receiving and answering on a UDP socket.
pub struct Batch {
    packets: Slab<[u8; PACKET_LEN]>,
    peers: Slab<RawAddr>,
    controls: Slab<Control>,
    /// Never read by name: `inbound` points into it.
    _iovecs: Slab<libc::iovec>,
    /// The lengths in the headers from `received` on are those of the buffers: the kernel has not written there.
    inbound: Slab<libc::mmsghdr>,
    received: usize,
    with_control: bool,
    out: Vec<u8>,
    replies: Vec<ReplyAt>,
    out_iovecs: Slab<libc::iovec>,
    outbound: Slab<libc::mmsghdr>,
}

/// [`BATCH`] values on the heap that raw pointers lead into. A `Box` would claim unique access whenever it is moved, which ends
/// the right of pointers into it; this one holds the pointer that all others are derived from.
struct Slab<T>(NonNull<[T]>);

impl<T: Copy> Slab<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(vec![value; BATCH].into_boxed_slice())))
    }

    /// A pointer to value `n`, which must be below [`BATCH`], for as long as the slab lives.
    fn pointer(&self, n: usize) -> *mut T {
        debug_assert!(n < BATCH, "a slab has {BATCH} values");
        self.0.as_ptr().cast::<T>().wrapping_add(n)
    }

    fn get(&self, n: usize) -> Option<&T> {
        // SAFETY: JUSTIFICATION: the slice lives as long as the slab, and all writes through `pointer` borrow the slab's
        // owner mutably, so that no reference of `get` is alive then.
        unsafe { self.0.as_ref() }.get(n)
    }

    fn get_mut(&mut self, n: usize) -> Option<&mut T> {
        // SAFETY: JUSTIFICATION: as in `get`; the slab is borrowed mutably.
        unsafe { self.0.as_mut() }.get_mut(n)
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        // SAFETY: JUSTIFICATION: the pointer came from a box in `new`, and it is given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// One reply: to the sender of datagram `slot`.
#[derive(Clone, Copy)]
struct ReplyAt {
    slot: usize,
    start: usize,
    len: usize,
}

// SAFETY: JUSTIFICATION: the raw pointers in the headers point only into the slabs of the same `Batch`, whose addresses do not
// change when it is moved, and nothing else holds them.
unsafe impl Send for Batch {}

impl Batch {
    /// Buffers for one socket. `with_control` where the socket is bound to the unspecified address and tells by control
    /// message which address a datagram was sent to.
    pub fn new(with_control: bool) -> Self {
        // SAFETY: all of these are plain C structures for which zero octets are a valid value.
        let (empty_iovec, empty_header): (libc::iovec, libc::mmsghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut batch = Self {
            packets: Slab::new([0; PACKET_LEN]),
            peers: Slab::new(RawAddr([0; 32])),
            controls: Slab::new(Control([0; 64])),
            _iovecs: Slab::new(empty_iovec),
            inbound: Slab::new(empty_header),
            received: 0,
            with_control,
            out: Vec::with_capacity(OUT_LEN),
            replies: Vec::with_capacity(BATCH),
            out_iovecs: Slab::new(empty_iovec),
            outbound: Slab::new(empty_header),
        };
        for n in 0..BATCH {
            let base = batch.packets.pointer(n).cast();
            if let Some(iovec) = batch._iovecs.get_mut(n) {
                *iovec = libc::iovec { iov_base: base, iov_len: PACKET_LEN };
            }
            let Some(header) = batch.inbound.get_mut(n) else { break };
            header.msg_hdr.msg_iov = batch._iovecs.pointer(n);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = batch.peers.pointer(n).cast();
            if with_control {
                header.msg_hdr.msg_control = batch.controls.pointer(n).cast();
            }
            reset_lengths(header, with_control);
        }
        batch
    }

    /// Receives what is there, at most [`BATCH`] datagrams, without waiting. Forgets the batch before.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.out.clear();
        self.replies.clear();
        // Most batches hold one datagram, and each header is a line of the processor's cache.
        for n in 0..self.received {
            if let Some(header) = self.inbound.get_mut(n) {
                reset_lengths(header, self.with_control);
            }
        }
        self.received = 0;
        // SAFETY: `inbound` has BATCH headers whose pointers lead to live buffers of the lengths that they state (`new`),
        // none of which is borrowed while `self` is borrowed mutably.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.inbound.pointer(0),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        self.received = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// How long the datagram that was received last had been in the socket's queue, by the kernel's receive time
    /// (SIOCGSTAMPNS). The first call has the kernel note that time from then on.
    pub fn last_waited(&self, socket: BorrowedFd<'_>) -> Option<Duration> {
        /// The same on all architectures with 64 bits.
        const SIOCGSTAMPNS: libc::c_ulong = 0x8907;
        let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one `timespec`, which lives through the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS as _, &raw mut at) };
        let at = (done == 0).then(|| TimeSpec::from_timespec(at))?;
        let now = clock_gettime(ClockId::CLOCK_REALTIME).ok()?;
        // The clock may have been set meanwhile.
        (now >= at).then(|| (now - at).into())
    }

    /// Calls `answer` for one datagram with its octets, its sender, the address that it was sent to (where the socket
    /// tells) and the buffer at whose end the reply is to be written. What `answer` has appended is sent by
    /// [`Batch::send`] if it returns true.
    pub fn serve(&mut self, slot: usize, answer: impl FnOnce(Datagram<'_>, &mut Vec<u8>) -> bool) {
        let (Some(header), Some(packet), Some(peer), Some(control)) = (
            self.inbound.get(slot).filter(|_| slot < self.received),
            self.packets.get(slot),
            self.peers.get(slot),
            self.controls.get(slot),
        ) else {
            return;
        };
        let Some(peer) = socket_addr(&peer.0) else { return };
        let len = (header.msg_len as usize).min(PACKET_LEN);
        let datagram = Datagram {
            bytes: packet.get(..len).unwrap_or(packet),
            peer,
            local: if self.with_control { local_addr(&control.0) } else { None },
        };
        let start = self.out.len();
        let reply = answer(datagram, &mut self.out);
        let len = self.out.len() - start;
        if reply && len > 0 {
            self.replies.push(ReplyAt { slot, start, len });
        }
    }

    /// Sends the replies, each from the address that was asked. Returns how many the kernel refused: a client that is not
    /// there any more, or a full queue.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        if let ([reply], false) = (self.replies.as_slice(), self.with_control) {
            return usize::from(!self.send_one(socket, *reply));
        }
        // At most one reply for each datagram: no more than there are headers.
        let count = self.replies.len().min(BATCH);
        let out = self.out.as_mut_ptr();
        for (n, reply) in self.replies.iter().enumerate().take(count) {
            let (Some(iovec), Some(header), Some(from)) = (
                self.out_iovecs.get_mut(n),
                self.outbound.get_mut(n),
                self.inbound.get(reply.slot),
            ) else {
                break;
            };
            if reply.start + reply.len > self.out.len() {
                break;
            }
            *iovec =
                libc::iovec { iov_base: out.wrapping_add(reply.start).cast(), iov_len: reply.len };
            header.msg_hdr.msg_iov = self.out_iovecs.pointer(n);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = from.msg_hdr.msg_name;
            header.msg_hdr.msg_namelen = from.msg_hdr.msg_namelen;
            header.msg_hdr.msg_control = std::ptr::null_mut();
            header.msg_hdr.msg_controllen = 0;
            if self.with_control
                && let Some(control) = self.controls.get_mut(reply.slot)
                && let Some(len) = forget_interface(&mut control.0)
            {
                header.msg_hdr.msg_control = self.controls.pointer(reply.slot).cast();
                header.msg_hdr.msg_controllen = len as _;
            }
        }
        let mut refused = 0;
        let mut at = 0;
        while at < count {
            // SAFETY: the headers from `at` up to `count` were set above to point into `out`, `out_iovecs`, `peers` and `controls`,
            // which live and are not touched until the call returns; the kernel only reads through them.
            let n = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.outbound.pointer(at),
                    (count - at) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(n) {
                Ok(sent) if sent > 0 => at += sent,
                // The first of the rest was refused: leave it out and go on.
                _ => {
                    refused += 1;
                    at += 1;
                }
            }
        }
        refused
    }

    /// Sends a batch of one without a control message: at everyday rates most are, and the kernel copies two headers less than for
    /// `sendmmsg`. False if it refused.
    fn send_one(&self, socket: BorrowedFd<'_>, reply: ReplyAt) -> bool {
        let (Some(bytes), Some(from)) =
            (self.out.get(reply.start..reply.start + reply.len), self.inbound.get(reply.slot))
        else {
            return false;
        };
        // SAFETY: `bytes` and the address, which `from` points to in `peers`, live until the call returns, with these lengths;
        // the kernel only reads them.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                from.msg_hdr.msg_name.cast(),
                from.msg_hdr.msg_namelen,
            )
        };
        sent >= 0
    }
}

/// One datagram that was received.
pub struct Datagram<'a> {
    /// Its octets.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub peer: SocketAddr,
    /// The address that it was sent to, where the socket is bound to the unspecified one.
    pub local: Option<IpAddr>,
}

/// States the lengths of the address' and the control message's buffers, where the kernel has put those of what it wrote.
fn reset_lengths(header: &mut libc::mmsghdr, with_control: bool) {
    header.msg_hdr.msg_namelen = size_of::<RawAddr>() as libc::socklen_t;
    header.msg_hdr.msg_controllen = if with_control { size_of::<Control>() as _ } else { 0 };
}

fn socket_addr(raw: &[u8; 32]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(raw.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => Some(SocketAddr::new(ipv4(raw, 4)?.into(), port)),
        libc::AF_INET6 => {
            let scope = u32::from_ne_bytes(raw.get(24..28)?.try_into().ok()?);
            let ip = ipv6(raw, 8)?;
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddr::new(ip.into(), port),
                None => SocketAddrV6::new(ip, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// The destination in a control message of type IP_PKTINFO or IPV6_PKTINFO.
fn local_addr(control: &[u8; 64]) -> Option<IpAddr> {
    match control_type(control)? {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => ipv4(control, CMSG_DATA + 8).map(IpAddr::V4),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let ip = ipv6(control, CMSG_DATA)?;
            Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
        }
        _ => None,
    }
}

/// Turns a received control message into one to send: the same address as the source, and the route's choice of
/// interface but for IPv6 link-local addresses, which mean nothing without theirs. Returns its length.
fn forget_interface(control: &mut [u8; 64]) -> Option<usize> {
    match control_type(control)? {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            control.get_mut(CMSG_DATA..CMSG_DATA + 4)?.fill(0);
            // The kernel takes the source from `ipi_spec_dst`, which it has set to the local address.
            Some(CMSG_DATA + 16)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            if !ipv6(control, CMSG_DATA)?.is_unicast_link_local() {
                control.get_mut(CMSG_DATA + 16..CMSG_DATA + 20)?.fill(0);
            }
            Some(CMSG_DATA + 24)
        }
        _ => None,
    }
}

fn control_type(control: &[u8; 64]) -> Option<(i32, i32)> {
    let number =
        |at: usize| control.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    Some((number(8)?, number(12)?))
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn ipv6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn echo(
        batch: &mut Batch,
        socket: &UdpSocket,
        expect: usize,
    ) -> Vec<(SocketAddr, Option<IpAddr>)> {
        let mut seen = Vec::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while seen.len() < expect && std::time::Instant::now() < deadline {
            let Ok(n) = batch.receive(socket.as_fd()) else { continue };
            for slot in 0..n {
                batch.serve(slot, |datagram, out| {
                    out.extend_from_slice(datagram.bytes);
                    seen.push((datagram.peer, datagram.local));
                    true
                });
            }
            assert_eq!(batch.send(socket.as_fd()), 0);
        }
        seen
    }

    #[test]
    fn a_batch_goes_back_to_its_senders() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients: Vec<_> = (0..40).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for (n, client) in clients.iter().enumerate() {
            client.send_to(&[n as u8; 20], server.local_addr().unwrap()).unwrap();
        }
        let seen = echo(&mut Batch::new(false), &server, 40);
        assert_eq!(seen.len(), 40);
        for (n, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buf = [0; 64];
            assert_eq!(client.recv(&mut buf).unwrap(), 20);
            assert_eq!(buf[0], n as u8);
        }
    }

    #[test]
    fn the_time_in_the_queue_is_the_kernels() {
        const WAITED: Duration = Duration::from_millis(30);
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new(false);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut waited = None;
        // The first call begins it, some time later.
        for _ in 0..50 {
            client.send_to(&[0; 20], server.local_addr().unwrap()).unwrap();
            std::thread::park_timeout(WAITED);
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
            waited = batch.last_waited(server.as_fd());
            if waited.is_some_and(|waited| waited > WAITED / 2) {
                break;
            }
        }
        let waited = waited.unwrap();
        assert!((WAITED / 2..Duration::from_secs(20)).contains(&waited), "{waited:?}");
    }

    #[test]
    fn the_reply_leaves_from_the_address_that_was_asked() {
        for (any, asked) in [("0.0.0.0:0", "127.0.0.3"), ("[::]:0", "127.0.0.3"), ("[::]:0", "::1")]
        {
            let Ok(server) = UdpSocket::bind(any) else {
                eprintln!("SKIPPED {any}: no such family here");
                continue;
            };
            crate::server::sockets::ask_for_destination(
                &socket2::SockRef::from(&server),
                any.starts_with('['),
            )
            .unwrap();
            let asked: IpAddr = asked.parse().unwrap();
            let client =
                UdpSocket::bind(if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            client.connect((asked, server.local_addr().unwrap().port())).unwrap();
            client.send(b"twelve octets and more").unwrap();
            let seen = echo(&mut Batch::new(true), &server, 1);
            assert_eq!(seen, [(client.local_addr().unwrap(), Some(asked))]);
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // A connected socket takes datagrams from the asked address only.
            assert_eq!(client.recv(&mut [0; 64]).unwrap(), 22);
        }
    }
}
