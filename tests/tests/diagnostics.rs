//! What a Corefile is told about: lines without effect, mistakes with their remedies, and what a reload makes of both.

#[path = "diagnostics/warnings.rs"]
mod warnings;

use warnings::warned;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodens::config::{Effect, table};
use tests::api::certificates::{Authority, Pair};
use tests::client::{Client, Question};
use tests::poll;
use tests::process::{self, Ready, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(15);

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\n";

/// What `nodens check` prints of a Corefile before the configuration in effect, without the file's name.
fn checked(text: &str) -> (bool, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, text).unwrap();
    let (status, out, _) = process::run(&["check", &path.to_string_lossy()]);
    let place = format!("{}:", path.display());
    let found = out.lines().filter_map(|line| line.strip_prefix(&place));
    // The last line has no number, but that of all errors.
    let found = found.filter(|line| !line.starts_with(' ')).map(str::to_owned);
    (status.success(), found.collect())
}

#[test]
fn warnings_are_logged_at_the_start_and_by_a_reload() {
    let upstream = Upstream::with_zone(ZONE);
    let text = ". {\n    forward . @upstream@\n    @more@\n}\n".replacen('.', ".:@dns@", 1);
    let setup = Setup::new(&text.replace("@more@", "whoami"));
    let nodens = setup.word("upstream", upstream.address()).start();
    nodens.wait_for_log(":3: warning: whoami: is never asked", SOON);
    let address = upstream.address();
    let reloaded = text.replace("@upstream@", &address.to_string());
    nodens.write_corefile(&reloaded.replace("@more@", "forward a.test 192.0.2.9"));
    nodens.signal(nix::sys::signal::Signal::SIGHUP);
    nodens.wait_for_log(":3: warning: forward: is never asked", SOON);
}

#[test]
fn mistakes_come_with_a_remedy() {
    for (line, expected) in [
        ("forward 203.0.113.1", "2: forward: the zone to forward is missing"),
        (
            "forward . $(KUBE_DNS_SERVICE_HOST)",
            "2: the placeholder $(KUBE_DNS_SERVICE_HOST) has not been filled in; write {$KUBE_DNS_SERVICE_HOST}",
        ),
        ("cache 30\n    cache 60\n    whoami", "3: cache: duplicate directive; first used at"),
        (
            "on_startup /bin/true\n    whoami",
            "2: startup: removed from CoreDNS long ago; remove the line",
        ),
        ("sign db.test\n    whoami", "2: sign: not supported by Nodens; "),
        (
            "forwrad . 203.0.113.1\n    whoami",
            "2: there is no directive \"forwrad\"; did you mean \"forward\"?",
        ),
        (
            "rewrite name regx (.*)\\.a.test {1}.b.test\n    whoami",
            "2: rewrite: there is no kind of match \"regx\", expected regex",
        ),
        (
            "rewrite ttl abc\n    whoami",
            "2: rewrite: an argument is missing, expected seconds, or FROM-TO, behind the name",
        ),
        (
            "forward . tls://192.0.2.1:853%a.test",
            "2: forward: the port is before the name of the server: write tls://192.0.2.1%a.test:853",
        ),
        (
            "bind 127.0.0.1:53\n    whoami",
            "2: bind: \"127.0.0.1:53\" has a port, expected 127.0.0.1, and the port behind the zone as in `.:53 {`",
        ),
        (
            "tls_servername a.test\n    whoami",
            "2: there is no directive \"tls_servername\"; it is an option: write it into the block of forward",
        ),
        (
            "cache {\n        servfail 10m\n    }\n    whoami",
            "3: cache: servfail: \"10m\" is out of range, expected at most 300s",
        ),
    ] {
        let (good, found) = checked(&format!(". {{\n    {line}\n}}\n"));
        assert!(!good && found.len() == 1, "{line}\n{found:#?}");
        assert!(found[0].starts_with(expected), "{}", found[0]);
    }
}

#[test]
fn a_corefile_without_braces_is_understood() {
    let (good, found) = checked("forward . 203.0.113.1\ncache 30\n");
    assert!(!good && found.len() == 1, "{found:#?}");
    assert!(
        found[0]
            .starts_with("1: the directive \"forward\" is outside of a server block; write `. {`")
    );
}

