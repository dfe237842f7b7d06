//! `nodens explain`: what a person would ask, answered by a dry run that changes nothing.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::poll;
use tests::process::{Nodens, Setup, run};
use tests::upstream::Upstream;

const ZONE: &str =
    "$ORIGIN example.org.\n$TTL 60\n@ IN SOA ns admin 1 3600 600 86400 60\napi IN A 192.0.2.1\n";
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo/objects");
const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    acl {
        block net 192.0.2.66
    }
    limit 1000
    rewrite name exact old.example.org api.example.org
    hosts {
        192.0.2.80 intranet.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa {
        objects @objects@
        pods insecure
        fallthrough in-addr.arpa
    }
    cache 300
    forward . @upstream@
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

fn start() -> (Nodens, Upstream) {
    let upstream = Upstream::with_zone(ZONE);
    let setup = Setup::new(COREFILE).word("upstream", upstream.address()).word("objects", OBJECTS);
    (setup.start(), upstream)
}

fn command(nodens: &Nodens, arguments: &[&str]) -> (bool, String, String) {
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let all = [&["explain"], arguments, &["--socket", &socket]].concat();
    let (status, out, err) = run(&all);
    (status.success(), out, err)
}

#[track_caller]
fn explain(nodens: &Nodens, arguments: &[&str]) -> Value {
    let (is_done, out, err) = command(nodens, &[arguments, &["-o", "json"]].concat());
    assert!(is_done, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// The verdict and all reasons, in one text.
#[track_caller]
fn why(nodens: &Nodens, arguments: &[&str]) -> String {
    let told = explain(nodens, arguments);
    let reasons = told["reasons"].as_array().unwrap().iter().filter_map(Value::as_str);
    let reasons: Vec<&str> = reasons.collect();
    format!("{}: {}", told["verdict"].as_str().unwrap(), reasons.join("; "))
}

#[test]
fn questions_that_people_ask_are_answered() {
    let (nodens, _upstream) = start();
    for (arguments, wanted) in [
        (&["web", "-n", "default"][..], "Service `web` is in namespace `shop`, not in `default`"),
        (&["web", "-n", "shop"], "`web` is `web.shop.svc.cluster.local.`, found with 2 queries"),
        (
            &["wbe", "-n", "shop"],
            "there is no Service `wbe` in namespace `shop`; similar ones there: `web`",
        ),
        (&["web.shp.svc.cluster.local."], "there is no namespace `shp`; `shop` is similar"),
        (
            &["_grpc._tcp.web.shop.svc.cluster.local.", "-t", "SRV"],
            "it has no port `_grpc._tcp`; it has `_http._tcp`, `_metrics._tcp`",
        ),
        (&["db-7.db.shop.svc.cluster.local."], "no endpoint of it is named `db-7`"),
        (&["db.shop.svc.cluster.local.", "-t", "AAAA"], "exists, and has no record of type AAAA"),
        (
            &["web.shop.cluster.local."],
            "`svc` is missing: the Service's name is `web.shop.svc.cluster.local.`",
        ),
        (&["x.default.pod.cluster.local."], "no address with dashes"),
        (&["intranet.shop.svc.cluster.local."], "found with 2 queries"),
        (
            &["api.example.org."],
            "is not known here after 2 queries to upstreams: `api.example.org.` would be asked of one",
        ),
        (&["api.example.org.", "--client", "192.0.2.66"], "cannot be resolved: a query fails"),
        (&["db-7.db", "-n", "shop"], "no endpoint of it is named `db-7`"),
        (&["web.shp", "-n", "shop"], "there is no namespace `shp`; `shop` is similar"),
    ] {
        let told = why(&nodens, arguments);
        assert!(told.contains(wanted), "{arguments:?}\n got: {told}\n wanted: {wanted}");
    }
}

/// What the cluster lacks is no reason for a name outside it, and what the cache holds is a reason for nothing.
#[test]
fn names_outside_have_no_reasons_in_the_cluster() {
    let (nodens, _upstream) = start();
    for arguments in [&["api.example.org", "-n", "shop"][..], &["example.com", "-n", "shop"]] {
        let told = explain(&nodens, arguments);
        assert_eq!(told["reasons"].as_array().map(Vec::len), Some(0), "{told:#}");
    }
    let told = explain(&nodens, &["db-7.db", "-n", "shop"]);
    let reasons = told["reasons"].to_string();
    assert!(!reasons.contains("there is no"), "{reasons}");
}

#[test]
fn the_search_list_of_a_pod_is_followed() {
    let (nodens, _upstream) = start();
    let node = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let has_domains =
        node.lines().any(|line| line.starts_with("search") || line.starts_with("domain"));
    let told = explain(&nodens, &["api.example.org", "-n", "shop"]);
    let tries: Vec<&str> = told["tries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tried| tried["name"].as_str())
        .collect();
    let wanted = [
        "api.example.org.shop.svc.cluster.local.",
        "api.example.org.svc.cluster.local.",
        "api.example.org.cluster.local.",
    ];
    assert_eq!(tries[..3], wanted);
    assert!(has_domains || tries[3] == "api.example.org.", "{tries:?}");
    assert_eq!(told["ndots"], 5);

    let search = ["api.example.org", "--search", "shop.svc.cluster.local,cluster.local", "--ask"];
    let told = explain(&nodens, &search);
    assert_eq!(
        told["verdict"],
        "`api.example.org` is `api.example.org.`, found with 6 queries, 2 of them to upstreams",
        "{told:#}"
    );
    let advice = told["advice"].to_string();
    for way in ["`api.example.org.`", "`ndots:2`", "`autopath @kubernetes`"] {
        assert!(advice.contains(way), "{advice}");
    }
    assert_eq!((&told["cost"]["queries"], &told["cost"]["enough"]), (&6.into(), &2.into()));
    let (_, text, _) = command(&nodens, &search);
    assert!(text.contains("\n  costs 6 queries, where 2 are enough\n"), "{text}");
    let told = explain(&nodens, &["web.shop", "-n", "default"]);
    assert_eq!((&told["cost"]["queries"], &told["cost"]["enough"]), (&4.into(), &2.into()));
    assert!(told["advice"].to_string().contains("`web.shop.svc.cluster.local.`"), "{told:#}");
    let (_, text, _) = command(&nodens, &["web", "-n", "shop"]);
    assert!(text.contains("\n  costs 2 queries\n") && !text.contains("cheaper"), "{text}");
    let told = explain(
        &nodens,
        &["api.example.org", "--search", "cluster.local", "--ndots", "2", "--ask"],
    );
    assert_eq!(told["queries"], 2);

    let told = explain(&nodens, &["web", "--pod", "shop/web-0"]);
    assert!(told["notes"][0].as_str().unwrap().contains("only its namespace is used"), "{told:#}");
    assert_eq!(told["tries"][0]["name"], "web.shop.svc.cluster.local.");
}

#[test]
fn each_step_is_told() {
    let (nodens, upstream) = start();
    nodens.client().ask("api.example.org.", RecordType::A).unwrap();
    let (_, text, _) = command(&nodens, &["api.example.org.", "-t", "A"]);
    assert!(text.contains("A     NOERROR from cache by block . at dns://127.0.0.1:"), "{text}");
    assert!(text.contains("192.0.2.1"), "{text}");
    assert!(!text.contains("kubernetes"), "who had no say is left out: {text}");
    assert!(text.contains("cache        answers: an answer is kept: "), "{text}");

    let (_, text, _) = command(&nodens, &["old.example.org.", "-t", "A", "--ask"]);
    let asked = format!("{} says NOERROR in ", upstream.address());
    assert!(text.contains("rewrite      needs another answer") && !text.contains(&asked), "{text}");
    let (_, text, _) = command(&nodens, &["none.example.org.", "-t", "A", "--ask"]);
    assert!(text.contains(&format!("{} says NXDOMAIN in ", upstream.address())), "{text}");
    assert!(text.contains("`none.example.org.` does not exist"), "{text}");

    let (_, text, _) = command(&nodens, &["web.shop.svc.cluster.local."]);
    let service = "kubernetes   answers: Service `shop/web`: ClusterIP 10.96.12.34 fd00:96::1234, ports http 80/tcp, metrics 9090/tcp";
    assert!(text.contains(service), "{text}");
    let (_, text, _) = command(&nodens, &["intranet.shop.svc.cluster.local.", "-t", "A"]);
    assert!(text.contains("for intranet.example. A"), "{text}");
    let line = "hosts        answers: `192.0.2.80 intranet.example` in the Corefile";
    assert!(text.contains(line), "{text}");
}

#[test]
fn nothing_is_changed() {
    let (nodens, upstream) = start();
    let client = nodens.client();
    client.ask("api.example.org.", RecordType::A).unwrap();
    let counted = || {
        let mut all = nodens.metrics().map();
        // What moves by itself, and what the metrics page moves.
        all.retain(|name, _| {
            ![
                "process_",
                "health_request",
                "_age_seconds",
                "memory",
                "go_",
                "nodens_cache_bytes",
                // The questions that the server asks itself.
                "nodens_received_total",
                "source=\"probe\"",
            ]
            .iter()
            .any(|moving| name.contains(moving))
        });
        all
    };
    let (before, asked) = (counted(), upstream.total());
    for name in [
        "api.example.org.",
        "none.example.org.",
        "web.shop.svc.cluster.local.",
        "old.example.org.",
        "x.",
    ] {
        for _ in 0..20 {
            explain(&nodens, &[name]);
        }
    }
    assert_eq!(upstream.total(), asked, "an upstream was asked");
    assert_eq!(counted(), before);
    explain(&nodens, &["none.example.org.", "--ask"]);
    assert!(upstream.total() > asked);
    assert_eq!(counted(), before, "what an upstream says is not learnt");
}

#[test]
fn the_listener_that_is_asked_can_be_chosen() {
    let second = "second.example:@dns2@ {\n bind 127.0.0.1\n whoami\n}\n";
    let upstream = Upstream::with_zone(ZONE);
    let setup = Setup::new(&format!("{COREFILE}{second}"));
    let nodens = setup.word("upstream", upstream.address()).word("objects", OBJECTS).start();
    let at = format!("127.0.0.1:{}", nodens.ports().dns2);
    let told = explain(&nodens, &["www.second.example.", "--server", &at]);
    assert_eq!(told["server"], at.as_str());
    assert!(told.to_string().contains("whoami"), "{told}");
    let (is_done, _, err) = command(&nodens, &["a.", "--server", "192.0.2.1"]);
    assert!(!is_done, "{err}");
    assert!(err.contains("does not listen at 192.0.2.1:53, but at 127.0.0.1:"), "{err}");
}

#[test]
fn the_version_of_an_object_is_told() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    cluster.put_service("versioned", "10.96.77.1");
    let version = cluster.server.store().revision();
    let name = "versioned.default.svc.cluster.local.";
    poll::wait_for("the Service", Duration::from_secs(10), || {
        nodens
            .client()
            .ask(name, RecordType::A)
            .is_ok_and(|answer| !answer.normal.answer.is_empty())
    });
    let told = explain(&nodens, &[name]).to_string();
    assert!(told.contains("ClusterIP 10.96.77.1"), "{told}");
    assert!(told.contains(&format!("resourceVersion {version}, unchanged for ")), "{told}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (nodens, _upstream) = start();
    for (arguments, wanted) in [
        (&["a..b"][..], "is no name: a label is empty"),
        (&["a", "-t", "AAAAA"], "is no type"),
        (&["a", "--pod", "web"], "NAMESPACE/NAME"),
        (&["web:80"], "leave out scheme, port and path"),
        (&["http://web.shop/"], "leave out scheme, port and path"),
        (&["10.96.12.34"], "`nodens explain 34.12.96.10.in-addr.arpa. -t PTR`"),
    ] {
        let (is_done, _, err) = command(&nodens, arguments);
        assert!(!is_done && err.contains(wanted), "{arguments:?}: {err}");
    }
}
