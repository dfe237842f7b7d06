//! The running server: absent, stopped, of another version, with a configuration that was refused, crashed.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::cluster::Cluster;
use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::process::{Ready, Setup};

use super::{SOON, resolver};

const COREFILE: &str = ".:@dns@ {\n    bind 127.0.0.1\n    forward . @upstream@\n    loop\n}\n";

#[test]
fn a_server_that_is_not_there_and_one_that_is_stopped() {
    let upstream = resolver();
    let nodens = Setup::new(COREFILE).word("upstream", upstream.address()).start();
    let found = Findings::of_server(&nodens, &["server", "network"]);
    found.demand("server-answers", "ok", "has run for");
    // Other tests have instances, too.
    found.demand("instances", "ok", "instance");
    nodens.signal(Signal::SIGSTOP);
    let found = Findings::of_server(&nodens, &["server", "network"]);
    nodens.signal(Signal::SIGCONT);
    found.demand("server-answers", "problem", "is stopped by a signal");
    found.demand("instances", "problem", "keeps its share of the queries");
    let found =
        Findings::of(&["server", "--socket", "/nonexistent/nodens.sock", "-conf", "/dev/null"]);
    found.demand("server-answers", "problem", "cannot reach a server");
    found.demand("server-version", "skipped", "");
}

#[test]
fn a_configuration_that_was_refused() {
    let upstream = resolver();
    let nodens = Setup::new(COREFILE).word("upstream", upstream.address()).start();
    nodens.write_corefile(".:@dns@ {\n    bind 127.0.0.1\n    forwrad . 192.0.2.1\n}\n");
    nodens.signal(Signal::SIGHUP);
    wait_for("the refusal", SOON, || {
        let found = Findings::of_server(&nodens, &["server", "config"]);
        found.has("server-configuration", "problem", "was refused")
    });
    let found = Findings::of_server(&nodens, &["config"]);
    found.demand("corefile-valid", "problem", "forwrad");
}

#[test]
fn a_server_that_waits_and_one_that_crashed() {
    let cluster = Cluster::default();
    cluster.server.refuse();
    let nodens = cluster.setup("startup_timeout 1s").ready(Ready::Answer).start();
    let found = Findings::of_server(&nodens, &["server"]);
    found.demand("server-conditions", "problem", "waiting for");
    found.demand("server-store", "problem", "not listed yet");
    cluster.server.heal();
    // What has healed is no problem any more.
    wait_for("the store", SOON, || {
        Findings::of_server(&nodens, &["server"]).has("server-store", "ok", "all kinds are watched")
    });
    nodens.signal_server(Signal::SIGKILL);
    wait_for("the crash", SOON, || {
        Findings::of_server(&nodens, &["server"]).has(
            "server-restarts",
            "warning",
            "started again 1 times",
        )
    });
}

/// A server of another version answers the socket's protocol as this one does.
#[test]
fn a_server_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nodens.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let answer = json!({"done": {"version": "0.0.9", "pid": std::process::id(), "waiting": [], "arguments": []}});
            let _ = (&stream).write_all(format!("{answer}\n").as_bytes());
        }
    });
    let found =
        Findings::of(&["server", "--socket", &path.to_string_lossy(), "-conf", "/dev/null"]);
    found.demand("server-version", "warning", "the server is 0.0.9");
}

/// A server that was stopped for a while: what the kernel could not keep is counted by the socket.
#[test]
fn queries_that_the_kernel_dropped() {
    let upstream = resolver();
    let setup = Setup::new(COREFILE).word("upstream", upstream.address());
    let nodens = setup.arguments(&["--workers=1"]).start();
    Findings::of_server(&nodens, &["network"]).demand("dropped-queries", "ok", "no datagram");
    nodens.signal(Signal::SIGSTOP);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(nodens.dns()).unwrap();
    for _ in 0..20_000 {
        let _ = socket.send(&[0; 64]);
    }
    nodens.signal(Signal::SIGCONT);
    let found = Findings::of_server(&nodens, &["network"]);
    found.demand("dropped-queries", "warning", "queries that were not read in time");
}
