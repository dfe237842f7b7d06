//! The running instance's side of a hand-over: a thread that waits for the next instance.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use socket2::{Socket, Type};

use super::Item;
use super::channel::Channel;
use super::message::Message;
use super::name::Place;
use crate::own_socket::{self, OwnSocket};

/// How long a new instance has to say what it wants.
const GREETING: Duration = Duration::from_secs(2);
/// How long it has to take an item.
const ITEM: Duration = Duration::from_secs(20);
/// How long it may take to start, once it has everything.
const START: Duration = Duration::from_secs(600);
/// Wait after a failure to accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4;

/// What a hand-over needs of the server. Called on the thread of the hand-over, which may block.
pub trait Handing: Send + Sync + 'static {
    /// Where the server listens.
    fn place(&self) -> Place;
    /// Everything that is passed on, as it is at this moment.
    fn items(&self) -> io::Result<Vec<Item>>;
    /// The new instance serves: stop reading, say so through `channel`, drain, and exit.
    fn handed_over(&self, channel: Channel);
    /// The new instance has ended, or gave up, before it served.
    fn failed(&self, why: &str);
}

/// The socket at which the next instance finds this one, until it is dropped.
#[derive(Debug)]
pub struct Listening(#[allow(dead_code, reason = "held for its drop")] OwnSocket);

/// Waits at `path` for the next instance, in the place of whichever waited there.
pub fn listen(path: &Path, handing: Arc<dyn Handing>) -> io::Result<Listening> {
    let (socket, file) = own_socket::listen(path, Type::SEQPACKET, BACKLOG)?;
    thread::Builder::new().name("handover".into()).spawn(move || accept(&socket, &handing))?;
    Ok(Listening(file))
}

/// Runs on the thread `handover` for the life of the process.
fn accept(socket: &Socket, handing: &Arc<dyn Handing>) {
    let busy = Arc::new(AtomicBool::new(false));
    loop {
        let Ok((peer, _)) = socket.accept() else {
            thread::park_timeout(ACCEPT_PAUSE);
            continue;
        };
        if !is_trusted(&peer) {
            continue;
        }
        let channel = Channel::over(OwnedFd::from(peer));
        if busy.swap(true, Ordering::AcqRel) {
            refuse(&channel);
            continue;
        }
        let (done, handing) = (Arc::clone(&busy), Arc::clone(handing));
        let started = thread::Builder::new().name("handover".into()).spawn(move || {
            converse(channel, handing.as_ref());
            done.store(false, Ordering::Release);
        });
        if started.is_err() {
            busy.store(false, Ordering::Release);
        }
    }
}

/// Says that another hand-over is under way. What the other side has said is read before: what lies unread when a connection is
/// closed resets it, and the answer with it.
fn refuse(channel: &Channel) {
    let heard = channel.set_patience(Some(GREETING)).and_then(|()| channel.receive());
    if matches!(heard, Ok(Some(_))) && matches!(channel.receive(), Ok(Some(_))) {
        let _ = channel.send(&Message::Busy);
    }
}

/// Only root and our own user get our sockets.
fn is_trusted(peer: &Socket) -> bool {
    let own = geteuid().as_raw();
    getsockopt(peer, sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

fn converse(channel: Channel, handing: &dyn Handing) {
    match give(&channel, handing) {
        Ok(true) => handing.handed_over(channel),
        Ok(false) => {}
        Err(error) => handing.failed(&error.to_string()),
    }
}

/// True: the new instance serves. False: it has not said what it is.
fn give(channel: &Channel, handing: &dyn Handing) -> io::Result<bool> {
    channel.set_patience(Some(GREETING))?;
    let Ok(Some(Message::Hello { text: release, .. })) = channel.receive() else {
        return Ok(false);
    };
    let wanted = match channel.receive() {
        Ok(Some(Message::Wanted(text))) => Place::from(text.as_str()),
        _ => return Ok(false),
    };
    channel.send(&Message::hello())?;
    if !wanted.meets(&handing.place()) {
        channel.send(&Message::Unrelated)?;
        return Ok(false);
    }
    tracing::info!(release, "another instance starts and is given sockets, cache and store");
    channel.set_patience(Some(ITEM))?;
    match handing.items() {
        Ok(items) => {
            for (name, fd) in items {
                channel.send(&Message::Item { name, fd })?;
            }
            channel.send(&Message::End)?;
        }
        Err(error) => {
            channel.send(&Message::Failed(error.to_string()))?;
            return Err(error);
        }
    }
    channel.set_patience(Some(START))?;
    loop {
        return match channel.receive() {
            Ok(Some(Message::Serving)) => Ok(true),
            Ok(Some(Message::Failed(why))) => Err(io::Error::other(why)),
            Ok(Some(_)) => continue,
            Ok(None) => Err(io::Error::other("it ended before it served")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::other("it did not serve within 10 minutes"))
            }
            Err(error) => Err(error),
        };
    }
}
