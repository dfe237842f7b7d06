//! Who a client is: the Pods of the node, by the API server, in the log, in limits and in what `nodens top` shows.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::api::{Fault, Scope};
use tests::client::{Answer, Client, Question};
use tests::cluster::Cluster;
use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::process::{Nodens, Ready, run};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "kubernetes.default.svc.cluster.local.";
const LOG: &str = "log . \"asked {remote} {/kubernetes/client-namespace} {/kubernetes/client-pod-name} {name}\"\n";

/// A Pod of a node with these addresses.
fn pod(namespace: &str, name: &str, node: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses},
    })
}

/// The binary with these lines in the server block, and what `kubernetes` is to have.
fn start(cluster: &Cluster, options: &str, lines: &str) -> Nodens {
    let with = format!("bind 127.0.0.1\n{lines}");
    let setup = cluster.setup(options);
    let setup = setup.corefile(|corefile| corefile.replacen("bind 127.0.0.1\n", &with, 1));
    setup.environment("NODE_NAME", "node-9").start()
}

fn ask(nodens: &Nodens, from: &str, name: &str) -> String {
    let from: IpAddr = from.parse().unwrap();
    let client = Client::new(nodens.dns()).within(Duration::from_secs(2)).from(from);
    match client.ask(name, RecordType::A) {
        Ok(answer) => answer.normal.rcode,
        Err(_) => "silence".to_owned(),
    }
}

/// Who asked from there, as the log calls it.
fn who(nodens: &Nodens, from: &str) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("n{number}.default.svc.cluster.local.");
    ask(nodens, from, &name);
    let line = nodens.wait_for_log(&name, SOON);
    let words: Vec<&str> = line.split("asked ").nth(1).unwrap().split(' ').collect();
    assert_eq!(words[0], from);
    format!("{}/{}", words[1], words[2])
}

#[track_caller]
fn wait_for_client(nodens: &Nodens, from: &str, wanted: &str) {
    wait_for(&format!("{from} to be {wanted}"), SOON, || who(nodens, from) == wanted);
}

/// The account may not list and watch Pods any more.
fn forbid_pods(cluster: &Cluster) {
    for scope in [Scope::lists(), Scope::watches()] {
        cluster.server.inject_for(scope.of("pods"), Fault::Forbidden);
    }
}

#[test]
fn the_pods_of_the_node_are_known_and_no_others() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5", "127.0.1.6"]));
    cluster.server.put(pod("shop", "far", "node-2", &["127.0.1.7"]));
    let mut own = pod("kube-system", "proxy", "node-9", &["127.0.1.8"]);
    own["spec"]["hostNetwork"] = true.into();
    cluster.server.put(own);
    let nodens = start(&cluster, "pods node", LOG);
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
    assert_eq!(who(&nodens, "127.0.1.6"), "shop/web-1");
    for unknown in ["127.0.1.7", "127.0.1.8", "127.0.0.1"] {
        assert_eq!(who(&nodens, unknown), "-/-", "{unknown}");
    }
    for verb in ["list", "watch"] {
        wait_for(verb, SOON, || !cluster.server.requests_of(verb, "pods").is_empty());
        let asked = cluster.server.requests_of(verb, "pods");
        let is_of_node = |fields: &String| fields.contains("spec.nodeName=node-9");
        let only_of_node = |query: &std::collections::BTreeMap<String, String>| {
            query.get("fieldSelector").is_some_and(is_of_node)
        };
        assert!(asked.iter().all(|request| only_of_node(&request.query)), "{asked:?}");
    }
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    // Without a terminal it is printed once.
    let top = || run(&["top", "--socket", &socket]).1;
    assert!(top().contains("127.0.1.5 shop/web-1"), "{}", top());
    // Its end, before and after its address is another's.
    cluster.server.put(pod("shop", "web-2", "node-9", &["127.0.1.5"]));
    wait_for_client(&nodens, "127.0.1.5", "shop/web-2");
    let mut ended = pod("shop", "web-1", "node-9", &["127.0.1.5", "127.0.1.6"]);
    ended["status"]["phase"] = "Succeeded".into();
    cluster.server.put(ended);
    wait_for_client(&nodens, "127.0.1.6", "-/-");
    assert_eq!(who(&nodens, "127.0.1.5"), "shop/web-2");
    let observe =
        ["observe", "-n", "1", "-o", "json", "--client", "shop/web-2", "--socket", &socket];
    std::thread::scope(|scope| {
        let observed = scope.spawn(|| run(&observe).1);
        nodens
            .wait_for_metrics("an observer", SOON, |m| m.sum("nodens_observe_readers", &[]) > 0.5);
        ask(&nodens, "127.0.1.5", NAME);
        let seen: Value = serde_json::from_str(&observed.join().unwrap()).unwrap();
        assert_eq!((&seen["client"], &seen["pod"]), (&json!("127.0.1.5"), &json!("shop/web-2")));
    });
    for pod in ["127.0.1.5 shop/web-1", "127.0.1.5 shop/web-2"] {
        assert!(top().contains(pod), "{}", top());
    }

    // A crash while the API server is away: what was known is known.
    cluster.server.refuse();
    tests::poll::pause(Duration::from_millis(1_500));
    let old = nodens.server();
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
    wait_for_client(&nodens, "127.0.1.5", "shop/web-2");
    assert_eq!(who(&nodens, "127.0.1.6"), "-/-");
}

