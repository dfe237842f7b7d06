//! Corefiles as clusters have them start as they are; Corefiles with mistakes list all of them, and never replace a good one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::api::ApiServer;
use tests::poll;
use tests::process::{self, Nodens, Ready, Setup};
use tests::upstream::Upstream;

const SOON: Duration = Duration::from_secs(15);

/// Kubernetes' own, word by word but for the ports.
const DEFAULT: &str = ".:@dns@ {
    errors
    health 127.0.0.1:@health@ {
       lameduck 5s
    }
    ready 127.0.0.1:@ready@
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus 127.0.0.1:@metrics@
    forward . @resolvers@ {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

/// As a systemd unit on the node uses it.
const UNIT: &str = ".:@dns@ {
    bind @interface@
    errors
    health 127.0.0.1:@health@ {
       lameduck 5s
    }
    ready 127.0.0.1:@ready@
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       kubeconfig @kubeconfig@
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus 127.0.0.1:@metrics@
    forward . @resolvers@ {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

const HOSTS: &str = "    hosts {
        192.0.2.80 intranet.example
        2001:db8::80 intranet.example
        fallthrough
    }
";

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\n";

/// Five mistakes, and the lines on which they are.
const MISTAKES: &str = ".:@dns@ {
    errors
    cahce 30
    health :none
    reload 1s
    kubernetes cluster.local {
        pods sometimes
    }
    proxy . 192.0.2.53
    whoami
}
";
const MISTAKEN: [(u32, &str, &str); 5] = [
    (3, "cahce", "cache"),
    (4, "health", ""),
    (5, "reload", "2s"),
    (7, "kubernetes", "sometimes"),
    (9, "proxy", "forward"),
];

const WATCHED: &str = "@zone@.:@dns@ {
    bind 127.0.0.1
    @reload@
    whoami
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

fn api() -> ApiServer {
    let server = ApiServer::start();
    server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    server.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                 "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}));
    server
}

fn resolvers(setup: Setup, upstream: &Upstream) -> Setup {
    // As in resolv.conf, whose addresses bear no port; the port of the test's upstream is not 53.
    setup.word("resolvers", upstream.address())
}

/// What every one of the three must do.
#[track_caller]
fn serves(nodens: &Nodens) {
    let client = nodens.client();
    let data = |name: &str, kind| {
        client.ask(name, kind).map(|answer| answer.data(kind)).unwrap_or_default()
    };
    assert_eq!(
        data("kubernetes.default.svc.cluster.local.", RecordType::A),
        ["10.96.0.1"],
        "{}",
        nodens.log()
    );
    assert_eq!(
        data("1.0.96.10.in-addr.arpa.", RecordType::PTR),
        ["kubernetes.default.svc.cluster.local."]
    );
    assert_eq!(data("10-1-2-3.default.pod.cluster.local.", RecordType::A), ["10.1.2.3"]);
    assert_eq!(
        client.ask("nobody.default.svc.cluster.local.", RecordType::A).unwrap().normal.rcode,
        "NXDOMAIN"
    );
    assert_eq!(data("www.test.", RecordType::A), ["192.0.2.1"]);
    assert_eq!(data("www.test.", RecordType::A), ["192.0.2.1"], "from the cache");
}

