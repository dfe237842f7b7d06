//! Replies that were not written in the receive loop, and how each leaves. Datagrams of a thread gather here and are sent
//! together once the tasks that are ready have run.

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use smallvec::SmallVec;

use super::sockets::send_to;
use super::worker::Worker;

/// Datagrams for one call.
const BATCH: usize = 32;
/// Octets that stay allocated between two batches; what large replies took beyond is given back.
const KEPT: usize = 65_536;

/// How a reply gets back to its client.
pub(super) enum ReplyPath {
    /// As a datagram.
    Udp(UdpPath),
    /// Over the session that the query came by.
    Tcp(Box<dyn OwedReply>),
}

/// The way of a datagram.
pub(super) struct UdpPath {
    /// The socket that the query came to.
    pub socket: Arc<OwnedFd>,
    /// The address that was asked, if the socket is bound to the unspecified one.
    pub source: Option<IpAddr>,
}

/// The reply that is owed to a TCP session. Dropped without one, it reports that there is none.
pub(super) trait OwedReply: Send {
    /// Sends what `write`, called once, appends to a frame's length, unless it returns false.
    fn send(self: Box<Self>, write: &mut dyn FnMut(&mut Vec<u8>) -> bool);
}

impl ReplyPath {
    /// Sends what `write` appends, unless it returns false.
    pub(super) fn send(
        self,
        worker: &Arc<Worker>,
        client: SocketAddr,
        mut write: impl FnMut(&mut Vec<u8>) -> bool,
    ) {
        match self {
            Self::Udp(path) => SendQueue::push(path, worker, client, write),
            Self::Tcp(owed) => owed.send(&mut write),
        }
    }
}

/// One thread's datagrams that are not sent yet. Dropping it sends them: at the end of a task of its own, or with the runtime.
struct SendQueue;

struct Reply {
    path: UdpPath,
    worker: Arc<Worker>,
    client: SocketAddr,
    start: usize,
    len: usize,
}

#[derive(Default)]
struct Unsent {
    octets: Vec<u8>,
    replies: Vec<Reply>,
}

thread_local! {
    static UNSENT: RefCell<Unsent> = RefCell::default();
    static HEADERS: RefCell<MultiHeaders<SockaddrStorage>> =
        RefCell::new(MultiHeaders::preallocate(BATCH, None));
}

impl SendQueue {
    fn push(
        path: UdpPath,
        worker: &Arc<Worker>,
        client: SocketAddr,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        let first = UNSENT.with_borrow_mut(|unsent| {
            let start = unsent.octets.len();
            if !write(&mut unsent.octets) {
                unsent.octets.truncate(start);
                return false;
            }
            let len = unsent.octets.len() - start;
            unsent.replies.push(Reply { path, worker: Arc::clone(worker), client, start, len });
            unsent.replies.len() == 1
        });
        if first {
            let queue = Self;
            tokio::spawn(async move { drop(queue) });
        }
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        let Ok(mut unsent) = UNSENT.try_with(RefCell::take) else { return };
        unsent.send();
        unsent.replies.clear();
        unsent.octets.clear();
        unsent.octets.shrink_to(KEPT);
        // The buffers are used again.
        let _ = UNSENT.try_with(|kept| kept.replace(unsent));
    }
}

impl Unsent {
    fn send(&self) {
        let mut rest = self.replies.as_slice();
        while let Some(first) = rest.first() {
            let together = |reply: &&Reply| {
                Arc::ptr_eq(&reply.path.socket, &first.path.socket) && reply.path.source.is_none()
            };
            let many = rest.iter().take_while(together).take(BATCH).count();
            let sent =
                if many > 1 { self.send_many(rest.get(..many).unwrap_or(&[])) } else { None };
            let taken = sent.unwrap_or_else(|| {
                let octets = self.octets.get(first.start..first.start + first.len);
                let UdpPath { socket, source } = &first.path;
                if send_to(socket, octets.unwrap_or(&[]), first.client, *source).is_err() {
                    first.worker.unsent(1);
                }
                1
            });
            rest = rest.get(taken..).unwrap_or(&[]);
        }
    }

    /// How many the kernel has taken; `None` if it refuses the first.
    fn send_many(&self, replies: &[Reply]) -> Option<usize> {
        let fd = replies.first()?.path.socket.as_raw_fd();
        let slices: SmallVec<[[IoSlice<'_>; 1]; BATCH]> = replies
            .iter()
            .map(|r| [IoSlice::new(self.octets.get(r.start..r.start + r.len).unwrap_or(&[]))])
            .collect();
        let clients: SmallVec<[Option<SockaddrStorage>; BATCH]> =
            replies.iter().map(|reply| Some(reply.client.into())).collect();
        let slices = slices.as_slice();
        let sent = HEADERS.with_borrow_mut(|headers| {
            sendmmsg(fd, headers, slices, &clients, [], MsgFlags::MSG_DONTWAIT).map(Iterator::count)
        });
        sent.ok().filter(|&sent| sent > 0)
    }
}
