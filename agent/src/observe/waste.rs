//! Queries that search lists make in vain, by client and by the name that was written.
//!
//! A resolver appends the domains of its list to a name until one of the names exists (resolv.conf(5)). What is counted as wasted:
//!
//! - A denial (NXDOMAIN) of a name that is a written name of two labels or more with a domain of the client's list behind it: the
//!   resolver goes on to the next name, and a trailing dot would have saved the query. Each type counts by itself.
//! - Not if an application may have meant that very name: see [`Lists::may_be_meant`](super::lists::Lists::may_be_meant).
//! - A name of one label is meant to be searched for: its denials are wasted only once a name outside of the cluster, or the name
//!   as it is, is answered.
//!
//! A search may be spread over several workers, whose rings are read one after the other: what is read at a time is put in order first
//! ([`put_in_order`]).
//!
//! A name that exists without the type asked for (NODATA) is not wasted: resolvers end their search there, unless it has no address
//! at all (glibc). Which of several domains was appended cannot be told from the name: the longest one is taken.

use std::cmp::Reverse;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::heavy::{Beside, Heavy};
use super::lists::{Asked, Cut, Who};
use super::record::{Record, client_of, push_client};
use crate::clock::CoarseInstant;
use crate::saving::{End, ways};
use crate::search_list::CLUSTER_NDOTS;
use crate::wire::name::Labels;
use crate::wire::{NameRef, Rcode};

/// Written names of clients that are kept.
const KEEP: usize = 256;

/// A query in the sample, as far as search lists have to do with it.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// Who asks.
    pub client: IpAddr,
    /// When.
    pub at: CoarseInstant,
    /// The response code; `None` for silence.
    pub rcode: Option<Rcode>,
    /// How many queries it stands for.
    pub weight: u64,
    name: Box<[u8]>,
}

impl Sampled {
    /// What a record says.
    pub fn of(record: &Record) -> Self {
        Self {
            client: record.client.ip(),
            at: record.at,
            rcode: (!record.is_silent).then_some(record.rcode),
            weight: record.weight.into(),
            name: record.name_bytes().into(),
        }
    }

    /// The name asked for, in lower case.
    pub fn name(&self) -> NameRef<'_> {
        NameRef::parse(&self.name).unwrap_or(NameRef::ROOT)
    }
}

/// Puts queries that were read at one time into an order in which [`Waste::add`] finds what belongs together: denials first, a name
/// with a domain before the name as it is.
pub fn put_in_order(queries: &mut [Sampled]) {
    queries.sort_by_key(|query| match query.rcode {
        Some(Rcode::NXDOMAIN) => (0, Reverse(query.name.len())),
        _ => (1, Reverse(0)),
    });
}

/// What is known for the advice that rows give.
#[derive(Clone, Copy, Debug)]
pub struct Advice {
    /// `autopath` is configured already.
    pub has_autopath: bool,
    /// Who is no Pod is known to be none, and is not told what only Pods can do.
    pub knows_pods: bool,
}

/// What one gathering knows.
pub struct Waste {
    wasted: u64,
    /// By client and written name in wire form, without its root; counted is what was wasted.
    names: Heavy<Searched>,
    /// The key at hand.
    key: Vec<u8>,
}

/// The look-ups of one name by one client.
#[derive(Clone, Debug, Default)]
pub struct Searched {
    /// The Pod that makes them.
    who: Option<Who>,
    /// With a domain and as it is.
    queries: u64,
    /// Denials of a name of one label that no later answer has made waste of.
    open: u64,
    /// The name that was answered last, in wire form.
    found: Option<Box<[u8]>>,
    /// It was denied as it is.
    is_denied: bool,
}

impl Beside for Searched {
    fn join(&mut self, older: &Self) {
        self.queries += older.queries;
        if self.who.is_none() {
            self.who.clone_from(&older.who);
        }
        self.open += older.open;
        self.is_denied |= older.is_denied;
        if self.found.is_none() {
            self.found.clone_from(&older.found);
        }
    }
}

impl Default for Waste {
    fn default() -> Self {
        Self { wasted: 0, names: Heavy::new(KEEP), key: Vec::new() }
    }
}

