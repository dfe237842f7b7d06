//! What the queries of the last minute or two have in common: names, clients, codes, sources, and the slowest of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::heavy::{Beside, Heavy};
use super::lists::{Asked, Who};
use super::record::{Record, client_of, push_client};
use super::waste::{Advice, Sampled, Waste};
use crate::wire::{NameRef, Rcode, RecordType};

/// How long queries are gathered before a new gathering begins. The last two are shown.
const GENERATION: Duration = Duration::from_secs(60);
/// Keys that each sketch keeps.
const KEEP: usize = 256;
/// The slowest queries that are kept.
const SLOWEST: usize = 50;
/// Types that are counted apart.
const TYPES: usize = 64;

/// The gatherings.
pub struct Tops {
    current: Generation,
    before: Option<Generation>,
}

/// How much was gathered.
struct Volume {
    seconds: f64,
    queries: u64,
    /// There were more queries than records.
    is_sample: bool,
}

/// A query that waited.
struct Slow {
    record: Record,
    who: Option<Who>,
    at: Instant,
}

struct Generation {
    begun: Instant,
    queries: u64,
    /// Records that these queries were counted by: as many, or fewer if they are a sample.
    records: u64,
    names: Heavy,
    clients: Heavy<Option<Who>>,
    nxdomain_names: Heavy,
    nxdomain_clients: Heavy<Option<Who>>,
    /// The key at hand.
    key: Vec<u8>,
    rcodes: BTreeMap<u16, u64>,
    /// Queries that got no reply, and so no code.
    silent: u64,
    types: BTreeMap<u16, u64>,
    sources: BTreeMap<&'static str, u64>,
    /// The slowest first.
    slowest: Vec<Slow>,
    /// What search lists cost.
    waste: Waste,
}

impl Default for Tops {
    fn default() -> Self {
        Self { current: Generation::new(Instant::now()), before: None }
    }
}

