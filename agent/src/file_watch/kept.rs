//! inotify instances, kept by the supervisor as well, so that a process that is killed does not close them: the kernel waits
//! some 15 ms when it closes the last descriptor of one, and a process has ended only afterwards. A crash would be silence for
//! so long.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use inotify::Inotify;

use crate::handover::Keeper;

/// What the names of instances begin with.
const NAME: &str = "inotify ";

static KEEPER: OnceLock<Arc<dyn Keeper>> = OnceLock::new();

/// Has this keeper keep the instances from now on. To be called once, at the start.
pub fn keep_with(keeper: Arc<dyn Keeper>) {
    let _ = KEEPER.set(keeper);
}

/// Has the keeper close the instances of the process before, which are among `items`.
pub fn forget_those_before(items: &mut BTreeMap<String, OwnedFd>, keeper: &dyn Keeper) {
    for (name, fd) in items.extract_if(.., |name, _| name.starts_with(NAME)) {
        // Here first: the last one to close it waits.
        drop(fd);
        keeper.forget(&name);
    }
}

/// An instance that is kept until this is dropped.
#[derive(Debug)]
pub(super) struct Kept(String);

impl Kept {
    /// Has it kept, if there is a keeper.
    pub(super) fn of(inotify: &Inotify) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let keeper = KEEPER.get()?;
        // Of another process than those before it, so that a number is never that of an instance that is about to be closed.
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let name = format!("{NAME}{process} {number}");
        keeper.keep(&name, inotify.as_fd());
        Some(Self(name))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(keeper) = KEEPER.get() {
            keeper.forget(&self.0);
        }
    }
}
