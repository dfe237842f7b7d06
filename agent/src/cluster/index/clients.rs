//! The Pods of this node as clients: from an address to the Pod that has it.
//!
//! Addresses are used again, and what is heard of a Pod's end may come later than what is heard of the next Pod with its
//! address. The Pod that was heard of last with an address has it. Where that cannot be told (two Pods that a list names
//! with one address, created in the same second), it is unknown: that is better than the wrong Pod.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::table::Table;
use super::targets::Hasher;
use crate::clock::CoarseInstant;
use crate::cluster::object::{NodePod, ObjectId};

/// What readers find: which Pods have which addresses.
pub(super) struct Clients {
    by_address: Table<Owner>,
    hasher: Hasher,
}

/// An address, and who has it.
#[derive(Clone)]
struct Owner {
    address: IpAddr,
    pod: Arc<NodePod>,
    /// When it was heard that this Pod has it.
    since: CoarseInstant,
}

/// What only the writer knows.
#[derive(Default)]
pub(super) struct ClientWriter {
    pods: HashMap<ObjectId, Known>,
    /// Which Pods have an address; one, as a rule, but for those of the node's network.
    by_address: HashMap<IpAddr, SmallVec<[ObjectId; 1]>>,
    /// Counts what is heard: each change by a watch, and each list as one.
    heard: u64,
    is_listing: bool,
}

struct Known {
    pod: Arc<NodePod>,
    /// The list that last held it.
    list: u32,
    /// For each address, when it was first heard of: [`ClientWriter::heard`].
    since: SmallVec<[u64; 2]>,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { by_address: Table::new(6), hasher: Hasher::default() }
    }

    /// Calls `read` with the Pod that has the address, and since when.
    pub(super) fn read<R>(
        &self,
        address: IpAddr,
        read: impl FnOnce(&NodePod, CoarseInstant) -> R,
    ) -> Option<R> {
        let is = |owner: &Owner| owner.address == address;
        self.by_address.read(self.hash(address), is, |owner| read(&owner.pod, owner.since))
    }

    /// When it was heard that this Pod has the address, if it has it already.
    fn since(&self, address: IpAddr, pod: &NodePod) -> Option<CoarseInstant> {
        let is_same = |known: &NodePod| known.id == pod.id && known.created == pod.created;
        self.read(address, |known, since| is_same(known).then_some(since)).flatten()
    }

    fn hash(&self, address: IpAddr) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, address)
    }
}

impl ClientWriter {
    /// A list begins, or is complete.
    pub(super) fn set_listing(&mut self, is_listing: bool) {
        self.is_listing = is_listing;
        // What a list brings is news beside all that was known, and is heard of at once.
        self.heard += u64::from(is_listing);
    }

    /// Takes in a Pod; true if it was not known.
    pub(super) fn put(&mut self, clients: &Clients, pod: NodePod, list: u32) -> bool {
        let (mut since, mut gone) = (SmallVec::new(), SmallVec::<[IpAddr; 2]>::new());
        let known = self.pods.get_mut(&pod.id);
        let is_new = known.is_none();
        if let Some(known) = known {
            known.list = list;
            if *known.pod == pod {
                return false;
            }
            gone.extend(known.pod.addresses.iter().copied());
        }
        self.heard += u64::from(!self.is_listing);
        // One that was created at another time is another Pod of that name.
        let same = self.pods.get(&pod.id).filter(|known| known.pod.created == pod.created);
        for address in &pod.addresses {
            let before = same.and_then(|known| known.since_of(*address));
            since.push(before.unwrap_or(self.heard));
        }
        let pod = Arc::new(pod);
        gone.iter().for_each(|address| self.unclaim(*address, &pod.id));
        for address in &pod.addresses {
            let claims = self.by_address.entry(*address).or_default();
            if !claims.contains(&pod.id) {
                claims.push(pod.id.clone());
            }
        }
        self.pods.insert(pod.id.clone(), Known { pod: Arc::clone(&pod), list, since });
        gone.iter().chain(&pod.addresses).for_each(|&address| self.publish(clients, address));
        is_new
    }

