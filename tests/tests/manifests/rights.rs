//! The rights: those of each mode suffice, and each is needed, on an API server that enforces them.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tests::api::{ApiServer, Policy, StreamingLists};
use tests::client::Client;
use tests::manifests::{self, corefile, kustomize};
use tests::poll;
use tests::process::{Nodens, Ready, Setup};

use super::{ENVIRONMENT, modes, multicluster, set_corefile, words};

const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster with one of everything that the rules are for.
fn cluster(policy: Policy, lists: StreamingLists) -> ApiServer {
    let api = ApiServer::start();
    api.configure(|behaviour| {
        behaviour.policy = Some(policy);
        behaviour.streaming_lists = lists;
    });
    api.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }));
    api.put(service("web", "10.96.0.20"));
    api
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": address, "clusterIPs": [address], "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

fn start(corefile: &str, api: &ApiServer) -> Nodens {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig);
    // The one line that a pod does not need: its account is in a place that only a pod has.
    let corefile = corefile::on_loopback(corefile).replace(
        "        pods ",
        "        kubeconfig @folder@/kubeconfig\n        startup_timeout 1ms\n        pods ",
    );
    let mut setup = Setup::new(&corefile)
        .file("kubeconfig", &std::fs::read_to_string(&kubeconfig).unwrap())
        .arguments(&["--socket=@folder@/socket"])
        .ready(Ready::Answer);
    for (name, value) in ENVIRONMENT {
        setup = setup.environment(name, value);
    }
    setup.start()
}

fn waits(nodens: &Nodens) -> String {
    nodens.get(nodens.ports().ready, "/ready").map(|reply| reply.body).unwrap_or_default()
}

fn is_ready(nodens: &Nodens) -> bool {
    nodens.get(nodens.ports().ready, "/ready").is_some_and(|reply| reply.status == 200)
}

fn policy<'a>(words: impl IntoIterator<Item = &'a (String, String, String)>) -> Policy {
    words.into_iter().fold(Policy::default(), |policy, (group, resource, verb)| {
        policy.allow(group, &[resource], &[verb])
    })
}

/// All of a mode's rights, on API servers with and without streaming lists: names are answered, changes arrive, `/ready` is content.
fn rights_suffice(mode: &str, all: &[Value]) {
    for lists in [StreamingLists::Supported, StreamingLists::Refused] {
        let api = cluster(policy(&words(all)), lists);
        let nodens = start(manifests::corefile(all), &api);
        poll::wait_for(mode, DEADLINE, || is_ready(&nodens));
        api.put(service("later", "10.96.0.21"));
        let client = Client::new(nodens.dns());
        poll::wait_for("the change", DEADLINE, || {
            let answer = client.ask("later.default.svc.cluster.local.", RecordType::A);
            answer.is_ok_and(|answer| answer.data(RecordType::A) == ["10.96.0.21"])
        });
        let refused = api.requests().into_iter().filter(|request| request.status == 403).count();
        assert_eq!(refused, 0, "{mode}: {}", nodens.log());
    }
}

/// Each right by itself: without it the server says 403, and Nodens says so and is not ready.
fn each_right_is_needed(mode: &str, all: &[Value]) {
    let words = words(all);
    for missing in &words {
        // A server with streaming lists is only watched; one without is listed first.
        let lists =
            if missing.2 == "list" { StreamingLists::Refused } else { StreamingLists::Supported };
        let api = cluster(policy(words.iter().filter(|word| *word != missing)), lists);
        let nodens = start(manifests::corefile(all), &api);
        poll::wait_for(&format!("{mode} without {missing:?}"), DEADLINE, || {
            api.requests_of(&missing.2, &missing.1).iter().any(|r| r.status == 403)
        });
        nodens.wait_for_log("403", DEADLINE);
        if missing.2 == "list" {
            poll::wait_for(&format!("{mode} without {missing:?} to say so"), DEADLINE, || {
                waits(&nodens).contains("waiting for the first list")
            });
        }
    }
}

#[test]
fn the_rights_suffice_in_every_mode() {
    for (mode, _) in modes() {
        rights_suffice(mode, &manifests::overlay(mode));
    }
}

#[test]
fn each_right_is_needed_in_every_mode() {
    for (mode, _) in modes() {
        each_right_is_needed(mode, &manifests::overlay(mode));
    }
}

#[test]
fn the_right_to_watch_pods_is_needed_for_verified_pods_only() {
    let mut all = manifests::overlay("link-local");
    kustomize::add_component(&manifests::folder().join("components/pods-verified"), &mut all)
        .unwrap();
    let text = manifests::corefile(&all).replace("pods insecure", "pods verified");
    set_corefile(&mut all, text);
    assert!(words(&all).iter().any(|word| word.1 == "pods"));
    rights_suffice("verified", &all);
    each_right_is_needed("verified", &all);
}

#[test]
fn the_right_to_watch_pods_suffices_for_those_of_the_node() {
    let mut all = manifests::overlay("link-local");
    kustomize::add_component(&manifests::folder().join("components/pods-node"), &mut all).unwrap();
    let text =
        manifests::corefile(&all).replace("pods insecure", "pods insecure\n    pods node n1");
    set_corefile(&mut all, text);
    rights_suffice("pods of the node", &all);
    let api = cluster(policy(&words(&all)), StreamingLists::Refused);
    let _nodens = start(manifests::corefile(&all), &api);
    poll::wait_for("the watch", DEADLINE, || {
        let watches = api.requests_of("watch", "pods");
        watches.iter().any(|watch| watch.status == 200)
    });
}

#[test]
fn the_right_to_watch_nodes_suffices_for_topology() {
    let mut all = manifests::overlay("link-local");
    kustomize::add_component(&manifests::folder().join("components/topology"), &mut all).unwrap();
    let text = manifests::corefile(&all)
        .replace("pods insecure", "pods insecure\n    topology require\n    zonal");
    set_corefile(&mut all, text);
    rights_suffice("topology", &all);
    let api = cluster(policy(&words(&all)), StreamingLists::Refused);
    let _nodens = start(manifests::corefile(&all), &api);
    poll::wait_for("the watch", DEADLINE, || {
        let watches = api.requests_of("watch", "nodes");
        watches.iter().any(|watch| watch.status == 200)
    });
}

#[test]
fn the_right_to_watch_imports_is_needed_for_multicluster_only() {
    let all = multicluster();
    assert!(words(&all).iter().any(|word| word.1 == "serviceimports"));
    rights_suffice("multicluster", &all);
    each_right_is_needed("multicluster", &all);
}
