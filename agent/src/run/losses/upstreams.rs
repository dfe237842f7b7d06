//! Forwards whose upstreams do not answer, where those of the running configuration do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt as _};

use super::{MAX_LISTED, listed};
use crate::assemble::Placed;
use crate::outline::covers;
use crate::plugin::forward::Forward;
use crate::wire::{Name, NameRef};

/// Forwards that are probed at a time. Each takes a second at most, and a socket for each of its upstreams.
const AT_ONCE: usize = 128;
/// Upstreams that have answered within this time are not probed to find out whether they do.
const ANSWERED_LATELY_MS: u64 = 10_000;

/// What would be lost, a sentence for each kind. Nothing is where the running upstreams are still asked, or do not answer
/// either.
pub(super) async fn losses(running: &[Placed], new: &[Placed]) -> Vec<String> {
    let probes = doubtful(running, new).into_iter().filter_map(|(number, before)| {
        let placed = new.get(number)?;
        let before = before.into_iter().filter_map(|old| Some(running.get(old)?.forward.as_ref()));
        let before: Vec<&Forward> = before.collect();
        Some(async move {
            let (answer, answered) =
                join(placed.forward.first_answer(), any_answers(&before)).await;
            answer.err().filter(|_| answered).map(|why| (placed, why))
        })
    });
    let probes: Vec<_> = probes.collect();
    let silent: Vec<_> = stream::iter(probes).buffered(AT_ONCE).collect().await;
    // In the order of the file.
    let mut kinds: Vec<((String, String), Vec<String>)> = Vec::new();
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for (placed, why) in silent.into_iter().flatten() {
        let zones: Vec<_> = placed.forward.config().from.iter().map(ToString::to_string).collect();
        let kind = (zones.join(" "), listed(why, ", "));
        let number = *known.entry(kind.clone()).or_insert(kinds.len());
        match kinds.get_mut(number) {
            Some((_, blocks)) => blocks.push(placed.block.clone()),
            None => kinds.push((kind, vec![placed.block.clone()])),
        }
    }
    let sentences = kinds.into_iter().map(|((zones, why), blocks)| {
        let blocks = listed(blocks, ", ");
        format!("no upstream of `forward {zones}` answers in the block {blocks}: {why}")
    });
    let mut sentences: Vec<String> = sentences.collect();
    let more = sentences.len().saturating_sub(MAX_LISTED);
    sentences.truncate(MAX_LISTED);
    if more > 0 {
        sentences.push(format!("and {more} more of this kind"));
    }
    sentences
}

/// Whether one of these answers at this moment.
async fn any_answers(forwards: &[&Forward]) -> bool {
    if forwards.iter().any(|forward| forward.has_answered_within(ANSWERED_LATELY_MS)) {
        return true;
    }
    let probes = forwards.iter().map(|forward| forward.first_answer());
    join_all(probes).await.iter().any(Result::is_ok)
}

/// The forwards of `new` that ask other upstreams than those of `running` that are asked for the same names now and may
/// answer; by number, each with the numbers of these.
fn doubtful(running: &[Placed], new: &[Placed]) -> BTreeMap<usize, BTreeSet<usize>> {
    let (before, after) = (Zones::of(running), Zones::of(new));
    let mut doubtful: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (zone, address) in before.places().chain(after.places()) {
        let old = before.serving(zone, address);
        if !old.iter().any(|(_, placed)| placed.forward.is_up()) {
            continue;
        }
        for (number, placed) in after.serving(zone, address) {
            if !old.iter().any(|(_, old)| placed.forward.keeps(&old.forward)) {
                doubtful.entry(number).or_default().extend(old.iter().map(|(number, _)| number));
            }
        }
    }
    doubtful
}

/// Forwards by the zones that they forward.
struct Zones<'a>(HashMap<Name, Vec<(usize, &'a Placed)>>);

impl<'a> Zones<'a> {
    fn of(all: &'a [Placed]) -> Self {
        let mut zones: HashMap<Name, Vec<(usize, &Placed)>> = HashMap::new();
        for (number, placed) in all.iter().enumerate() {
            for zone in placed.forward.zones() {
                zones.entry(zone).or_default().push((number, placed));
            }
        }
        Self(zones)
    }

    /// Every zone with each address at which it is asked for.
    fn places(&self) -> impl Iterator<Item = (NameRef<'_>, SocketAddr)> {
        self.0.iter().flat_map(|(zone, all)| {
            let addresses: BTreeSet<SocketAddr> =
                all.iter().flat_map(|(_, placed)| placed.addresses.iter().copied()).collect();
            addresses.into_iter().map(|address| (zone.as_ref(), address))
        })
    }

    /// Which of them are asked for the names of a zone at an address: those of the longest zone.
    fn serving(&self, zone: NameRef<'_>, address: SocketAddr) -> Vec<(usize, &'a Placed)> {
        let meets = |own: &SocketAddr| covers(*own, address) || covers(address, *own);
        let mut at = Some(zone);
        while let Some(name) = at {
            let all = self.0.get(name.as_bytes()).into_iter().flatten();
            let found = all.filter(|(_, placed)| placed.addresses.iter().any(meets));
            let found: Vec<_> = found.copied().collect();
            if !found.is_empty() {
                return found;
            }
            at = name.parent();
        }
        Vec::new()
    }
}
