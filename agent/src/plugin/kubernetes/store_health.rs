//! How a directive stands: what it waits for, how old its knowledge is, and whether that is too old.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::object::Kind;
use crate::cluster::{Report, Status};
use crate::conditions::{Found, Watched, table};
use crate::detail::{Detail, in_words};
use crate::metrics::{Scrape, Source, names};
use crate::wire::Name;

/// What one `kubernetes` directive tells of itself in `/ready`, in `nodens status` and in metrics.
pub struct StoreHealth {
    zones: Vec<Name>,
    report: Arc<Report>,
    max_staleness: Option<Duration>,
}

impl StoreHealth {
    /// For a directive that serves `zones` from the store with this report.
    pub fn new(zones: Vec<Name>, report: Arc<Report>, max_staleness: Option<Duration>) -> Self {
        Self { zones, report, max_staleness }
    }

    /// Why the API server is not heard, if it is not: the last error, in words.
    pub fn trouble(&self) -> Option<String> {
        let (kind, error) = self.report.status().last_error()?;
        Some(format!("{}: {error}", plural(kind)))
    }

    /// True if nothing was heard of the API server for longer than `max_staleness`. Cheap enough for every query.
    pub fn is_stale(&self) -> bool {
        self.max_staleness.is_some_and(|most| self.report.status().age() > Some(most))
    }

    /// A sentence, where nothing was heard of the API server for longer than `max_staleness`.
    pub fn stale(&self) -> Option<String> {
        let most = self.max_staleness?;
        let age = self.report.status().age().filter(|&age| age > most)?;
        let trouble = self.trouble().map_or(String::new(), |trouble| format!(" ({trouble})"));
        Some(format!(
            "nothing was heard of the API server for {}, and max_staleness is {}; names are answered from what was \
             known then{trouble}",
            in_words(age),
            in_words(most)
        ))
    }

    /// What the API server does not have of this node, though it was asked, a part for each kind. Something runs on every node, if
    /// only this server.
    fn unknown_of_node(&self) -> impl Iterator<Item = String> {
        let status = self.report.status();
        let lacks = move |kind| {
            let is_listed =
                status.wanted().any(|wanted| wanted == kind) && status.kind(kind).is_synced();
            is_listed && self.report.objects(kind) == 0
        };
        let pods = status
            .node()
            .filter(|_| lacks(Kind::NodePod))
            .map(|node| format!("no Pod of the node `{node}` is known: is that its name?"));
        let node = lacks(Kind::Node).then(|| {
            "there is no Node of this node's name, so `topology` has no effect".to_owned()
        });
        pods.into_iter().chain(node)
    }

    /// One line for people.
    fn state(&self) -> String {
        let status = self.report.status();
        if let Some(stale) = self.stale() {
            return stale;
        }
        let unsynced: Vec<Kind> =
            status.needed().filter(|&kind| !status.kind(kind).is_synced()).collect();
        if let Some(written) = status.snapshot_time().filter(|_| !unsynced.is_empty()) {
            let age = SystemTime::now().duration_since(written).unwrap_or_default();
            return format!(
                "serving the snapshot of {} ago; {}",
                in_words(age),
                first_lists(&unsynced)
            );
        }
        if !unsynced.is_empty() {
            return first_lists(&unsynced);
        }
        let away: Vec<&str> =
            status.wanted().filter(|&kind| !status.kind(kind).is_live()).map(plural).collect();
        if away.is_empty() {
            let of_node = self.unknown_of_node().map(|unknown| format!("; {unknown}"));
            return ["up to date".to_owned()].into_iter().chain(of_node).collect();
        }
        format!("watching again soon: {}; names are answered from what is known", away.join(", "))
    }
}

/// An API server sends a bookmark each minute: one that is silent for longer is away, although nothing has failed yet.
const SILENT: Duration = Duration::from_secs(150);
/// What is older than this is stale, whatever `max_staleness` says.
const STALE: Duration = Duration::from_secs(3_600);