#[test]
fn a_pod_is_one_client_and_namespaces_have_rates_of_their_own() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5", "127.0.1.6"]));
    cluster.server.put(pod("batch", "job-1", "node-9", &["127.0.1.7"]));
    let limit = "limit 1 4 {\n refuse\n namespace batch 1 10\n}\n";
    // The line asks for the Pods by itself.
    let nodens = start(&cluster, "", &format!("{limit}{LOG}"));
    nodens.wait_for_metrics("the Pods of the node", SOON, |metrics| {
        metrics.sum("nodens_kubernetes_objects", &[("kind", "NodePod")]) == 2.0
    });
    let refused = |from: &[&str], count: usize| {
        let codes = from.iter().cycle().take(count).map(|from| ask(&nodens, from, NAME));
        codes.filter(|code| code == "REFUSED").count()
    };
    let begun = std::time::Instant::now();
    let found = [
        refused(&["127.0.1.5", "127.0.1.6"], 8),
        refused(&["127.0.1.7"], 12),
        refused(&["127.0.1.9"], 8),
    ];
    // A token a second comes back meanwhile.
    let spared = 1 + begun.elapsed().as_secs() as usize;
    for (got, most) in found.iter().zip([4, 2, 4]) {
        assert!(*got <= most && got + spared >= most, "{found:?} after {:?}", begun.elapsed());
    }
}

/// The text of the extended error (RFC 8914).
fn extended_error(answer: &Answer) -> Option<String> {
    let edns = answer.message.edns.as_ref()?;
    let EdnsOption::Unknown(_, octets) = edns.option(EdnsCode::Unknown(15))? else { return None };
    Some(String::from_utf8_lossy(octets.get(2..)?).into_owned())
}

/// How many of `count` queries are refused, those of a client that starts with a full bucket, and what the last of them is told.
fn refused(nodens: &Nodens, from: &str, count: usize) -> (usize, Option<String>) {
    let client = Client::new(nodens.dns()).from(from.parse().unwrap());
    let mut told = None;
    let mut refused = 0;
    for _ in 0..count {
        let answer = client.udp(&Question::new(NAME, RecordType::A)).unwrap();
        if answer.normal.rcode == "REFUSED" {
            refused += 1;
            told = extended_error(&answer);
        }
    }
    (refused, told)
}

