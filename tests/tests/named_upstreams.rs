//! Upstreams by name: looked up at other servers, followed as their addresses change, kept while no server can be asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;
use tests::peers::{have, servers};
use tests::poll::{until, wait_for};
use tests::process::{Nodens, Ready, Setup, run};
use tests::upstream::{Act, Upstream};
use tests::zone::Zone;

const SOON: Duration = Duration::from_secs(20);

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:@metrics@
    forward . dns.example:@port@ {
        resolver @resolver@
    }
}
";

/// Who says where `dns.example` is.
fn names(addresses: &[&str]) -> Upstream {
    let upstream = Upstream::with_zone(
        "$ORIGIN example.\n$TTL 5\n@ IN SOA ns.example. admin.example. 1 3600 600 86400 5\nother IN A 127.0.0.99\n",
    );
    move_to(&upstream, addresses);
    upstream
}

fn move_to(names: &Upstream, addresses: &[&str]) {
    names.change(|zone| {
        let name = Name::from_ascii("dns.example.").unwrap();
        zone.remove(&name);
        for address in addresses {
            let data = RData::A(address.parse::<Ipv4Addr>().unwrap().into());
            zone.add(Record::from_rdata(name.clone(), 5, data));
        }
    });
}

/// A server of `test.` at an address, with a record that says which one it is.
fn server(ip: &str, port: u16) -> io::Result<Upstream> {
    let text = format!(
        "$ORIGIN test.\n$TTL 1\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 1\nwho IN A {ip}\n"
    );
    let address = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
    Upstream::start_at(Zone::parse(&text).unwrap(), address)
}

/// Two servers at one port.
fn two() -> (Upstream, Upstream) {
    for _ in 0..50 {
        let first = server("127.0.2.1", 0).unwrap();
        if let Ok(second) = server("127.0.2.2", first.address().port()) {
            return (first, second);
        }
    }
    panic!("no port is free at both addresses");
}

fn setup(names: SocketAddr, port: u16) -> Setup {
    Setup::new(COREFILE)
        .word("resolver", names.to_string())
        .word("port", port.to_string())
        .ready(Ready::Answer)
}

/// Which server answers; the code if none does.
fn who(nodens: &Nodens) -> String {
    let Ok(answer) = nodens.client().ask("who.test.", RecordType::A) else {
        return "silence".to_owned();
    };
    answer.data(RecordType::A).first().cloned().unwrap_or(answer.normal.rcode)
}

fn told(nodens: &Nodens) -> Value {
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, out, _) = run(&["status", "-o", "json", "--socket", &socket]);
    let status: Value = serde_json::from_str(&out).unwrap_or_default();
    status["forwards"][0]["names"][0].clone()
}

#[test]
fn addresses_of_a_name_are_followed_and_kept_while_no_server_tells_them() {
    let (first, second) = two();
    let names = names(&["127.0.2.1"]);
    let nodens = setup(names.address(), first.address().port()).start();
    wait_for("the first server", SOON, || who(&nodens) == "127.0.2.1");
    assert_eq!(told(&nodens)["addresses"][0], "127.0.2.1");
    // It has moved.
    move_to(&names, &["127.0.2.2"]);
    wait_for("the second server", SOON, || who(&nodens) == "127.0.2.2");
    assert!(second.total() > 0);
    // No server says where it is any more: it is where it was.
    names.always(Act::Drop);
    let failures = |metrics: &tests::metrics::Metrics| {
        metrics.sum("nodens_forward_name_failures_total", &[("name", "dns.example")])
    };
    nodens.wait_for_metrics("a failure", SOON, |metrics| failures(metrics) >= 2.0);
    assert_eq!(who(&nodens), "127.0.2.2");
    let name = told(&nodens);
    assert_eq!((&name["addresses"][0], name["error"].is_string()), (&"127.0.2.2".into(), true));
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, text, _) = run(&["status", "--socket", &socket]);
    assert!(text.contains("dns.example:") && text.contains("127.0.2.2"), "{text}");
    // Not even that it does not exist makes it forget.
    names.always(Act::Answer);
    move_to(&names, &[]);
    nodens.wait_for_metrics("more failures", SOON, |metrics| failures(metrics) >= 4.0);
    assert_eq!(who(&nodens), "127.0.2.2");
    // Back, with both: the one that is dead is no trouble.
    drop(second);
    move_to(&names, &["127.0.2.1", "127.0.2.2"]);
    wait_for("the first server again", SOON, || who(&nodens) == "127.0.2.1");
    assert!(until(SOON, || told(&nodens)["error"].is_null()));
}

