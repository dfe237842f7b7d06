//! Which configuration runs, since when, and why the one on disk does not: for the log, `nodens status`, `/ready?verbose` and
//! the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::conditions::{Found, Watched, table};
use crate::detail::Detail;
use crate::metrics::{Scrape, Source, names};

/// One for the process.
#[derive(Debug, Default)]
pub struct ConfigState(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    hash: String,
    /// When it was loaded.
    loaded: Option<SystemTime>,
    /// What it changed; `None` for that of the start.
    changed: Option<String>,
    problem: Option<Problem>,
}

/// Why the configuration on disk is not the running one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    kind: ProblemKind,
    reason: String,
    since: SystemTime,
}

/// What keeps a configuration from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It has errors, or cannot be served.
    Refused,
    /// It is valid, and would silence the node.
    HeldBack,
}

impl ProblemKind {
    fn key(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::HeldBack => "held_back",
        }
    }
}

impl ConfigState {
    /// An empty one, of a server that is starting.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The configuration of this hash runs from now on; `changed`: what is different from the one before.
    pub fn set_loaded(&self, hash: &str, changed: Option<String>) {
        let mut state = self.state();
        *state = State { hash: hash.to_owned(), loaded: now(), changed, problem: None };
    }

    /// The configuration on disk is the running one again, or still.
    pub fn set_current(&self) {
        self.state().problem = None;
    }

    /// The configuration on disk is not loaded. Returns whether that is news; of one that changes only its reason the time stays.
    pub fn set_problem(&self, kind: ProblemKind, reason: String) -> bool {
        let mut state = self.state();
        let before = state.problem.take();
        let is_news = before.as_ref().is_none_or(|old| old.kind != kind || old.reason != reason);
        let same = before.filter(|old| old.kind == kind);
        let since = same.map_or_else(SystemTime::now, |old| old.since);
        state.problem = Some(Problem { kind, reason, since });
        is_news
    }

    /// Why the configuration on disk is not the running one, and whether it is held back; `None` if it runs.
    pub fn problem(&self) -> Option<String> {
        self.state().problem.as_ref().map(|problem| match problem.kind {
            ProblemKind::Refused => problem.reason.clone(),
            ProblemKind::HeldBack => format!("held back, since {}", problem.reason),
        })
    }

    /// Whether it is held back.
    pub fn is_held_back(&self) -> bool {
        self.state().problem.as_ref().is_some_and(|p| p.kind == ProblemKind::HeldBack)
    }

    /// The hash of the running configuration, as far as people need it.
    pub fn short_hash(&self) -> Option<String> {
        self.state().hash.get(..16).map(str::to_owned)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for ConfigState {
    fn look(&self, found: &mut Found) {
        let state = self.state();
        let Some(problem) = &state.problem else { return };
        let condition = match problem.kind {
            ProblemKind::Refused => &table::CONFIGURATION_REFUSED,
            ProblemKind::HeldBack => &table::CONFIGURATION_HELD_BACK,
        };
        found.add_since(condition, &*problem.reason, problem.since.elapsed().unwrap_or_default());
    }
}

impl Detail for ConfigState {
    fn name(&self) -> &str {
        "configuration"
    }

    fn detail(&self) -> Value {
        let state = self.state();
        let ago = |time: SystemTime| time.elapsed().unwrap_or_default().as_secs();
        let mut detail = json!({
            "hash": state.hash.get(..16),
            "loaded_seconds_ago": state.loaded.map(ago),
            "changed": state.changed,
        });
        if let (Some(problem), Some(fields)) = (&state.problem, detail.as_object_mut()) {
            fields.insert(problem.kind.key().to_owned(), problem.reason.clone().into());
            fields.insert("since_seconds_ago".to_owned(), ago(problem.since).into());
        }
        detail
    }
}

impl Source for ConfigState {
    fn collect(&self, out: &mut Scrape) {
        let state = self.state();
        let since = |kind: ProblemKind| {
            let problem = state.problem.as_ref().filter(|problem| problem.kind == kind);
            problem.map_or(0.0, |problem| seconds(problem.since))
        };
        out.gauge(&names::CONFIG_REFUSED, &[], f64::from(u8::from(state.problem.is_some())));
        out.gauge(&names::CONFIG_LAST_SUCCESS, &[], state.loaded.map_or(0.0, seconds));
        out.gauge(&names::CONFIG_REFUSED_SINCE, &[], since(ProblemKind::Refused));
        out.gauge(&names::CONFIG_HELD_BACK_SINCE, &[], since(ProblemKind::HeldBack));
        if let Some(hash) = state.hash.get(..16) {
            out.gauge(&names::CONFIG_INFO, &[hash], 1.0);
        }
    }
}

fn now() -> Option<SystemTime> {
    Some(SystemTime::now())
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_news_once_and_ends() {
        let state = ConfigState::new();
        state.set_loaded("0123456789abcdef0123", None);
        assert_eq!(state.short_hash().as_deref(), Some("0123456789abcdef"));
        assert!(state.set_problem(ProblemKind::Refused, "one".to_owned()));
        assert!(!state.set_problem(ProblemKind::Refused, "one".to_owned()));
        let since = state.state().problem.as_ref().unwrap().since;
        assert!(state.set_problem(ProblemKind::Refused, "two".to_owned()));
        assert_eq!(state.state().problem.as_ref().unwrap().since, since);
        assert!(state.set_problem(ProblemKind::HeldBack, "two".to_owned()));
        assert_eq!(state.detail()["held_back"], "two");
        assert_eq!(state.problem().as_deref(), Some("held back, since two"));
        state.set_current();
        assert_eq!((state.problem(), state.detail().get("held_back")), (None, None));
        state.set_loaded("fedcba98765432100000", Some("zones: +a.:53".to_owned()));
        assert_eq!(state.detail()["changed"], "zones: +a.:53");
    }
}
