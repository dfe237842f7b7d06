//! Snapshots on disk, and faults at random.

use super::*;

#[test]
fn a_snapshot_serves_while_the_server_is_away() {
    let snapshot = |watched: &Watched| {
        let mut spec = watched.spec();
        let dir = watched.folder.path().join("snapshots");
        spec.snapshot = Some(SnapshotSpec { dir, every: Duration::from_millis(100) });
        spec
    };
    let mut watched = Watched::new();
    watched.start(snapshot(&watched));
    watched.wait_level("the first sync");
    watched.put_service("new", "10.96.200.1");
    watched.wait_level("a new Service");
    let before = watched.sink.objects();
    watched.server.refuse();
    // The store that ends writes what it knows.
    let began = Instant::now();
    watched.start(snapshot(&watched));
    assert!(watched.store().status().is_known() && !watched.store().status().is_synced());
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(watched.sink.objects().len(), before.len());
    watched.sink.guard();
    assert!(watched.store().status().age().unwrap() < SOON);
    assert!(watched.store().status().snapshot_time().is_some());
    watched.wait_errors(8);
    assert!(watched.server.delete("services", "default", "new"));
    watched.server.heal();
    watched.wait_level("the first list");
    let lost: Vec<_> = watched.sink.lost().into_iter().map(|(_, id)| id.name.to_string()).collect();
    assert_eq!(lost, ["new"]);

    // A damaged one is refused, and written anew once everything was listed.
    watched.store = None;
    // Beside it a half-written one may lie, which ends in `.new`.
    let file = std::fs::read_dir(watched.folder.path().join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_none_or(|extension| extension != "new"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    watched.server.refuse();
    watched.start(snapshot(&watched));
    assert!(!watched.store().status().is_known());
    watched.server.heal();
    watched.wait_level("a list in place of the damaged snapshot");
    wait_for("a new snapshot", SOON, || std::fs::read(&file).is_ok_and(|now| now != bytes));

    // Another cluster's is not ours, even at the same address.
    watched.store = None;
    watched.server.rotate_authority();
    watched.server.write_kubeconfig(&watched.kubeconfig());
    watched.server.refuse();
    watched.start(snapshot(&watched));
    assert!(!watched.store().status().is_known());
}

#[test]
fn faults_at_random_lose_nothing() {
    let watched = Watched::new().guarded();
    let faults = [
        Fault::Stall,
        Fault::HangWatches,
        Fault::StallConnections,
        Fault::Status { code: 429, retry_after: Some(1) },
        Fault::Status { code: 500, retry_after: None },
        Fault::Unauthorized,
        Fault::Gone,
        Fault::Garbage(Garbage::Json),
        Fault::Garbage(Garbage::Truncated),
        Fault::Garbage(Garbage::Http),
        Fault::CutAfter { bytes: 5_000 },
    ];
    for round in 0..22_usize {
        let fault = faults[round * 7 % faults.len()];
        watched.server.inject(fault);
        match round % 4 {
            0 => watched.server.cut(),
            1 => watched.server.store().compact(),
            2 => watched.server.refuse(),
            _ => {}
        }
        for n in 0..20 {
            watched.put_service(&format!("churn-{n}"), &format!("10.96.201.{round}"));
            pause(Duration::from_millis(10));
        }
        watched.server.delete("services", "default", &format!("churn-{round}"));
        watched.server.heal();
        pause(Duration::from_millis(50));
    }
    watched.wait_level("the end of the faults");
    watched.assert_nothing_lost();
}
