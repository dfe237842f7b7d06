//! What one process passes to the next: listening sockets, and what it knows.
//!
//! ```text
//! supervisor  ->  its child             at each start of the child: all that earlier children gave it to keep
//! server      ->  its supervisor        each socket that is opened, and memory that is to outlive a crash
//! server      ->  another instance      a hand-over: everything, before it stops
//! ```
//!
//! All three use one format: a [`Message`] over a [`Channel`], in which an item is a name and a descriptor. A socket's name is
//! a [`SocketName`]; everything else is sealed [`memory`], whose content has a version and a checksum of its own. What a
//! process does not know, it ignores, so that releases understand each other in both directions.

mod channel;
mod inherited;
pub mod memory;
mod message;
mod name;
mod predecessor;
mod record;
mod successor;

use std::os::fd::{BorrowedFd, OwnedFd};

pub use self::channel::Channel;
pub use self::inherited::Inherited;
pub use self::message::{MAX_MESSAGE, Message};
pub use self::name::{Place, SocketKind, SocketName, connection_address, connection_name};
pub use self::predecessor::{Asked, HandOverError, Predecessor, ask};
pub use self::record::Record;
pub use self::successor::{Handing, Listening, listen};

/// The version of the messages. A peer of any other version is talked to; see [`Message`].
pub const VERSION: u16 = 1;

/// The names of the items that keep waiting predecessors informed, their connections, are this and a number. See
/// [`Predecessor::connection`].
pub const PREDECESSOR: &str = "predecessor";
/// So many are kept at most, the latest first.
pub const MAX_PREDECESSORS: usize = 8;

/// Something with a name that is passed on.
pub type Item = (String, OwnedFd);

/// Keeps descriptors for the next process: the supervisor, as its child sees it. Called from any thread; never waits for long.
pub trait Keeper: Send + Sync {
    /// Keeps a duplicate of `fd`, in the place of what had this name.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>);
    /// Closes what has this name.
    fn forget(&self, name: &str);
    /// As [`Keeper::keep`], if that can be done without waiting at all; else false.
    fn try_keep(&self, name: &str, fd: BorrowedFd<'_>) -> bool;
    /// As [`Keeper::forget`], if that can be done without waiting at all.
    fn try_forget(&self, name: &str);
}