impl StoreHealth {
    /// The kinds of which nothing new is heard, and why.
    fn look_at_kinds(&self, found: &mut Found) {
        let status = self.report.status();
        for kind in status.wanted() {
            let state = status.kind(kind);
            let age = status.kind_age(kind);
            let heard =
                age.map_or("never heard".to_owned(), |age| format!("heard {} ago", in_words(age)));
            match state.last_error().filter(|_| !state.is_live()) {
                Some(error) => {
                    let condition = match (status.is_watched(), state.is_refused()) {
                        (false, _) => &table::OBJECTS_UNREADABLE,
                        (true, true) => &table::API_REFUSED,
                        (true, false) => &table::API_AWAY,
                    };
                    let evidence = format!("{}: {error} ({heard})", plural(kind));
                    match age {
                        Some(age) => found.add_since(condition, evidence, age),
                        None => found.add(condition, evidence),
                    }
                }
                None if status.is_watched() => {
                    if let Some(age) = age.filter(|&age| age > SILENT) {
                        let evidence = format!("{}: {heard}", plural(kind));
                        found.add_since(&table::API_AWAY, evidence, age);
                    }
                }
                None => {}
            }
        }
    }
}

impl Watched for StoreHealth {
    fn look(&self, found: &mut Found) {
        let status = self.report.status();
        self.look_at_kinds(found);
        if !status.is_known() {
            found.add(&table::CLUSTER_UNKNOWN, self.state());
        } else if let Some(stale) = self.stale() {
            found.add(&table::CLUSTER_STALE, stale);
        } else if let Some(age) = status.age().filter(|&age| age > STALE && status.is_watched()) {
            let evidence = format!("nothing was heard of the API server for {}", in_words(age));
            found.add_since(&table::CLUSTER_STALE, evidence, age);
        }
        for unknown in self.unknown_of_node() {
            found.add(&table::NODE_UNKNOWN, unknown);
        }
        if status.is_snapshot_in_use() {
            found.add(&table::SNAPSHOT_IN_USE, self.state());
        }
        if let Some(error) = status.snapshot_error() {
            found.add(&table::SNAPSHOT_UNWRITTEN, error);
        }
    }
}

impl Detail for StoreHealth {
    fn name(&self) -> &str {
        "kubernetes"
    }

    fn detail(&self) -> Value {
        let status = self.report.status();
        let seconds = |age: Duration| (age.as_secs_f64() * 10.0).round() / 10.0;
        let kind = |kind: Kind| {
            let state = status.kind(kind);
            let value = json!({
                "objects": self.report.objects(kind),
                "age_seconds": status.kind_age(kind).map(seconds),
                "synced": state.is_synced(),
                "live": state.is_live(),
                "skipped": state.skipped(),
                "needed": !kind.is_of_node(),
            });
            (plural(kind).to_owned(), value)
        };
        let kinds: serde_json::Map<_, _> = status.wanted().map(kind).collect();
        let snapshot = status.snapshot_time().filter(|_| status.is_snapshot_in_use());
        let snapshot = snapshot.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        json!({
            "zones": self.zones.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "source": self.report.source(),
            "api_server": status.host(),
            "state": self.state(),
            "age_seconds": status.age().map(seconds),
            "lag_ms": lag(status).map(|lag| (lag.as_secs_f64() * 1e4).round() / 10.0),
            "snapshot_age_seconds": snapshot.map(seconds),
            "max_staleness_seconds": self.max_staleness.map(seconds),
            "last_error": self.trouble(),
            "kinds": kinds,
        })
    }
}

impl Source for StoreHealth {
    fn collect(&self, out: &mut Scrape) {
        if self.max_staleness.is_some() {
            let stale = f64::from(u8::from(self.stale().is_some()));
            out.gauge_greatest(&names::KUBERNETES_STALE, &[], stale);
        }
    }
}

/// How long what the API server had sent waited to be read, on average since the start; `None` if nothing did.
fn lag(status: &Status) -> Option<Duration> {
    let delays = &status.read_delay;
    let count = delays.count();
    (count > 0).then(|| Duration::from_secs_f64(delays.sum() / count as f64))
}

/// What is waited for where these kinds have not been listed.
pub(super) fn first_lists(kinds: &[Kind]) -> String {
    let kinds: Vec<&str> = kinds.iter().map(|&kind| plural(kind)).collect();
    format!("waiting for the first list of {}", kinds.join(", "))
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Services",
        Kind::EndpointSlice => "EndpointSlices",
        Kind::Namespace => "Namespaces",
        Kind::Pod => "Pods",
        Kind::ServiceImport => "ServiceImports",
        Kind::ImportedSlice => "imported EndpointSlices",
        Kind::NodePod => "this node's Pods",
        Kind::Node => "this Node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_two_units() {
        let said = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!([said(0), said(59), said(61)], ["0 s", "59 s", "1 min 1 s"]);
        assert_eq!([said(3_660), said(90_000)], ["1 h 1 min", "1 d 1 h"]);
    }
}