#[test]
fn labels_have_rates_of_their_own_and_a_pod_is_told_its_own() {
    let cluster = Cluster::default();
    let labelled = |name: &str, address: &str, labels: Value| {
        let mut pod = pod("shop", name, "node-9", &[address]);
        pod["metadata"]["labels"] = labels;
        pod["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5f7c9", "uid": "1", "controller": true}
        ]);
        pod
    };
    cluster.server.put(labelled(
        "scan",
        "127.0.1.5",
        json!({"app": "scan", "tier": "a", "pod-template-hash": "5f7c9"}),
    ));
    cluster.server.put(labelled("web", "127.0.1.6", json!({"tier": "b", "canary": "yes"})));
    cluster.server.put(labelled("api", "127.0.1.7", json!({"tier": "b"})));
    cluster.server.put(labelled("late", "127.0.1.8", json!({"tier": "c"})));
    let limit =
        "limit 1 40 {\n refuse\n label app=scan 1 10\n label \"tier in (a, b), !canary\" 1 20\n}\n";
    let nodens = start(&cluster, "", &format!("{limit}{LOG}"));
    nodens.wait_for_metrics("the Pods of the node", SOON, |metrics| {
        metrics.sum("nodens_kubernetes_objects", &[("kind", "NodePod")]) == 4.0
    });
    let begun = std::time::Instant::now();
    // The first that fits; labels of which one does not; another line; an address that is unknown.
    let cases = [
        ("127.0.1.5", 10, "Pod shop/scan"),
        ("127.0.1.6", 40, "Pod shop/web"),
        ("127.0.1.7", 20, "Pod shop/api"),
        ("127.0.1.9", 40, "127.0.1.9"),
    ];
    for (from, burst, who) in cases {
        let (got, told) = refused(&nodens, from, 50);
        let most = 50 - burst;
        let spared = 1 + begun.elapsed().as_secs() as usize;
        assert!(got <= most && got + spared >= most, "{from}: {got} of 50, {:?}", begun.elapsed());
        let told = told.unwrap();
        assert!(told.starts_with("at most 1 a second for "), "{told}");
        assert!(told.ends_with(who), "{told}");
    }
    // Labels are those of the moment.
    cluster.server.put(labelled("late", "127.0.1.8", json!({"app": "scan"})));
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let explain =
        |name: &str, pod: &str| run(&["explain", name, "--pod", pod, "--socket", &socket]).1;
    wait_for("the other rate", SOON, || {
        explain("kubernetes.default", "shop/late")
            .contains("1 query a second, 10 at once (`label app=scan`)")
    });
    assert!(refused(&nodens, "127.0.1.8", 50).0 >= 35);
    let told = explain("kubernetes.default", "shop/scan");
    assert!(told.contains("127.0.1.5 (Pod shop/scan of Deployment web) asks"), "{told}");
    assert!(told.contains("1 query a second, 10 at once (`label app=scan`), by "), "{told}");
    let (_, top, _) = run(&["top", "--socket", &socket]);
    assert!(top.contains("127.0.1.5 shop/scan of Deployment web"), "{top}");

    // What is known outlives a crash.
    cluster.server.refuse();
    tests::poll::pause(Duration::from_millis(1_500));
    let old = nodens.server();
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
    wait_for("the labels", SOON, || {
        explain("kubernetes.default", "shop/api").contains("(`label tier in (a, b), !canary`)")
    });
}

/// The search list of a Pod in namespace `prod`, for a name outside of the cluster; the node's own domains are left out.
const SEARCH: [&str; 4] =
    [".prod.svc.cluster.local.", ".svc.cluster.local.", ".cluster.local.", "."];

