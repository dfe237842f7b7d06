//! Who a client is: the Pod of this node that has its address (`pods node` of `kubernetes`).
//!
//! Nothing waits for it: an address is that of a Pod that is known, or unknown. While no configuration asks for it, nothing is
//! watched and a look-up is one load of a pointer.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::admission::{Permit, Shares};
use crate::clock::CoarseInstant;
use crate::cluster::index::Index;
use crate::cluster::object::NodePod;

/// The Pods of this node, of the configuration that runs. One for the process.
#[derive(Default)]
pub struct Clients(ArcSwapOption<Index>);

impl Clients {
    /// Looks Pods up in `index` from now on; `None`: all are unknown.
    pub fn follow(&self, index: Option<Arc<Index>>) {
        self.0.store(index);
    }

    /// Calls `read` with the Pod that has the address. `None` for an address that is unknown or the node's own, which Pods with
    /// `hostNetwork` and the programs of the node share. Called for a query on a worker: without a lock or an allocation.
    pub fn pod<R>(&self, address: IpAddr, read: impl FnOnce(&NodePod) -> R) -> Option<R> {
        let index = self.0.load();
        let of_pod = |pod: &NodePod| (!pod.host_network).then(|| read(pod));
        index.as_ref()?.client(address.to_canonical(), of_pod).flatten()
    }

    /// Whether the address is that of a Pod of this node, or of one that shares the node's.
    pub fn has(&self, address: IpAddr) -> bool {
        let index = self.0.load();
        index.as_ref().is_some_and(|index| index.client(address.to_canonical(), |_| ()).is_some())
    }

    /// As [`Clients::pod`], for a query that was asked at `at`: `None` if it was not known then that the Pod has the address, which
    /// may have been another's.
    pub fn pod_of_query<R>(
        &self,
        address: IpAddr,
        at: CoarseInstant,
        read: impl FnOnce(&NodePod) -> R,
    ) -> Option<R> {
        let index = self.0.load();
        let of_pod = |pod: &NodePod, since: CoarseInstant| {
            (!pod.host_network && since < at).then(|| read(pod))
        };
        index.as_ref()?.client_since(address.to_canonical(), of_pod).flatten()
    }

    /// The address that stands for the client where places are shared: of a Pod its first, so that both families are one client.
    pub fn key(&self, address: IpAddr) -> IpAddr {
        self.pod(address, |pod| first_address(pod, address)).unwrap_or(address)
    }

    /// Whether there is a Service of that name in the namespace; both in lower case.
    pub fn has_service(&self, name: &[u8], namespace: &[u8]) -> bool {
        let index = self.0.load();
        index.as_ref().is_some_and(|index| index.has_service(name, namespace))
    }
}

/// Places that clients share: a Pod is one client, whichever of its addresses it uses. What a client holds counts for who it was when
/// it took it.
#[derive(Clone, Debug)]
pub struct ClientShares {
    shares: Arc<Shares>,
    clients: Arc<Clients>,
}

impl ClientShares {
    /// `limit` places, all of them free.
    pub fn new(limit: usize, clients: &Arc<Clients>) -> Self {
        Self { shares: Shares::new(limit), clients: Arc::clone(clients) }
    }

    /// Takes `amount` places for the client, as [`Shares::try_acquire`].
    pub fn try_acquire(&self, client: IpAddr, amount: usize) -> Option<Permit> {
        self.shares.try_acquire(self.clients.key(client), amount)
    }

    /// Places that the client holds.
    pub fn held(&self, client: IpAddr) -> usize {
        self.shares.held(self.clients.key(client))
    }

    /// The places of all clients.
    pub fn all(&self) -> &Arc<Shares> {
        &self.shares
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clients").field(&self.0.load().is_some()).finish()
    }
}

/// The address by which a Pod is told from others: its first, so that both families are one client.
pub fn first_address(pod: &NodePod, asked_from: IpAddr) -> IpAddr {
    pod.addresses.first().copied().unwrap_or(asked_from)
}
