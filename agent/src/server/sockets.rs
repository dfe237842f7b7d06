//! How listening sockets are made and set up, and how a UDP socket leaves its group.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Receive and send queues of a UDP socket: room for 10,000 small queries while a worker is not scheduled, or while the server is
/// started again. The kernel caps it at `net.core.rmem_max` unless we have CAP_NET_ADMIN (SO_RCVBUFFORCE, socket(7)).
const UDP_QUEUE: usize = 4 << 20;
/// Connections that wait to be accepted.
pub const TCP_BACKLOG: i32 = 1_024;
/// The kernel's buffers of an accepted connection, inherited from the listening socket. Fixed, since the kernel would let them
/// grow to megabytes for a client that sends and does not read; a reply of the greatest length passes in two writes.
const TCP_RECEIVE: usize = 16 << 10;
const TCP_SEND: usize = 64 << 10;

/// A listening address that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({transport}): {source}{}", hint(source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another server has this port: `ss -lntup` shows which",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}

/// One worker's sockets for one address.
pub struct Sockets {
    /// The datagram socket, non-blocking.
    pub udp: OwnedFd,
    /// The listening stream socket, non-blocking.
    pub tcp: OwnedFd,
}

impl Sockets {
    /// Opens a datagram socket for `address`. SO_REUSEPORT is set on this and the next, so that each worker has its own and a
    /// second instance can start beside this one.
    pub fn open_udp(address: SocketAddr) -> Result<OwnedFd, BindError> {
        open_udp(address).map_err(|source| BindError { address, transport: "udp", source })
    }

    /// Opens a listening stream socket for `address`.
    pub fn open_tcp(address: SocketAddr) -> Result<OwnedFd, BindError> {
        open_tcp(address).map_err(|source| BindError { address, transport: "tcp", source })
    }

    /// The address that both are bound to; tells the port where 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = SockRef::from(&self.udp).local_addr()?;
        addr.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
    }
}

fn open_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    // Best effort: the queue's size is a comfort, not a need.
    if setsockopt(&socket, sockopt::RcvBufForce, &UDP_QUEUE).is_err() {
        let _ = socket.set_recv_buffer_size(UDP_QUEUE);
    }
    let _ = socket.set_send_buffer_size(UDP_QUEUE);
    if address.ip().is_unspecified() {
        ask_for_destination(&SockRef::from(&socket), address.is_ipv6())?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn open_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_tcp_nodelay(true)?;
    // Best effort, as above.
    let _ = socket.set_recv_buffer_size(TCP_RECEIVE);
    let _ = socket.set_send_buffer_size(TCP_SEND);
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // The unspecified IPv6 address serves both families, as CoreDNS's does.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Makes a socket tell with each datagram which address it was sent to (IP_PKTINFO, IPV6_RECVPKTINFO).
pub fn ask_for_destination(socket: &SockRef<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        setsockopt(&socket.as_fd(), sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket.as_fd(), sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Has the kernel choose a UDP socket no more while it stays open: from here on queries go to the other sockets of the
/// address, those of the instance that takes over, and what is queued here can be answered in peace. Closing it at once would
/// lose what arrived since it was last read.
///
/// The way to do that is to connect it, since a connected socket gets its peer's datagrams only; the peer is a port of the
/// address itself from which nothing comes. Replies name their destination and go out as before. No error where the address
/// has gone from the node: then nothing comes any more.
pub fn leave_group(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    const DISCARD: u16 = 9;
    let connect = |ip: IpAddr| {
        let mut peer = address;
        peer.set_ip(ip);
        peer.set_port(DISCARD);
        SockRef::from(&socket).connect(&peer.into())
    };
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => connect(Ipv4Addr::LOCALHOST.into()),
        // Where IPv6 is off the socket still serves IPv4.
        IpAddr::V6(ip) if ip.is_unspecified() => connect(Ipv6Addr::LOCALHOST.into())
            .or_else(|_| connect(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into())),
        ip => connect(ip).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH) => {
                Ok(())
            }
            _ => Err(error),
        }),
    }
}

/// Sends one datagram that was not part of a batch; `source` where the socket is bound to the unspecified address.
pub fn send_to(
    socket: &(impl AsFd + AsRawFd),
    bytes: &[u8],
    client: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<usize> {
    let Some(source) = source else {
        return SockRef::from(socket).send_to_with_flags(bytes, &client.into(), libc::MSG_DONTWAIT);
    };
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    let dual = SockRef::from(socket).domain()? == Domain::IPV6;
    let iov = [io::IoSlice::new(bytes)];
    let fd = socket.as_raw_fd();
    let sent = if dual {
        let (to, from) = (mapped(client), mapped_ip(source));
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: from.octets() },
            ipi6_ifindex: 0,
        };
        sendmsg(
            fd,
            &iov,
            &[ControlMessage::Ipv6PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrStorage::from(to)),
        )?
    } else {
        let IpAddr::V4(from) = source else { return Err(io::ErrorKind::InvalidInput.into()) };
        let zero = libc::in_addr { s_addr: 0 };
        let spec = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
        let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec, ipi_addr: zero };
        let to = SockaddrStorage::from(client);
        sendmsg(
            fd,
            &iov,
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&to),
        )?
    };
    Ok(sent)
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

fn mapped_ip(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_share_an_address() {
        let first = open_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = SockRef::from(&first).local_addr().unwrap().as_socket().unwrap();
        let second = open_udp(address).unwrap();
        assert_eq!(SockRef::from(&second).local_addr().unwrap().as_socket(), Some(address));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let error = Sockets::open_udp("192.0.2.1:5353".parse().unwrap()).err().unwrap();
        assert!(error.to_string().contains("no interface has this address"), "{error}");
    }
}
