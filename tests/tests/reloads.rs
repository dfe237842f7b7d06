//! A configuration that is valid and would silence the node is held back, said everywhere, and ends when the file is put
//! right; what an operator means to do goes through at once.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::client::{Client, Question};
use tests::poll;
use tests::process::{self, Nodens, Ready, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\n";

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        objects @objects@
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . @up@
    cache 30
    reload @reload@
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
other.test:@dns2@ {
    bind 127.0.0.1
    whoami
}
";

const KUBERNETES: &str = "    kubernetes cluster.local in-addr.arpa ip6.arpa {
        objects @objects@
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
";

const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo/objects");

struct World {
    nodens: Nodens,
    up: Upstream,
    dead: Upstream,
    text: String,
}

/// A server that has been asked for all that it serves.
fn world(reload: &str) -> World {
    let (up, dead) = (Upstream::with_zone(ZONE), Upstream::with_zone(ZONE));
    dead.always(Act::Drop);
    let text = COREFILE
        .replace("@objects@", OBJECTS)
        .replace("@up@", &up.address().to_string())
        .replace("@reload@", reload);
    let nodens = Setup::new(&text).arguments(&["--socket=@folder@/nodens.sock"]).start();
    let world = World { nodens, up, dead, text };
    world.assert_all_answered();
    let other = SocketAddr::from(([127, 0, 0, 1], world.nodens.ports().dns2));
    let answer = Client::new(other).udp(&Question::new("a.other.test.", RecordType::A));
    assert_eq!(answer.unwrap().normal.rcode, "NOERROR");
    world
}

impl World {
    fn answers(&self, name: &str, kind: RecordType) -> bool {
        let answer = self.nodens.client().udp(&Question::new(name, kind)).unwrap();
        answer.normal.rcode == "NOERROR" && !answer.message.answers.is_empty()
    }

    #[track_caller]
    fn assert_all_answered(&self) {
        assert!(self.answers("kubernetes.default.svc.cluster.local.", RecordType::A));
        assert!(self.answers("www.test.", RecordType::A));
    }

    /// `nodens reload` with these arguments: whether it exits with 0, and all that it prints.
    fn reload(&self, arguments: &[&str]) -> (bool, String) {
        let socket = self.nodens.folder().join("nodens.sock").display().to_string();
        let arguments = [&["reload", "--socket", &socket], arguments].concat();
        let (status, out, error) = process::run(&arguments);
        (status.success(), out + &error)
    }

    fn reload_with(&self, text: &str) -> (bool, String) {
        self.nodens.write_corefile(text);
        self.reload(&[])
    }

    fn status(&self) -> Value {
        let socket = self.nodens.folder().join("nodens.sock").display().to_string();
        let (_, out, _) = process::run(&["status", "--socket", &socket, "-o", "json"]);
        serde_json::from_str(&out).unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        self.nodens.metrics().sum(name, &[])
    }

    /// What `/ready?verbose` says of the configuration.
    fn detail(&self) -> Value {
        let page = self.nodens.get(self.nodens.ports().ready, "/ready?verbose").unwrap();
        assert_eq!(page.status, 200, "{}", page.body);
        let page: Value = serde_json::from_str(&page.body).unwrap();
        page["details"]["configuration"][0].clone()
    }
}

const HELD: &str = "nodens_config_held_back_since_timestamp_seconds";
const REFUSED: &str = "nodens_config_refused_since_timestamp_seconds";

/// Files that are valid and deadly: what is replaced in the Corefile by what, and what is said.
const DEADLY: [(&str, &str, &str); 11] = [
    ("kubernetes cluster.local", "kubernetes cluster.locl", "names of cluster.local. are answered"),
    (KUBERNETES, "", "names of cluster.local."),
    (
        "other.test:",
        "cluster.local:@dns@ {\n bind 127.0.0.1\n whoami\n}\nother.test:",
        "names of cluster.local.",
    ),
    (
        "other.test:",
        "svc.cluster.local:@dns@ {\n bind 127.0.0.1\n whoami\n}\nother.test:",
        "names of cluster.local.",
    ),
    ("@up@", "@dead@", "no upstream of `forward .` answers"),
    (".:@dns@", ".:@free@", "which it does not listen on"),
    ("other.test:@dns2@", "other.test:@free@", "which it does not listen on"),
    ("    whoami", "    errors", "no directive of the block other.test.:"),
    ("forward . @up@", "hosts {\n 192.0.2.9 a.test\n }", "nothing is left that forwards"),
    ("forward . @up@", "forward corp.test @up@", "nothing is left that forwards"),
    (
        ".:@dns@ {\n    bind 127.0.0.1",
        ".:@dns@ {\n    bind 127.0.0.8",
        "which it does not listen on",
    ),
];

#[test]
fn deadly_files_are_held_back_and_said() {
    let world = world("1h");
    let free = tests::ports::one();
    let fill = |text: &str| {
        text.replace("@up@", &world.up.address().to_string())
            .replace("@dead@", &world.dead.address().to_string())
            .replace("@objects@", OBJECTS)
            .replace("@free@", &free.to_string())
    };
    let loaded = world.metric("nodens_config_last_success_timestamp_seconds");
    assert!(loaded > 1.7e9 && world.metric("nodens_config_info") == 1.0);
    for (old, new, wanted) in DEADLY {
        let deadly = world.text.replacen(&fill(old), &fill(new), 1);
        assert_ne!(deadly, world.text, "{old}");
        world.nodens.write_corefile(&deadly);
        let (applied, said) = world.reload(&[]);
        assert!(!applied && said.contains(wanted) && said.contains("--force"), "{new}: {said}");
        assert!(world.metric(HELD) > 1.7e9 && world.metric(REFUSED) == 0.0, "{new}");
        let status = world.status();
        assert!(status["refused_configuration"].as_str().unwrap().contains(wanted), "{status}");
        let detail = world.detail();
        assert!(detail["held_back"].as_str().unwrap().contains(wanted), "{detail}");
        world.assert_all_answered();
        // A signal is no other way.
        let failed = world.metric("coredns_reload_failed_total");
        world.nodens.signal(Signal::SIGHUP);
        poll::wait_for("the signal to be refused", SOON, || {
            world.metric("coredns_reload_failed_total") > failed
        });

        world.nodens.write_corefile(&world.text);
        let (applied, said) = world.reload(&[]);
        assert!(applied && said.contains("changed") && said.contains("nothing"), "{new}: {said}");
        assert_eq!((world.metric(HELD), world.metric("nodens_configuration_refused")), (0.0, 0.0));
        assert_eq!(world.status()["refused_configuration"], Value::Null);
        assert_eq!(world.detail().get("held_back"), None);
        world.assert_all_answered();
    }
    assert!(world.metric("coredns_reload_failed_total") >= DEADLY.len() as f64);

    // Mistakes are another thing.
    world.nodens.write_corefile(&world.text.replace("whoami", "whoareyou"));
    let (applied, said) = world.reload(&["--force"]);
    assert!(!applied && said.contains("it has 1 error"), "{said}");
    assert!(world.metric(REFUSED) > 1.7e9 && world.metric(HELD) == 0.0);
    assert!(world.detail()["refused"].as_str().unwrap().contains("1 error"));
}

#[test]
fn what_is_meant_goes_through() {
    let world = world("1h");
    let up = world.up.address();
    let other_up = Upstream::with_zone(ZONE);
    let stub = format!("corp.test:@dns@ {{\n    bind 127.0.0.1\n    forward . {up}\n}}\n");
    let mut text = world.text.clone();
    let mut changes: Vec<(String, &str)> = vec![
        (format!("{text}{stub}"), "zones: +corp.test.:"),
        (text.clone(), "zones: -corp.test.:"),
        (text.replace(&up.to_string(), &other_up.address().to_string()), "upstreams: +127.0.0.1:"),
        (text.replace("cache 30", "cache 60"), "~cache (.:"),
        (text.replace("    cache 30\n", ""), "-cache (.:"),
        (text.replace("pods insecure", "pods insecure\n ttl 30"), "~kubernetes (.:"),
    ];
    // Zones of addresses for which nobody has asked may go.
    text = text
        .replace(" in-addr.arpa ip6.arpa {", " {")
        .replace("        fallthrough in-addr.arpa ip6.arpa\n", "");
    changes.push((text, "~kubernetes (.:"));
    for (text, wanted) in changes {
        world.nodens.write_corefile(&text);
        let (applied, said) = world.reload(&[]);
        assert!(applied && said.contains(wanted), "{wanted}: {said}");
        assert_eq!(world.metric(HELD), 0.0);
        let changed = world.detail()["changed"].as_str().unwrap().to_owned();
        assert!(changed.contains(wanted), "{changed}");
        world.nodens.wait_for_log(wanted, SOON);
        world.assert_all_answered();
    }
}

#[test]
fn force_applies_what_is_held_back() {
    let world = world("2s 1s");
    let gone =
        world.text.replace("kubernetes cluster.local in-addr", "kubernetes cluster.locl in-addr");
    world.nodens.write_corefile(&gone);
    poll::wait_for("it to be held back by a look", SOON, || world.metric(HELD) > 0.0);
    world.nodens.wait_for_log("held back, since the node would be silent", SOON);
    world.assert_all_answered();
    let (applied, said) = world.reload(&["--force"]);
    assert!(applied && said.contains("~kubernetes (.:"), "{said}");
    assert_eq!(world.metric(HELD), 0.0);
    // It is what runs now, and no longer missed.
    world.nodens.write_corefile(&world.text);
    poll::wait_for("the zone to be back", SOON, || {
        world.answers("kubernetes.default.svc.cluster.local.", RecordType::A)
    });

    let meant = gone.replace("reload 2s 1s", "reload 2s 1s {\n        force\n    }");
    world.nodens.write_corefile(&meant);
    poll::wait_for("the file to be applied", SOON, || {
        !world.answers("kubernetes.default.svc.cluster.local.", RecordType::A)
    });
    assert_eq!(world.metric(HELD), 0.0);
}

#[test]
fn upstreams_that_come_up_end_it() {
    let world = world("2s 1s");
    let (up, dead) = (world.up.address().to_string(), world.dead.address().to_string());
    world.nodens.write_corefile(&world.text.replace(&up, &dead));
    poll::wait_for("it to be held back", SOON, || world.metric(HELD) > 0.0);
    let failed = world.metric("coredns_reload_failed_total");
    world.dead.always(Act::Answer);
    poll::wait_for("it to be applied", SOON, || world.metric(HELD) == 0.0);
    world.nodens.wait_for_log("reloaded the configuration", SOON);
    assert_eq!(world.metric("coredns_reload_failed_total"), failed, "counted once");
    world.assert_all_answered();
}

/// Where nothing changes for clients, upstreams that are dead do not matter.
#[test]
fn upstreams_that_stay_hold_nothing_back() {
    let world = world("1h");
    let (up, dead) = (world.up.address().to_string(), world.dead.address().to_string());
    let force = |text: &str| {
        world.nodens.write_corefile(text);
        let (applied, said) = world.reload(&["--force"]);
        assert!(applied, "{said}");
    };
    // The address of the upstream stays, and another joins it.
    let outage = world.text.replace(&up, &dead);
    force(&outage);
    let (applied, said) =
        world.reload_with(&outage.replace("whoami", "hosts {\n 192.0.2.1 a.other.test\n }"));
    assert!(applied && said.contains("other.test."), "{said}");
    let silent = Upstream::with_zone(ZONE);
    silent.always(Act::Drop);
    let silent = silent.address().to_string();
    let (applied, said) = world.reload_with(&outage.replace(&dead, &format!("{dead} {silent}")));
    assert!(applied && said.contains("upstreams: +"), "{said}");
    // A zone that works round the outage, and one that is as dead.
    let stub = |to: &str| format!("test:@dns@ {{\n bind 127.0.0.1\n forward . {to}\n}}\n");
    for to in [&up, &silent] {
        let (applied, said) = world.reload_with(&(outage.clone() + &stub(to)));
        assert!(applied || to == &silent, "{said}");
        if !applied {
            // The one before answers.
            assert!(said.contains("answers in the block test.:"), "{said}");
        }
    }
    // All that was asked is dead, and so is what is asked next: nothing is lost.
    force(&outage);
    let (applied, said) = world.reload_with(&outage.replace(&dead, &silent));
    assert!(applied, "{said}");
    // It does matter where they answered.
    force(&world.text);
    assert!(world.answers("www.test.", RecordType::A));
    let (applied, said) = world.reload_with(&outage);
    let wanted = format!(
        "no upstream of `forward .` answers in the block .:{}: {dead} is silent",
        world.nodens.ports().dns
    );
    assert!(!applied && said.contains(&wanted), "{said}");
}

/// A wider address takes what was sent to the narrow ones.
#[test]
fn an_address_that_a_wider_one_covers_is_not_lost() {
    let world = world("1h");
    let (applied, said) = world.reload_with(&world.text.replace("    bind 127.0.0.1\n", ""));
    assert!(applied && said.contains("listeners: +"), "{said}");
    world.assert_all_answered();
    // What is lost by a wider address is lost all the same.
    let wide = world.text.replace("    bind 127.0.0.1\n", "");
    for (old, new, wanted) in [
        ("kubernetes cluster.local", "kubernetes cluster.locl", "names of cluster.local. are"),
        ("    whoami", "    errors", "no directive of the block other.test.:"),
    ] {
        let (applied, said) = world.reload_with(&world.text);
        assert!(applied || said.contains("which it does not listen on"), "{said}");
        if !applied {
            assert!(world.reload(&["--force"]).0);
        }
        world.assert_all_answered();
        let (applied, said) = world.reload_with(&wide.replace(old, new));
        assert!(!applied && said.contains(wanted), "{said}");
        world.assert_all_answered();
    }
}

/// Many upstreams are probed at once, and said in few words.
#[test]
fn many_dead_upstreams_take_no_longer_than_one() {
    let up = Upstream::with_zone(ZONE);
    let dead: Vec<Upstream> = (0..20).map(|_| Upstream::with_zone(ZONE)).collect();
    dead.iter().for_each(|dead| dead.always(Act::Drop));
    let block = |n: usize, to: SocketAddr| {
        format!("z{n}.test:@dns@ {{\n    bind 127.0.0.1\n    forward . {to}\n}}\n")
    };
    let all =
        |to: &dyn Fn(usize) -> SocketAddr| (0..20).map(|n| block(n, to(n))).collect::<String>();
    let nodens = Setup::new(&all(&|_| up.address())).start();
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    nodens.client().ask("www.z0.test.", RecordType::A).unwrap();
    for (to, wanted) in [
        (&(|n: usize| dead[n].address()) as &dyn Fn(usize) -> SocketAddr, "; and 12 more"),
        (&|_| dead[0].address(), "and 12 more: 127.0.0.1:"),
    ] {
        nodens.write_corefile(&all(to));
        let begun = Instant::now();
        let (status, _, said) = process::run(&["reload", "--socket", &socket]);
        assert!(!status.success() && said.contains(wanted), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(said.contains("z0.test.:") && said.contains("is silent"), "{said}");
        assert!(said.len() < 3_000, "{said}");
    }
    nodens.write_corefile(&all(&|n| dead[n].address()));
    let (status, _, said) = process::run(&["reload", "--force", "--socket", &socket]);
    assert!(status.success(), "{said}");
    nodens.wait_for_log("nodens reload --force", SOON);
}

/// A server whose reload waits for an API server that is silent, and that one.
fn waiting(corefile: &str, port: u16, socket: &Path) -> (Nodens, TcpListener) {
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = plain(corefile, port, socket);
    let nodens = setup.start();
    let endpoint = api.local_addr().unwrap();
    let kubernetes = format!(
        "kubernetes other.local {{\n endpoint http://{endpoint}\n startup_timeout 60s\n }}\n"
    );
    nodens.write_corefile(
        &corefile
            .replace("@port@", &port.to_string())
            .replace("    whoami", &format!("{kubernetes}    whoami")),
    );
    nodens.signal(Signal::SIGHUP);
    // It has begun once the API server is asked.
    drop(api.accept().unwrap());
    (nodens, api)
}

const PLAIN: &str = ".:@port@ {\n    bind 127.0.0.1\n    whoami\n}\n";

fn plain(corefile: &str, port: u16, socket: &Path) -> Setup {
    Setup::new(corefile)
        .word("port", port)
        .arguments(&["--workers", "2", "--socket", socket.to_str().unwrap()])
        .ready(Ready::AnswerAt(SocketAddr::from(([127, 0, 0, 1], port))))
}

/// Less than what the reload waits for.
const AT_ONCE: Duration = Duration::from_secs(6);

#[test]
fn a_signal_ends_a_server_that_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodens, _api) =
        waiting(PLAIN, tests::ports::one(), &folder.path().join("nodens.sock"));
    nodens.signal(Signal::SIGTERM);
    assert!(nodens.wait_exit(AT_ONCE).success());
    assert!(!nodens.complete_log().contains("reloaded the configuration"));
}