#[test]
fn what_search_lists_cost_is_told_by_client_and_by_namespace() {
    let cluster = Cluster::default();
    cluster.server.put(pod("prod", "web-1", "node-9", &["127.0.1.5"]));
    let nodens = start(&cluster, "pods node", LOG);
    wait_for_client(&nodens, "127.0.1.5", "prod/web-1");
    let begun = waste(&nodens)["queries"].as_u64().unwrap();
    let search = |from: &str, name: &str, wanted: &[&str]| {
        for domain in SEARCH.iter().take(wanted.len()) {
            for kind in [RecordType::A, RecordType::AAAA] {
                let from: IpAddr = from.parse().unwrap();
                Client::new(nodens.dns()).from(from).ask(&format!("{name}{domain}"), kind).unwrap();
            }
        }
        let codes: Vec<String> = SEARCH
            .iter()
            .take(wanted.len())
            .map(|domain| ask(&nodens, from, &format!("{name}{domain}")))
            .collect();
        assert_eq!(codes, wanted);
    };
    search("127.0.1.5", "example.org", &["NXDOMAIN", "NXDOMAIN", "NXDOMAIN", "NOERROR"]);
    search("127.0.1.5", "api.prod", &["NXDOMAIN", "NOERROR"]);
    // By a client that is unknown. A name of one label that does not exist anywhere is in nobody's vain.
    search("127.0.0.1", "absent.example.org", &["NXDOMAIN"; 4]);
    search("127.0.1.5", "wbe", &["NXDOMAIN"; 3]);

    let told = waste(&nodens);
    assert_eq!(told["queries"].as_u64().unwrap() - begun, 12 + 6 + 12 + 9, "{told:#}");
    assert_eq!((&told["wasted"], &told["sampled"]), (&json!(9 + 3 + 9), &json!(false)), "{told:#}");
    let row = |name: &str| {
        let rows = told["lookups"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {told:#}"))
    };
    let outside = row("example.org");
    assert_eq!((&outside["pod"], &outside["client"]), (&json!("prod/web-1"), &json!("127.0.1.5")));
    assert_eq!((&outside["queries"], &outside["wasted"]), (&json!(12), &json!(9)));
    assert_eq!(outside["queries_per_lookup"], 4.0);
    let saved_by = outside["saved_by"].to_string();
    for way in ["`example.org.`", "`ndots:1`", "`autopath @kubernetes`"] {
        assert!(saved_by.contains(way), "{saved_by}");
    }
    assert_eq!(row("api.prod")["found"], "api.prod.svc.cluster.local");
    let absent = row("absent.example.org");
    assert_eq!((&absent["exists"], &absent["pod"]), (&json!(false), &Value::Null));

    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, text, _) = run(&["top", "--waste", "--socket", &socket]);
    assert!(text.contains("example.org of 127.0.1.5 prod/web-1\n"), "{text}");
    assert!(text.contains("of them wasted by search lists") && !text.contains("note:"), "{text}");
    let count = |name: &str, namespace: &str| {
        nodens.metrics().sum(name, &[("namespace", namespace)]).round() as u64
    };
    const WASTED: &str = "nodens_client_wasted_queries_total";
    wait_for("the metrics", SOON, || count(WASTED, "prod") == 12 && count(WASTED, "") == 9);
    let counted = nodens.metrics().sum("nodens_client_queries_total", &[]).round() as u64;
    let all = nodens.metrics();
    // The probes of the server itself are no client's.
    let answered = all.sum("nodens_answered_total", &[])
        - all.sum("nodens_answered_total", &[("source", "probe")]);
    assert_eq!(counted, answered.round() as u64);
    assert_eq!(all.sum("nodens_kubernetes_synced", &[("kind", "NodePod")]), 1.0);
    // What has been counted stays, whoever comes.
    cluster.server.put(pod("later", "job-1", "node-9", &["127.0.1.7"]));
    wait_for_client(&nodens, "127.0.1.7", "later/job-1");
    // A query of the moment in which a Pod becomes known may have been another's, and is not counted as the Pod's.
    wait_for("the other namespace", SOON, || {
        ask(&nodens, "127.0.1.7", NAME);
        count("nodens_client_queries_total", "later") > 0
    });
    assert_eq!(count(WASTED, "prod"), 12);
}

#[test]
fn without_pods_the_lists_of_the_cluster_are_assumed() {
    let cluster = Cluster::default();
    let nodens = start(&cluster, "", "");
    let begun = waste(&nodens)["queries"].as_u64().unwrap();
    for domain in [".default.svc.cluster.local.", ".svc.cluster.local.", ".cluster.local.", "."] {
        ask(&nodens, "127.0.0.1", &format!("example.org{domain}"));
    }
    let told = waste(&nodens);
    assert_eq!(told["queries"].as_u64().unwrap() - begun, 4, "{told:#}");
    assert_eq!(told["wasted"], 3, "{told:#}");
    assert!(told["note"].as_str().unwrap().contains("no Pods are watched"), "{told:#}");
    tests::poll::pause(Duration::from_millis(1_500));
    assert!(!nodens.metrics().has("nodens_client_queries_total", &[]), "nobody's Pods are known");
}

#[test]
fn names_of_pods_that_are_never_known_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile").to_string_lossy().into_owned();
    let lines = " dnstap /run/tap.sock {\n  extra {/kubernetes/client-namespace}{/kubernetes/pod}\n }\n \
                 log . {/kubernetes/client-pod-name}\n whoami\n";
    let check = |more: &str| {
        std::fs::write(&path, format!(". {{\n{lines}{more}}}\n")).unwrap();
        let (status, out, err) = run(&["check", &path]);
        assert!(status.success(), "{out}{err}");
        out
    };
    let told = check("");
    for wanted in [
        "Corefile:3: warning: dnstap: extra: there is no metadata {/kubernetes/pod}: it is always `-`",
        "Corefile:2: warning: dnstap: no Pod is known, since there is no kubernetes directive",
        "Corefile:5: warning: log: no Pod is known, since there is no kubernetes directive",
    ] {
        assert!(told.contains(wanted), "{told}");
    }
    assert!(!check(" kubernetes cluster.local\n").contains("no Pod is known"));
}

fn waste(nodens: &Nodens) -> Value {
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let mut told = Value::Null;
    // The socket is there a moment after the first answer.
    wait_for("what search lists cost", SOON, || {
        let (status, out, _) =
            run(&["top", "--waste", "-n", "50", "-o", "json", "--socket", &socket]);
        told = serde_json::from_str(&out).unwrap_or_default();
        status.success()
    });
    told
}

