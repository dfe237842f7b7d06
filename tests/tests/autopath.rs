//! `autopath`: the first query of a search list is answered with what the list comes to, and with nothing else.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use serde_json::{Value, json};
use tests::client::{Answer, Client, Question};
use tests::cluster::Cluster;
use tests::poll::wait_for;
use tests::process::{Nodens, Ready, Setup, run};
use tests::upstream::{Act, Upstream};
use tests::zone::Zone;

const SOON: Duration = Duration::from_secs(20);
const POD: &str = "127.0.1.5";
const ZONE: &str = "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n\
    www.example.org. IN A 192.0.2.7\nwww.example.org. IN AAAA 2001:db8::7\nmail.example.org. IN MX 10 www.example.org.\n\
    alias.example.org. IN CNAME www.example.org.\nv4.example.org. IN A 192.0.2.8\n";

fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-9"},
        "status": {"phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

/// A cluster with a Pod, and the binary with `autopath` in one block for everything, or in that of the cluster.
fn start(spec: Value, one_block: bool) -> (Cluster, Nodens) {
    let cluster = Cluster::default();
    cluster.upstream.change(|zone| *zone = Zone::parse(ZONE).unwrap());
    cluster.server.put(pod(spec));
    let setup = cluster.setup("").environment("NODE_NAME", "node-9").corefile(|corefile| {
        let with = "autopath @kubernetes\n    cache 30\n    kubernetes cluster.local";
        let corefile = corefile.replacen("kubernetes cluster.local", with, 1);
        match one_block {
            true => corefile,
            false => {
                corefile.replacen(
                    ".:@dns@",
                    "cluster.local:@dns@ in-addr.arpa:@dns@ ip6.arpa:@dns@",
                    1,
                ) + &format!(
                    ".:@dns@ {{\n bind 127.0.0.1\n cache 30\n forward . {}\n}}\n",
                    cluster.upstream.address()
                )
            }
        }
    });
    let nodens = setup.start();
    nodens.wait_for_metrics("the Pod", SOON, |metrics| {
        metrics.sum("nodens_kubernetes_objects", &[("kind", "NodePod")]) == 1.0
    });
    (cluster, nodens)
}

fn ask_from(nodens: &Nodens, from: &str, name: &str, kind: RecordType) -> Answer {
    let from: IpAddr = from.parse().unwrap();
    Client::new(nodens.dns()).from(from).ask(name, kind).unwrap()
}

fn ask(nodens: &Nodens, name: &str, kind: RecordType) -> Answer {
    ask_from(nodens, POD, &format!("{name}.default.svc.cluster.local."), kind)
}

/// Response code and answer section without times to live.
fn said(answer: &Answer) -> String {
    let mut records: Vec<String> = answer
        .normal
        .answer
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("; {} {}", words[0], words[2..].join(" "))
        })
        .collect();
    records.reverse();
    format!("{}{}", answer.normal.rcode, records.concat())
}

#[test]
fn one_query_finds_what_the_search_list_leads_to() {
    for one_block in [true, false] {
        let (cluster, nodens) = start(json!({}), one_block);
        let first = "www.example.org.default.svc.cluster.local.";
        let asked = || {
            assert_eq!(
                said(&ask(&nodens, "www.example.org", RecordType::A)),
                format!("NOERROR; {first} CNAME www.example.org.; www.example.org. A 192.0.2.7")
            );
            let aaaa = ask(&nodens, "www.example.org", RecordType::AAAA);
            assert_eq!(aaaa.data(RecordType::AAAA), ["2001:db8::7"]);
            times_forwarded(&nodens, &cluster.upstream, "www.example.org.")
        };
        // Each type was asked for the first time, and no name of the list left the node.
        let once = asked();
        assert!(once.iter().all(|&times| times >= 1));
        assert_eq!([asked(), asked()], [once, once]);
        assert!(cluster.upstream.seen().iter().all(|seen| !seen.name.ends_with("cluster.local.")));
        // A type that the name lacks is no denial of the name, and no alias, the first time and from the cache.
        for _ in 0..2 {
            let aaaa = ask(&nodens, "v4.example.org", RecordType::AAAA);
            assert_eq!(said(&aaaa), "NOERROR");
            assert!(aaaa.normal.aa && aaaa.normal.authority[0].starts_with("cluster.local. "));
        }
        for _ in 0..2 {
            let alias = ask(&nodens, "alias.example.org", RecordType::A);
            assert_eq!(alias.data(RecordType::CNAME), ["www.example.org.", "alias.example.org."]);
            assert_eq!(alias.data(RecordType::A), ["192.0.2.7"]);
        }
        // Other types are the client's to search for.
        assert_eq!(said(&ask(&nodens, "mail.example.org", RecordType::MX)), "NXDOMAIN");
        // A Service of another namespace, by the second domain of the list.
        let other = ask(&nodens, "api.prod", RecordType::A);
        assert_eq!(other.data(RecordType::CNAME), ["api.prod.svc.cluster.local."]);
        assert_eq!(other.data(RecordType::A), ["10.111.6.141"]);
        // What is there by the first name is as ever, and so are other clients, and names that are no first ones.
        assert_eq!(ask(&nodens, "kubernetes", RecordType::A).data(RecordType::A), ["10.96.0.1"]);
        assert_eq!(said(&ask_from(&nodens, "127.0.0.1", first, RecordType::A)), "NXDOMAIN");
        let second = "www.example.org.prod.svc.cluster.local.";
        assert_eq!(said(&ask_from(&nodens, POD, second, RecordType::A)), "NXDOMAIN");
        // Nothing is found: the denial of the name that was asked for.
        for _ in 0..2 {
            let nothing = ask(&nodens, "absent.example.org", RecordType::A);
            assert_eq!(said(&nothing), "NXDOMAIN");
            assert!(
                nothing.normal.authority[0].starts_with("cluster.local."),
                "{:?}",
                nothing.normal
            );
        }
        let found = nodens.metrics().sum("coredns_autopath_success_total", &[]);
        assert_eq!(found, 11.0, "one block: {one_block}");
    }
}

