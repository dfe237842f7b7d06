//! The API-watched store of the cluster's names.
//!
//! ```text
//! API server   -> client -> watch (one for each kind) -> split -> decode --+
//! folder of YAML ---------> folder -----------------------------> decode --+-> Event -> Sink: the index -> readers:
//! file of the last run ---> snapshot --------------------------------------+              plugin::kubernetes,
//!                                                                                         on every worker
//! ```
//!
//! A source turns what it learns into lean [`object`]s and forgets the rest; the index is a plain structure that is told
//! to apply, delete and reset, and can be tested without any API server. [`Status`] says how fresh it all is. A [`Store`]
//! ties them together, and [`Clusters`] lets two server blocks share one.

mod applier;
mod ask;
mod backoff;
mod body;
mod client;
mod credentials;
pub mod decode;
mod folder;
#[cfg(test)]
mod herd;
pub mod index;
mod interner;
mod limiter;
pub mod object;
mod pace;
mod read_delay;
mod recovery;
mod report;
mod request;
mod saver;
mod server_view;
mod snapshot;
mod spec;
mod split;
pub mod status;
mod store;
#[cfg(test)]
mod test_sink;
mod thread;
mod watch;

pub use self::ask::{Answer, Api};
pub use self::client::RequestError;
pub use self::credentials::ClientError;
pub use self::interner::Interner;
use self::object::{Event, Kind, Object, Text};
pub use self::report::Report;
pub use self::snapshot::{Snapshot, SnapshotError};
pub use self::spec::{Endpoints, Limits, Pods, SnapshotSpec, Source, Spec, Timing, Tls, Wanted};
pub use self::status::Status;
pub use self::store::{Clusters, StartError, Store};
pub use self::thread::WatchThread;

/// What a source feeds: the index.
pub trait Sink: Send + Sync + 'static {
    /// Takes one event. Each kind has a task of its own, so that calls for different kinds may come at the same time; those
    /// for one kind come in order.
    ///
    /// A [`Event::Init`] may follow another without an [`Event::InitDone`] between them, where a list was cut off:
    /// the list begins anew then. Deletes come for objects that were never applied, too.
    fn apply(&self, event: Event);

    /// How many objects of `kind` are known: `nodens_kubernetes_objects{kind}`.
    fn count(&self, kind: Kind) -> usize;

    /// The zone of this node, where it is known.
    fn zone(&self) -> Option<Text> {
        None
    }

    /// Gives every object that is known to `visit`, in any order: for snapshots and for a hand-over. `visit` is quick and
    /// does not call back.
    fn walk(&self, visit: &mut dyn FnMut(Object));
}

impl Sink for index::Index {
    fn apply(&self, event: Event) {
        Self::apply(self, event);
    }

    fn count(&self, kind: Kind) -> usize {
        let objects = self.statistics().objects;
        Kind::ALL
            .iter()
            .zip(objects)
            .find_map(|(&of, count)| (of == kind).then_some(count))
            .unwrap_or_default()
    }

    fn zone(&self) -> Option<Text> {
        Self::zone(self)
    }

    fn walk(&self, visit: &mut dyn FnMut(Object)) {
        self.objects().for_each(visit);
    }
}
