//! What can be wrong, and what is: the one list behind `nodens status`, `/ready?verbose`, `nodens_condition`, alerts, the page
//! and `nodens doctor`.
//!
//! ```text
//! Watched (store, forward, budget, ...) -> Found -> Conditions::now -> Holding -> status, /ready?verbose, metric, page
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`table`] | every condition: id, severity, title, cure, place in the manual, alert |
//! | [`recent`] | those that are told by what was counted in the last minutes |
//!
//! Nothing is gathered before somebody asks, and nothing of it is touched by a query.

pub mod recent;
pub mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::metrics::{Scrape, Source, names};

/// Lines of evidence of one condition; of more it is said how many there are.
const MAX_EVIDENCE: usize = 8;
/// The page of the manual that has a section for each condition.
const MANUAL: &str = "docs/troubleshooting.md";

/// How bad a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Queries are answered, with less room for further trouble than there should be.
    Warn,
    /// Pods of the node are affected.
    Fail,
}

impl Severity {
    /// The `severity` label, and its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that can be wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name: the `condition` label. Lower-case words with underscores.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line, without a full stop.
    pub title: &'static str,
    /// What to do, in one or two sentences.
    pub cure: &'static str,
    /// The section of `docs/troubleshooting.md`.
    pub anchor: &'static str,
    /// The alert that fires while it holds. Those that share [`table::FAILING`] or [`table::DEGRADED`] have none of their own.
    pub alert: &'static str,
}

impl Condition {
    /// Where the manual speaks of it, from the root of the project.
    pub fn manual(&self) -> String {
        format!("{MANUAL}#{}", self.anchor)
    }
}

/// A part of the server that knows whether some conditions hold.
pub trait Watched: Send + Sync {
    /// Hands in those that hold now.
    fn look(&self, found: &mut Found);
}

/// What holds, being gathered.
#[derive(Default)]
pub struct Found(Vec<(&'static Condition, String, Option<Duration>)>);

impl Found {
    /// `condition` holds. `evidence`: what was seen, in one line.
    pub fn add(&mut self, condition: &'static Condition, evidence: impl Into<String>) {
        self.0.push((condition, evidence.into(), None));
    }

    /// As [`Found::add`], of one that has been so for `since`.
    pub fn add_since(
        &mut self,
        condition: &'static Condition,
        evidence: impl Into<String>,
        since: Duration,
    ) {
        self.0.push((condition, evidence.into(), Some(since)));
    }
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which.
    pub condition: &'static Condition,
    /// What was seen, a line for each part that sees it; at least one.
    pub evidence: Vec<String>,
    /// For how long. Where the part does not know: since it was noticed.
    pub since: Duration,
}

impl Holding {
    /// An entry of `conditions` in the JSON of `nodens status` and `/ready?verbose`.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.condition.id,
            "severity": self.condition.severity.name(),
            "title": self.condition.title,
            "evidence": self.evidence,
            "since_seconds_ago": self.since.as_secs(),
            "cure": self.condition.cure,
            "manual": self.condition.manual(),
            "alert": self.condition.alert,
        })
    }
}

/// The state of the whole: `OK`, `WARN` or `FAIL`.
pub fn verdict(holding: &[Holding]) -> &'static str {
    match holding.iter().map(|holding| holding.condition.severity).max() {
        None => "OK",
        Some(Severity::Warn) => "WARN",
        Some(Severity::Fail) => "FAIL",
    }
}

/// What is watched, and since when conditions hold. One for the process.
#[derive(Default)]
pub struct Conditions {
    /// For the life of the process.
    lasting: Mutex<Vec<Arc<dyn Watched>>>,
    /// Those of the running configuration.
    current: Mutex<Vec<Arc<dyn Watched>>>,
    /// Set by parts that learn of it once.
    set: Mutex<BTreeMap<&'static str, (&'static Condition, Vec<String>)>>,
    /// When each that holds was noticed.
    noticed: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Conditions {
    /// Asks `watched` for the life of the process.
    pub fn register(&self, watched: Arc<dyn Watched>) {
        lock(&self.lasting).push(watched);
    }

    /// Asks these instead of those of the configuration before.
    pub fn replace(&self, watched: Vec<Arc<dyn Watched>>) {
        *lock(&self.current) = watched;
    }

    /// `condition` holds from now on with these lines of evidence; without any it does not. For what is learnt once, and cannot be
    /// asked.
    pub fn set(&self, condition: &'static Condition, evidence: Vec<String>) {
        let mut set = lock(&self.set);
        if evidence.is_empty() {
            set.remove(condition.id);
        } else {
            set.insert(condition.id, (condition, evidence));
        }
    }

    /// What holds now: the worst first, and otherwise in the order of the table.
    pub fn now(&self) -> Vec<Holding> {
        let mut found = Found::default();
        // Asked without a lock: what is asked may register others.
        let watched: Vec<_> =
            lock(&self.lasting).iter().chain(&*lock(&self.current)).cloned().collect();
        watched.iter().for_each(|watched| watched.look(&mut found));
        for (condition, evidence) in lock(&self.set).values() {
            evidence.iter().for_each(|line| found.add(condition, line.as_str()));
        }
        self.judge(found, Instant::now())
    }

    fn judge(&self, found: Found, now: Instant) -> Vec<Holding> {
        let mut noticed = lock(&self.noticed);
        noticed.retain(|id, _| found.0.iter().any(|(condition, ..)| condition.id == *id));
        let mut holding: Vec<Holding> = Vec::new();
        for condition in table::ALL {
            let of = || found.0.iter().filter(|(found, ..)| found.id == condition.id);
            let mut evidence: Vec<String> = Vec::new();
            for (_, line, _) in of() {
                if !evidence.contains(line) {
                    evidence.push(line.clone());
                }
            }
            if evidence.is_empty() {
                continue;
            }
            let more = evidence.len().saturating_sub(MAX_EVIDENCE);
            evidence.truncate(MAX_EVIDENCE);
            if more > 0 {
                evidence.push(format!("and {more} more"));
            }
            let at = *noticed.entry(condition.id).or_insert(now);
            let known = of().filter_map(|(.., since)| *since).max();
            let since = known.unwrap_or_else(|| now.saturating_duration_since(at));
            holding.push(Holding { condition, evidence, since });
        }
        holding.sort_by_key(|holding| std::cmp::Reverse(holding.condition.severity));
        holding
    }
}

impl Source for Conditions {
    fn collect(&self, out: &mut Scrape) {
        let holding = self.now();
        for condition in table::ALL {
            let holds = holding.iter().any(|holding| holding.condition.id == condition.id);
            let labels = [condition.id, condition.severity.name()];
            out.gauge(&names::CONDITION, &labels, f64::from(u8::from(holds)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
