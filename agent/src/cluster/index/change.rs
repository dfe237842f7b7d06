//! What the change of one slice means for its Service. Costs as much as the rows that differ.

use std::net::IpAddr;
use std::sync::Arc;

use super::sharded::{Counted, Sharded};
use super::slice::Slice;
use super::targets::{Hasher, Row, Targets};

/// Addresses that a change of slices brings to a group or takes from it, each list in ascending order.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) gone: Vec<IpAddr>,
    pub(super) come: Vec<IpAddr>,
}

/// The rows in which two versions of a slice differ, each list in ascending order of addresses.
pub(super) struct Change<'s> {
    gone: Vec<Row<'s>>,
    come: Vec<Row<'s>>,
}

impl<'s> Change<'s> {
    pub(super) fn of(old: Option<&'s Slice>, new: Option<&'s Slice>) -> Self {
        let mut change = Self { gone: Vec::new(), come: Vec::new() };
        let shared = old.zip(new).is_some_and(|(old, new)| {
            Arc::ptr_eq(&old.ports, &new.ports) && old.cluster() == new.cluster()
        });
        // Most slices have no names: then equal addresses are equal rows.
        let plain = old.zip(new).is_some_and(|(old, new)| {
            shared && old.is_named_by_address() && new.is_named_by_address()
        });
        let (mut old, mut new) = (
            old.map(runs).into_iter().flatten().peekable(),
            new.map(runs).into_iter().flatten().peekable(),
        );
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.address().cmp(&new.address()),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let come = if order.is_ge() { new.next() } else { None };
            let same = |(old, new): (&Run<'_>, &Run<'_>)| {
                if plain { old.rows.len() == new.rows.len() } else { old.is(new) }
            };
            if shared && gone.as_ref().zip(come.as_ref()).is_some_and(same) {
                continue;
            }
            change.gone.extend(gone.iter().flat_map(Run::rows));
            change.come.extend(come.iter().flat_map(Run::rows));
        }
        change
    }

    /// The difference if no other slice has any address.
    pub(super) fn alone(&self) -> Difference {
        let mut difference = Difference::default();
        for address in self.touched() {
            let has =
                |rows: &[Row<'_>]| rows.binary_search_by_key(&address, |row| row.address).is_ok();
            difference.note(address, has(&self.gone), has(&self.come));
        }
        difference
    }

    /// Changes what the slices have together.
    pub(super) fn of_targets(
        &self,
        hasher: &Hasher,
        mut targets: Targets,
    ) -> (Targets, Difference) {
        let touched = self.touched();
        let has = |targets: &Targets, &address: &IpAddr| targets.address(hasher, address).is_some();
        let before: Vec<bool> = touched.iter().map(|address| has(&targets, address)).collect();
        // What stays is found before it is taken away.
        self.come.iter().for_each(|row| targets.step(hasher, row, true));
        self.gone.iter().for_each(|row| targets.step(hasher, row, false));
        let mut difference = Difference::default();
        for (address, before) in touched.iter().zip(before) {
            difference.note(*address, before, has(&targets, address));
        }
        (targets, difference)
    }

    /// Changes how many rows have each address.
    pub(super) fn of_addresses(
        &self,
        hasher: &Hasher,
        addresses: &mut Sharded<Counted<IpAddr>>,
    ) -> Difference {
        let touched = self.touched();
        let before: Vec<bool> =
            touched.iter().map(|address| has(hasher, addresses, *address)).collect();
        self.come.iter().for_each(|row| step(hasher, addresses, row.address, true));
        self.gone.iter().for_each(|row| step(hasher, addresses, row.address, false));
        let mut difference = Difference::default();
        for (address, before) in touched.into_iter().zip(before) {
            difference.note(address, before, has(hasher, addresses, address));
        }
        difference
    }

    /// The addresses of all rows that differ, in ascending order, each once.
    fn touched(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> =
            self.gone.iter().chain(&self.come).map(|row| row.address).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Difference {
    fn note(&mut self, address: IpAddr, before: bool, after: bool) {
        match (before, after) {
            (true, false) => self.gone.push(address),
            (false, true) => self.come.push(address),
            _ => {}
        }
    }
}

/// The rows of a slice that have one address.
struct Run<'s> {
    slice: &'s Slice,
    rows: std::ops::Range<usize>,
}

impl<'s> Run<'s> {
    fn address(&self) -> Option<IpAddr> {
        self.slice.address(self.rows.start)
    }

    fn rows(&self) -> impl Iterator<Item = Row<'s>> + use<'s> {
        let slice = self.slice;
        self.rows.clone().filter_map(move |row| Row::of(slice, row))
    }

    /// True if both have the same address and labels.
    fn is(&self, other: &Run<'_>) -> bool {
        self.address() == other.address()
            && self.rows.len() == other.rows.len()
            && self.rows.clone().zip(other.rows.clone()).all(|(this, that)| {
                self.slice.hostnames.get(this) == other.slice.hostnames.get(that)
                    && self.slice.pods.get(this) == other.slice.pods.get(that)
            })
    }
}

/// The rows of a slice by address.
fn runs(slice: &Slice) -> impl Iterator<Item = Run<'_>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let address = slice.address(start)?;
        let end = (start..).find(|&row| slice.address(row) != Some(address))?;
        let rows = start..end;
        start = end;
        Some(Run { slice, rows })
    })
}

/// All rows of a slice.
pub(super) fn rows_of(slice: &Slice) -> impl Iterator<Item = Row<'_>> {
    (0..slice.len()).filter_map(|row| Row::of(slice, row))
}

/// Counts one more row with this address, or one less.
pub(super) fn step(
    hasher: &Hasher,
    addresses: &mut Sharded<Counted<IpAddr>>,
    address: IpAddr,
    more: bool,
) {
    let hash = std::hash::BuildHasher::hash_one(hasher, address);
    addresses.change(
        hash,
        |known| known.value == address,
        || more.then(|| Counted::new(address)),
        |known| known.step(more) > 0,
    );
}

fn has(hasher: &Hasher, addresses: &Sharded<Counted<IpAddr>>, address: IpAddr) -> bool {
    let hash = std::hash::BuildHasher::hash_one(hasher, address);
    addresses.find(hash, |known| known.value == address).is_some()
}

/// True if a reader of these slices meets no repetition: they are named by addresses and have the same ports and cluster, or
/// there is one without any repetition.
pub(super) fn are_alike<'s>(slices: impl Iterator<Item = &'s Arc<Slice>> + Clone) -> bool {
    let mut filled = slices.filter(|slice| !slice.is_empty());
    let Some(first) = filled.next() else { return true };
    let mut others = filled.peekable();
    if others.peek().is_none() && !first.is_named_by_address() {
        return first.has_no_repetition();
    }
    first.is_named_by_address()
        && others.all(|slice| {
            slice.is_named_by_address()
                && Arc::ptr_eq(&slice.ports, &first.ports)
                && slice.cluster() == first.cluster()
        })
}
