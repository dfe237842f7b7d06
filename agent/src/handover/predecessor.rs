//! The new instance's side of a hand-over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use socket2::Type;

use super::channel::Channel;
use super::inherited::Inherited;
use super::message::Message;
use super::name::Place;
use super::{MAX_PREDECESSORS, PREDECESSOR};
use crate::own_socket;

/// How long the other instance has to say that it is there.
const GREETING: Duration = Duration::from_secs(1);
/// A connection that is closed at once is tried again so often, and after so long.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// One that does not answer is tried once more after this: longer than its supervisor takes to replace it.
const SILENT_PAUSE: Duration = Duration::from_millis(1_600);
/// How long it has for each item: it writes down its cache meanwhile.
const ITEM: Duration = Duration::from_secs(20);

/// What came of asking.
#[derive(Debug)]
pub enum Asked {
    /// There is no other instance.
    Alone,
    /// One is there that has nothing to do with this one: it listens elsewhere.
    Unrelated,
    /// Something has the socket and does not answer: it is stopped, or hangs. Its process id, if it is one of ours.
    Silent(Option<Pid>),
    /// Another instance is about to take over.
    Busy,
    /// This one is ready to hand over. Everything that it has given is in [`Inherited`].
    Found(Predecessor),
}

/// A hand-over that has begun and broke off. The other instance continues to serve.
#[derive(Debug, thiserror::Error)]
#[error("the running instance did not hand over: {0}")]
pub struct HandOverError(#[from] io::Error);

/// The instance that serves until this one does.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    /// Its release.
    pub release: String,
}

/// Asks the instance that waits at `path` for everything, into `inherited`, if it listens where this one is to listen, which is
/// `place`. Blocks.
///
/// # Errors
/// It has begun to hand over and broke off.
pub fn ask(path: &Path, place: &Place, inherited: &Inherited) -> Result<Asked, HandOverError> {
    let (mut was_silent, mut is_busy) = (false, false);
    for _ in 0..TRIES {
        match try_ask(path, place, inherited)? {
            // Its supervisor may be about to replace it.
            Some(Asked::Silent(_)) if !was_silent => {
                was_silent = true;
                std::thread::park_timeout(SILENT_PAUSE);
            }
            // It may have handed over already, and its successor is about to wait in its place.
            Some(Asked::Busy) => {
                is_busy = true;
                std::thread::park_timeout(PAUSE);
            }
            Some(asked) => return Ok(asked),
            // It was about to end, or another one takes its place at this moment.
            None => {
                is_busy = false;
                std::thread::park_timeout(PAUSE);
            }
        }
    }
    Ok(if is_busy { Asked::Busy } else { Asked::Alone })
}

/// `None`: the other side has closed at once.
fn try_ask(
    path: &Path,
    place: &Place,
    inherited: &Inherited,
) -> Result<Option<Asked>, HandOverError> {
    let channel = match own_socket::connect(path, Type::SEQPACKET, GREETING) {
        Ok(socket) => Channel::over(OwnedFd::from(socket)),
        // Its queue is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok(Some(Asked::Silent(None)));
        }
        // No socket is there, or no process listens at it.
        Err(_) => return Ok(Some(Asked::Alone)),
    };
    channel.set_patience(Some(GREETING))?;
    let wanted = Message::Wanted(place.to_string());
    let said = channel.send(&Message::hello()).and_then(|()| channel.send(&wanted));
    let greeted = said.and_then(|()| channel.receive());
    let release = match greeted {
        Ok(Some(Message::Hello { text, .. })) => text,
        Ok(Some(Message::Busy)) => return Ok(Some(Asked::Busy)),
        Ok(Some(Message::Failed(why))) => return Err(io::Error::other(why).into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok(Some(Asked::Silent(process(&channel))));
        }
        Ok(_) | Err(_) => return Ok(None),
    };
    channel.set_patience(Some(ITEM))?;
    loop {
        match channel.receive()? {
            Some(Message::Item { name, fd }) => inherited.add(name, fd),
            Some(Message::Unrelated) => return Ok(Some(Asked::Unrelated)),
            Some(Message::End) => {
                return Ok(Some(Asked::Found(Predecessor { channel, release })));
            }
            Some(Message::Failed(why)) => return Err(io::Error::other(why).into()),
            Some(_) => {}
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// The process at the other end, unless it is one of another process namespace.
fn process(channel: &Channel) -> Option<Pid> {
    let peer = getsockopt(channel, sockopt::PeerCredentials).ok()?;
    Some(Pid::from_raw(peer.pid())).filter(|pid| pid.as_raw() > 0)
}

impl Predecessor {
    /// The instance to which another process of this one had this connection.
    fn again(connection: OwnedFd) -> Self {
        Self { channel: Channel::over(connection), release: String::new() }
    }

    /// The instances before to which another process had the connections, as far as they have not ended.
    pub fn all_again(inherited: &Inherited) -> Vec<Arc<Self>> {
        let name = |n| format!("{PREDECESSOR} {n}");
        let taken = (0..MAX_PREDECESSORS).filter_map(|n| inherited.take(&name(n)));
        let known = taken.map(|connection| Arc::new(Self::again(connection)));
        known.filter(|known| !known.has_ended()).collect()
    }

    /// Says that this instance serves.
    pub fn serving(&self) -> io::Result<()> {
        self.channel.send(&Message::Serving)?;
        self.channel.set_patience(None)
    }

    /// True if it has ended.
    pub fn has_ended(&self) -> bool {
        self.channel.has_ended()
    }

    /// The next message of the other instance; `None`: it has ended. Blocks.
    pub fn receive(&self) -> Option<Message> {
        loop {
            match self.channel.receive() {
                Ok(message) => return message,
                // One of a later version, or nonsense: the next one may be of use.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(_) => return None,
            }
        }
    }

    /// Says why this instance will not serve.
    pub fn failed(&self, why: &str) {
        // It may have ended meanwhile.
        let _ = self.channel.send(&Message::Failed(why.to_owned()));
    }

    /// The connection. While any process holds it, a predecessor that waits knows that its successors live.
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
