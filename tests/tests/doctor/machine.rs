//! Folders that cannot be written, and descriptors that run out.

use tests::cluster::Cluster;
use tests::doctor::Findings;
use tests::process::{Ready, Setup};

use super::resolver;

#[test]
fn folders_that_cannot_be_written() {
    let cluster = Cluster::default();
    // A file where the folder should be.
    std::fs::write(cluster.path("snapshots"), "").unwrap();
    let nodens = cluster.start("snapshot @data@/snapshots");
    let found = Findings::of_server(&nodens, &["node"]);
    found.demand("snapshot-folder", "problem", "is no folder");
    found.demand("handover-folder", "ok", "can be written");
    let found =
        Findings::of(&["node", "-conf", "/dev/null", "--socket", "/proc/version/nodens.sock"]);
    found.demand("handover-folder", "problem", "is no folder");
    let cluster = Cluster::default();
    let nodens = cluster.start("snapshot @data@/snapshots");
    Findings::of_server(&nodens, &["node"]).demand("snapshot-folder", "ok", "can be written");
}

/// A limit that the server is near to as soon as it serves.
#[test]
fn descriptors_that_run_out() {
    let upstream = resolver();
    let corefile = ".:@dns@ {\n    bind 127.0.0.1\n    forward . @upstream@\n}\n";
    let setup = || {
        let setup = Setup::new(corefile).word("upstream", upstream.address());
        setup.arguments(&["--workers=4"]).ready(Ready::Answer)
    };
    let nodens = setup().start();
    Findings::of_server(&nodens, &["node"]).demand("descriptors", "ok", "descriptors are open");
    let limit = nodens.open_files() + 2;
    drop(nodens);
    let limited = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
    let nodens = setup().wrapper(&["sh", "-c", &limited]).start();
    let found = Findings::of_server(&nodens, &["node"]);
    assert!(
        found.has("descriptors", "warning", "descriptors are open")
            || found.has("descriptors", "problem", "descriptors are open"),
        "{:#}",
        found.check("descriptors")
    );
    // Clients have taken every descriptor: the control socket still answers.
    let idle: Vec<_> =
        (0..8).filter_map(|_| std::net::TcpStream::connect(nodens.dns()).ok()).collect();
    for _ in 0..3 {
        let found = Findings::of_server(&nodens, &["node"]);
        assert!(!found.has("descriptors", "skipped", ""), "{:#}", found.check("descriptors"));
    }
    drop(idle);
}
