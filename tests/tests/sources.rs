//! Ways to the API server through the real binary: by URL with certificates, as a Pod of the cluster, and what is said
//! where there is none.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::unistd::Uid;
use tests::api::{ApiServer, Options};
use tests::cluster::{Asker, Cluster};
use tests::poll::wait_for;
use tests::process::{Nodens, Ready, Setup};

const SOON: Duration = Duration::from_secs(60);
const RATE: u32 = 200;

fn setup(cluster: &Cluster, source: &str) -> Setup {
    Setup::new(&format!(
        ".:@dns@ {{
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        {source}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    forward . {}
}}
",
        cluster.upstream.address()
    ))
}

fn ready(nodens: &Nodens) -> String {
    nodens.get(nodens.ports().ready, "/ready").map_or(String::new(), |reply| reply.body)
}

/// A Service that is new is answered; says how long it took.
#[track_caller]
fn hears_of(cluster: &Cluster, nodens: &Nodens, name: &str, ip: &str) -> Duration {
    let began = Instant::now();
    cluster.put_service(name, ip);
    let name = format!("{name}.default.svc.cluster.local.");
    wait_for(&name, SOON, || {
        nodens.client().ask(&name, RecordType::A).is_ok_and(|a| a.data(RecordType::A) == [ip])
    });
    began.elapsed()
}

#[test]
fn a_url_with_certificates() {
    let cluster = Cluster::default();
    let folder = cluster.path("tls");
    cluster.server.write_certificates(&folder);
    let at = folder.display();
    let source = format!(
        "endpoint {}\n        tls {at}/client.crt {at}/client.key {at}/ca.crt",
        cluster.server.url()
    );
    let nodens = setup(&cluster, &source).start();
    cluster.wait_level(&nodens, "the first lists", SOON);
    // No token of the server's has anything to do with it.
    let asker = Asker::start(nodens.dns(), cluster.known(), RATE);
    cluster.server.rotate_token(true);
    cluster.server.cut();
    hears_of(&cluster, &nodens, "first", "10.96.200.1");
    // New certificates are taken up with the next connection that fails.
    cluster.server.rotate_authority();
    cluster.server.write_certificates(&folder);
    cluster.server.cut();
    let took = hears_of(&cluster, &nodens, "second", "10.96.200.2");
    println!("new certificates taken up after {took:?}");
    asker.finish_flawless();
    // Another authority's certificate is nobody to believe.
    ApiServer::start().write_certificates(&folder);
    let nodens = setup(&cluster, &source).ready(Ready::Answer).start();
    wait_for("the reason", SOON, || ready(&nodens).contains("certificate"));
    println!("{}", ready(&nodens));
    let answer = nodens.client().ask("web.default.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(answer.normal.rcode, "SERVFAIL");
}

#[test]
fn a_url_without_tls() {
    let options = Options { plain_http: true, anonymous: true, ..Options::default() };
    let cluster = Cluster::with(options);
    let url = cluster.server.url();
    assert!(url.starts_with("http://"), "{url}");
    let nodens = setup(&cluster, &format!("endpoint {url}")).start();
    cluster.wait_level(&nodens, "the first lists", SOON);
}

#[test]
fn files_that_are_missing_are_named() {
    let cluster = Cluster::default();
    let source = format!(
        "endpoint {}\n        tls /nonexistent/a.crt /nonexistent/a.key /nonexistent/ca.crt\n        startup_timeout 100ms",
        cluster.server.url()
    );
    let nodens = setup(&cluster, &source).ready(Ready::Answer).start();
    wait_for("the file", SOON, || ready(&nodens).contains("/nonexistent/"));
    println!("{}", ready(&nodens));
    // Outside of any cluster, and nothing said.
    let nodens = setup(&cluster, "startup_timeout 100ms").ready(Ready::Answer).start();
    wait_for("the advice", SOON, || ready(&nodens).contains("name a kubeconfig or an endpoint"));
    println!("{}", ready(&nodens));
}

#[test]
fn staleness_is_told_where_ready_no_longer_tells() {
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_millis(100);
    let cluster = Cluster::with(options);
    let source =
        format!("kubeconfig {}\n        max_staleness 1s", cluster.path("kubeconfig").display());
    let nodens = setup(&cluster, &source)
        .corefile(|text| {
            text.replace("@ready@\n", "@ready@ {\n        monitor until-ready\n    }\n")
        })
        .start();
    cluster.server.refuse();
    let stale = |m: &tests::metrics::Metrics| m.sum("nodens_kubernetes_stale", &[]) == 1.0;
    nodens.wait_for_metrics("the age", SOON, stale);
    let reply = nodens.get(nodens.ports().ready, "/ready").unwrap();
    assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
    let known = cluster.known();
    assert_eq!(known.iter().find_map(|known| known.check(&nodens.client())), None);
}

/// Runs the binary with `account` in the place where Pods have their service account.
fn as_a_pod(setup: Setup, account: &Path) -> Setup {
    let script = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount \
         && mount --bind \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
    setup.wrapper(&["unshare", "-m", "sh", "-c", script, &account.to_string_lossy()])
}

#[test]
fn as_a_pod_of_the_cluster() {
    if !Uid::effective().is_root() {
        let is = |name, value| std::env::var(name).is_ok_and(|v| v == value);
        let demanded = is("CI", "true") || is("NODENS_REQUIRE_ROOT", "1");
        assert!(!demanded, "this test needs root and may not be skipped here");
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: a mount of its own needs root ***");
        return;
    }
    let cluster = Cluster::default();
    let account = cluster.path("account");
    cluster.server.write_service_account(&account);
    let pod = || {
        as_a_pod(setup(&cluster, "snapshot @data@/snapshot"), &account)
            .word("data", cluster.path("").display())
            .environments(cluster.server.environment())
    };
    let mut nodens = pod().start();
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = Asker::start(nodens.dns(), cluster.known(), RATE);
    // The kubelet replaces the token, and the old one is no longer good.
    cluster.server.rotate_token(true);
    cluster.server.cut();
    nodens.wait_for_log("401", SOON);
    cluster.server.write_service_account(&account);
    let took = hears_of(&cluster, &nodens, "token", "10.96.200.1");
    println!("a new token taken up after {took:?}");
    // The cluster's authority is replaced.
    cluster.server.rotate_authority();
    cluster.server.cut();
    nodens.wait_for_log("invalid peer certificate", SOON);
    cluster.server.write_service_account(&account);
    let took = hears_of(&cluster, &nodens, "authority", "10.96.200.2");
    println!("a new authority taken up after {took:?}");
    asker.finish_flawless();
    nodens.stop(SOON);
    // A Pod that starts while its API server is away knows what it knew, if the authority is the same.
    cluster.server.refuse();
    let nodens = pod().start();
    nodens.wait_for_log("serving the snapshot of the last run", SOON);
    cluster.wait_level(&nodens, "what the snapshot knows", SOON);
    drop(nodens);
    // Without its account there is nothing to ask with, and the message says so.
    fs::remove_file(account.join("token")).unwrap();
    fs::remove_file(account.join("ca.crt")).unwrap();
    let nodens = pod().ready(Ready::Answer).start();
    wait_for("the reason", SOON, || ready(&nodens).contains("service account"));
    println!("{}", ready(&nodens));
}