impl Waste {
    /// Adds a query; `before` is the gathering before this one. Returns how many of the queries that it stands for, and of earlier
    /// ones, are found to be wasted now.
    pub fn add(
        &mut self,
        query: &Sampled,
        asked: &Asked,
        may_be_meant: impl FnOnce() -> bool,
        before: Option<&Self>,
    ) -> u64 {
        let (name, weight, Some(rcode)) = (query.name(), query.weight, query.rcode) else {
            return 0;
        };
        let as_it_is = Cut { at: name.len() - 1, in_cluster: false };
        let wasted = if self.knows(asked, name, as_it_is, before) {
            self.ended(name, rcode, weight, as_it_is)
        } else if rcode == Rcode::NXDOMAIN {
            let Some(&cut) = asked.cuts.first() else { return 0 };
            self.denied(asked, name, cut, weight, may_be_meant)
        } else {
            let known = |cut: &&Cut| self.knows(asked, name, **cut, before);
            let Some(&cut) = asked.cuts.iter().find(known) else { return 0 };
            self.ended(name, rcode, weight, cut)
        };
        self.wasted += wasted;
        wasted
    }

    /// What was wasted.
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// The names that wasted most, with what would save it.
    pub fn rows(&self, before: Option<&Self>, rows: usize, advice: Advice) -> Vec<Value> {
        let all = self.names.merged_with(before.map(|before| &before.names), rows);
        let row = |(key, wasted, searched): (&[u8], u64, Searched)| {
            let (client, written) = client_of(key);
            let (written, who) = (text(written), searched.who);
            let found = searched.found.as_deref().map(text);
            let end = match &found {
                Some(found) if *found == written => End::AsItIs,
                Some(found) => End::With(found),
                None if searched.is_denied => End::Nowhere,
                None => End::Unknown,
            };
            let ndots = who.as_ref().and_then(|who| who.ndots);
            let takes_advice = who.is_some() || !advice.knows_pods;
            let advised = takes_advice.then(|| ndots.unwrap_or(CLUSTER_NDOTS));
            let queries = searched.queries.max(wasted);
            // Each look-up has one query that is not in vain.
            let lookups = queries - wasted;
            let each =
                (lookups > 0).then(|| (queries as f64 / lookups as f64 * 10.0).round() / 10.0);
            json!({
                "client": client.to_string(),
                "pod": who.as_ref().map(|who| who.id.to_string()),
                "owner": who.and_then(|who| who.owner).map(|owner| owner.to_string()),
                "name": written,
                "queries": queries,
                "wasted": wasted,
                "queries_per_lookup": each,
                "found": found,
                "exists": if end == End::Unknown { None } else { Some(end != End::Nowhere) },
                "ndots": ndots,
                "saved_by": ways(&written, end, advised, advice.has_autopath),
            })
        };
        all.into_iter().map(row).collect()
    }

    /// Whether what stands before the cut was searched for by the client; its key is at hand then, and in this gathering.
    fn knows(&mut self, asked: &Asked, name: NameRef<'_>, cut: Cut, before: Option<&Self>) -> bool {
        self.take_key(asked, name, cut);
        if self.names.has(&self.key) {
            return true;
        }
        let is_known = before.is_some_and(|before| before.names.has(&self.key));
        if is_known {
            self.names.add(&self.key, 0);
        }
        is_known
    }

    fn take_key(&mut self, asked: &Asked, name: NameRef<'_>, cut: Cut) {
        self.key.clear();
        push_client(&mut self.key, asked.client, asked.who.as_ref().map(|who| &who.id));
        self.key.extend_from_slice(name.as_bytes().get(..cut.at).unwrap_or_default());
        self.key.push(0);
    }

    /// A query under a domain, or as it is, of the name whose key is at hand.
    fn ended(&mut self, name: NameRef<'_>, rcode: Rcode, weight: u64, cut: Cut) -> u64 {
        let Some(searched) = self.names.beside(&self.key) else { return 0 };
        searched.queries += weight;
        if rcode == Rcode::NXDOMAIN {
            searched.is_denied = true;
        }
        if rcode != Rcode::NOERROR {
            return 0;
        }
        if searched.found.as_deref() != Some(name.as_bytes()) {
            searched.found = Some(name.as_bytes().into());
        }
        // The names of the cluster that a name of one label could have after the first have no addresses.
        if cut.in_cluster {
            return 0;
        }
        let wasted = std::mem::take(&mut searched.open);
        self.names.add(&self.key, wasted);
        wasted
    }