#[test]
fn a_server_that_reloads_hands_over() {
    let folder = tempfile::tempdir().unwrap();
    let (port, socket) = (tests::ports::one(), folder.path().join("nodens.sock"));
    let (mut old, _api) = waiting(PLAIN, port, &socket);
    let new = plain(PLAIN, port, &socket).spawn();
    new.wait_for_log("serving", SOON);
    assert!(old.wait_exit(AT_ONCE).success());
    assert!(old.complete_log().contains("another instance has taken over"));
    let client = Client::new(SocketAddr::from(([127, 0, 0, 1], port)));
    assert!(client.udp(&Question::new("a.test.", RecordType::A)).is_ok());
}

#[test]
fn a_server_that_reloads_ends_with_its_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodens, _api) =
        waiting(PLAIN, tests::ports::one(), &folder.path().join("nodens.sock"));
    let server = format!("/proc/{}", nodens.server());
    let supervisor = Pid::from_raw(i32::try_from(nodens.pid()).unwrap());
    kill(supervisor, Signal::SIGKILL).unwrap();
    nodens.wait_exit(SOON);
    poll::wait_for("the server to end", AT_ONCE, || !Path::new(&server).exists());
    let log = nodens.complete_log();
    assert!(log.contains("the supervisor has ended"), "{log}");
    assert!(log.matches("the supervisor does not listen").count() <= 1, "{log}");
}
