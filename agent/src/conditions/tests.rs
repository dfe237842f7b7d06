use std::collections::BTreeSet;

use super::*;
use crate::metrics::{Format, Metrics};

struct Fixed(Vec<(&'static Condition, &'static str)>);

impl Watched for Fixed {
    fn look(&self, found: &mut Found) {
        self.0.iter().for_each(|(condition, evidence)| found.add(condition, *evidence));
    }
}

#[test]
fn the_table_is_sound() {
    let mut ids = BTreeSet::new();
    for condition in table::ALL {
        let id = condition.id;
        assert!(ids.insert(id), "{id} twice");
        assert!(id.bytes().all(|octet| octet == b'_' || octet.is_ascii_lowercase()), "{id}");
        assert!(!condition.title.ends_with('.') && condition.title.len() < 100, "{id}");
        assert!(condition.cure.ends_with('.') && condition.cure.len() < 140, "{id}");
        let shared = match condition.severity {
            Severity::Warn => table::FAILING,
            Severity::Fail => table::DEGRADED,
        };
        assert_ne!(condition.alert, shared, "{id} is of the other severity");
    }
}

#[test]
fn what_holds_is_put_together_and_the_worst_comes_first() {
    let conditions = Conditions::default();
    assert_eq!(verdict(&conditions.now()), "OK");
    conditions.register(Arc::new(Fixed(vec![(&table::LOG_LOST, "3 lines")])));
    assert_eq!(verdict(&conditions.now()), "WARN");
    let two = vec![(&table::NO_UPSTREAM, "a."), (&table::NO_UPSTREAM, "b.")];
    conditions
        .replace(vec![Arc::new(Fixed(two)), Arc::new(Fixed(vec![(&table::NO_UPSTREAM, "a.")]))]);
    let holding = conditions.now();
    let seen: Vec<_> = holding.iter().map(|h| (h.condition.id, h.evidence.clone())).collect();
    let wanted = [
        ("no_upstream", vec!["a.".to_owned(), "b.".to_owned()]),
        ("log_lost", vec!["3 lines".to_owned()]),
    ];
    assert_eq!(seen, wanted);
    assert_eq!(verdict(&holding), "FAIL");
    conditions.replace(Vec::new());
    assert_eq!(verdict(&conditions.now()), "WARN");
}

#[test]
fn time_counts_from_when_it_was_noticed_or_from_what_the_part_knows() {
    let (conditions, begun) = (Conditions::default(), Instant::now());
    let later = begun + Duration::from_secs(90);
    let found = |since: Option<Duration>| {
        let mut found = Found::default();
        found.0.push((&table::LOG_LOST, "lines".to_owned(), since));
        found
    };
    let since = |found, at| conditions.judge(found, at).first().map(|holding| holding.since);
    assert_eq!(since(found(None), begun), Some(Duration::ZERO));
    assert_eq!(since(found(None), later), Some(Duration::from_secs(90)));
    let known = Duration::from_secs(7_200);
    assert_eq!(since(found(Some(known)), later), Some(known));
    assert_eq!(since(Found::default(), later), None);
    assert_eq!(since(found(None), later), Some(Duration::ZERO));
}

#[test]
fn evidence_is_bounded() {
    let mut found = Found::default();
    for n in 0..100 {
        found.add(&table::UPSTREAM_AWAY, format!("192.0.2.{n}"));
    }
    let holding = Conditions::default().judge(found, Instant::now());
    assert_eq!(holding[0].evidence.len(), MAX_EVIDENCE + 1);
    assert_eq!(holding[0].evidence[MAX_EVIDENCE], "and 92 more");
}

#[test]
fn every_condition_is_a_series_at_all_times() {
    let (conditions, metrics) = (Arc::<Conditions>::default(), Metrics::new());
    conditions.register(Arc::new(Fixed(vec![(&table::API_AWAY, "silent")])));
    metrics.register(conditions);
    let text = metrics.text(Format::Prometheus);
    for condition in table::ALL {
        let holds = u8::from(condition.id == "api_away");
        let labels =
            format!("condition=\"{}\",severity=\"{}\"", condition.id, condition.severity.name());
        assert!(text.contains(&format!("nodens_condition{{{labels}}} {holds}\n")), "{labels}");
    }
}