    /// Forgets a Pod; true if it was known.
    pub(super) fn delete(&mut self, clients: &Clients, id: &ObjectId) -> bool {
        let Some(known) = self.pods.remove(id) else { return false };
        known.pod.addresses.iter().for_each(|&address| self.unclaim(address, id));
        known.pod.addresses.iter().for_each(|&address| self.publish(clients, address));
        true
    }

    /// Forgets those that the list did not hold. Returns how many.
    pub(super) fn sweep(&mut self, clients: &Clients, list: u32) -> usize {
        let old = self.pods.iter().filter(|(_, known)| known.list != list);
        let old: Vec<ObjectId> = old.map(|(id, _)| id.clone()).collect();
        old.iter().filter(|id| self.delete(clients, id)).count()
    }

    /// The Pods that are known, for the snapshot.
    pub(super) fn all(&self) -> impl Iterator<Item = &NodePod> {
        self.pods.values().map(|known| &*known.pod)
    }

    fn unclaim(&mut self, address: IpAddr, id: &ObjectId) {
        let Some(claims) = self.by_address.get_mut(&address) else { return };
        claims.retain(|claim| claim != id);
        if claims.is_empty() {
            self.by_address.remove(&address);
        }
    }

    /// Lets readers find who has the address.
    fn publish(&self, clients: &Clients, address: IpAddr) {
        let hash = clients.hash(address);
        let is = |owner: &Owner| owner.address == address;
        match self.owner(address) {
            Some(pod) => {
                let since = clients.since(address, &pod).unwrap_or_else(CoarseInstant::now);
                clients.by_address.put(hash, is, Owner { address, pod, since });
            }
            None => clients.by_address.remove(hash, is),
        }
    }

    /// The Pod that has the address; `None` if there is none, or it cannot be told which.
    fn owner(&self, address: IpAddr) -> Option<Arc<NodePod>> {
        let claims = self.by_address.get(&address)?.iter().filter_map(|id| {
            let known = self.pods.get(id)?;
            let since = known.since_of(address)?;
            Some(((since, known.pod.created), &known.pod))
        });
        let (mut best, mut is_only) = (None, true);
        for (order, pod) in claims {
            match &best {
                Some((other, _)) if *other > order => {}
                Some((other, of)) if *other == order => {
                    // The Pods of the node's own network share its addresses.
                    is_only &= pod.host_network && Arc::<NodePod>::as_ref(of).host_network;
                }
                _ => (best, is_only) = (Some((order, Arc::clone(pod))), true),
            }
        }
        best.filter(|_| is_only).map(|(_, pod)| pod)
    }
}

