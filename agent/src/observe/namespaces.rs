//! Queries by the namespace of the Pod that asks, for /metrics.

use std::collections::BTreeMap;

use crate::cluster::object::Text;
use crate::metrics::{Scrape, names};

/// Namespaces that are counted apart: the first ones that ask. They keep their places, so that no counter goes back.
const MAX: usize = 100;
/// Stands for the namespaces beyond them. No namespace may have this name (RFC 1123: no underscore).
const OTHERS: &str = "_others";

/// The counters.
#[derive(Default)]
pub struct Namespaces {
    of: BTreeMap<Text, Counts>,
    others: Option<Counts>,
    /// Clients that are unknown; `None` until Pods are watched.
    unknown: Option<Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    queries: u64,
    wasted: u64,
}

impl Namespaces {
    /// Pods are watched: from now on there is something to show.
    pub fn begin(&mut self) {
        self.unknown.get_or_insert_default();
    }

    /// Counts queries of a namespace, `None` for clients that are unknown.
    pub fn add(&mut self, namespace: Option<&Text>, queries: u64, wasted: u64) {
        let has_room = self.of.len() < MAX;
        let counts = match namespace {
            None => self.unknown.get_or_insert_default(),
            Some(name) if has_room => self.of.entry(name.clone()).or_default(),
            Some(name) => match self.of.get_mut(name) {
                Some(counts) => counts,
                None => self.others.get_or_insert_default(),
            },
        };
        counts.queries += queries;
        counts.wasted += wasted;
    }

    /// Hands all in.
    pub fn collect(&self, out: &mut Scrape) {
        let unknown = self.unknown.iter().map(|counts| ("", counts));
        let others = self.others.iter().map(|counts| (OTHERS, counts));
        let of = self.of.iter().map(|(name, counts)| (&**name, counts));
        for (namespace, counts) in of.chain(unknown).chain(others) {
            out.count(&names::CLIENT_QUERIES, &[namespace], counts.queries);
            out.count(&names::CLIENT_WASTED_QUERIES, &[namespace], counts.wasted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_beyond_the_first_share_a_series() {
        let mut namespaces = Namespaces::default();
        let shown = |namespaces: &Namespaces| -> BTreeMap<String, f64> {
            let mut out = Scrape::default();
            namespaces.collect(&mut out);
            let values = out.values(&names::CLIENT_QUERIES);
            values.map(|(labels, value)| (labels.concat(), value)).collect()
        };
        assert!(shown(&namespaces).is_empty(), "nothing before Pods are watched");
        namespaces.begin();
        for round in 0..2 {
            for number in 0..MAX + 20 {
                namespaces.add(Some(&format!("n{number}").into()), 1, round);
            }
        }
        namespaces.add(None, 7, 0);
        let all = shown(&namespaces);
        assert_eq!(all.len(), MAX + 2);
        assert_eq!((all["n99"], all[OTHERS], all[""]), (2.0, 40.0, 7.0));
        assert_eq!(all.values().sum::<f64>(), 2.0 * (MAX + 20) as f64 + 7.0);
    }
}