impl Tops {
    /// Begins a new gathering if it is time for one.
    pub fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.current.begun);
        if age < GENERATION {
            return;
        }
        let old = std::mem::replace(&mut self.current, Generation::new(now));
        // If nothing came for long, what was before is too old.
        self.before = (age < 2 * GENERATION).then_some(old);
    }

    /// Adds a query that is in the sample, and who asked it.
    pub fn add(&mut self, record: &Record, who: Option<&Who>, now: Instant) {
        self.current.add(record, who, now);
    }

    /// Looks at what search lists have to do with a query in the sample; returns as [`Waste::add`] does.
    pub fn add_search(
        &mut self,
        query: &Sampled,
        asked: &Asked,
        may_be_meant: impl FnOnce() -> bool,
    ) -> u64 {
        let before = self.before.as_ref().map(|before| &before.waste);
        self.current.waste.add(query, asked, may_be_meant, before)
    }

    /// What search lists cost: the names that wasted most queries, and what would save them.
    pub fn waste_to_json(&self, rows: usize, now: Instant, advice: Advice) -> Value {
        let (current, before) = (&self.current.waste, self.before.as_ref().map(|all| &all.waste));
        let wasted = current.wasted() + before.map_or(0, Waste::wasted);
        let Volume { seconds, queries, is_sample } = self.volume(now);
        json!({
            "seconds": (seconds * 10.0).round() / 10.0,
            "queries": queries,
            // Some may be of queries that have left this window.
            "wasted": wasted.min(queries),
            "sampled": is_sample,
            "lookups": current.rows(before, rows, advice),
        })
    }

    fn volume(&self, now: Instant) -> Volume {
        let (current, before) = (&self.current, self.before.as_ref());
        let begun = before.map_or(current.begun, |before| before.begun);
        let sum = |of: fn(&Generation) -> u64| of(current) + before.map_or(0, of);
        let (queries, records) = (sum(|all| all.queries), sum(|all| all.records));
        let seconds = now.saturating_duration_since(begun).as_secs_f64();
        Volume { seconds, queries, is_sample: records < queries }
    }

    /// What is on top, `rows` of each kind. A client is an address, and the Pod that had it when it asked.
    pub fn to_json(&self, rows: usize, now: Instant) -> Value {
        let (current, before) = (&self.current, self.before.as_ref());
        let Volume { seconds, queries, is_sample } = self.volume(now);
        let per_second = |queries: u64| match seconds > 0.0 {
            true => (queries as f64 / seconds * 10.0).round() / 10.0,
            false => 0.0,
        };
        let names = |of: fn(&Generation) -> &Heavy| {
            let top = of(current).merged(before.map(of), rows);
            top.into_iter()
                .map(|(key, queries)| json!({ "name": name(key), "queries": queries }))
                .collect()
        };
        let clients = |of: fn(&Generation) -> &Heavy<Option<Who>>| {
            let top = of(current).merged_with(before.map(of), rows);
            let row = |(key, queries, who): (&[u8], u64, Option<Who>)| {
                json!({
                    "client": client_of(key).0.to_string(),
                    "queries": queries,
                    "per_second": per_second(queries),
                    "pod": who.as_ref().map(|who| who.id.to_string()),
                    "owner": who.and_then(|who| who.owner).map(|owner| owner.to_string()),
                })
            };
            Value::Array(top.into_iter().map(row).collect())
        };
        let names = |of: fn(&Generation) -> &Heavy| Value::Array(names(of));
        json!({
            "seconds": (seconds * 10.0).round() / 10.0,
            "queries": queries,
            "per_second": per_second(queries),
            "sampled": is_sample,
            "names": names(|all| &all.names),
            "clients": clients(|all| &all.clients),
            "nxdomain_names": names(|all| &all.nxdomain_names),
            "nxdomain_clients": clients(|all| &all.nxdomain_clients),
            "rcodes": self.codes(),
            "types": self.counted(|all| &all.types, |qtype| RecordType(qtype).to_string()),
            "sources": self.counted(|all| &all.sources, str::to_owned),
            "slowest": self.slowest(rows, now),
        })
    }

    fn codes(&self) -> Value {
        let mut codes = self.counted(|all| &all.rcodes, |code| Rcode(code).to_string());
        let silent = self.current.silent + self.before.as_ref().map_or(0, |all| all.silent);
        if let (Some(codes), true) = (codes.as_object_mut(), silent > 0) {
            codes.insert("silence".to_owned(), silent.into());
        }
        codes
    }

    fn counted<K: Copy + Ord>(
        &self,
        of: fn(&Generation) -> &BTreeMap<K, u64>,
        text: impl Fn(K) -> String,
    ) -> Value {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for generation in std::iter::once(&self.current).chain(&self.before) {
            for (key, count) in of(generation) {
                *sums.entry(text(*key)).or_default() += count;
            }
        }
        json!(sums)
    }

    fn slowest(&self, rows: usize, now: Instant) -> Vec<Value> {
        let mut all: Vec<_> = std::iter::once(&self.current)
            .chain(&self.before)
            .flat_map(|generation| &generation.slowest)
            .collect();
        all.sort_by_key(|slow| std::cmp::Reverse(slow.record.micros));
        let row = |Slow { record, who, at }: &Slow| {
            json!({
                "name": record.name().to_string(),
                "type": record.qtype.to_string(),
                "client": record.client.ip().to_string(),
                "pod": who.as_ref().map(|who| who.id.to_string()),
                "rcode": record.rcode.to_string(),
                "source": record.source(),
                "milliseconds": f64::from(record.micros) / 1e3,
                "seconds_ago": now.saturating_duration_since(*at).as_secs(),
            })
        };
        all.into_iter().take(rows).map(row).collect()
    }
}

impl Generation {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            queries: 0,
            records: 0,
            names: Heavy::new(KEEP),
            clients: Heavy::new(KEEP),
            nxdomain_names: Heavy::new(KEEP),
            nxdomain_clients: Heavy::new(KEEP),
            key: Vec::new(),
            rcodes: BTreeMap::new(),
            silent: 0,
            types: BTreeMap::new(),
            sources: BTreeMap::new(),
            slowest: Vec::new(),
            waste: Waste::default(),
        }
    }

    fn add(&mut self, record: &Record, who: Option<&Who>, now: Instant) {
        let weight = u64::from(record.weight);
        self.queries += weight;
        self.records += 1;
        self.key.clear();
        push_client(&mut self.key, record.client.ip(), who.map(|who| &who.id));
        self.names.add(record.name_bytes(), weight);
        self.clients.add(&self.key, weight).keep(who);
        if record.rcode == Rcode::NXDOMAIN && !record.is_silent {
            self.nxdomain_names.add(record.name_bytes(), weight);
            self.nxdomain_clients.add(&self.key, weight).keep(who);
        }
        if record.is_silent {
            self.silent += weight;
        } else {
            *self.rcodes.entry(record.rcode.0).or_default() += weight;
        }
        *self.sources.entry(record.source()).or_default() += weight;
        if self.types.len() < TYPES || self.types.contains_key(&record.qtype.0) {
            *self.types.entry(record.qtype.0).or_default() += weight;
        }
        if record.micros > 0 {
            self.add_slow(record, who, now);
        }
    }

    fn add_slow(&mut self, record: &Record, who: Option<&Who>, at: Instant) {
        let place = self.slowest.partition_point(|slow| slow.record.micros >= record.micros);
        if place < SLOWEST {
            self.slowest.insert(place, Slow { record: *record, who: who.cloned(), at });
            self.slowest.truncate(SLOWEST);
        }
    }
}

