//! What `manifests/monitoring` has, held against the binary and Prometheus: names against what is exported, alerts against
//! their page and scripted series, and everything against a Prometheus that scrapes the binary.

#[path = "monitoring/expressions.rs"]
mod expressions;
#[path = "monitoring/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use expressions::{Kind, metric_names};
use hickory_proto::rr::RecordType;
use nodens::conditions::table;
use nodens::metrics::names;
use serde::Deserialize;
use serde_json::Value;
use server::{Prometheus, tools};
use tests::api::Options;
use tests::cluster::Cluster;
use tests::poll;

const SOON: Duration = Duration::from_secs(30);

/// Metrics of others: Prometheus's own, the kubelet's, kube-state-metrics'.
const FOREIGN: [&str; 6] = [
    "up",
    "ALERTS",
    "container_memory_working_set_bytes",
    "kube_pod_container_resource_limits",
    "kube_daemonset_status_desired_number_scheduled",
    "kube_daemonset_status_number_available",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rules() -> Value {
    let text =
        fs::read_to_string(root().join("manifests/monitoring/prometheus-rule.yaml")).unwrap();
    let document = serde_yaml_ng::Deserializer::from_str(&text).next().unwrap();
    let rule = Value::deserialize(document).unwrap();
    assert_eq!(rule["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(rule["kind"], "PrometheusRule");
    rule["spec"].clone()
}

fn alerts() -> Vec<Value> {
    let rules = rules();
    let groups = rules["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn dashboard() -> Value {
    let file = root().join("manifests/monitoring/dashboard.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Every expression, with Grafana's variables filled in, and what it is from.
fn all_expressions() -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let mut out: Vec<(String, String)> =
        alerts().iter().map(|alert| (word(&alert["alert"]), word(&alert["expr"]))).collect();
    for panel in dashboard()["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let filled = word(&target["expr"])
                .replace("$job", ".+")
                .replace("$instance", ".+")
                .replace("$__rate_interval", "1m");
            assert!(!filled.contains('$'), "unknown variable: {filled}");
            out.push((word(&panel["title"]), filled));
        }
    }
    assert!(out.len() > 70, "{}", out.len());
    out
}

/// The name that a sample has, from a family's.
fn family(name: &str) -> Option<&'static nodens::metrics::Family> {
    names::ALL.iter().copied().find(|family| {
        let suffixes: &[&str] = match family.kind {
            nodens::metrics::Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(family.name))
    })
}

#[test]
fn every_metric_in_an_expression_is_ours() {
    for (title, expression) in all_expressions() {
        let found = metric_names(&expression);
        assert!(!found.is_empty(), "{title}: {expression}");
        for name in found {
            let known = family(&name).is_some() || FOREIGN.contains(&name.as_str());
            assert!(known, "{title}: there is no metric {name}");
        }
    }
}

#[test]
fn every_label_in_an_expression_is_one_of_its_metrics() {
    let always = ["job", "instance", "le"];
    for (title, expression) in all_expressions() {
        let names = metric_names(&expression);
        if names.iter().any(|name| FOREIGN.contains(&name.as_str())) {
            continue;
        }
        let known: BTreeSet<&str> = names
            .iter()
            .filter_map(|name| family(name))
            .flat_map(|family| family.labels.iter().copied())
            .chain(always)
            .collect();
        for label in expressions::labels(&expression) {
            assert!(known.contains(label.as_str()), "{title}: no label {label} in {expression}");
        }
    }
}

#[test]
fn every_counter_is_looked_at_by_its_rate() {
    for (title, expression) in all_expressions() {
        for name in metric_names(&expression) {
            let Some(family) = family(&name) else { continue };
            let is_counter = family.kind != nodens::metrics::Kind::Gauge;
            let is_rated = expressions::kind_of_use(&expression, &name) == Kind::Range;
            // When the process started is a gauge whose changes count.
            let may_range = name == "process_start_time_seconds";
            assert!(is_counter == is_rated || may_range, "{title}: {name} in {expression}");
        }
    }
}

#[test]
fn every_alert_has_what_people_need_and_a_section_in_the_manual() {
    let page = fs::read_to_string(root().join("docs/alerts.md")).unwrap();
    let sections: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut named = BTreeSet::new();
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        named.insert(name);
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for text in ["summary", "description"] {
            assert!(alert["annotations"][text].as_str().unwrap().ends_with('.'), "{name}: {text}");
        }
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/alerts.md#{}", name.to_lowercase()));
    }
    assert_eq!(named, sections, "alerts and sections of docs/alerts.md");
    assert_eq!(alerts.len(), named.len(), "an alert stands twice");
    let said = format!("has {} alerts", alerts.len());
    assert!(page.contains(&said), "docs/alerts.md does not say that it {said}");
    // Links within the page and to other pages lead somewhere.
    for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let anchor = link.strip_prefix('#');
        let is_good = anchor.map_or_else(
            || root().join("docs").join(link).exists(),
            |anchor| sections.iter().any(|section| section.to_lowercase() == anchor),
        );
        assert!(is_good, "docs/alerts.md links to {link}");
    }
}

/// Every condition has an alert: its own, or the one of its severity, which then names it. And it has its line in the manual and a
/// section that it leads to.
#[test]
fn every_condition_has_an_alert_and_its_place_in_the_manual() {
    let page = |name: &str| fs::read_to_string(root().join("docs").join(name)).unwrap();
    let (status, troubleshooting) = (page("status.md"), page("troubleshooting.md"));
    let anchors: BTreeSet<String> = troubleshooting
        .lines()
        .filter_map(|line| line.strip_prefix("##"))
        .map(|heading| heading.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect();
    let alerts = alerts();
    let alert = |name: &str| alerts.iter().find(|alert| alert["alert"] == name);
    for condition in table::ALL {
        let id = condition.id;
        assert!(anchors.contains(condition.anchor), "{id}: no section {}", condition.anchor);
        let row = format!(
            "| `{id}` | {} | {} | [{}](alerts.md#{}) | [here](troubleshooting.md#{}) |",
            condition.severity.name(),
            condition.title,
            condition.alert,
            condition.alert.to_lowercase(),
            condition.anchor,
        );
        assert!(status.lines().any(|line| line == row), "docs/status.md has no line\n{row}");
        assert!(alert(condition.alert).is_some(), "{id}: there is no alert {}", condition.alert);
    }
    let rows = status.lines().filter(|line| line.contains("](troubleshooting.md#")).count();
    assert_eq!(rows, table::ALL.len(), "docs/status.md has a condition that the program lacks");
    for shared in [table::FAILING, table::DEGRADED] {
        let wanted: BTreeSet<&str> =
            table::ALL.iter().filter(|c| c.alert == shared).map(|c| c.id).collect();
        let expression = alert(shared).unwrap()["expr"].as_str().unwrap().to_owned();
        let listed = expression.split("condition=~\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(listed.split('|').collect::<BTreeSet<_>>(), wanted, "{shared}");
    }
}

#[test]
fn the_dashboard_is_laid_out_without_overlaps() {
    let dashboard = dashboard();
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: the id stands twice");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is beyond the edge");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> =
        variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(variables, ["datasource", "job", "instance"]);
}

#[test]
fn promtool_evaluates_every_alert_on_scripted_series() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yaml"), serde_yaml_ng::to_string(&rules()).unwrap())
        .unwrap();
    let script = fs::read_to_string(root().join("tests/data/alerts/rules.test.yaml")).unwrap();
    for alert in alerts() {
        let test = format!("\n  - name: {}\n", alert["alert"].as_str().unwrap());
        assert!(script.contains(&test), "no scripted series for {test}");
    }
    fs::write(folder.path().join("rules.test.yaml"), script).unwrap();
    for words in [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]] {
        let output =
            Command::new(tools.join("promtool")).args(words).current_dir(&folder).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("promtool {}:\n{out}", words.join(" "));
        assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
        assert!(out.contains("SUCCESS"), "{out}");
    }
}