#[test]
fn the_units_corefile_starts_with_an_interface_and_a_kubeconfig() {
    let (server, upstream) = (api(), Upstream::with_zone(ZONE));
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    server.write_kubeconfig(&kubeconfig);
    let setup = Setup::new(UNIT).word("interface", "lo").word("kubeconfig", kubeconfig.display());
    let mut nodens = resolvers(setup, &upstream).start();
    serves(&nodens);
    assert_eq!(upstream.count("www.test.", RecordType::A), 1, "asked once, then kept");
    // The cluster is followed: a Service that appears is answered, although its name was denied a moment ago.
    let fresh = || nodens.client().ask("fresh.default.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(fresh().normal.rcode, "NXDOMAIN");
    server.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fresh", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}}));
    let begun = Instant::now();
    poll::wait_for("the new Service", SOON, || fresh().data(RecordType::A) == ["10.96.0.7"]);
    println!("a new Service after {:?}", begun.elapsed());
    // With the API server gone it goes on.
    server.refuse();
    serves(&nodens);
    // The whole lameduck of 5 s, but for a second signal.
    nodens.signal(Signal::SIGTERM);
    nodens.wait_for_log("lameduck", SOON);
    nodens.stop(SOON);
}

#[test]
fn hosts_go_before_the_cluster() {
    let (server, upstream) = (api(), Upstream::with_zone(ZONE));
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    server.write_kubeconfig(&kubeconfig);
    let corefile = UNIT.replacen("    kubernetes", &format!("{HOSTS}    kubernetes"), 1);
    let setup = Setup::new(&corefile)
        .word("interface", "127.0.0.1")
        .word("kubeconfig", kubeconfig.display());
    let nodens = resolvers(setup, &upstream).start();
    serves(&nodens);
    let client = nodens.client();
    assert_eq!(
        client.ask("intranet.example.", RecordType::A).unwrap().data(RecordType::A),
        ["192.0.2.80"]
    );
    assert_eq!(
        client.ask("intranet.example.", RecordType::AAAA).unwrap().data(RecordType::AAAA),
        ["2001:db8::80"]
    );
    let reverse = client.ask("80.2.0.192.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(reverse.data(RecordType::PTR), ["intranet.example."]);
}

#[test]
fn kubernetes_own_corefile_starts_in_a_pod() {
    let (server, upstream) = (api(), Upstream::with_zone(ZONE));
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("serviceaccount");
    server.write_service_account(&account);
    // A pod finds its account below /var/run/secrets: a mount namespace of its own makes that true for one process.
    let enter = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && \
         cp -rL '{}' /run/secrets/kubernetes.io/ && exec \"$@\"",
        account.display()
    );
    let unshare: &[&str] =
        if nix::unistd::geteuid().is_root() { &["unshare", "-m"] } else { &["unshare", "-rm"] };
    let mut wrapper = unshare.to_vec();
    wrapper.extend(["sh", "-ec", &enter, "sh"]);
    let possible =
        Command::new(wrapper[0]).args(&wrapper[1..]).arg("test").arg("-L").arg("/var/run").status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no mount namespaces here, so that this is no pod");
        return;
    }
    let setup = Setup::new(DEFAULT).environments(server.environment()).wrapper(&wrapper);
    let nodens = resolvers(setup, &upstream).start();
    serves(&nodens);
    let agents = server.requests();
    assert!(
        agents.iter().all(|request| matches!(request.verb.as_str(), "list" | "watch")),
        "{agents:?}"
    );
}

/// The ports, files and interfaces of the real ones are not for a test; that they are understood is.
#[test]
fn the_three_are_good_word_by_word() {
    let real = |text: &str| {
        text.replace("@dns@", "53")
            .replace("127.0.0.1:@metrics@", ":9153")
            .replace("health 127.0.0.1:@health@", "health")
            .replace("ready 127.0.0.1:@ready@", "ready")
            .replace("@resolvers@", "/etc/resolv.conf")
            .replace("@interface@", "eth0")
    };
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    api().write_kubeconfig(&kubeconfig);
    let with_hosts = DEFAULT.replacen("    kubernetes", &format!("{HOSTS}    kubernetes"), 1);
    for text in [DEFAULT, UNIT, &with_hosts] {
        let text = real(text).replace("@kubeconfig@", &kubeconfig.to_string_lossy());
        let path = folder.path().join("Corefile");
        std::fs::write(&path, &text).unwrap();
        let path = path.to_string_lossy();
        let (status, out, error) = process::run(&["check", &path]);
        assert!(status.success(), "{text}\n{out}\n{error}");
        assert!(out.contains("kubernetes cluster.local in-addr.arpa ip6.arpa"), "{out}");
        assert!(!out.contains("warning"), "{out}");
        let (status, out, _) = process::run(&["check", &path, "-o", "json"]);
        let json: Value = serde_json::from_str(&out).unwrap();
        assert!(status.success() && json["good"] == true, "{out}");
    }
}