/// Of a client the Pod is kept, which its key names.
impl Beside for Option<Who> {
    fn join(&mut self, older: &Self) {
        self.keep(older.as_ref());
    }
}

trait Keep {
    fn keep(&mut self, who: Option<&Who>);
}

impl Keep for Option<Who> {
    fn keep(&mut self, who: Option<&Who>) {
        if self.is_none() {
            *self = who.cloned();
        }
    }
}

fn name(key: &[u8]) -> String {
    NameRef::parse(key).unwrap_or(NameRef::ROOT).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::cluster::object::{ObjectId, PodOwner};

    fn web() -> Who {
        let id = ObjectId { namespace: "shop".into(), name: "web-1".into() };
        let owner = PodOwner { kind: "Deployment".into(), name: "web".into() };
        Who { id, owner: Some(owner), ndots: Some(5) }
    }

    #[test]
    fn an_address_that_is_used_again_is_another_client() {
        let now = Instant::now();
        let mut tops = Tops::default();
        let old = Who { owner: None, ..web() };
        let id = ObjectId { namespace: "shop".into(), name: "web-2".into() };
        for who in [Some(Who { id, ..old.clone() }), Some(old), None] {
            tops.add(&record("a.test.", Rcode::NXDOMAIN, 7), who.as_ref(), now);
        }
        let shown = tops.to_json(10, now);
        for kind in ["clients", "nxdomain_clients", "slowest"] {
            let rows = shown[kind].as_array().unwrap();
            let mut pods: Vec<_> = rows.iter().map(|row| row["pod"].as_str()).collect();
            pods.sort_unstable();
            assert_eq!(pods, [None, Some("shop/web-1"), Some("shop/web-2")], "{kind}");
        }
    }

    #[test]
    fn the_last_two_gatherings_are_shown() {
        let begun = Instant::now();
        let mut tops = Tops { current: Generation::new(begun), before: None };
        for _ in 0..3 {
            tops.add(&record("old.test.", Rcode::NXDOMAIN, 0), Some(&web()), begun);
        }
        tops.turn(begun + GENERATION);
        tops.add(&record("new.test.", Rcode::NOERROR, 5_000), Some(&web()), begun + GENERATION);
        let at = begun + GENERATION + Duration::from_secs(20);
        let shown = tops.to_json(10, at);
        assert_eq!((&shown["seconds"], &shown["queries"]), (&json!(80.0), &json!(4)));
        assert_eq!(shown["names"][0], json!({ "name": "old.test.", "queries": 3 }));
        assert_eq!(shown["nxdomain_names"].as_array().unwrap().len(), 1);
        let client = json!({ "client": "192.0.2.7", "queries": 4, "per_second": 0.1,
            "pod": "shop/web-1", "owner": "Deployment web" });
        assert_eq!(shown["clients"][0], client);
        assert_eq!(shown["rcodes"], json!({ "NOERROR": 1, "NXDOMAIN": 3 }));
        assert_eq!(shown["slowest"][0]["milliseconds"], 5.0);
        assert_eq!(shown["slowest"][0]["seconds_ago"], 20);
        tops.turn(at + GENERATION);
        tops.turn(at + 2 * GENERATION);
        assert_eq!(tops.to_json(10, at + 2 * GENERATION)["queries"], 0);
    }

    #[test]
    fn the_slowest_are_kept_and_no_more() {
        let now = Instant::now();
        let mut tops = Tops::default();
        for micros in 1..1_000 {
            tops.add(&record("a.test.", Rcode::NOERROR, micros * 7 % 1_000), None, now);
        }
        assert_eq!(tops.current.slowest.len(), SLOWEST);
        let shown = tops.to_json(3, now);
        let slowest: Vec<_> = shown["slowest"].as_array().unwrap().iter().collect();
        assert_eq!(slowest.len(), 3);
        assert_eq!(slowest[0]["milliseconds"], 0.999);
    }
}