/// Kept as a resolver's canonical name. Where nothing had to be waited for and where something had.
#[test]
fn aliases_keep_the_case_of_the_client() {
    let (_cluster, nodens) = start(json!({}), true);
    for (round, name) in ["V4.Example.Org", "V4.Example.Org", "Api.Prod"].iter().enumerate() {
        let target =
            if round < 2 { format!("{name}.") } else { format!("{name}.svc.cluster.local.") };
        let answer = ask(&nodens, name, RecordType::A);
        let first = answer.message.answers.first().map(|record| &record.data);
        let Some(RData::CNAME(alias)) = first else { panic!("{:?}", answer.normal) };
        assert_eq!(alias.0.to_ascii(), target);
    }
}

/// Some resolvers have no TCP, and to others an empty part is no answer.
#[test]
fn what_does_not_fit_is_a_part() {
    let (cluster, nodens) = start(json!({}), true);
    let many: String = (1..=60).map(|n| format!("many.example.org. IN A 192.0.2.{n}\n")).collect();
    cluster.upstream.change(|zone| *zone = Zone::parse(&format!("{ZONE}{many}")).unwrap());
    let question = Question::new("many.example.org.default.svc.cluster.local.", RecordType::A);
    let question = question.without_edns();
    for _ in 0..2 {
        let part = Client::new(nodens.dns()).from(POD.parse().unwrap()).udp(&question).unwrap();
        let count = part.data(RecordType::A).len();
        assert!(part.is_truncated() && count > 10, "{count} {:?}", part.message.metadata);
    }
}

#[test]
fn what_cannot_be_said_now_is_no_denial() {
    let (cluster, nodens) = start(json!({}), true);
    cluster.upstream.always(Act::Rcode(ResponseCode::ServFail));
    for kind in [RecordType::A, RecordType::AAAA] {
        assert_eq!(said(&ask(&nodens, "www.example.org", kind)), "SERVFAIL");
    }
    // The failure was kept for some seconds; the next one is an answer.
    cluster.upstream.always(Act::Answer);
    wait_for("an answer", SOON, || {
        ask(&nodens, "www.example.org", RecordType::A).normal.rcode == "NOERROR"
    });
}

#[test]
fn lists_that_cannot_be_had_are_complained_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("empty.conf"), "nameserver 192.0.2.1\n").unwrap();
    for (line, wanted) in [
        ("autopath", "where the search lists come from is missing"),
        ("autopath cluster.local", ":2: autopath: cannot read cluster.local: "),
        ("autopath /nowhere/resolv.conf", ":2: autopath: cannot read /nowhere/resolv.conf: "),
        ("autopath @kubernetes", "there is no kubernetes in this server block"),
        ("autopath @kubernets", "\"@kubernets\" knows no search lists"),
    ] {
        std::fs::write(path("Corefile"), format!(". {{\n {line}\n whoami\n}}\n")).unwrap();
        let (status, out, err) = run(&["check", &path("Corefile")]);
        assert!(!status.success() && format!("{out}{err}").contains(wanted), "{line}: {out}{err}");
    }
    let empty = format!(". {{\n autopath {}\n whoami\n}}\n", path("empty.conf"));
    std::fs::write(path("Corefile"), empty).unwrap();
    let (status, out, err) = run(&["check", &path("Corefile")]);
    assert!(status.success() && format!("{out}{err}").contains("has no search list"), "{out}{err}");
}