fn check_mistakes(text: &str, path: &Path) {
    for (line, directive, word) in MISTAKEN {
        let place = format!("{}:{line}: ", path.display());
        let found: Vec<&str> = text.lines().filter(|l| l.contains(&place)).collect();
        assert_eq!(found.len(), 1, "{place} in\n{text}");
        assert!(found[0].contains(directive) && found[0].contains(word), "{}", found[0]);
    }
}

#[test]
fn five_mistakes_are_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, MISTAKES.replace("@dns@", "5399")).unwrap();
    let argument = path.to_string_lossy();

    let (status, out, _) = process::run(&["check", &argument]);
    println!("{out}");
    assert_eq!(status.code(), Some(1));
    check_mistakes(&out, &path);
    assert!(out.contains("5 errors"), "{out}");

    let (status, out, _) = process::run(&["check", &argument, "-o", "json"]);
    assert_eq!(status.code(), Some(1));
    let json: Value = serde_json::from_str(&out).unwrap();
    let lines: Vec<u64> =
        json["diagnostics"].as_array().unwrap().iter().filter_map(|d| d["line"].as_u64()).collect();
    assert_eq!((json["good"].clone(), lines), (json!(false), vec![3, 4, 5, 7, 9]), "{out}");

    let mut nodens = Setup::new(MISTAKES).ready(Ready::No).start();
    assert_eq!(nodens.wait_exit(SOON).code(), Some(1));
    check_mistakes(&nodens.complete_log(), &nodens.folder().join("Corefile"));
}

fn corefile(zone: &str, reload: &str) -> String {
    WATCHED.replace("@zone@", zone).replace("@reload@", reload)
}

#[track_caller]
fn wait_for_zone(nodens: &Nodens, zone: &str, deadline: Duration) -> Duration {
    let begun = Instant::now();
    poll::wait_for(&format!("{zone} to be served"), deadline, || {
        nodens
            .client()
            .ask(zone, RecordType::A)
            .is_ok_and(|answer| answer.normal.rcode == "NOERROR")
    });
    begun.elapsed()
}

fn version(nodens: &Nodens) -> Vec<String> {
    let metrics = nodens.metrics();
    metrics.all("coredns_reload_version_info").map(|(labels, _)| format!("{labels:?}")).collect()
}

