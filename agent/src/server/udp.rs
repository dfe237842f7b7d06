//! The loop of one worker on one UDP socket: receive what is there, answer hits in place, send, and let misses go.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::answer::{Handled, answer};
use super::batch::{BATCH, Batch};
use super::listener::Listener;
use super::outbox::Back;
use super::sockets::leave_group;
use super::worker::{Worker, drained};
use super::{Dispatch, errand};
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::request::{Origin, Transport};

/// Full batches in a row before the waiting tasks of this worker get their turn.
const BATCHES_BEFORE_YIELD: usize = 4;

/// Batches that are still answered when the socket is to close: what the kernel's queue holds of small queries.
const DRAIN_BATCHES: usize = 512;

/// Serves `socket` until `draining` turns true; then empties its queue and returns.
pub(super) async fn serve(
    socket: OwnedFd,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
    mut draining: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let any = listener.address.ip().is_unspecified();
    let socket = Arc::new(UdpSocket::from_std(socket.into())?);
    let mut batch = Batch::new(any);
    loop {
        tokio::select! {
            biased;
            ready = socket.readable() => {
                ready?;
                let mut full = 0;
                while receive_and_answer(&socket, &listener, &worker, &mut batch) == BATCH
                    && !*draining.borrow()
                {
                    full += 1;
                    if full % BATCHES_BEFORE_YIELD == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
            () = drained(&mut draining) => {
                if let Err(error) = leave_group(socket.as_fd(), listener.address) {
                    tracing::warn!(%error, address = %listener.address, "the kernel goes on giving queries to a socket that closes; where another instance takes over, a few may be lost");
                }
                empty(&socket, &listener, &worker, &mut batch).await;
                // What another processor was about to put into the queue is there now.
                tokio::time::sleep(Duration::from_millis(1)).await;
                empty(&socket, &listener, &worker, &mut batch).await;
                return Ok(());
            }
        }
    }
}

/// Answers what is in the queue of a socket that is about to close.
async fn empty(
    socket: &Arc<UdpSocket>,
    listener: &Arc<Listener>,
    worker: &Arc<Worker>,
    batch: &mut Batch,
) {
    // Bounded: where leaving the group failed, a flood never lets the queue run empty, and others wait for this thread.
    for _ in 0..DRAIN_BATCHES {
        // Not by what the runtime knows of the socket: a datagram may be there before its event was seen.
        match batch.receive(socket.as_fd()) {
            Ok(n) if n > 0 => answer_all(n, socket, listener, worker, batch),
            _ => return,
        }
        tokio::task::yield_now().await;
    }
}

/// One batch. Returns how many datagrams it held.
fn receive_and_answer(
    socket: &Arc<UdpSocket>,
    listener: &Arc<Listener>,
    worker: &Arc<Worker>,
    batch: &mut Batch,
) -> usize {
    let mut n = 0;
    let result = socket.try_io(Interest::READABLE, || {
        n = batch.receive(socket.as_fd())?;
        // Fewer than a batch: the queue was empty at that moment, and what has come since makes a new event. Saying so
        // here spares the call that would find it empty.
        if n < BATCH { Err(std::io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
            // A pending ICMP error, mostly. The next call goes on behind it.
            tracing::debug!(%error, address = %listener.address, "receiving failed");
            return 0;
        }
        _ if n == 0 => return 0,
        _ => {}
    }
    answer_all(n, socket, listener, worker, batch);
    n
}

/// Answers the `n` datagrams that `batch` has received.
fn answer_all(
    n: usize,
    socket: &Arc<UdpSocket>,
    listener: &Arc<Listener>,
    worker: &Arc<Worker>,
    batch: &mut Batch,
) {
    let received = CoarseInstant::now();
    let dispatch = listener.dispatch.load();
    // A precise clock is dear, and only misses are timed by it.
    let mut begun = None;
    Local::with(|local| {
        for slot in 0..n {
            serve_one(
                slot, batch, received, &dispatch, listener, worker, local, socket, &mut begun,
            );
        }
    });
    worker.unsent(batch.send(socket.as_fd()));
}

#[allow(
    clippy::too_many_arguments,
    reason = "one datagram's whole context; a structure would be made for one call"
)]
fn serve_one(
    slot: usize,
    batch: &mut Batch,
    received: CoarseInstant,
    dispatch: &Arc<Dispatch>,
    listener: &Listener,
    worker: &Arc<Worker>,
    local: &mut Local,
    socket: &Arc<UdpSocket>,
    begun: &mut Option<Instant>,
) {
    batch.serve(slot, |datagram, out| {
        let origin = Origin {
            client: datagram.peer,
            local: SocketAddr::new(
                datagram.local.unwrap_or(listener.address.ip()),
                listener.address.port(),
            ),
            transport: Transport::Udp,
            worker: worker.number,
            received,
        };
        let start = out.len();
        // A bug in one answer must not end the worker.
        let handled = catch_unwind(AssertUnwindSafe(|| {
            let handled = answer(datagram.bytes, origin, dispatch, local, out);
            if let Handled::Later(later, request) = handled {
                if let Some(waiting) = worker.wait() {
                    let back = Back { socket: Arc::clone(socket), source: datagram.local };
                    let begun = *begun.get_or_insert_with(Instant::now);
                    errand::set_out(later.since(begun), &request, waiting, back);
                }
                return false;
            }
            matches!(handled, Handled::Reply)
        }));
        handled.unwrap_or_else(|_| {
            worker.panicked();
            out.truncate(start);
            false
        })
    });
}
