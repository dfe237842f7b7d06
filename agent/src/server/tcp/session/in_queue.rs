//! A connection that is kept: what has come stays in the kernel's queue until it is served, so that a next process finds it there.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

use rustix::net::{RecvFlags, recv};

use super::{MAX_IN_FLIGHT, Session, Turned, frame};
use crate::server::tcp::turns::{Buffers, READ_LEN, Turn};

/// What has been seen in the queue and was left there.
#[derive(Clone, Copy, Default)]
pub(super) struct Queued {
    /// Bytes.
    pub(super) len: usize,
    /// They begin with a whole query.
    pub(super) has_query: bool,
}

/// Whether a connection lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// No query was served yet.
    Nothing,
    /// Queries that came together.
    Once,
    /// The connection is kept, or was, or cannot be.
    Enough,
}

impl Session {
    /// Has the supervisor keep a connection from its second turn on: most have one query. To be called after a turn.
    pub(super) fn keep_if_it_lasts(&mut self, has_served: bool) {
        match self.served {
            Served::Nothing if has_served => self.served = Served::Once,
            Served::Once if self.input.is_empty() && self.rest.is_empty() => {
                self.served = Served::Enough;
                let keeping = &self.shared.connections.keeping;
                self.kept = keeping.keep(self.shared.listener.address, self.stream.as_fd());
            }
            _ => {}
        }
    }

    /// The turn of a connection that is kept.
    pub(super) fn take_turn_in_queue(&mut self, turn: &Turn) -> io::Result<Turned> {
        turn.with_buffers(|Buffers { read, out }| {
            let seen = match self.queued.has_query {
                // It was seen in the last turn: there is no event to wait for.
                true => receive(self, &mut read[..], RecvFlags::PEEK),
                false => self.stream.read(&mut read[..], RecvFlags::PEEK),
            };
            let len = match seen {
                Ok(0) => return Ok(Turned::Eof),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turned::Done),
                Err(error) => return Err(error),
            };
            let used = self.serve(read.get(..len).unwrap_or(&[]), out)?;
            let left = read.get(used..len).unwrap_or(&[]);
            let before = self.queued.len;
            self.queued = Queued { len: left.len(), has_query: frame(left, 0).is_some() };
            if used > 0 || before == 0 {
                self.query_since = Instant::now();
            }
            if used > 0 {
                self.idle_since = self.query_since;
                // Before the replies leave, so that a crash does not have them sent twice.
                receive(self, read.get_mut(..used).unwrap_or(&mut []), RecvFlags::empty())?;
            } else if (len == READ_LEN || len == before) && self.in_flight < MAX_IN_FLIGHT {
                // Too long to be looked at, or cut off by the client's end.
                self.leave_to_crash()?;
            }
            self.write(out)?;
            if !self.rest.is_empty() {
                self.leave_to_crash()?;
            }
            let more = self.has_query() || len == READ_LEN;
            Ok(if more { Turned::More } else { Turned::Done })
        })
    }

    /// Ends that the connection is kept, because something of it has to be in this process.
    pub(super) fn leave_to_crash(&mut self) -> io::Result<()> {
        self.kept = None;
        let mut bytes = vec![0; std::mem::take(&mut self.queued).len];
        if !bytes.is_empty() {
            let len = receive(self, &mut bytes, RecvFlags::empty())?;
            bytes.truncate(len);
        }
        self.keep(&bytes)
    }
}

/// Takes from the queue, or looks at it with [`RecvFlags::PEEK`], at once.
fn receive(session: &Session, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    Ok(recv(&session.stream, into, flags | RecvFlags::DONTWAIT)?.1)
}
