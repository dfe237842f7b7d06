//! The supervisor, as its child sees it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::unistd::dup2_stdin;

use crate::handover::{Channel, Keeper, Message};

/// The connection to the supervisor.
#[derive(Clone, Debug)]
pub struct Link(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    channel: Channel,
    /// That the supervisor does not listen has been logged.
    is_deaf: AtomicBool,
}

/// What a child begins with.
#[derive(Debug)]
pub struct Start {
    /// The connection.
    pub link: Link,
    /// What earlier children gave the supervisor to keep.
    pub items: BTreeMap<String, OwnedFd>,
    /// How the child before this one ended; empty: there was none.
    pub why: String,
    /// How often the server was started again.
    pub restarts: u64,
}

impl Link {
    /// Over the child's end of the channel. The signals that the supervisor takes stay blocked until the server has handlers for
    /// them.
    ///
    /// # Errors
    /// The kernel refuses to change descriptors.
    pub(super) fn over(channel: Channel) -> io::Result<Self> {
        // Standard input is the supervisor's.
        dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self(Arc::new(Connection { channel, is_deaf: AtomicBool::new(false) })))
    }

    /// Says that queries are answered.
    pub fn serving(&self) {
        self.say(&Message::Serving);
    }

    /// A sign of life.
    pub fn alive(&self) {
        // Without room the supervisor does not read: it is stopped, and counts no ticks.
        let _ = self.0.channel.try_send(&Message::Alive);
    }

    /// Has the service manager told.
    pub fn notify(&self, text: &str) {
        self.say(&Message::Notify(text.to_owned()));
    }

    /// Has a new instance started from the program's file.
    pub fn upgrade(&self) {
        self.say(&Message::Upgrade);
    }

    /// Says through which connection this process has handed over; it is about to exit.
    pub fn handed_over(&self, connection: OwnedFd) {
        self.say(&Message::HandedOver(connection));
    }

    /// Blocks until the supervisor has ended. `failed` is told why an upgrade came to nothing.
    pub fn wait_for_end(&self, failed: impl Fn(&str)) {
        // What it may say in a later release is ignored.
        while let Ok(Some(message)) = self.0.channel.receive() {
            if let Message::Failed(why) = message {
                failed(&why);
            }
        }
    }

    fn say(&self, message: &Message) {
        if let Err(error) = self.0.channel.send(message) {
            self.warn(&error);
        }
    }

    /// Logs once that the supervisor does not listen: it has ended, and all that follows fails, too.
    fn warn(&self, error: &io::Error) {
        if !self.0.is_deaf.swap(true, Relaxed) {
            tracing::warn!(%error, "the supervisor does not listen");
        }
    }
}

impl Keeper for Link {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        match self.0.channel.send_item(name, fd) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.warn(&error),
            Err(error) => tracing::warn!(%error, name, "not kept for the time after a crash"),
            Ok(()) => {}
        }
    }

    fn forget(&self, name: &str) {
        self.say(&Message::Forget(name.to_owned()));
    }

    fn try_keep(&self, name: &str, fd: BorrowedFd<'_>) -> bool {
        fd.try_clone_to_owned().is_ok_and(|fd| {
            self.0.channel.try_send(&Message::Item { name: name.to_owned(), fd }).is_ok()
        })
    }

    fn try_forget(&self, name: &str) {
        // A supervisor that takes nothing is stopped. What it still has then is of no use to a next process, which drops it.
        let _ = self.0.channel.try_send(&Message::Forget(name.to_owned()));
    }
}