/// A real Prometheus with these rules scrapes the real binary, in the text format and in OpenMetrics as it asks for it; every
/// expression is asked of its API, and an alert goes off.
#[test]
fn prometheus_scrapes_the_binary_and_evaluates_everything() {
    let Some(tools) = tools() else { return };
    let cluster = Cluster::with(Options::default());
    let nodens = cluster.setup("").start();
    let client = nodens.client();
    for name in ["kubernetes.default.svc.cluster.local.", "example.org.", "missing.example.org."] {
        client.ask(name, RecordType::A).unwrap();
    }
    let prometheus = Prometheus::start(&tools, &rules(), nodens.ports().metrics);
    poll::wait_for("the first scrapes", SOON, || {
        prometheus
            .query("count_over_time(nodens_ready[1m]) > 2")
            .is_ok_and(|found| found.len() == 1)
    });
    assert_eq!(prometheus.value("up{job=\"nodens-metrics\"}"), Some(1.0));
    assert_eq!(prometheus.value("nodens_ready"), Some(1.0));
    let version = format!("coredns_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(prometheus.value(&version), Some(1.0));
    let dropped = "sum(scrape_samples_scraped - scrape_samples_post_metric_relabeling)";
    assert_eq!(prometheus.value(dropped), Some(0.0));

    for (title, expression) in all_expressions() {
        let result = prometheus.query(&expression);
        assert!(result.is_ok(), "{title}: {expression}: {}", result.unwrap_err());
    }
    // What was exported is what was stored, under the names of the one list.
    let stored = prometheus.names();
    let page = nodens.metrics();
    for (key, _) in page.map() {
        let name = key.split('{').next().unwrap();
        assert!(stored.contains(name), "Prometheus does not have {name}");
        assert!(family(name).is_some(), "{name} is not in metrics/names.rs");
    }
    println!("Prometheus scraped {} series under {} names", page.map().len(), stored.len());

    // A Corefile with a mistake: NodensConfigurationRefused, which waits for nothing.
    nodens.write_corefile(".:@dns@ {\n    fowrard . 127.0.0.1\n}\n");
    nodens.signal(nix::sys::signal::Signal::SIGHUP);
    let firing = "ALERTS{alertname=\"NodensConfigurationRefused\", alertstate=\"firing\"}";
    poll::wait_for("the alert", SOON, || prometheus.value(firing) == Some(1.0));
    let rules = prometheus.get("/api/v1/rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let loaded: Vec<Value> =
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
    assert_eq!(loaded.len(), alerts().len());
    for rule in loaded {
        assert_eq!(rule["health"], "ok", "{rule}");
        let is_firing = rule["state"] == "firing";
        assert_eq!(is_firing, rule["name"] == "NodensConfigurationRefused", "{rule}");
    }
}

/// The rules with their patience taken out: what they wait for and the times of their rates are seconds.
fn impatient() -> Value {
    let mut rules = rules();
    let times = regex::Regex::new(r"\[\d+[mh]\]").unwrap();
    for group in rules["groups"].as_array_mut().unwrap() {
        for rule in group["rules"].as_array_mut().unwrap() {
            rule.as_object_mut().unwrap().remove("for");
            let expression = rule["expr"].as_str().unwrap();
            rule["expr"] = times.replace_all(expression, "[10s]").into_owned().into();
        }
    }
    rules
}

/// Alerts of a server in trouble fire and end with it, on a real Prometheus; times shortened, thresholds as they are.
#[test]
fn alerts_fire_and_end_with_what_they_tell_of() {
    let Some(tools) = tools() else { return };
    let cluster = Cluster::with(Options::default());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut nodens = cluster.setup("").start();
    let good = fs::read_to_string(nodens.folder().join("Corefile")).unwrap();
    let prometheus = Prometheus::start(&tools, &impatient(), nodens.ports().metrics);
    let firing = || -> BTreeSet<String> {
        let found = prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap_or_default();
        found.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    let wait = |wanted: &[&str], trouble: &mut dyn FnMut()| {
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        let mut last = BTreeSet::new();
        let found = poll::until(2 * SOON, || {
            trouble();
            last = firing();
            last == wanted
        });
        assert!(found, "{last:?} fire and not {wanted:?}");
    };
    let none: &[&str] = &[];
    poll::wait_for("the first scrapes", SOON, || prometheus.value("nodens_ready") == Some(1.0));
    wait(none, &mut || {});

    let reload = |text: &str| {
        nodens.write_corefile(text);
        nodens.signal(nix::sys::signal::Signal::SIGHUP);
    };
    reload(&format!("{good}\nx.example:5x {{\n}}\n"));
    wait(&["NodensConfigurationRefused"], &mut || {});
    let page = format!("    health {}\n    forward .", taken.local_addr().unwrap());
    reload(&good.replace("    forward .", &page));
    wait(&["NodensDegraded"], &mut || {});
    reload(&good);
    wait(none, &mut || {});

    cluster.upstream.always(tests::upstream::Act::Drop);
    let client = nodens.client().within(Duration::from_secs(5));
    let mut n = 0;
    let mut ask = || {
        n += 1;
        let _ = client.ask(&format!("n{n}.example.org."), RecordType::A);
    };
    wait(&["NodensErrors", "NodensSlow", "NodensUpstreamDown", "NodensUpstreamsDown"], &mut ask);
    cluster.upstream.always(tests::upstream::Act::Answer);
    wait(none, &mut || {});

    nodens.stop(SOON);
    wait(&["NodensDown"], &mut || {});
}
