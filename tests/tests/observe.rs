//! `nodens observe` and `nodens top`: queries as they are answered, shown by the real binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::Value;
use tests::poll;
use tests::process::{Nodens, Setup, binary, run};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);
/// How long the slow name takes.
const SLOW: Duration = Duration::from_millis(200);
const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nfast IN A 192.0.2.1\nslow IN A 192.0.2.2\n";
const COREFILE: &str = "test.:@dns@ {
    bind 127.0.0.1
    hosts {
        192.0.2.80 intranet.test
        fallthrough
    }
    acl {
        drop type TXT
    }
    cache 30
    forward . @upstream@
    prometheus 127.0.0.1:@metrics@
}
";

/// An observer; killed when it is dropped.
struct Observer(Child);

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> (Nodens, Upstream) {
    let upstream = Upstream::with_zone(ZONE);
    upstream.on_query(|seen| match seen.name.starts_with("slow") {
        true => Act::Delay(SLOW, Box::new(Act::Answer)),
        false => Act::Answer,
    });
    (Setup::new(COREFILE).word("upstream", upstream.address()).start(), upstream)
}

fn socket(nodens: &Nodens) -> String {
    nodens.folder().join("nodens.sock").to_string_lossy().into_owned()
}

/// Starts `nodens observe` and waits until the server knows of it; what it prints comes as JSON, line by line.
fn observe(
    nodens: &Nodens,
    arguments: &[&str],
    readers: f64,
) -> (Observer, impl Iterator<Item = Value> + use<>) {
    let mut command = Command::new(binary());
    command.args(["observe", "-o", "json", "--socket", &socket(nodens)]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    nodens.wait_for_metrics("an observer", SOON, |metrics| {
        (metrics.sum("nodens_observe_readers", &[]) - readers).abs() < 0.5
    });
    let lines = out.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    (Observer(child), lines)
}

fn told(seen: &Value) -> [&str; 4] {
    ["name", "type", "rcode", "source"].map(|key| seen[key].as_str().unwrap_or("-"))
}

#[test]
fn queries_are_shown_as_they_are_answered() {
    let (nodens, _upstream) = start();
    let client = nodens.client();
    let (mut observer, mut all) = observe(&nodens, &["-n", "7"], 1.0);
    let (denial, mut denied) =
        observe(&nodens, &["--rcode", "nxdomain", "--client", "127.0.0.0/8"], 2.0);
    let (slowness, mut slow) = observe(&nodens, &["--slower", "100ms", "--name", "*.test"], 3.0);
    let (hit, mut cached) = observe(&nodens, &["--source", "cache"], 4.0);
    let (status, _, err) = run(&["observe", "--socket", &socket(&nodens)]);
    assert!(!status.success() && err.contains("4 observe already"), "{err}");

    for name in ["Fast.test.", "fast.test.", "none.test.", "slow.test.", "intranet.test."] {
        client.ask(name, RecordType::A).unwrap();
    }
    assert!(client.within(Duration::from_millis(100)).ask("fast.test.", RecordType::TXT).is_err());
    nodens.client().ask("www.example.", RecordType::AAAA).unwrap();

    let seen: Vec<Value> = all.by_ref().take(7).collect();
    let wanted = [
        ["fast.test.", "A", "NOERROR", "upstream"],
        ["fast.test.", "A", "NOERROR", "cache"],
        ["none.test.", "A", "NXDOMAIN", "upstream"],
        ["slow.test.", "A", "NOERROR", "upstream"],
        ["intranet.test.", "A", "NOERROR", "hosts"],
        ["fast.test.", "TXT", "-", "acl"],
        ["www.example.", "AAAA", "REFUSED", "server"],
    ];
    // One worker's queries are in order; several workers are read one after the other.
    let mut names: Vec<_> = seen.iter().map(told).collect();
    let mut sorted = wanted.to_vec();
    names.sort();
    sorted.sort();
    assert_eq!(names, sorted);
    assert!(seen.iter().all(|seen| seen["client"] == "127.0.0.1" && seen["transport"] == "udp"));
    assert!(poll::until(SOON, || observer.0.try_wait().unwrap().is_some()), "-n ends it");

    assert_eq!(told(&denied.next().unwrap()), wanted[2]);
    assert_eq!(told(&cached.next().unwrap()), wanted[1]);
    let slowest = slow.next().unwrap();
    assert_eq!(told(&slowest), wanted[3]);
    assert!(slowest["milliseconds"].as_f64().unwrap() >= 200.0, "{slowest}");
    drop((denial, slowness, hit));
    nodens.wait_for_metrics("the observers' end", SOON, |metrics| {
        metrics.sum("nodens_observe_readers", &[]) < 0.5
    });
    let metrics = nodens.metrics();
    assert!(metrics.has("nodens_observe_dropped_total", &[]));
    assert!(metrics.sum("nodens_observe_dropped_total", &[]) < 0.5);
}

#[test]
fn the_top_shows_what_was_asked_without_an_observer() {
    let (nodens, upstream) = start();
    let client = nodens.client();
    for _ in 0..5 {
        client.ask("fast.test.", RecordType::A).unwrap();
    }
    client.ask("slow.test.", RecordType::A).unwrap();
    client.ask("none.test.", RecordType::AAAA).unwrap();
    let top = || -> Value {
        let (status, out, err) = run(&["top", "-o", "json", "--socket", &socket(&nodens)]);
        assert!(status.success(), "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let top = top();
    assert_eq!(top["names"][0]["name"], "fast.test.", "{top:#}");
    assert_eq!(top["names"][0]["queries"], 5);
    assert_eq!(top["clients"][0]["client"], "127.0.0.1");
    assert_eq!(top["nxdomain_names"][0]["name"], "none.test.");
    assert_eq!(top["rcodes"]["NXDOMAIN"], 1);
    assert_eq!((&top["sources"]["cache"], &top["sources"]["upstream"]), (&4.into(), &3.into()));
    assert_eq!(top["slowest"][0]["name"], "slow.test.");
    assert_eq!(top["upstreams"][0]["to"], upstream.address().to_string());
    assert_eq!(top["sampled"], false);
    let (_, text, _) = run(&["top", "--once", "-n", "1", "--socket", &socket(&nodens)]);
    assert!(text.contains("\nnames\n        5  fast.test."), "{text}");
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let (nodens, _upstream) = start();
    for (flag, value, wanted) in [
        ("--client", "10.0.0.0/99", "10.0.0.0/24"),
        ("--rcode", "NXDOMAN", "expected one such as NXDOMAIN"),
        ("--source", "sky", "expected one of"),
        ("--slower", "soon", "expected a duration such as 10ms"),
    ] {
        let (status, _, err) = run(&["observe", flag, value, "--socket", &socket(&nodens)]);
        assert!(!status.success() && err.contains(wanted), "{flag} {value}: {err}");
    }
}
