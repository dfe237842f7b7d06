//! A node with systemd-resolved, the real one, and with a resolv.conf that is mounted. In namespaces of their own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sched::{CloneFlags, unshare};
use tests::client::Client;
use tests::peers::meanwhile::{OBJECTS, cluster_name, cluster_names};
use tests::peers::resolved::{self, RESOLV_CONF, Resolved, STUB_RESOLV_CONF};
use tests::peers::{note, skip};
use tests::poll::wait_for;
use tests::process::{Nodens, Ready, Setup};
use tests::upstream::Upstream;
use tests::zone::Zone;

use crate::node::world::{kind, on_a_node, sh};

/// Where this server listens: an address that resolved and pods can reach.
const OURS: &str = "169.254.20.10:53";
const STUB: &str = "127.0.0.53:53";
/// The uplink, with the addresses of two resolvers.
const UPLINK: &str = "up0";
const RESOLVERS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

const SOON: Duration = Duration::from_secs(8);
/// A looping upstream is probed every 10 s.
const MENDED: Duration = Duration::from_secs(15);
/// The slow poll of files is every 5 s.
const POLL: Duration = Duration::from_secs(9);

const COREFILE: &str = ".:53 {
    bind 169.254.20.10
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    kubernetes cluster.local {
        objects @folder@/objects
    }
    forward . @resolv_conf@ {
        @options@
    }
    loop
}
";

/// Runs a test on a node whose mounts are its own, with an uplink.
fn on_a_private_node(test: impl FnOnce() + Send + 'static) {
    on_a_node(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        sh(&format!(
            "mount --make-rprivate /; mount -t tmpfs run /run
             ip link add {UPLINK} type {kind}; ip link set {UPLINK} up
             ip addr add {}/32 dev {UPLINK}; ip addr add {}/32 dev {UPLINK}",
            RESOLVERS[0],
            RESOLVERS[1],
            kind = kind()
        ));
        test();
    });
}

/// The resolvers behind the uplink; the only answer of each is its number.
fn resolvers() -> [Upstream; 2] {
    let start = |number: usize| {
        let zone = Zone::parse(&format!(
            "$ORIGIN test.\n$TTL 1\n@ 1 IN SOA ns.test. admin.test. 1 3600 600 86400 1\nwho IN A 192.0.2.{number}\n"
        ));
        let address = format!("{}:53", RESOLVERS[number - 1]).parse().unwrap();
        Upstream::start_at(zone.unwrap(), address).unwrap()
    };
    [start(1), start(2)]
}

fn nodens(resolv_conf: &str, options: &str) -> Nodens {
    Setup::new(&COREFILE.replace("@options@", options))
        .word("resolv_conf", resolv_conf)
        .file("objects/web.yaml", OBJECTS)
        .arguments(&[
            "-localip",
            "169.254.20.10",
            &format!("--link-kind={}", kind()),
            "--notrack=off",
            "--socket=@folder@/socket",
            "-metrics-listen-address=127.0.0.1:0",
        ])
        .ready(Ready::AnswerAt(OURS.parse().unwrap()))
        .start()
}

/// What somebody says to the one question; the response code where there is no answer.
fn who(server: &str) -> String {
    let client = Client::new(server.parse().unwrap()).within(Duration::from_secs(6));
    match client.ask("who.test.", RecordType::A) {
        Ok(answer) => answer.data(RecordType::A).first().cloned().unwrap_or(answer.normal.rcode),
        Err(error) => error.to_string(),
    }
}

/// Starts resolved with one server on the uplink and puts its stub into /etc/resolv.conf, as Debian and Ubuntu do. `None`
/// where it was not unpacked.
fn resolved() -> Option<Resolved> {
    let Some(folder) = resolved::folder() else {
        skip("needs systemd-resolved unpacked (scripts/test does that)");
        return None;
    };
    let resolved = Resolved::start(&folder);
    resolved.set_servers(UPLINK, RESOLVERS[0]);
    wait_for("resolved's servers", SOON, || names(RESOLV_CONF, RESOLVERS[0]));
    sh(&format!(
        "[ -e /etc/resolv.conf ] || touch /etc/resolv.conf; mount --bind {STUB_RESOLV_CONF} /etc/resolv.conf"
    ));
    assert!(names("/etc/resolv.conf", "127.0.0.53"));
    Some(resolved)
}

fn names(file: &str, server: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().any(|line| line == format!("nameserver {server}"))
}

