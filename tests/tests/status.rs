//! `nodens status` of the real binary: the verdict, what is wrong, and the JSON against its page of the manual.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::poll;
use tests::process::{self, Nodens};
use tests::upstream::Act;

const SOON: Duration = Duration::from_secs(30);

fn run(nodens: &Nodens, arguments: &[&str]) -> String {
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    let words: Vec<&str> =
        ["status", "--socket", &socket].iter().chain(arguments).copied().collect();
    let (status, out, errors) = process::run(&words);
    assert!(status.success(), "{errors}");
    out
}

/// As when files below /run are cleaned up.
#[test]
fn a_socket_that_is_removed_is_made_anew() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    nodens.wait_for_log("serving version=", SOON);
    let socket = nodens.folder().join("nodens.sock");
    fs::remove_file(&socket).unwrap();
    poll::wait_for("the socket", SOON, || socket.exists());
    assert_eq!(status(&nodens)["ready"], true);
    nodens.wait_for_log("it is made anew", SOON);
}

fn status(nodens: &Nodens) -> Value {
    serde_json::from_str(&run(nodens, &["-o", "json"])).unwrap()
}

/// The ids of what is wrong, in `nodens status`, at `/ready?verbose` and in the metric: they agree.
fn wrong(nodens: &Nodens) -> BTreeSet<String> {
    let of = |page: &Value| -> BTreeSet<String> {
        let conditions = page["conditions"].as_array().unwrap().iter();
        conditions.map(|condition| condition["id"].as_str().unwrap().to_owned()).collect()
    };
    let page = nodens.get(nodens.ports().ready, "/ready?verbose").unwrap();
    let page = of(&serde_json::from_str(&page.body).unwrap());
    let told = of(&status(nodens));
    let metrics = nodens.metrics();
    let counted: BTreeSet<String> = metrics
        .all("nodens_condition")
        .filter(|(_, value)| *value == 1.0)
        .map(|(labels, _)| labels["condition"].clone())
        .collect();
    // A condition may come or go between two of them; then the next look tells.
    if page == told && told == counted { told } else { BTreeSet::from(["they differ".to_owned()]) }
}

#[track_caller]
fn wait_for_wrong(nodens: &Nodens, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
    let mut last = BTreeSet::new();
    let found = poll::until(SOON, || {
        last = wrong(nodens);
        last == wanted
    });
    assert!(found, "{last:?} and not {wanted:?}\n{}", run(nodens, &[]));
}