#[test]
fn a_changed_corefile_is_taken_by_itself() {
    let mut nodens = Setup::new(&corefile("one.test", "reload 2s 1s")).start();
    wait_for_zone(&nodens, "one.test.", SOON);
    let before = version(&nodens);
    nodens.write_corefile(&corefile("two.test", "reload 2s 1s"));
    let took = wait_for_zone(&nodens, "two.test.", SOON);
    println!("taken after {took:?} (reload 2s, jitter 1s)");
    // 2.5 s at most, and what a busy machine adds.
    assert!(took < Duration::from_secs(6));
    assert_eq!(nodens.client().ask("one.test.", RecordType::A).unwrap().normal.rcode, "REFUSED");
    // What is served changes first.
    poll::wait_for("the new version in the metrics", SOON, || version(&nodens) != before);
    assert_eq!(version(&nodens).len(), 1);

    // A file with a mistake changes nothing, and counts.
    nodens.write_corefile(&corefile("three.test", "reload 2s 1s\n    nonsense"));
    nodens.wait_for_metrics("the failure to be counted", SOON, |metrics| {
        metrics.sum("coredns_reload_failed_total", &[]) >= 1.0
    });
    wait_for_zone(&nodens, "two.test.", SOON);
    nodens.wait_for_log("nonsense", SOON);
    // Mended, it is taken.
    nodens.write_corefile(&corefile("three.test", "reload 2s 1s"));
    wait_for_zone(&nodens, "three.test.", SOON);
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_signal_reloads_at_once_and_loses_nothing() {
    let mut nodens = Setup::new(&corefile("zero.test", "")).start();
    for (n, signal) in [Signal::SIGHUP, Signal::SIGUSR1].into_iter().cycle().take(6).enumerate() {
        let zone = format!("n{n}.test");
        nodens.write_corefile(&corefile(&zone, ""));
        nodens.signal(signal);
        let took = wait_for_zone(&nodens, &format!("{zone}."), SOON);
        println!("{signal}: {took:?}");
    }
    // While it reloads over and over, no query is lost.
    let client = nodens.client().within(Duration::from_secs(5));
    let (mut asked, end) = (0, Instant::now() + Duration::from_millis(1500));
    while Instant::now() < end {
        if asked % 20 == 0 {
            nodens.signal(Signal::SIGHUP);
        }
        let answer = client.ask("n5.test.", RecordType::A);
        assert!(answer.is_ok_and(|answer| answer.normal.rcode == "NOERROR"), "query {asked}");
        asked += 1;
    }
    println!("{asked} queries during {} reloads", asked / 20);
    nodens.write_corefile("broken {");
    nodens.signal(Signal::SIGHUP);
    nodens.wait_for_metrics("the failure to be counted", SOON, |metrics| {
        metrics.sum("coredns_reload_failed_total", &[]) >= 1.0
    });
    wait_for_zone(&nodens, "n5.test.", SOON);
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn imports_are_followed_by_reloads() {
    let text =
        ".:@dns@ {\n    bind 127.0.0.1\n    reload 2s 1s\n    import zones/*.part\n    whoami\n}\n";
    let part = |ip: &str| {
        format!("template IN A a.test {{\n    answer \"{{{{ .Name }}}} 60 IN A {ip}\"\n}}\n")
    };
    let nodens =
        Setup::new(text).file("zones/a.part", &part("192.0.2.1")).ready(Ready::Answer).start();
    let ask = || nodens.client().ask("a.test.", RecordType::A).unwrap().data(RecordType::A);
    assert_eq!(ask(), ["192.0.2.1"]);
    nodens.write_file("zones/a.part", &part("192.0.2.2"));
    poll::wait_for("the imported file's change", SOON, || ask() == ["192.0.2.2"]);
}

/// Every ```` ```corefile ```` block of the manual, with the page and the line on which it begins. Blocks without a language
/// are no examples but syntax, with words in capitals and brackets.
fn examples() -> Vec<(String, String)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        let page = path.file_name().unwrap().to_string_lossy().into_owned();
        if !page.ends_with(".md") {
            continue;
        }
        let mut block: Option<(usize, String)> = None;
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            match (&mut block, line.trim()) {
                (None, "```corefile") => block = Some((number + 1, String::new())),
                (Some(_), "```") => {
                    let (at, text) = block.take().unwrap();
                    examples.push((format!("{page}:{at}"), text));
                }
                (Some((_, text)), _) => text.extend([line, "\n"]),
                (None, _) => {}
            }
        }
        assert!(block.is_none(), "{page}: a fence is open");
    }
    examples
}

#[test]
fn every_example_of_the_manual_is_a_good_corefile() {
    let examples = examples();
    assert!(examples.len() > 30, "{}", examples.len());
    let folder = tempfile::tempdir().unwrap();
    let mut bad = Vec::new();
    for (at, text) in &examples {
        let file = folder.path().join("Corefile");
        std::fs::write(&file, text).unwrap();
        let said = Command::new(process::binary()).arg("check").arg(&file).output().unwrap();
        if !said.status.success() {
            bad.push(format!("{at}\n{}", String::from_utf8_lossy(&said.stdout)));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_directive_is_in_the_manual() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    // Its links are held true by another test, so that a row here is a section there.
    let table = std::fs::read_to_string(docs.join("directives.md")).unwrap();
    let examples: String = examples().into_iter().map(|(_, text)| text).collect();
    let words: Vec<&str> = examples.split_whitespace().collect();
    for name in nodens::config::table::all().iter().map(|entry| entry.name) {
        assert!(table.contains(&format!("| [{name}](")), "{name} has no row in directives.md");
        assert!(words.contains(&name) || name == "debug", "{name} has no example");
    }
}