impl Known {
    fn since_of(&self, address: IpAddr) -> Option<u64> {
        let at = self.pod.addresses.iter().position(|own| *own == address)?;
        self.since.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::object::PodDns;

    struct Rig(Clients, ClientWriter);

    impl Rig {
        fn new() -> Self {
            Self(Clients::new(), ClientWriter::default())
        }

        fn put(&mut self, name: &str, addresses: &[&str], created: u64) {
            self.1.put(&self.0, pod(name, addresses, created), 1);
        }

        fn who(&self, address: &str) -> String {
            let read = |pod: &NodePod, _| pod.id.name.to_string();
            self.0.read(address.parse().unwrap(), read).unwrap_or_default()
        }
    }

    fn id(name: &str) -> ObjectId {
        ObjectId { namespace: "shop".into(), name: name.into() }
    }

    fn pod(name: &str, addresses: &[&str], created: u64) -> NodePod {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        NodePod {
            id: id(name),
            addresses,
            host_network: false,
            created,
            dns: PodDns::default(),
            owner: None,
            labels: Box::default(),
        }
    }

    #[test]
    fn an_address_has_the_pod_that_was_heard_of_last() {
        let mut rig = Rig::new();
        rig.put("a", &["10.0.0.1", "fd00::1"], 1);
        assert_eq!((rig.who("10.0.0.1"), rig.who("fd00::1")), ("a".into(), "a".into()));
        // The next one has the address before the end of the first is known, which was created later.
        rig.put("b", &["10.0.0.1"], 0);
        assert_eq!((rig.who("10.0.0.1"), rig.who("fd00::1")), ("b".into(), "a".into()));
        // What is repeated of the first changes nothing, nor does its end.
        rig.put("a", &["10.0.0.1", "fd00::1", "10.0.0.9"], 1);
        assert_eq!((rig.who("10.0.0.1"), rig.who("10.0.0.9")), ("b".into(), "a".into()));
        assert!(rig.1.delete(&rig.0, &id("a")));
        assert_eq!((rig.who("10.0.0.1"), rig.who("fd00::1")), ("b".into(), String::new()));
        rig.put("b", &["10.0.0.2"], 0);
        assert_eq!((rig.who("10.0.0.1"), rig.who("10.0.0.2")), (String::new(), "b".into()));
    }

    #[test]
    fn of_a_list_the_younger_has_it_and_of_two_alike_none() {
        let mut rig = Rig::new();
        rig.1.set_listing(true);
        rig.put("old", &["10.0.0.1"], 1);
        rig.put("young", &["10.0.0.1"], 2);
        rig.put("x", &["10.0.0.2"], 3);
        rig.put("y", &["10.0.0.2"], 3);
        rig.1.set_listing(false);
        assert_eq!((rig.who("10.0.0.1"), rig.who("10.0.0.2")), ("young".into(), String::new()));
        assert!(rig.1.delete(&rig.0, &id("x")));
        assert_eq!(rig.who("10.0.0.2"), "y");
        // A list that holds only one of them.
        rig.1.put(&rig.0, pod("y", &["10.0.0.2"], 3), 2);
        assert_eq!(rig.1.sweep(&rig.0, 2), 2);
        assert_eq!((rig.who("10.0.0.1"), rig.who("10.0.0.2")), (String::new(), "y".into()));
    }

    #[test]
    fn what_a_later_list_brings_has_the_address() {
        let mut rig = Rig::new();
        rig.put("ends", &["10.0.0.1"], 1);
        rig.put("web-0", &["10.0.0.2"], 1);
        rig.1.set_listing(true);
        // Still there, and their addresses are others' by now: the second is another Pod of that name.
        rig.put("ends", &["10.0.0.1"], 1);
        rig.put("next", &["10.0.0.1"], 2);
        rig.put("ends-too", &["10.0.0.2"], 2);
        rig.put("web-0", &["10.0.0.2"], 3);
        rig.1.set_listing(false);
        assert_eq!((rig.who("10.0.0.1"), rig.who("10.0.0.2")), ("next".into(), "web-0".into()));
    }

    #[test]
    fn addresses_under_churn_never_have_a_pod_that_has_ended() {
        let mut rig = Rig::new();
        let address = |n: usize| format!("10.0.0.{}", n % 20);
        for n in 0..100_000_usize {
            // The end of the one before is heard late.
            rig.put(&format!("p{n}"), &[&address(n)], n as u64 / 100);
            assert_eq!(rig.who(&address(n)), format!("p{n}"));
            if n >= 25 {
                let ended = n - 25;
                assert!(rig.1.delete(&rig.0, &id(&format!("p{ended}"))));
                assert_eq!(rig.who(&address(n)), format!("p{n}"));
            }
        }
        for n in 0..100_000_usize {
            rig.1.delete(&rig.0, &id(&format!("p{n}")));
        }
        assert!((0..20).all(|n| rig.who(&address(n)).is_empty()));
    }
}