    /// A denial under a domain.
    fn denied(
        &mut self,
        asked: &Asked,
        name: NameRef<'_>,
        cut: Cut,
        weight: u64,
        may_be_meant: impl FnOnce() -> bool,
    ) -> u64 {
        self.take_key(asked, name, cut);
        let written = name.as_bytes().get(..cut.at).unwrap_or_default();
        let is_one_label = Labels::of_prefix(written).count() == 1;
        let wasted = if is_one_label || may_be_meant() { 0 } else { weight };
        let searched = self.names.add(&self.key, wasted);
        searched.queries += weight;
        if is_one_label {
            searched.open += weight;
        }
        if searched.who.is_none() {
            searched.who.clone_from(&asked.who);
        }
        wasted
    }
}

/// A name without its final dot.
fn text(wire: &[u8]) -> String {
    let mut text = NameRef::parse(wire).unwrap_or(NameRef::ROOT).to_string();
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::super::lists::Lists;
    use super::super::lists::tests::{LATER, POD, lists};
    use super::super::record::tests::record;
    use super::*;
    use crate::cluster::object::PodDns;

    const OTHER: &str = "10.9.9.9";

    /// Adds queries of a client in their order.
    fn ask(waste: &mut Waste, lists: &Lists, from: &str, queries: &[(&str, Rcode)]) -> u64 {
        let add = |(name, rcode): &(&str, Rcode)| {
            let query = sampled(from, name, *rcode);
            let asked = lists.asked(query.client, query.at, query.name());
            waste.add(&query, &asked, || lists.may_be_meant(query.name()), None)
        };
        queries.iter().map(add).sum()
    }

    fn sampled(from: &str, name: &str, rcode: Rcode) -> Sampled {
        let mut record = record(name, rcode, 0);
        record.client = (from.parse::<IpAddr>().unwrap(), 5353).into();
        record.at = LATER;
        Sampled::of(&record)
    }

    fn rows(waste: &Waste) -> Vec<Value> {
        waste.rows(None, 10, Advice { has_autopath: false, knows_pods: true })
    }

    const NO: Rcode = Rcode::NXDOMAIN;
    const YES: Rcode = Rcode::NOERROR;

    #[test]
    fn a_name_outside_costs_as_many_queries_as_the_list_has_domains() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        let search = [
            ("www.example.com.shop.svc.cluster.local", NO),
            ("www.example.com.svc.cluster.local", NO),
            ("www.example.com.cluster.local", NO),
            ("www.example.com.corp.example", NO),
            ("www.example.com", YES),
        ];
        // Once for A and once for AAAA.
        for _ in 0..2 {
            assert_eq!(ask(&mut waste, &lists, POD, &search), 4);
        }
        let rows = rows(&waste);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        let row = &rows[0];
        assert_eq!((&row["name"], &row["pod"]), (&json!("www.example.com"), &json!("shop/web")));
        assert_eq!((&row["queries"], &row["wasted"]), (&json!(10), &json!(8)));
        assert_eq!((&row["queries_per_lookup"], &row["ndots"]), (&json!(5.0), &json!(5)));
        assert_eq!(row["saved_by"].as_array().unwrap().len(), 3);
        // By a client that is unknown, the domain of the node is none of its list.
        assert_eq!(ask(&mut waste, &lists, OTHER, &search), 3);
    }

    #[test]
    fn the_name_of_another_namespace_is_found_with_a_later_domain() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        let search =
            [("api.other.shop.svc.cluster.local", NO), ("api.other.svc.cluster.local", YES)];
        assert_eq!(ask(&mut waste, &lists, POD, &search), 1);
        let rows = rows(&waste);
        assert_eq!(rows[0]["found"], "api.other.svc.cluster.local");
        assert_eq!(rows[0]["queries_per_lookup"], 2.0);
        let saved_by = rows[0]["saved_by"].to_string();
        assert!(saved_by.contains("`api.other.svc.cluster.local.`"), "{saved_by}");
    }

    #[test]
    fn what_is_denied_once_is_not_wasted() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        for from in [POD, OTHER] {
            for name in [
                // A Service that does not exist, and a Pod that is not ready, asked for as they are.
                "api.other.svc.cluster.local",
                "db-0.db.shop.svc.cluster.local",
                // The end of a look-up that finds nothing, and no list's at all.
                "absent.example",
            ] {
                assert_eq!(ask(&mut waste, &lists, from, &[(name, NO)]), 0, "{from} {name}");
            }
        }
        // Silence and failures say nothing of a name.
        let failed = [("www.example.com.shop.svc.cluster.local", Rcode::SERVFAIL)];
        assert_eq!(ask(&mut waste, &lists, POD, &failed), 0);
        assert!(rows(&waste).is_empty());
    }

    #[test]
    fn a_name_that_does_not_exist_anywhere_is_told() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        let search = [
            ("old.example.com.cluster.local", NO),
            ("old.example.com", NO),
            ("old.example.com", NO),
        ];
        assert_eq!(ask(&mut waste, &lists, OTHER, &search), 1);
        let rows = rows(&waste);
        assert_eq!((&rows[0]["exists"], &rows[0]["queries"]), (&json!(false), &json!(3)));
        assert!(rows[0]["pod"].is_null() && rows[0]["ndots"].is_null());
    }

    #[test]
    fn one_label_is_wasted_only_if_a_later_name_is_answered() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        let denied = [
            ("intranet.shop.svc.cluster.local", NO),
            ("intranet.svc.cluster.local", NO),
            ("intranet.cluster.local", NO),
        ];
        assert_eq!(ask(&mut waste, &lists, POD, &denied), 0);
        assert!(rows(&waste).is_empty());
        // A Service of that name comes.
        assert_eq!(ask(&mut waste, &lists, POD, &[("intranet.shop.svc.cluster.local", YES)]), 0);
        // A host of the node's domain.
        assert_eq!(ask(&mut waste, &lists, POD, &[("intranet.corp.example", YES)]), 3);
        assert_eq!(ask(&mut waste, &lists, POD, &[("intranet.corp.example", YES)]), 0);
        assert_eq!(rows(&waste)[0]["found"], "intranet.corp.example");
        assert_eq!(ask(&mut waste, &lists, POD, &denied), 0);
        assert_eq!(ask(&mut waste, &lists, POD, &[("intranet", YES)]), 3);
        assert_eq!(waste.wasted(), 6);
    }

    #[test]
    fn a_search_goes_on_in_the_next_gathering() {
        let (mut old, mut new, lists) =
            (Waste::default(), Waste::default(), lists(PodDns::default()));
        ask(&mut old, &lists, POD, &[("a.example.shop.svc.cluster.local", NO)]);
        let query = sampled(POD, "a.example", YES);
        let asked = lists.asked(query.client, query.at, query.name());
        new.add(&query, &asked, || false, Some(&old));
        let rows = new.rows(Some(&old), 10, Advice { has_autopath: true, knows_pods: false });
        assert_eq!((&rows[0]["queries"], &rows[0]["wasted"]), (&json!(2), &json!(1)));
        assert_eq!(rows[0]["found"], "a.example");
    }

    #[test]
    fn a_search_over_several_workers_is_put_together() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        // The name of a namespace that does not exist, written without its final dot: as it is, it looks like a searched one.
        let mut all: Vec<Sampled> = [
            ("a.example", YES),
            ("web.gone.svc.cluster.local", NO),
            ("a.example.cluster.local", NO),
            ("web.gone.svc.cluster.local.cluster.local", NO),
        ]
        .map(|(name, rcode)| sampled(POD, name, rcode))
        .into();
        put_in_order(&mut all);
        for query in &all {
            let asked = lists.asked(query.client, query.at, query.name());
            waste.add(query, &asked, || lists.may_be_meant(query.name()), None);
        }
        let rows = rows(&waste);
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row["name"].as_str().unwrap(), row["queries_per_lookup"].as_f64()))
            .collect();
        assert_eq!(told, [("a.example", Some(2.0)), ("web.gone.svc.cluster.local", Some(2.0))]);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut waste, lists) = (Waste::default(), lists(PodDns::default()));
        for number in 0..5_000 {
            let name = format!("x{number}.example.shop.svc.cluster.local");
            assert_eq!(ask(&mut waste, &lists, POD, &[(&name, NO)]), 1);
        }
        assert_eq!(waste.wasted(), 5_000);
        assert!(waste.names.merged(None, usize::MAX).len() <= 2 * KEEP);
    }
}