/// The stub in resolv.conf is seen through to resolved's own servers, which are followed.
pub fn the_stub_is_seen_through_and_its_servers_followed() {
    on_a_private_node(|| {
        let resolvers = resolvers();
        let Some(resolved) = resolved() else { return };
        let mut nodens = nodens("/etc/resolv.conf", "");
        let asked = cluster_names(&[OURS.parse().unwrap()], || {
            assert_eq!(who(OURS), "192.0.2.1");
            nodens.wait_for_log(
                "127.0.0.53 is systemd-resolved's stub: its own servers are asked",
                SOON,
            );
            assert!(nodens.metrics().has("nodens_forward_upstream_up", &[("to", "192.0.2.1:53")]));
            assert_eq!(who(STUB), "192.0.2.1", "resolved goes on beside us");

            resolved.set_servers(UPLINK, RESOLVERS[1]);
            wait_for("resolved's new server", SOON, || names(RESOLV_CONF, RESOLVERS[1]));
            let begun = Instant::now();
            wait_for("our new server", SOON, || who(OURS) == "192.0.2.2");
            note(&format!("resolved's servers changed: followed after {:.0?}", begun.elapsed()));
            nodens.wait_for_log("gone=192.0.2.1:53 new=192.0.2.2:53", SOON);

            // The link's server is now this one: that is left out, and what was asked before goes on being asked.
            resolved.set_servers(UPLINK, "169.254.20.10");
            nodens.wait_for_log(
                "169.254.20.10 is an address of our own, which would ask itself: left out",
                SOON,
            );
            assert_eq!(who(OURS), "192.0.2.2");
            resolved.set_servers(UPLINK, RESOLVERS[0]);
            wait_for("a server again", SOON, || who(OURS) == "192.0.2.1");
        });
        note(&format!("stub seen through: {asked} cluster names asked meanwhile, all answered"));
        nodens.stop(SOON);
        drop(resolvers);
    });
}

/// Its own servers cannot be read here, so the stub is asked; then the link's server becomes this one, and asks us back.
pub fn a_loop_through_resolved_is_found_and_forgotten() {
    on_a_private_node(|| {
        let resolvers = resolvers();
        let Some(resolved) = resolved() else { return };
        let mut nodens = nodens("/etc/resolv.conf", "resolved_conf /nonexistent/resolv.conf");
        let asked = cluster_names(&[OURS.parse().unwrap()], || {
            assert_eq!(who(OURS), "192.0.2.1");
            nodens.wait_for_log("names no servers behind it: the stub itself is asked", SOON);

            resolved.set_servers(UPLINK, "169.254.20.10");
            wait_for("the link's new server", SOON, || names(RESOLV_CONF, "169.254.20.10"));
            let begun = Instant::now();
            nodens.log().wait_for_line_while(
                "a loop in the traffic",
                MENDED,
                || drop(who(OURS)),
                |line| line.contains("a loop: this server -> 127.0.0.53:53 -> ... -> "),
            );
            let seen = begun.elapsed();
            let metrics = nodens.metrics();
            assert_eq!(metrics.sum("nodens_loop_upstream", &[("upstream", STUB)]), 1.0);
            let ready = nodens.get(nodens.ports().ready, "/ready?verbose").unwrap();
            assert_eq!(ready.status, 503);
            assert!(ready.body.contains("forwarding loops: 127.0.0.53:53"), "{}", ready.body);
            let at_once = Instant::now();
            assert_eq!(who(OURS), "SERVFAIL");
            assert!(at_once.elapsed() < Duration::from_secs(1), "{:?}", at_once.elapsed());

            resolved.set_servers(UPLINK, RESOLVERS[1]);
            let begun = Instant::now();
            wait_for("the stub is in use again", MENDED, || who(OURS) == "192.0.2.2");
            let metrics = nodens.metrics();
            assert_eq!(metrics.sum("nodens_loop_upstream", &[("upstream", STUB)]), 0.0);
            assert_eq!(nodens.get(nodens.ports().ready, "/ready").unwrap().status, 200);
            note(&format!(
                "loop through resolved: set aside after {seen:.1?}, in use again {:.1?} after the cure",
                begun.elapsed()
            ));
        });
        note(&format!(
            "loop through resolved: {asked} cluster names asked meanwhile, all answered"
        ));
        nodens.stop(SOON);
        drop(resolvers);
    });
}

/// A resolv.conf that is mounted into a container: changed in place, and another one mounted over it.
pub fn a_mounted_resolv_conf_is_followed() {
    on_a_private_node(|| {
        let resolvers = resolvers();
        let folder = tempfile::tempdir().unwrap();
        let (host, other, container) = (
            folder.path().join("host"),
            folder.path().join("other"),
            folder.path().join("etc/resolv.conf"),
        );
        let write =
            |path: &Path, server: &str| fs::write(path, format!("nameserver {server}\n")).unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        write(&host, RESOLVERS[0]);
        write(&other, RESOLVERS[0]);
        fs::write(&container, "").unwrap();
        sh(&format!("mount --bind {} {}", host.display(), container.display()));
        let mut nodens = nodens(&container.to_string_lossy(), "");
        assert_eq!(who(OURS), "192.0.2.1");

        let begun = Instant::now();
        write(&host, RESOLVERS[1]);
        wait_for("the change of the mounted file", POLL, || who(OURS) == "192.0.2.2");
        let in_place = begun.elapsed();
        cluster_name(OURS.parse().unwrap());
        let begun = Instant::now();
        sh(&format!("mount --bind {} {}", other.display(), container.display()));
        wait_for("the file that was mounted over it", POLL, || who(OURS) == "192.0.2.1");
        note(&format!(
            "mounted resolv.conf: changed in place, followed after {in_place:.1?}; another mounted over it, after {:.1?}",
            begun.elapsed()
        ));
        cluster_name(OURS.parse().unwrap());
        nodens.stop(SOON);
        drop(resolvers);
    });
}