#[test]
fn without_the_role_clients_are_unknown_and_names_are_served() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5"]));
    forbid_pods(&cluster);
    let nodens = start(&cluster, "pods node", LOG);
    assert_eq!(who(&nodens, "127.0.1.5"), "-/-");
    assert_eq!(ask(&nodens, "127.0.1.5", NAME), "NOERROR");
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let status = || run(&["status", "--socket", &socket]).1;
    wait_for("the status to say so", SOON, || status().contains("this node's Pods: "));
    // No name depends on them: that is no problem.
    let found = Findings::of_server(&nodens, &["server"]);
    found.demand("server-store", "warning", "not watched: this node's Pods");
    cluster.server.heal();
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
}

#[test]
fn a_node_without_pods_is_told() {
    let cluster = Cluster::default();
    let nodens = start(&cluster, "pods node elsewhere", LOG);
    let body = || nodens.get(nodens.ports().ready, "/ready?verbose").unwrap().body;
    wait_for("the state to say so", SOON, || body().contains("no Pod of the node `elsewhere`"));
    wait_for("the condition", SOON, || body().contains("node_unknown"));
    cluster.server.put(pod("shop", "web-1", "elsewhere", &["127.0.1.5"]));
    wait_for("its end", SOON, || !body().contains("node_unknown"));
}

/// A minute later, since API servers that start refuse what they will allow.
#[test]
fn a_right_that_is_taken_away_ends_what_is_known() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5"]));
    let nodens = start(&cluster, "pods node", LOG);
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
    forbid_pods(&cluster);
    cluster.server.cut();
    wait_for("the Pod to be unknown", Duration::from_secs(150), || {
        tests::poll::pause(Duration::from_millis(500));
        who(&nodens, "127.0.1.5") == "-/-"
    });
    assert_eq!(ask(&nodens, "127.0.1.5", NAME), "NOERROR");
    cluster.server.heal();
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
}

#[test]
fn a_list_after_a_gap_knows_who_has_an_address_now() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5"]));
    let nodens = start(&cluster, "pods node", LOG);
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
    // The watch misses that the first one is about to end and the next one has its address.
    cluster.server.inject_for(Scope::watches().of("pods"), Fault::Gone);
    let mut next = pod("shop", "web-2", "node-9", &["127.0.1.5"]);
    next["metadata"]["creationTimestamp"] = "2026-01-01T00:01:00Z".into();
    cluster.server.put(next);
    wait_for_client(&nodens, "127.0.1.5", "shop/web-2");
}

#[test]
fn a_folder_has_pods_of_the_node_too() {
    let pods = "kind: Pod\nmetadata: {name: web-1, namespace: shop}\nspec: {nodeName: node-9}\n\
                status: {podIP: 127.0.1.5}\n---\nkind: Pod\nmetadata: {name: far, namespace: shop}\n\
                spec: {nodeName: node-2}\nstatus: {podIP: 127.0.1.6}\n";
    let corefile = format!(
        "cluster.local:@dns@ {{\n bind 127.0.0.1\n {LOG} kubernetes {{\n objects @folder@/objects\n pods node node-9\n }}\n}}\n"
    );
    let nodens = tests::process::Setup::new(&corefile)
        .file("objects/pods.yaml", pods)
        .ready(Ready::Answer)
        .start();
    wait_for_client(&nodens, "127.0.1.5", "shop/web-1");
    assert_eq!(who(&nodens, "127.0.1.6"), "-/-");
}

#[test]
fn the_addresses_of_a_pod_have_one_share_of_the_connections() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "node-9", &["127.0.1.5", "127.0.1.6"]));
    let nodens = start(&cluster, "pods node", LOG);
    wait_for_client(&nodens, "127.0.1.6", "shop/web-1");
    // What one client may have, as docs/security.md says.
    let client = Client::new(nodens.dns()).from("127.0.1.5".parse().unwrap());
    let held: Vec<_> = (0..256).map(|_| client.connect().unwrap()).collect();
    let open = || nodens.metrics().sum("nodens_tcp_connections", &[]);
    wait_for("connections", SOON, || open() == held.len() as f64);
    assert!(!is_served(&nodens, "127.0.1.6"), "it has the share of a Pod that it is not");
    assert!(is_served(&nodens, "127.0.1.7"));
    drop(held);
    wait_for("its connections to end", SOON, || is_served(&nodens, "127.0.1.6"));
}

/// Whether a connection from there gets an answer.
fn is_served(nodens: &Nodens, from: &str) -> bool {
    let client = Client::new(nodens.dns()).within(Duration::from_secs(2));
    client.from(from.parse().unwrap()).tcp(&Question::new(NAME, RecordType::A)).is_ok()
}