#[test]
fn an_upstream_of_several_blocks_is_up_once() {
    let upstream = Upstream::with_zone(ZONE);
    let block = "    forward . @upstream@ {\n        max_fails 1\n    }\n    loop\n";
    let text = format!(
        ".:@dns@ {{\n{block}    prometheus 127.0.0.1:@metrics@\n}}\ntest:@dns@ {{\n{block}}}\na.test:@dns@ {{\n{block}}}\n"
    );
    let nodens = Setup::new(&text).word("upstream", upstream.address()).start();
    let to = upstream.address().to_string();
    let up = || nodens.metrics().sum("nodens_forward_upstream_up", &[("to", &to)]);
    poll::wait_for("the upstream to be up", SOON, || up() == 1.0);
    assert_eq!(nodens.metrics().sum("nodens_loop_upstream", &[("upstream", &to)]), 0.0);
    // One block finds it dead: then it is down, whatever the others know.
    upstream.always(Act::Drop);
    let mut number = 0;
    poll::wait_for("the upstream to be down", SOON, || {
        number += 1;
        let _ = nodens.client().ask(&format!("n{number}.a.test."), RecordType::A);
        up() == 0.0
    });
    upstream.always(Act::Answer);
    poll::wait_for("the upstream to be up again", SOON, || up() == 1.0);
}