/// What a client may not ask for itself is not asked for on its behalf, the first time or from the cache.
#[test]
fn an_acl_of_another_block_holds() {
    let (cluster, _nodens) = start(json!({}), false);
    let setup = cluster.setup("").environment("NODE_NAME", "node-9").corefile(|corefile| {
        let with = "autopath @kubernetes\n    kubernetes cluster.local";
        let corefile = corefile.replacen("kubernetes cluster.local", with, 1);
        corefile.replacen(".:@dns@", "cluster.local:@dns@", 1)
            + &format!(
                ".:@dns@ {{\n bind 127.0.0.1\n acl {{\n block net {POD}\n }}\n cache 30\n forward . {}\n}}\n",
                cluster.upstream.address()
            )
    });
    let nodens = setup.start();
    let answer = ask_from(&nodens, "127.0.0.1", "www.example.org.", RecordType::A);
    assert_eq!(answer.normal.rcode, "NOERROR");
    let first = times_forwarded(&nodens, &cluster.upstream, "www.example.org.");
    for _ in 0..2 {
        let answer = ask_from(&nodens, POD, "www.example.org.", RecordType::A);
        assert_eq!(answer.normal.rcode, "REFUSED");
    }
    wait_for("the Pod to be known", SOON, || {
        ask(&nodens, "www.example.org", RecordType::A).normal.rcode == "SERVFAIL"
    });
    assert_eq!(times_forwarded(&nodens, &cluster.upstream, "www.example.org."), first);
}

#[test]
fn each_pod_has_its_own_list() {
    let config = json!({"dnsConfig": {
        "searches": ["example.org"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }});
    let (cluster, nodens) = start(config, true);
    let www = ask(&nodens, "www", RecordType::A);
    assert_eq!(www.data(RecordType::CNAME), ["www.example.org."]);
    // Two dots are tried as they are before: the first query that comes here is none of a list.
    assert_eq!(said(&ask(&nodens, "www.example.org", RecordType::A)), "NXDOMAIN");
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let explain = ["explain", "www", "--pod", "default/web-1", "--ask", "--socket", &socket];
    let (_, explained, error) = run(&explain);
    assert!(explained.contains("www.example.org. (with example.org)"), "{explained}{error}");
    let explain = ["explain", "www", "--pod", "default/web-1", "--socket", &socket];
    assert!(run(&explain).1.contains("`autopath` answers the first query"));
    let full = "www.default.svc.cluster.local.";
    let explain = ["explain", full, "--pod", "default/web-1", "--ask", "--socket", &socket];
    let (_, explained, _) = run(&explain);
    let continues =
        "`autopath` answers it with the first of these that exists: www.svc.cluster.local. ";
    assert!(explained.contains(continues), "{explained}");
    assert!(
        explained.starts_with("`www.default.svc.cluster.local.` is `www.example.org.`"),
        "{explained}"
    );
    assert!(explained.contains("the client sends the first query only"), "{explained}");
    let own =
        json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["nowhere.test", "example.org"]}});
    cluster.server.put(pod(own));
    wait_for("the new list", SOON, || {
        let answer = ask_from(&nodens, POD, "www.nowhere.test.", RecordType::A);
        answer.data(RecordType::CNAME) == ["www.example.org."]
    });
    assert_eq!(said(&ask(&nodens, "www", RecordType::A)), "NXDOMAIN");
}

#[test]
fn a_resolv_conf_is_the_list_of_all_clients() {
    let upstream = Upstream::with_zone(ZONE);
    let corefile = ".:@dns@ {\n bind 127.0.0.1\n autopath lists/resolv.conf\n root @folder@\n cache 30\n forward . @upstream@\n}\n";
    let nodens = Setup::new(corefile)
        .word("upstream", upstream.address())
        .file("lists/resolv.conf", "search corp.test example.org\n")
        .ready(Ready::Answer)
        .start();
    let asked = || {
        let www = ask_from(&nodens, "127.0.0.1", "www.corp.test.", RecordType::A);
        assert_eq!(www.data(RecordType::CNAME), ["www.example.org."]);
        assert_eq!(www.data(RecordType::A), ["192.0.2.7"]);
        times_forwarded(&nodens, &upstream, "www.corp.test.")
    };
    // The second time it comes from the cache.
    let first = asked();
    assert!(first[0] >= 1 && asked() == first);
}

/// How often the upstream was asked for A and AAAA of a name: more than once for one query, if its answer was late.
fn times_forwarded(nodens: &Nodens, upstream: &Upstream, name: &str) -> [usize; 2] {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    // The upstream takes queries in order: what was sent before this one has been counted when it is answered.
    let number = NUMBER.fetch_add(1, Relaxed);
    ask_from(nodens, "127.0.0.1", &format!("n{number}.corp.test."), RecordType::TXT);
    [RecordType::A, RecordType::AAAA].map(|kind| upstream.count(name, kind))
}
