//! The real binary and the credentials of its API server: each kind of them replaced, expired or missing while it runs, and
//! servers that are just starting.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::json;
use tests::api::credentials::Identity;
use tests::api::{Fault, Options, Scope};
use tests::cluster::Cluster;
use tests::poll::{pause, wait_for};
use tests::process::{Nodens, Ready};

/// Longer than any of these takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_for_address(nodens: &Nodens, name: &str, ip: &str) {
    let query = format!("{name}.default.svc.cluster.local.");
    wait_for(&format!("{name} at {ip}"), SOON, || {
        let answer = nodens.client().ask(&query, RecordType::A);
        answer.is_ok_and(|answer| answer.data(RecordType::A) == [ip])
    });
}

/// Puts a file in the place of another, as most tools do.
fn replace(file: &Path, text: &str) {
    let aside = file.with_extension("aside");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, file).unwrap();
}

/// A plugin that prints the token in the file `token` beside it, or complains if there is none.
fn plugin(cluster: &Cluster) -> Identity {
    let script = cluster.path("plugin");
    let text = "#!/bin/sh
cd \"$(dirname \"$0\")\"
if [ ! -e token ]; then echo 'no session: log in first' >&2; exit 7; fi
printf '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"%s\"}}' \"$(cat token)\"
";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    Identity::Exec(script.display().to_string(), Vec::new())
}

/// A kubeconfig that is replaced while its token has expired; first in place, then by another file.
#[test]
fn a_kubeconfig_is_replaced() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    for turn in 1..=2 {
        cluster.server.rotate_token(true);
        cluster.server.cut();
        nodens.wait_for_log("401", SOON);
        let name = format!("new{turn}");
        cluster.put_service(&name, "10.96.200.1");
        if turn == 1 {
            cluster.write_kubeconfig();
        } else {
            let aside = cluster.path("aside");
            cluster.server.write_kubeconfig(&aside);
            std::fs::rename(aside, cluster.path("kubeconfig")).unwrap();
        }
        wait_for_address(&nodens, &name, "10.96.200.1");
    }
}

/// Certificate, key and authority are files that a kubeconfig names; all three are replaced, one after the other.
#[test]
fn client_certificates_are_replaced() {
    let cluster = Cluster::default();
    cluster.server.write_certificates(&cluster.path(""));
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster":
            {"server": cluster.server.url(), "certificate-authority": "ca.crt"}}],
        "users": [{"name": "test", "user":
            {"client-certificate": "client.crt", "client-key": "client.key"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]});
    std::fs::write(cluster.path("kubeconfig"), config.to_string()).unwrap();
    let nodens = cluster.start("");
    cluster.put_service("old", "10.96.200.1");
    wait_for_address(&nodens, "old", "10.96.200.1");
    cluster.server.rotate_authority();
    cluster.server.cut();
    nodens.wait_for_log("invalid peer certificate", SOON);
    cluster.put_service("new", "10.96.200.2");
    let next = cluster.path("next");
    cluster.server.write_certificates(&next);
    for name in ["ca.crt", "client.crt", "client.key"] {
        let text = std::fs::read_to_string(next.join(name)).unwrap();
        replace(&cluster.path(name), &text);
        // A moment in which certificate and key do not belong together.
        pause(Duration::from_millis(300));
    }
    wait_for_address(&nodens, "new", "10.96.200.2");
}

/// A plugin that fails first, then has a token, then has another one since the first has expired.
#[test]
fn a_plugin_is_asked_again() {
    let cluster = Cluster::default();
    cluster.server.write_kubeconfig_as(&cluster.path("kubeconfig"), &plugin(&cluster));
    let nodens = cluster.setup("startup_timeout 1s").ready(Ready::Answer).start();
    let complaint = nodens.wait_for_log("no session: log in first", SOON);
    assert!(complaint.contains("/plugin failed (exit status: 7): no session"), "{complaint}");
    replace(&cluster.path("token"), &cluster.server.token());
    cluster.put_service("first", "10.96.200.1");
    wait_for_address(&nodens, "first", "10.96.200.1");
    cluster.server.rotate_token(true);
    replace(&cluster.path("token"), &cluster.server.token());
    cluster.server.cut();
    cluster.put_service("second", "10.96.200.2");
    wait_for_address(&nodens, "second", "10.96.200.2");
}