fn first_line(nodens: &Nodens) -> String {
    run(nodens, &[]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn what_is_wrong_stands_in_the_first_line_until_it_is_over() {
    let cluster = Cluster::default();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = cluster
        .setup("")
        .corefile(|text| text.replace("    forward .", "    reload 2s 1s\n    forward ."));
    let nodens = setup.word("taken", taken.local_addr().unwrap().port()).start();
    let good = fs::read_to_string(nodens.folder().join("Corefile")).unwrap();
    wait_for_wrong(&nodens, &[]);
    assert_eq!(first_line(&nodens), "OK: nothing is wrong");

    // The only upstream is silent: it is set aside after some queries.
    cluster.upstream.always(Act::Drop);
    let client = nodens.client().within(Duration::from_secs(10));
    let mut n = 0;
    poll::wait_for("the upstream is set aside", SOON, || {
        n += 1;
        let _ = client.ask(&format!("n{n}.example.org."), RecordType::A);
        wrong(&nodens).contains("upstreams_away")
    });
    wait_for_wrong(&nodens, &["upstreams_away"]);
    let line = first_line(&nodens);
    let wanted = "FAIL: no upstream of a forward can be used";
    assert_eq!(line, wanted);
    let told = status(&nodens);
    let state = told["upstreams"][0]["state"].as_str().unwrap();
    assert_eq!(state, "set aside: it does not answer");
    let evidence = told["conditions"][0]["evidence"][0].as_str().unwrap();
    assert!(evidence.contains(&cluster.upstream.address().to_string()), "{evidence}");
    cluster.upstream.always(Act::Answer);
    wait_for_wrong(&nodens, &[]);

    // A configuration that is refused, and a page that cannot be served.
    nodens.write_corefile(&format!("{good}\nx.example:5x {{\n}}\n"));
    wait_for_wrong(&nodens, &["configuration_refused"]);
    assert!(first_line(&nodens).starts_with("WARN: the configuration on disk is refused"));
    assert!(status(&nodens)["configuration"]["refused"].is_string());
    let address = taken.local_addr().unwrap();
    nodens.write_corefile(
        &good.replace("    forward .", &format!("    health {address}\n    forward .")),
    );
    wait_for_wrong(&nodens, &["pages_unserved"]);
    drop(taken);
    wait_for_wrong(&nodens, &[]);

    let told = status(&nodens);
    assert!(told["configuration"]["changed"].as_str().unwrap().contains("health"), "{told}");
}

/// Every field of the answer is in the table of docs/status.md, and the other way round.
#[test]
fn the_json_is_what_the_manual_says() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    let client = nodens.client();
    for name in ["kubernetes.default.svc.cluster.local.", "example.org.", "missing.example.org."] {
        client.ask(name, RecordType::A).unwrap();
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status.md");
    let page = fs::read_to_string(page).unwrap();
    let json = page.split("\n## JSON\n").nth(1).unwrap();
    let rows: Vec<(&str, &str)> = json
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| {
            let (name, rest) = line.split_once('`')?;
            Some((name, rest.split('|').nth(1)?.trim()))
        })
        .collect();
    let documented: BTreeSet<&str> = rows.iter().map(|(name, _)| *name).collect();
    assert_eq!(documented.len(), rows.len(), "a field stands twice");
    let told = status(&nodens);
    let mut found = BTreeSet::new();
    fields(&told, "", &documented, &mut found);
    // What is there only at times.
    let seldom = ["conditions[]", "configuration.refused", "configuration.held_back"];
    let seldom = |name: &str| {
        seldom.iter().any(|prefix| name.starts_with(prefix))
            || ["configuration.since_seconds_ago", "forwards[].trouble"].contains(&name)
            || name.starts_with("network.")
    };
    for (name, kind) in &rows {
        let Some(value) = found.iter().find(|(found, _)| found == name).map(|(_, value)| value)
        else {
            assert!(seldom(name), "docs/status.md has {name}, which the answer lacks");
            continue;
        };
        let value: Value = serde_json::from_str(value).unwrap();
        let fits = value.is_null()
            || match *kind {
                "text" => value.is_string(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                "list" => value.is_array(),
                "object" => value.is_object(),
                other => panic!("{name}: a type {other}"),
            };
        assert!(fits, "{name} is no {kind}: {value}");
    }
    for (name, _) in &found {
        // An object may be told of by its fields alone.
        let is_told = documented.iter().any(|known| {
            known
                .strip_prefix(name.as_str())
                .is_some_and(|rest| matches!(rest.get(..1), None | Some("." | "[")))
        });
        assert!(is_told, "docs/status.md lacks {name}");
    }
    assert_eq!(
        (&told["schema"], &told["state"], &told["ready"]),
        (&1.into(), &"OK".into(), &true.into())
    );
    assert!(told["sources"][0]["kinds"]["Services"]["objects"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["upstreams"][0]["share_percent"], 100.0, "{told}");
    assert_eq!(told["last_minute"]["answered_per_second"]["stale"], 0.0);
}

/// The paths of all fields with a value of each. What the manual calls an object of its own stays whole.
fn fields(
    value: &Value,
    path: &str,
    known: &BTreeSet<&str>,
    found: &mut BTreeSet<(String, String)>,
) {
    let below = known.iter().any(|name| {
        name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
    });
    if !path.is_empty() {
        found.insert((path.to_owned(), value.to_string()));
    }
    match value {
        Value::Object(entries) if below || path.is_empty() => {
            for (name, value) in entries {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(value, &path, known, found);
            }
        }
        Value::Array(items) if below => {
            for item in items {
                let Value::Object(entries) = item else { continue };
                for (name, value) in entries {
                    fields(value, &format!("{path}[].{name}"), known, found);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn a_watch_prints_it_again_and_outlives_the_server() {
    use std::io::BufRead;
    let cluster = Cluster::default();
    let mut nodens = cluster.start("");
    let socket = nodens.folder().join("nodens.sock");
    let mut watch = Command::new(process::binary())
        .args(["status", "-o", "json", "--watch", "1", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let told: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(told["state"], "OK");
    }
    nodens.stop(SOON);
    let mut errors = std::io::BufReader::new(watch.stderr.take().unwrap()).lines();
    let error = errors.next().unwrap().unwrap();
    assert!(error.contains("is it running"), "{error}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}
