//! Connections that outlive a crash of this process: the supervisor keeps a duplicate of each, and the next process serves it.
//!
//! That is of use only if nothing of a connection is in this process. So the queries of a kept one stay in the kernel's queue
//! until they are answered or wait for their answer, and one whose client does not take its replies is kept no longer. What a
//! crash loses of a kept connection are the answers of queries that waited.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::sys::stat::fstat;

use crate::handover::{Keeper, connection_name};

/// Connections that are kept at most: the supervisor has places for the listening sockets, too.
const MAX_KEPT: usize = 1_024;

/// Has the supervisor keep connections.
#[derive(Default)]
pub struct Keeping {
    keeper: Option<Arc<dyn Keeper>>,
    count: AtomicUsize,
}

/// A connection that is kept, until this is dropped. Whoever drops it shuts the connection down before, unless another process
/// has it by then: the supervisor may take its time to close it.
pub struct Kept {
    keeping: Arc<Keeping>,
    name: String,
}

impl Keeping {
    /// By `keeper`; without one nothing is kept.
    pub fn new(keeper: Option<Arc<dyn Keeper>>) -> Arc<Self> {
        Arc::new(Self { keeper, count: AtomicUsize::new(0) })
    }

    /// Has a connection kept that was made to `address`. `None`: as many as may be are, or the supervisor does not listen.
    pub fn keep(self: &Arc<Self>, address: SocketAddr, connection: BorrowedFd<'_>) -> Option<Kept> {
        let keeper = self.keeper.as_ref()?;
        // Its number in the kernel's file system of sockets, which no other living socket has.
        let inode = fstat(connection).ok()?.st_ino;
        let kept = self.count(connection_name(address, Some(inode)))?;
        keeper.try_keep(&kept.name, connection).then_some(kept)
    }

    /// A connection of a process before, which the supervisor still has under this name.
    pub fn keep_on(self: &Arc<Self>, name: String) -> Option<Kept> {
        self.count(name)
    }

    fn count(self: &Arc<Self>, name: String) -> Option<Kept> {
        let kept = Kept { keeping: Arc::clone(self), name };
        (self.count.fetch_add(1, Relaxed) < MAX_KEPT).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeping.count.fetch_sub(1, Relaxed);
        if let Some(keeper) = &self.keeping.keeper {
            keeper.try_forget(&self.name);
        }
    }
}
