//! The supervisor, as its child sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::unistd::{dup2_stdin, getppid};

use crate::handover::{Channel, Inherited, Keeper, Message};

/// The variable that tells a child the process id of its supervisor, whose channel is its standard input. Where it does not
/// name the parent it is not meant for this process.
pub const PARENT: &str = "NODENS_SUPERVISOR";
/// The variable with how often the server was started again.
pub(super) const RESTARTS: &str = "NODENS_RESTARTS";

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
    /// How the child before this one ended; empty: there was none.
    pub why: String,
    /// How often the server was started again.
    pub restarts: u64,
}

impl Link {
    /// True if this process is the child of a supervisor.
    pub fn is_there() -> bool {
        let parent = std::env::var(PARENT).ok().and_then(|text| text.parse().ok());
        parent == Some(getppid().as_raw())
    }

    /// Takes the channel, and what is kept, into `inherited`. The signals that the supervisor takes stay blocked, as they were
    /// inherited, until the server has handlers for them. To be called once, before anything else reads standard input.
    ///
    /// # Errors
    /// The supervisor has ended.
    pub fn take(inherited: &Inherited) -> io::Result<Start> {
        let channel = Channel::over(io::stdin().as_fd().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        // It was run as /proc/self/exe, and is to be found by its name.
        let _ = nix::sys::prctl::set_name(c"nodens");
        channel.set_patience(None)?;
        let mut why = String::new();
        loop {
            match channel.receive()? {
                Some(Message::Hello { text, .. }) => why = text,
                Some(Message::Item { name, fd }) => inherited.add(name, fd),
                Some(Message::End) => break,
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let restarts = std::env::var(RESTARTS).ok().and_then(|text| text.parse().ok());
        let link = Self(Arc::new(Connection { channel, is_deaf: AtomicBool::new(false) }));
        Ok(Start { link, why, restarts: restarts.unwrap_or(0) })
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
}
