//! The loop of one worker on one UDP socket: receive what is there, answer hits in place, send, and let misses go.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::answer::{Disposition, answer};
use super::batch::{BATCH, Batch};
use super::listener::Listener;
use super::send_queue::{ReplyPath, UdpPath};
use super::sockets::leave_group;
use super::worker::{Phase, Worker, drained};
use super::{Dispatch, pending};
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::request::{Origin, Transport};

/// Of so many batches, the time that one of them waited in the socket's queue is looked at.
const TIMED_OF: u32 = 64;
/// Full batches in a row before the waiting tasks of this worker get their turn.
const BATCHES_BEFORE_YIELD: usize = 4;

/// Batches that are still answered when the socket is to close: what the kernel's queue holds of small queries.
const DRAIN_BATCHES: usize = 512;

/// Serves `socket` until `phase` changes; then empties its queue, unless that is another process's, and returns.
pub(super) async fn serve(
    socket: OwnedFd,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
    mut phase: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let socket = Arc::new(socket);
    // A task of its own: a query wakes only that, and not this one, which waits for the end.
    let mut receiving =
        tokio::spawn(receive(Arc::clone(&socket), Arc::clone(&listener), Arc::clone(&worker)));
    let phase = tokio::select! {
        ended = &mut receiving => return match ended {
            Ok(ended) => ended,
            // The supervisor of the socket is to hear of it.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(error) => Err(error.into()),
        },
        phase = drained(&mut phase) => phase,
    };
    // It ends where it waits, with every datagram that it has received answered.
    receiving.abort();
    // Cancelled, or a failure of the socket that the end makes good.
    let _ = receiving.await;
    if matches!(phase, Phase::HandedOver(_)) {
        return Ok(());
    }
    if let Err(error) = leave_group(socket.as_fd(), listener.address) {
        tracing::warn!(%error, address = %listener.address, "cannot leave the SO_REUSEPORT group: queries that arrive on this socket while it closes may be lost");
    }
    let mut batch = Batch::new(listener.address.ip().is_unspecified());
    empty(&socket, &listener, &worker, &mut batch).await;
    // What another processor was about to put into the queue is there now.
    tokio::time::sleep(Duration::from_millis(1)).await;
    empty(&socket, &listener, &worker, &mut batch).await;
    Ok(())
}

/// Answers what comes to `socket`, until it fails or the task is aborted.
async fn receive(
    socket: Arc<OwnedFd>,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
) -> std::io::Result<()> {
    // For reading only: where writing is watched too, each reply that has left makes an event of its own.
    #[allow(
        deprecated,
        reason = "unsound for types that may close or change their descriptor, which an `Arc<OwnedFd>` cannot"
    )]
    let readable = AsyncFd::with_interest(Arc::clone(&socket), Interest::READABLE)?;
    let mut batch = Batch::new(listener.address.ip().is_unspecified());
    let mut batches: u32 = 0;
    loop {
        let mut ready = readable.readable().await?;
        let mut full = 0;
        loop {
            match batch.receive(socket.as_fd()) {
                Ok(n) => {
                    batches = batches.wrapping_add(1);
                    if batches.is_multiple_of(TIMED_OF)
                        && let Some(waited) = batch.last_waited(socket.as_fd())
                    {
                        worker.tally.waited(waited);
                    }
                    answer_all(n, &socket, &listener, &worker, &mut batch);
                    // Fewer than a batch: the queue was empty at that moment, and what has come since makes a new event.
                    if n < BATCH {
                        ready.clear_ready();
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => {
                    // A pending ICMP error, mostly. The next call receives what is behind it.
                    tracing::debug!(%error, address = %listener.address, "receiving failed");
                    break;
                }
            }
            full += 1;
            worker.full_batch();
            if full % BATCHES_BEFORE_YIELD == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Answers what is in the queue of a socket that is about to close.
async fn empty(
    socket: &Arc<OwnedFd>,
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

/// Answers the `n` datagrams that `batch` has received.
fn answer_all(
    n: usize,
    socket: &Arc<OwnedFd>,
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
    socket: &Arc<OwnedFd>,
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
            match handled {
                Disposition::Reply => true,
                Disposition::Drop => false,
                Disposition::Pending(reply, request) => {
                    let Some(permit) = worker.admit(&origin) else {
                        reply.refuse();
                        return false;
                    };
                    let socket = Arc::clone(socket);
                    let path = UdpPath { socket, source: datagram.local };
                    let reply = reply.since(*begun.get_or_insert_with(Instant::now));
                    pending::resolve(reply, &request, permit, ReplyPath::Udp(path));
                    false
                }
            }
        }));
        handled.unwrap_or_else(|_| {
            worker.panicked();
            out.truncate(start);
            false
        })
    });
}