#[test]
fn a_check_has_the_starts_verdict_and_all_mistakes_of_all_stages() {
    for (text, expected) in [
        (
            ". {\n    bind eth9\n    whoami\n}\n",
            "2: bind: \"eth9\" is neither an address nor an interface",
        ),
        (
            ". {\n    forward . tls://203.0.113.1 {\n        tls /no/ca.pem\n        tls_servername a.test\n    }\n}\n",
            "2: forward: /no/ca.pem",
        ),
    ] {
        let (good, found) = checked(text);
        assert!(!good && found.len() == 1 && found[0].starts_with(expected), "{text}\n{found:#?}");
        let text = text.replacen(". {", ".:@dns@ {", 1);
        let mut nodens = Setup::new(&text).ready(Ready::No).start();
        assert_eq!(nodens.wait_exit(SOON).code(), Some(1));
        nodens.wait_for_log(expected.split_once(": ").unwrap().1, SOON);
    }
    warned(
        "cluster.local {\n    kubernetes cluster.local {\n        kubeconfig /nonexistent/config\n    }\n}\n",
        &["2: warning: kubernetes: kubeconfig /nonexistent/config"],
    );
    warned(". {\n    bind 192.0.2.77\n    whoami\n}\n", &["2: warning: bind: no interface has"]);
    warned(". {\n    bind 169.254.20.10\n    whoami\n}\n", &[]);
    // A bad import hides no other mistake.
    let (good, found) = checked(
        "import /nonexistent/a\nimport /nonexistent/b\n. {\n    cahce\n    health :x\n}\na {\n    forwrad . 203.0.113.1\n}\n",
    );
    assert!(!good && found.len() == 5, "{found:#?}");
    // Where braces or quotes do not match, what was read before is checked, and what follows would only mislead.
    for (text, lines) in [
        (
            ". {\n    cahce\n",
            &["1: the block that begins here", "2: there is no directive \"cahce\""][..],
        ),
        (
            ". {\n    cahce\n    errors {\n    forwrad . 203.0.113.1\n}\n",
            &[
                "1: the block that begins here",
                "2: there is no directive \"cahce\"",
                "4: errors: there is no option \"forwrad\"",
            ],
        ),
        (
            ". {\n    cahce\n    errors \"log\n    forwrad . 203.0.113.1\n}\n",
            &[
                "1: the block that begins here",
                "2: there is no directive \"cahce\"",
                "3: the quote",
            ],
        ),
        (
            "a {\n    cahce\n}\n}\nb {\n    forwrad . 203.0.113.1\n}\n",
            &["2: there is no directive \"cahce\"", "4: this } closes no block"],
        ),
    ] {
        let (good, found) = checked(text);
        assert!(!good && found.len() == lines.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(lines) {
            assert!(found.starts_with(expected), "{text}\n{found}");
        }
    }
}

#[test]
fn files_and_addresses_that_are_missing_are_warned_about() {
    warned(
        "test {\n    bind 127.0.0.77 192.0.2.77\n    hosts /nonexistent/hosts\n    file /nonexistent/db\n}\n\
         cluster.local {\n    kubernetes {\n        objects /nonexistent/objects\n    }\n}\n",
        &[
            "2: warning: bind: no interface has the address 192.0.2.77",
            "3: warning: hosts: /nonexistent/hosts: No such file",
            "4: warning: file: /nonexistent/db: No such file",
            "7: warning: kubernetes: objects /nonexistent/objects: No such file",
        ],
    );
    // The start makes the interface with the addresses of `-localip`.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, ". {\n    bind 192.0.2.77\n    whoami\n}\n").unwrap();
    let conf = path.display().to_string();
    let (status, out, _) = process::run(&["check", "-conf", &conf, "-localip", "192.0.2.77"]);
    assert!(status.success() && !out.contains("warning"), "{out}");
}

#[test]
fn standard_input_a_template_and_the_running_server_are_checked() {
    let check = |arguments: &[&str], input: &str, folder: &Path| {
        let mut child = Command::new(process::binary())
            .arg("check")
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.success(), text + &String::from_utf8_lossy(&out.stderr))
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert_eq!(check(&["-"], ". {\n    whoami\n}\n", at), (true, ". {\n    whoami\n}\n".into()));
    let (good, out) = check(&["-"], ". {\n    whomai\n}\n", at);
    assert!(!good && out.starts_with("-:2: there is no directive"), "{out}");

    let template =
        ".:53 {\n    bind __PILLAR__LOCAL__DNS__\n    forward . __PILLAR__UPSTREAM__SERVERS__\n}\n";
    std::fs::write(at.join("base"), template).unwrap();
    std::fs::create_dir(at.join("cm")).unwrap();
    std::fs::write(at.join("cm/upstreamNameservers"), r#"["203.0.113.1"]"#).unwrap();
    let flags =
        ["-localip", "169.254.20.10", "-basecorefile=base", "-kubednscm", "cm", "-conf", "out"];
    let (good, out) = check(&flags, "", at);
    assert!(good && out.contains("bind 169.254.20.10"), "{out}");
    assert!(out.contains("forward . 203.0.113.1") && !at.join("out").exists(), "{out}");

    let nodens = Setup::new(".:@dns@ {\n    whoami\n    chaos found-it\n}\n")
        .arguments(&["--socket=@folder@/nodens.sock"])
        .start();
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    let (good, out) = check(&["--socket", &socket], "", at);
    assert!(good && out.contains("chaos found-it"), "{out}");
}

/// A question that the server answers itself, whatever its directives.
fn version() -> Question {
    Question::new("version.bind.", RecordType::TXT).with(|message| {
        for query in &mut message.queries {
            query.query_class = hickory_proto::rr::DNSClass::CH;
        }
    })
}

/// What a start refuses, the check refuses, and the other way round.
#[test]
fn the_check_and_the_start_are_of_one_mind() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (empty, pem) = (at("resolv.conf", ""), at("ca.pem", "no certificate\n"));
    let port = tests::ports::one();
    for (lines, flags, is_good) in [
        ("bind eth99\n whoami".to_owned(), "", false),
        ("bind 192.0.2.77\n whoami".to_owned(), "-setupinterface=false -localip 192.0.2.78", false),
        ("bind fe80::1\n whoami".to_owned(), "", false),
        ("bind 127.0.0.1\n whoami".to_owned(), "-setupinterface=false -localip 127.0.0.1", true),
        (format!("bind 127.0.0.1\n forward . 127.0.0.1:{port}"), "", false),
        (format!("bind 127.0.0.1\n forward . 127.0.0.1:{port} 192.0.2.1"), "", true),
        (format!("bind 127.0.0.1\n forward . {empty}"), "", true),
        (format!("bind 127.0.0.1\n forward . tls://192.0.2.1 {{\n  tls {pem}\n }}"), "", false),
        (
            "bind 127.0.0.1\n kubernetes a {\n  kubeconfig /none\n  startup_timeout 0s\n }"
                .to_owned(),
            "",
            true,
        ),
        ("bind 127.0.0.1\n hosts /none\n file /none b".to_owned(), "", true),
        ("bind 127.0.0.1\n whoami\n}\n. {\n bind 127.0.0.1\n whoami".to_owned(), "", false),
    ] {
        let text = format!(". {{\n {lines}\n}}\n");
        let path = at("Corefile", &text);
        let port = format!("-dns.port={port}");
        let flags: Vec<&str> = flags.split(' ').filter(|flag| !flag.is_empty()).collect();
        let check = [&["check", path.as_str(), &port][..], &flags].concat();
        let (status, out, error) = process::run(&check);
        assert_eq!(status.success(), is_good, "check {flags:?} {text}{out}{error}");
        let folder = tempfile::tempdir().unwrap();
        let mut start = Command::new(process::binary())
            .args(["-conf", &path, &port, "--socket=", "-metrics-listen-address="])
            .args(&flags)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = std::net::SocketAddr::from((
            [127, 0, 0, 1],
            port.split('=').nth(1).unwrap().parse().unwrap(),
        ));
        let client = Client::new(address).within(Duration::from_millis(200));
        let mut ended = None;
        poll::wait_for("the start to end or to serve", SOON, || {
            ended = start.try_wait().unwrap();
            ended.is_some() || client.udp(&version()).is_ok()
        });
        // Asked to, it ends after its server, which would answer in the place of the next one.
        if ended.is_none() {
            kill(Pid::from_raw(start.id().cast_signed()), Signal::SIGTERM).unwrap();
            start.wait().unwrap();
        }
        assert_eq!(ended.is_none(), is_good, "start {flags:?} {text}{ended:?}");
    }
}

#[test]
fn a_refused_reload_is_reported_once_and_stays_visible() {
    let text = ".:@dns@ {\n    whoami\n    reload 2s 1s\n    prometheus 127.0.0.1:@metrics@\n    @more@\n}\n";
    let setup = Setup::new(text).word("more", "errors");
    let mut nodens = setup.arguments(&["--socket=@folder@/nodens.sock"]).start();
    let refused = || nodens.metrics().sum("nodens_configuration_refused", &[]);
    assert_eq!(refused(), 0.0);
    nodens.write_corefile(&text.replace("@more@", "cahce\n    health :x"));
    poll::wait_for("the refusal", SOON, || refused() == 1.0);
    poll::wait_for("a second attempt", SOON, || {
        nodens.metrics().sum("coredns_reload_failed_total", &[]) >= 2.0
    });
    nodens.wait_for_log(
        "the configuration was not reloaded; the running one stays: it has 2 errors",
        SOON,
    );
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    let (_, status, _) = process::run(&["status", "--socket", &socket]);
    assert!(status.contains("it has 2 errors, the first: "), "{status}");
    assert!(status.contains(":5: there is no directive \"cahce\""), "{status}");
    nodens.write_corefile(&text.replace("@more@", "errors\n    log"));
    nodens.wait_for_log("reloaded the configuration", SOON);
    poll::wait_for("the end of the refusal", SOON, || refused() == 0.0);
    let log = nodens.stop_for_log(SOON);
    let (refusals, lines): (Vec<&str>, Vec<&str>) =
        log.lines().partition(|line| line.contains("the configuration was not reloaded"));
    assert_eq!(refusals.len(), 1, "{log}");
    for once in [":5: there is no directive", ":6: health: "] {
        assert_eq!(lines.iter().filter(|line| line.contains(once)).count(), 1, "{once}\n{log}");
    }
    assert!(!log.contains("nothing was started"), "{log}");
}

#[test]
fn a_reload_that_would_silence_the_node_is_held_back() {
    let (up, dead) = (Upstream::with_zone(ZONE), Upstream::with_zone(ZONE));
    dead.always(Act::Drop);
    let text =
        ".:@dns@ {\n    forward . @up@\n    reload 2s 1s\n    prometheus 127.0.0.1:@metrics@\n}\n";
    let setup = Setup::new(text).word("up", up.address());
    let nodens = setup.arguments(&["--socket=@folder@/nodens.sock"]).start();
    let answered = |name: &str| {
        let answer = nodens.client().ask(name, RecordType::A).unwrap();
        answer.normal.rcode == "NOERROR"
    };
    assert!(answered("www.test."));
    nodens.write_corefile(&text.replace("@up@", &dead.address().to_string()));
    nodens.wait_for_log(
        "held back, since the node would be silent: no upstream of `forward .` answers",
        SOON,
    );
    assert!(answered("www.test."));
    // It is meant.
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    let (status, _, error) = process::run(&["reload", "--force", "--socket", &socket]);
    assert!(status.success(), "{error}");
    nodens.wait_for_log("reloaded the configuration", SOON);
}

/// What has been queried counts from the start on, not from the last reload.
#[test]
fn an_address_that_was_queried_before_an_earlier_reload_is_not_given_up() {
    let text = ".:@dns@ {\n    whoami\n    reload 2s 1s\n}\n";
    let nodens = Setup::new(text).start();
    nodens.client().ask("www.test.", RecordType::A).unwrap();
    nodens.signal(nix::sys::signal::Signal::SIGHUP);
    nodens.wait_for_log("reloaded the configuration", SOON);
    nodens.write_corefile(&text.replace("@dns@", "@metrics@"));
    nodens.wait_for_log("held back, since the node would be silent: queries arrive at", SOON);
}

#[test]
fn a_stub_domain_that_is_served_already_is_left_out() {
    let template = "corp.test:@dns@ {\n    whoami\n}\n.:@dns@ {\n    whoami\n    prometheus 127.0.0.1:@metrics@\n}\n";
    let nodens = Setup::new(".:@dns@ {\n    whoami\n}\n")
        .file("base", template)
        .file("cm/stubDomains", r#"{"Corp.test": ["203.0.113.1"], "other.test": ["203.0.113.1"]}"#)
        .arguments(&["-basecorefile=@folder@/base", "-kubednscm=@folder@/cm", "-dns.port=@dns@"])
        .start();
    nodens.wait_for_log("the stub domain corp.test.", SOON);
    let metrics = nodens.metrics();
    let errors = metrics.sum("coredns_nodecache_setup_errors_total", &[("errortype", "configmap")]);
    assert!(errors >= 1.0, "{errors}");
    nodens.signal(nix::sys::signal::Signal::SIGHUP);
    nodens.wait_for_log("reloaded the configuration", SOON);
}

#[test]
fn log_levels_that_are_none_are_refused() {
    for level in ["verbose", "loud"] {
        let (status, _, error) = process::run(&[&format!("--log-level={level}")]);
        assert!(!status.success() && error.contains("expected error, warn, info"), "{error}");
    }
}

/// Directives of the effect `Operations` have no say in any answer.
#[test]
fn operations_change_no_octet_of_an_answer() {
    let block = ".:@dns@ {\n    hosts {\n        192.0.2.80 a.test\n        fallthrough\n    }\n    template IN A t.test {\n        answer \"{{ .Name }} 30 IN A 192.0.2.7\"\n    }\n    forward . @up@\n    @more@\n}\n";
    let line = |name: &str| match name {
        "bind" => "    bind 127.0.0.1\n".to_owned(),
        "log" => "    log . {combined}\n".to_owned(),
        "health" | "ready" | "prometheus" => {
            format!("    {name} 127.0.0.1:@{}@\n", name.replace("prometheus", "metrics"))
        }
        "timeouts" => "    timeouts {\n        idle 20s\n    }\n".to_owned(),
        // Not reached here: what exceeds it is not answered.
        "limit" => "    limit 100000\n".to_owned(),
        // Nobody takes what is sent there.
        "dnstap" => "    dnstap @folder@/tap.sock full\n".to_owned(),
        // Asked over UDP all the same.
        "tls" => "    tls cert.pem key.pem\n".to_owned(),
        "reload" | "debug" | "errors" => format!("    {name}\n"),
        other => panic!("{other} has no line in this test"),
    };
    let operations = table::all().iter().filter(|entry| entry.effect == Effect::Operations);
    let lines: String = operations.map(|entry| line(entry.name)).collect();
    let up = Upstream::with_zone(ZONE);
    let Pair { certificate, key } =
        Authority::new("of TLS").unwrap().server(&["dns.test"]).unwrap();
    let start = |more: &str| {
        let encrypted = if more.is_empty() { " " } else { " tls://.:@dns2@ " };
        let block = block.replace("    @more@\n", more).replacen(' ', encrypted, 1);
        let setup = Setup::new(&block).file("cert.pem", &certificate).file("key.pem", &key);
        setup.word("up", up.address()).start()
    };
    let (without, with) = (start(""), start(&lines));
    let mut compared = 0;
    for name in
        ["www.test.", "none.test.", "a.test.", "x.t.test.", "WwW.TeSt.", "version.bind.", "."]
    {
        for kind in
            [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::SOA, RecordType::TXT]
        {
            let ask = |nodens: &tests::process::Nodens| {
                let bytes = nodens.client().ask(name, kind).unwrap().bytes;
                bytes.get(2..).unwrap().to_vec()
            };
            assert_eq!(ask(&without), ask(&with), "{name} {kind}");
            compared += 1;
        }
    }
    assert_eq!(compared, 35);
}
