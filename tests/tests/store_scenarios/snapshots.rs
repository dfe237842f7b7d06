//! Starts from a snapshot on disk.

use super::*;

/// Starts with a snapshot, lets it be written, stops, and takes the API server away.
fn with_snapshot(cluster: &Cluster) -> PathBuf {
    let mut nodens = cluster.start("snapshot @data@/snapshot");
    cluster.wait_level(&nodens, "the first lists", SOON);
    cluster.put_service("latest", "10.96.200.1");
    wait_for_answer(&nodens, "latest.default.svc.cluster.local.", &no_error("10.96.200.1"));
    // Written only on the way out: the next regular time is a minute away.
    nodens.stop(SOON);
    cluster.server.refuse();
    let files: Vec<_> = std::fs::read_dir(cluster.path("snapshot")).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].as_ref().unwrap().path()
}

#[test]
fn a_start_from_a_snapshot_needs_no_api_server() {
    let cluster = Cluster::default();
    let _file = with_snapshot(&cluster);
    let began = Instant::now();
    let nodens = cluster.start("snapshot @data@/snapshot");
    let first = began.elapsed();
    cluster.wait_level(&nodens, "what the snapshot knows", SOON);
    let line = nodens.wait_for_log("took_ms=", SOON);
    let took = line.split_once("took_ms=").and_then(|(_, rest)| rest.split(' ').next());
    let took: u64 = took.unwrap().parse().unwrap();
    println!(
        "from the snapshot: serving after {took} ms, ready as seen from outside after {first:?}"
    );
    assert!(took < 2_000, "{took}");
    nodens.wait_for_log("serving the snapshot of the last run", SOON);
    let metric = |name| sum(&nodens, name, &[]);
    assert_eq!(metric("nodens_kubernetes_snapshot_in_use"), 1.0);
    assert_eq!(metric("nodens_kubernetes_synced"), 0.0);
    assert_eq!(ready(&nodens), (200, "OK".into()));
    assert!(status(&nodens).contains("serving the snapshot of "), "{}", status(&nodens));
    assert!(details(&nodens)["kubernetes"][0]["snapshot_age_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!(a(&nodens, "nobody.default.svc.cluster.local.").0, "NXDOMAIN");
    // A restart without any API server loses nothing either.
    let asker = asker(&cluster, &nodens);
    cluster.put_service("later", "10.96.200.2");
    cluster.server.heal();
    wait_for("the first lists", SOON, || metric("nodens_kubernetes_snapshot_in_use") == 0.0);
    nodens.wait_for_log("the snapshot of the last run is no longer in use", SOON);
    wait_for("all watches", SOON, || status(&nodens).contains("up to date"));
    let detail = details(&nodens)["kubernetes"][0].take();
    assert!(detail["snapshot_age_seconds"].is_null() && detail["last_error"].is_null(), "{detail}");
    assert!(!status(&nodens).contains("snapshot of"), "{}", status(&nodens));
    cluster.wait_level(&nodens, "the first lists", SOON);
    asker.finish_flawless();
}

#[test]
fn a_snapshot_survives_any_number_of_starts_without_an_api_server() {
    let cluster = Cluster::default();
    let file = with_snapshot(&cluster);
    let written = std::fs::read(&file).unwrap();
    for _ in 0..2 {
        let mut nodens = cluster.start("snapshot @data@/snapshot");
        cluster.wait_level(&nodens, "what the snapshot knows", SOON);
        nodens.stop(SOON);
        assert_eq!(std::fs::read(&file).unwrap(), written);
    }
}

#[test]
fn a_bad_snapshot_is_refused_with_its_reason() {
    let cluster = Cluster::default();
    let file = with_snapshot(&cluster);
    let good = std::fs::read(&file).unwrap();
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    for (bytes, reason) in [
        (damaged, "it is damaged: its checksum does not match"),
        (good[..good.len() / 2].to_vec(), "the snapshot is not used"),
        (b"#!/bin/sh\necho hello\n".to_vec(), "it is no snapshot of Nodens"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let nodens = cluster.start_unready("snapshot @data@/snapshot\n startup_timeout 100ms");
        nodens.wait_for_log(reason, SOON);
        nodens.wait_for_log("the snapshot is not used", SOON);
        assert_eq!(a(&nodens, "web.default.svc.cluster.local.").0, "SERVFAIL");
        assert_eq!(ready(&nodens).0, 503);
    }
    cluster.server.heal();
    let nodens = cluster.start("snapshot @data@/snapshot");
    cluster.wait_level(&nodens, "the first lists", SOON);
    wait_for("a good snapshot", SOON, || {
        std::fs::read(&file).is_ok_and(|now| now.starts_with(&good[..8]))
    });
}