/// What cannot work is named with what is missing.
#[test]
fn what_is_missing_is_named() {
    let user = |user: serde_json::Value, name: &str| {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "somebody", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}]})
    };
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1",
        "command": "no-such-plugin", "installHint": "see example.org", "interactiveMode": "Never"}});
    let cluster = Cluster::default();
    for (config, wanted) in [
        (user(exec, "somebody"), "cannot run the credential plugin no-such-plugin"),
        (user(json!({"token": "t"}), "nobody"), "names user nobody, which is not in the file"),
        (user(json!({"tokenFile": "/no/token"}), "somebody"), "cannot read /no/token"),
        (user(json!({"token": "a\nb"}), "somebody"), "the token has a character"),
    ] {
        std::fs::write(cluster.path("kubeconfig"), config.to_string()).unwrap();
        let mut nodens = cluster.setup("startup_timeout 1s").ready(Ready::Answer).start();
        let line = nodens.wait_for_log(wanted, SOON);
        assert!(!wanted.contains("plugin") || line.contains("see example.org"), "{line}");
        let log = nodens.stop_for_log(SOON);
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// A server that is just starting: refused connections, silence, 503, 500, 401, 403, and 429, whatever comes first. None of
/// it is still paid for once it answers.
#[test]
fn a_server_that_is_just_starting_is_waited_for() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    let status = |code| Fault::Status { code, retry_after: None };
    for (number, fault) in
        [status(503), status(500), Fault::Unauthorized, Fault::Forbidden].into_iter().enumerate()
    {
        cluster.server.refuse();
        pause(Duration::from_millis(500));
        cluster.server.heal();
        cluster.server.inject(fault);
        let errors = || nodens.metrics().sum("nodens_kubernetes_watch_errors_total", &[]);
        let before = errors();
        wait_for("refusals", SOON, || errors() >= before + 6.0);
        let name = format!("new{number}");
        let ip = format!("10.96.200.{}", number + 1);
        cluster.put_service(&name, &ip);
        let healed = std::time::Instant::now();
        cluster.server.heal();
        wait_for_address(&nodens, &name, &ip);
        // The longest pause is 4.8 s.
        assert!(healed.elapsed() < Duration::from_secs(8), "{fault:?}: {:?}", healed.elapsed());
        cluster.wait_level(&nodens, "all kinds", SOON);
    }
}

/// The age of what is known, by kind: bookmarks keep it low, and a watch that is silent lets it grow alone.
#[test]
fn the_age_is_told_by_kind() {
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_millis(200);
    let cluster = Cluster::with(options);
    let nodens = cluster.start("max_staleness 2s");
    let age = |kind| nodens.metrics().sum("nodens_kubernetes_store_age_seconds", &[("kind", kind)]);
    let kinds = ["Service", "EndpointSlice", "Namespace"];
    let bookmarks = |kind| {
        let labels = [("kind", kind), ("type", "bookmark")];
        nodens.metrics().sum("nodens_kubernetes_events_total", &labels)
    };
    wait_for("bookmarks", SOON, || kinds.iter().all(|kind| bookmarks(kind) >= 3.0));
    assert!(kinds.iter().all(|kind| age(kind) < 2.0));
    cluster.server.inject_for(Scope::watches().of("endpointslices"), Fault::HangWatches);
    wait_for("the age", SOON, || age("EndpointSlice") > 3.0);
    assert!(age("Service") < 2.0 && age("Namespace") < 2.0);
    assert_eq!(nodens.metrics().sum("nodens_kubernetes_stale", &[]), 1.0);
    let socket = nodens.folder().join("nodens.sock");
    let asked = ["status", "--socket", socket.to_str().unwrap()];
    let (_, status, _) = tests::process::run(&asked);
    assert!(status.contains("max_staleness"), "{status}");
    cluster.server.heal();
    wait_for("bookmarks again", SOON, || age("EndpointSlice") < 1.0);
    assert_eq!(nodens.metrics().sum("nodens_kubernetes_stale", &[]), 0.0);
}
