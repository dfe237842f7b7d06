//! One exchange with nfnetlink: requests out, replies in. Blocking, on a socket of its own.

use std::io;

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::nft::Request;

/// Sends the requests as one datagram and collects the replies until the dump or the
/// acknowledgement ends them.
///
/// # Errors
///
/// The first error that the kernel reports, as its errno; for a transaction it means that nothing
/// was changed.
pub(crate) fn exchange(requests: Vec<Request>) -> io::Result<Vec<NetfilterMessage>> {
    let mut buffer = Vec::new();
    for (sequence, request) in (1..).zip(requests) {
        request.write(sequence, &mut buffer);
    }
    let socket = open()?;
    socket.send(&buffer, 0)?;
    let mut replies = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read_replies(&datagram, &mut replies)? {
            return Ok(replies);
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel answers while it takes the request, so this is only a guard against waiting for
    // ever.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(10)).map_err(io::Error::from)?;
    Ok(socket)
}

/// Takes the messages out of a datagram. `true` if one of them is the last.
///
/// A dump has other people's objects in it, too; one that cannot be decoded is left out.
fn read_replies(mut datagram: &[u8], replies: &mut Vec<NetfilterMessage>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let torn = || io::Error::new(io::ErrorKind::InvalidData, "torn netlink message");
        let length = NetlinkBuffer::new_checked(datagram).map_err(|_| torn())?.length() as usize;
        match NetlinkMessage::<NetfilterMessage>::deserialize(datagram).map(|m| m.payload) {
            Ok(NetlinkPayload::InnerMessage(reply)) => replies.push(reply),
            Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Err(error.to_io()),
            Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Overrun(_)) => {
                return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "left out a netfilter object"),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}
