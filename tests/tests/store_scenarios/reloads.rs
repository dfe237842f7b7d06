//! Reloads of a configuration with a store of objects.

use super::*;

fn change_corefile(nodens: &Nodens, change: impl Fn(&str) -> String) {
    let corefile = std::fs::read_to_string(nodens.folder().join("Corefile")).unwrap();
    nodens.write_corefile(&change(&corefile));
    nodens.signal(Signal::SIGHUP);
}

#[test]
fn a_reload_keeps_the_store() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = asker(&cluster, &nodens);
    let lists = relists(&nodens);
    let requests = cluster.server.requests().len();
    change_corefile(&nodens, |text| text.replace("pods insecure", "pods insecure\n ttl 30"));
    nodens.wait_for_log("reloaded the configuration", SOON);
    cluster.put_service("new", "10.96.200.1");
    wait_for_answer(&nodens, "new.default.svc.cluster.local.", &no_error("10.96.200.1"));
    let answer = nodens.client().ask("new.default.svc.cluster.local.", RecordType::A).unwrap();
    assert!(answer.normal.answer[0].contains(" 30 A "), "{:?}", answer.normal.answer);
    assert_eq!(relists(&nodens), lists);
    assert_eq!(cluster.server.requests().len(), requests, "nothing was asked of the API server");
    assert_eq!(details(&nodens)["kubernetes"].as_array().unwrap().len(), 1);
    asker.finish_flawless();
}

#[test]
fn a_reload_to_another_store_waits_for_it() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = asker(&cluster, &nodens);
    let received = sum(&nodens, "nodens_kubernetes_received_bytes_total", &[]);
    change_corefile(&nodens, |text| text.replace("pods insecure", "pods verified"));
    nodens.wait_for_log("reloaded the configuration", SOON);
    let pods = || count(&nodens, "nodens_kubernetes_objects", "Pod");
    wait_for("the Pods", SOON, || pods() >= 15);
    assert!(sum(&nodens, "nodens_kubernetes_received_bytes_total", &[]) > received);
    wait_for("the end of the old watches", SOON, || {
        count(&nodens, "nodens_kubernetes_objects", "Namespace") == 9
    });
    // One that is not heard of does not take the place of one that is.
    cluster.server.refuse();
    change_corefile(&nodens, |text| {
        text.replace("pods verified", "endpoint_pod_names\n startup_timeout 500ms")
    });
    nodens.wait_for_log("the configuration was not reloaded", SOON);
    nodens.wait_for_log("waiting for the first list of Services", SOON);
    assert!(pods() >= 15);
    asker.finish_flawless();
}