#[test]
fn a_start_without_a_server_to_ask_is_mended_by_itself() {
    let (first, _second) = two();
    let names = names(&["127.0.2.1"]);
    names.always(Act::Drop);
    let nodens = setup(names.address(), first.address().port()).start();
    wait_for("a failure that is told", SOON, || told(&nodens)["error"].is_string());
    assert_eq!(who(&nodens), "SERVFAIL");
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, text, _) = run(&["status", "--socket", &socket]);
    assert!(text.starts_with("FAIL") && text.contains("cannot be resolved"), "{text}");
    names.always(Act::Answer);
    wait_for("the server", SOON * 2, || who(&nodens) == "127.0.2.1");
}

#[test]
fn a_reload_to_a_name_waits_for_its_addresses() {
    let (first, second) = two();
    let names = names(&["127.0.2.2"]);
    let plain = format!(
        ".:@dns@ {{\n bind 127.0.0.1\n prometheus 127.0.0.1:@metrics@\n forward . {}\n}}\n",
        first.address()
    );
    let nodens = Setup::new(&plain).start();
    assert_eq!(who(&nodens), "127.0.2.1");
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let reload = |resolver: SocketAddr, host: &str| {
        let to = format!("{host}:{} {{\n resolver {resolver}\n}}", second.address().port());
        let (before, _) = plain.split_once(" forward . ").unwrap();
        nodens.write_corefile(&format!("{before} forward . {to}\n}}\n"));
        run(&["reload", "--socket", &socket])
    };
    // One that does not exist is held back, and so is one that resolves to this server alone.
    let (status, out, err) = reload(names.address(), "nowhere.example");
    assert!(!status.success(), "{out}{err}");
    assert_eq!(who(&nodens), "127.0.2.1");
    let (status, out, err) = reload(names.address(), "dns.example");
    assert!(status.success(), "{out}{err}");
    assert_eq!(who(&nodens), "127.0.2.2");
}

/// Over TLS and HTTPS the certificate has to be for the name that is written.
#[test]
fn peers_are_asked_by_name_and_only_with_a_certificate_for_it() {
    if !have(&["knotd", "unbound"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), servers::Certificates::new());
    let unbound = servers::unbound(knot.address(), &certificates);
    let names = Upstream::with_zone(&format!(
        "$ORIGIN peers.test.\n$TTL 60\n@ IN SOA ns admin 1 3600 600 86400 60\ndns IN A {ip}\nother IN A {ip}\n",
        ip = unbound.tls.ip()
    ));
    let ask = |host: &str, scheme: &str, port: u16| {
        let corefile = format!(
            ".:@dns@ {{\n bind 127.0.0.1\n forward . {scheme}://{host}:{port} {{\n resolver {}\n tls @folder@/ca.pem\n }}\n}}\n",
            names.address()
        );
        let nodens = Setup::new(&corefile).file("ca.pem", &certificates.authority).start();
        let answer = || nodens.client().ask("a1.peers.test.", RecordType::A).unwrap();
        let is_told = || !told(&nodens)["addresses"].as_array().is_none_or(Vec::is_empty);
        wait_for("the name", SOON, is_told);
        wait_for("an upstream", SOON, || has_upstream(&nodens));
        answer().normal.rcode
    };
    for (scheme, port) in [("tls", unbound.tls.port()), ("https", unbound.https.port())] {
        assert_eq!(ask("dns.peers.test", scheme, port), "NOERROR", "{scheme}");
        assert_eq!(ask("other.peers.test", scheme, port), "SERVFAIL", "{scheme}");
    }
}

fn has_upstream(nodens: &Nodens) -> bool {
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, out, _) = run(&["status", "-o", "json", "--socket", &socket]);
    let status: Value = serde_json::from_str(&out).unwrap_or_default();
    status["forwards"][0]["upstreams"].as_array().is_some_and(|all| !all.is_empty())
}

#[test]
fn what_cannot_be_followed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile").to_string_lossy().into_owned();
    let check = |forward: &str| {
        std::fs::write(&path, format!(".:5398 {{\n bind 127.0.0.1\n {forward}\n}}\n")).unwrap();
        let (status, out, err) = run(&["check", &path]);
        (status.success(), format!("{out}{err}"))
    };
    let (good, told) = check("forward . tls://dns.quad9.net https://dns.google");
    assert!(good && !told.contains("warning"), "{told}");
    let (good, told) = check("forward . dns.example {\n resolver 127.0.0.1:5398\n }");
    assert!(!good && told.contains("is an address that this server listens on"), "{told}");
    let (good, told) = check("forward . 10.0.0.256");
    assert!(!good && told.contains("is no address, no host name and no file"), "{told}");
}
