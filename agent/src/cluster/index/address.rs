//! From an address back to the names that have it, and to the ancestors of such names.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::group::Key;
use super::table::Table;

/// Why a name has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It is the Service's own.
    ClusterIp,
    /// It is that of a ready endpoint.
    Endpoint,
}

/// Part of an address from its left: what the name of a reverse zone stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    bits: u128,
    // Steps are octets of IPv4 and nibbles of IPv6: the labels of the reverse zones.
    steps: u8,
    v6: bool,
}

#[derive(Clone)]
struct Owner<const N: usize> {
    address: [u8; N],
    reason: Reason,
    key: Arc<Key>,
}

/// The addresses of the index, for readers.
pub(super) struct Addresses {
    v4: Table<Owner<4>, (), 1>,
    v6: Table<Owner<16>, (), 1>,
    prefixes: Table<Prefix>,
    hasher: foldhash::fast::RandomState,
}

/// How many prefixes of one more step, or addresses, stand behind each prefix; only the writer wants to know.
pub(super) type Counts = HashMap<Prefix, u32, foldhash::fast::RandomState>;

impl Prefix {
    /// The whole address.
    pub fn whole(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { bits: u128::from(u32::from(v4)) << 96, steps: 4, v6: false },
            IpAddr::V6(v6) => Self { bits: v6.into(), steps: 32, v6: true },
        }
    }

    /// One step shorter; `None` for the shortest, which is nothing at all.
    pub fn parent(self) -> Option<Self> {
        let steps = self.steps.checked_sub(1)?;
        let kept = u32::from(steps) * if self.v6 { 4 } else { 8 };
        let mask = u128::MAX.checked_shl(128 - kept).unwrap_or(0);
        Some(Self { bits: self.bits & mask, steps, ..self })
    }

    /// The address cut to so many steps.
    pub fn of(address: IpAddr, steps: u8) -> Self {
        let mut prefix = Self::whole(address);
        while prefix.steps > steps {
            let Some(parent) = prefix.parent() else { break };
            prefix = parent;
        }
        prefix
    }
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self {
            v4: Table::new(14),
            v6: Table::new(12),
            prefixes: Table::new(11),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Calls `visit` with every name that has `address`, until it returns false.
    pub(super) fn owners(&self, address: IpAddr, mut visit: impl FnMut(Reason, &Arc<Key>) -> bool) {
        match address {
            IpAddr::V4(v4) => {
                let octets = v4.octets();
                self.v4.each(self.hash(octets), |o| o.address != octets || visit(o.reason, &o.key));
            }
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                self.v6.each(self.hash(octets), |o| o.address != octets || visit(o.reason, &o.key));
            }
        }
    }

    /// True where any known address begins like this, and goes on.
    pub(super) fn any_below(&self, prefix: Prefix) -> bool {
        self.prefixes.read(self.hash(prefix), |known| *known == prefix, |_| ()).is_some()
    }

    pub(super) fn add(&self, counts: &mut Counts, address: IpAddr, reason: Reason, key: &Arc<Key>) {
        let known = match address {
            IpAddr::V4(v4) => self.add_to(&self.v4, v4.octets(), reason, key),
            IpAddr::V6(v6) => self.add_to(&self.v6, v6.octets(), reason, key),
        };
        let mut prefix = if known { None } else { Prefix::whole(address).parent() };
        while let Some(at) = prefix {
            let count = counts.entry(at).or_insert(0);
            *count += 1;
            if *count > 1 {
                return;
            }
            self.prefixes.put(self.hash(at), |known| *known == at, at);
            prefix = at.parent();
        }
    }

    pub(super) fn remove(
        &self,
        counts: &mut Counts,
        address: IpAddr,
        reason: Reason,
        key: &Arc<Key>,
    ) {
        let gone = match address {
            IpAddr::V4(v4) => self.remove_from(&self.v4, v4.octets(), reason, key),
            IpAddr::V6(v6) => self.remove_from(&self.v6, v6.octets(), reason, key),
        };
        let mut prefix = if gone { Prefix::whole(address).parent() } else { None };
        while let Some(at) = prefix {
            let Some(count) = counts.get_mut(&at) else { return };
            *count -= 1;
            if *count > 0 {
                return;
            }
            counts.remove(&at);
            self.prefixes.remove(self.hash(at), |known| *known == at);
            prefix = at.parent();
        }
    }

    /// Returns whether some name had the address already.
    fn add_to<const N: usize>(
        &self,
        table: &Table<Owner<N>, (), 1>,
        address: [u8; N],
        reason: Reason,
        key: &Arc<Key>,
    ) -> bool {
        let mut known = false;
        let same = |o: &Owner<N>| {
            let here = o.address == address;
            known |= here;
            here && o.reason == reason && o.key == *key
        };
        table.put(self.hash(address), same, Owner { address, reason, key: Arc::clone(key) });
        known
    }

    /// Returns whether this was the last name with the address.
    fn remove_from<const N: usize>(
        &self,
        table: &Table<Owner<N>, (), 1>,
        address: [u8; N],
        reason: Reason,
        key: &Arc<Key>,
    ) -> bool {
        let hash = self.hash(address);
        let mut removed = false;
        table.remove(hash, |o| {
            removed = o.address == address && o.reason == reason && o.key == *key;
            removed
        });
        let mut others = false;
        table.each(hash, |o| {
            others |= o.address == address;
            !others
        });
        removed && !others
    }

    fn hash(&self, value: impl std::hash::Hash) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, value)
    }
}
