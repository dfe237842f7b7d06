//! DNS over TLS and HTTPS, as clients use it: certificates that are right, wrong, rotated and broken, clients that have to prove who
//! they are, and those that send what they like.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use tests::api::certificates::{Authority, Pair};
use tests::client::Question;
use tests::poll::{pause, wait_for};
use tests::ports;
use tests::process::{Nodens, Ready, Setup, run};
use tests::tls::{TlsClient, TlsConnection};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "dns.test";

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n\
    www IN A 192.0.2.1\nslow IN A 192.0.2.2\n";

const COREFILE: &str = ".:@dns@ tls://.:@dns2@ https://.:@https@ {
    bind 127.0.0.1
    tls cert.pem key.pem @tls@
    timeouts {
        read 1s
        idle @idle@
    }
    hosts {
        10.0.0.1 one.example
        fallthrough
    }
    forward . @up@
    cache 30
    reload 2s
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

/// A server with certificates, and its upstream.
struct World {
    authority: Authority,
    up: Upstream,
    https: u16,
    nodens: Nodens,
}

fn authority() -> Authority {
    Authority::new("those who sign").unwrap()
}

fn pair(authority: &Authority) -> Pair {
    authority.server(&[NAME, "127.0.0.1"]).unwrap()
}

/// Starts one whose `tls` line ends with `tls`.
fn world(tls: &str, idle: &str) -> World {
    let (authority, up, https) = (authority(), Upstream::with_zone(ZONE), ports::one());
    let Pair { certificate, key } = pair(&authority);
    let setup = Setup::new(COREFILE)
        .word("https", https)
        .word("tls", tls)
        .word("idle", idle)
        .word("up", up.address())
        .file("cert.pem", &certificate)
        .file("key.pem", &key)
        .file("ca.pem", authority.pem());
    World { nodens: setup.start(), authority, up, https }
}

impl World {
    fn tls(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.nodens.ports().dns2).into()
    }

    fn https(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.https).into()
    }

    fn client(&self, own: Option<&Pair>) -> TlsClient {
        TlsClient::new(self.authority.pem(), own, &["dot"])
    }

    fn connect(&self) -> TlsConnection {
        self.client(None).connect(self.tls(), NAME).unwrap()
    }

    fn curl(&self, words: &[&str]) -> (String, Vec<u8>) {
        let ca = self.nodens.folder().join("ca.pem");
        let mut command = Command::new("curl");
        command.args(["-s", "-i", "--max-time", "10", "--cacert"]).arg(ca).args(words);
        let out = command.output().expect("curl");
        let head = out.stdout.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
        let (head, body) = out.stdout.split_at(head);
        let body = body.get(4..).unwrap_or_default();
        (String::from_utf8_lossy(head).into_owned(), body.to_vec())
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.https)
    }
}

fn question(name: &str) -> Question {
    Question::new(name, RecordType::A)
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// What a program prints, in one line.
fn output(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output().expect(program);
    String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn clients_of_all_kinds_are_answered() {
    let world = world("", "10s");
    let (tls, https) = (world.nodens.ports().dns2.to_string(), world.https.to_string());
    let ca = world.nodens.folder().join("ca.pem").to_string_lossy().into_owned();
    let (dig_ca, kdig_ca) = (format!("+tls-ca={ca}"), format!("+tls-ca={ca}"));
    for (name, wanted) in [("one.example", "10.0.0.1"), ("www.test", "192.0.2.1")] {
        for way in ["+tls", "+https", "+https-get"] {
            let port = if way == "+tls" { &tls } else { &https };
            let words =
                ["@127.0.0.1", "-p", port, way, &dig_ca, "+tls-hostname=dns.test", "+short", name];
            assert_eq!(output("dig", &words), wanted, "{way}");
        }
        for way in ["+tls", "+https"] {
            let port = if way == "+tls" { &tls } else { &https };
            let words =
                ["@127.0.0.1", "-p", port, way, &kdig_ca, "+tls-hostname=dns.test", "+short", name];
            assert_eq!(output("kdig", &words), wanted, "{way}");
        }
    }
    // A certificate is for its name.
    let words =
        ["@127.0.0.1", "-p", &tls, "+tls", &kdig_ca, "+tls-hostname=other.test", "one.example"];
    assert!(!output("kdig", &words).contains("10.0.0.1"));

    let query = question("one.example.").to_bytes();
    let file = world.nodens.folder().join("query");
    std::fs::write(&file, &query).unwrap();
    let data = format!("@{}", file.display());
    let kind = "content-type: application/dns-message";
    for version in ["--http1.1", "--http2"] {
        let post = [version, "-H", kind, "--data-binary", &data, &world.url("/dns-query")];
        let (head, body) = world.curl(&post);
        assert!(head.contains(" 200") && head.contains("application/dns-message"), "{head}");
        assert!(head.contains("cache-control: max-age=3600"), "{head}");
        assert_eq!(addresses(&Message::from_vec(&body).unwrap()), ["10.0.0.1"]);
        for (words, status) in [
            (&[version, &world.url("/")][..], " 404"),
            (&[version, &world.url("/dns-query")], " 400"),
            (&[version, &world.url("/dns-query?dns=AA")], " 400"),
            (&[version, "-X", "PUT", &world.url("/dns-query")], " 405"),
            (&[version, "--data-binary", &data, &world.url("/dns-query")], " 415"),
        ] {
            let (head, _) = world.curl(words);
            let first = head.lines().next().unwrap_or_default();
            assert!(first.contains(status), "{words:?}: {head}");
        }
    }
    let metrics = world.nodens.metrics();
    let label = format!("tls://127.0.0.1:{tls}");
    assert!(metrics.sum("coredns_dns_requests_total", &[("server", &label)]) >= 4.0);
    assert!(metrics.sum("coredns_dns_https_responses_total", &[("status", "404")]) >= 2.0);
    world.nodens.wait_for_metrics("a failed handshake", SOON, |metrics| {
        metrics.sum("nodens_tls_handshakes_total", &[("result", "failed")]) >= 1.0
    });
}

#[test]
fn answers_come_as_they_are_ready_and_sessions_are_resumed() {
    let world = world("", "10s");
    world.up.on_query(|seen| match seen.name.starts_with("slow") {
        true => Act::Delay(Duration::from_millis(700), Box::new(Act::Answer)),
        false => Act::Answer,
    });
    let client = world.client(None);
    let mut connection = client.connect(world.tls(), NAME).unwrap();
    connection
        .send(&[question("slow.test."), question("one.example."), question("www.test.")])
        .unwrap();
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(addresses(&connection.receive().unwrap().unwrap()).join(" "));
    }
    assert_eq!((got[0].as_str(), got[2].as_str()), ("10.0.0.1", "192.0.2.2"), "{got:?}");
    // Octets that trickle in, and a hundred queries at once.
    let message = question("one.example.").to_bytes();
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    for octet in &framed {
        connection.send_raw(&[*octet]).unwrap();
    }
    assert_eq!(addresses(&connection.receive().unwrap().unwrap()), ["10.0.0.1"]);
    connection.send(&vec![question("one.example."); 100]).unwrap();
    for _ in 0..100 {
        assert_eq!(addresses(&connection.receive().unwrap().unwrap()), ["10.0.0.1"]);
    }
    assert!(!connection.is_resumed());
    assert!(client.connect(world.tls(), NAME).unwrap().is_resumed());
    // Also after a reload that leaves the line as it is.
    let socket = world.nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let corefile = std::fs::read_to_string(world.nodens.folder().join("Corefile")).unwrap();
    world.nodens.write_corefile(&corefile.replace("cache 30", "cache 60"));
    assert!(run(&["reload", "--socket", &socket]).0.success());
    assert!(client.connect(world.tls(), NAME).unwrap().is_resumed());
    // The server counts a handshake when it has heard its end.
    world.nodens.wait_for_metrics("both to be counted", SOON, |metrics| {
        metrics.sum("nodens_tls_handshakes_total", &[("result", "resumed")]) == 2.0
    });
    // What is served there is explained.
    let at = world.tls().to_string();
    let (status, said, error) =
        run(&["explain", "one.example", "--server", &at, "--socket", &socket]);
    assert!(status.success() && said.contains("10.0.0.1"), "{said}{error}");
}

#[test]
fn certificates_are_read_again_without_an_end_of_connections() {
    let world = world("", "1m");
    let (mut old, before) = (world.connect(), pair(&world.authority));
    let first = old.certificate();
    // The key first, as a copy would do it: the two do not fit for a moment.
    world.nodens.write_file("key.pem", &before.key);
    world.nodens.write_file("cert.pem", &before.certificate);
    wait_for("the new certificate", SOON, || world.connect().certificate() != first);
    let second = world.connect().certificate();
    assert_eq!(addresses(&old.ask(&question("one.example.")).unwrap()), ["10.0.0.1"]);

    world.nodens.write_file("cert.pem", "no certificate");
    let ready = || {
        let page = world.nodens.get(world.nodens.ports().ready, "/ready?verbose");
        page.map_or(String::new(), |page| page.body)
    };
    wait_for("the condition", SOON, || ready().contains("certificate_unreadable"));
    assert!(ready().contains("there is no certificate in it"), "{}", ready());
    assert_eq!(world.connect().certificate(), second);
    // A reload with such a file is refused.
    let socket = world.nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let corefile = std::fs::read_to_string(world.nodens.folder().join("Corefile")).unwrap();
    world.nodens.write_corefile(&corefile.replace("cache 30", "cache 60"));
    let (status, _, said) = run(&["reload", "--socket", &socket]);
    assert!(!status.success() && said.contains("there is no certificate in it"), "{said}");
    assert_eq!(addresses(&old.ask(&question("one.example.")).unwrap()), ["10.0.0.1"]);
    world.nodens.write_file("cert.pem", &before.certificate);
    wait_for("its end", SOON, || !ready().contains("certificate_unreadable"));
    let (status, _, said) = run(&["reload", "--socket", &socket]);
    assert!(status.success(), "{said}");
    assert_eq!(addresses(&old.ask(&question("one.example.")).unwrap()), ["10.0.0.1"]);

    // The port outlives a crash; a block that goes takes it along.
    world.nodens.signal_server(Signal::SIGKILL);
    let asked = |world: &World| {
        let mut connection = world.client(None).connect(world.tls(), NAME).ok()?;
        connection.ask(&question("one.example.")).ok()
    };
    wait_for("an answer after a crash", SOON, || asked(&world).is_some());
    // A crash while the key is missing takes the encrypted listeners only.
    let key = std::fs::read_to_string(world.nodens.folder().join("key.pem")).unwrap();
    std::fs::remove_file(world.nodens.folder().join("key.pem")).unwrap();
    world.nodens.signal_server(Signal::SIGKILL);
    let plainly = || world.nodens.client().ask("one.example.", RecordType::A).is_ok();
    wait_for("plain DNS", SOON, || ready().contains("is not served") && plainly());
    world.nodens.write_file("key.pem", &key);
    wait_for("a reload", SOON, || run(&["reload", "--socket", &socket]).0.success());
    wait_for("an answer over TLS", SOON, || asked(&world).is_some());
    let plain = corefile.replace(&format!(" tls://.:{}", world.nodens.ports().dns2), "");
    world.nodens.write_corefile(&plain);
    // Clients have used it, so that it has to be meant.
    let (status, _, said) = run(&["reload", "--socket", &socket]);
    assert!(!status.success() && said.contains("which it does not listen on"), "{said}");
    let (status, _, said) = run(&["reload", "--force", "--socket", &socket]);
    assert!(status.success(), "{said}");
    wait_for("its end", SOON, || TcpStream::connect(world.tls()).is_err());
    assert!(TcpStream::connect(world.https()).is_ok());
}

#[test]
fn clients_prove_who_they_are() {
    let world = world("ca.pem {\n client_auth require_and_verify\n }", "10s");
    let answers = |own: Option<&Pair>| {
        let mut connection = world.client(own).connect(world.tls(), NAME)?;
        connection.ask(&question("one.example."))
    };
    let own = world.authority.client("pod").unwrap();
    assert_eq!(addresses(&answers(Some(&own)).unwrap()), ["10.0.0.1"]);
    assert!(answers(None).is_err());
    let foreign = authority().client("pod").unwrap();
    assert!(answers(Some(&foreign)).is_err());
    let expired = world.authority.client_for("pod", -1).unwrap();
    assert!(answers(Some(&expired)).is_err());
    // A session of before counts for nothing once clients have to prove more.
    let corefile = std::fs::read_to_string(world.nodens.folder().join("Corefile")).unwrap();
    let open = corefile.replace("client_auth require_and_verify", "client_auth request");
    world.nodens.write_corefile(&open);
    let client = world.client(None);
    wait_for("open doors", SOON, || {
        let connected = client.connect(world.tls(), NAME);
        connected.and_then(|mut open| open.ask(&question("one.example."))).is_ok()
    });
    world.nodens.write_corefile(&corefile);
    wait_for("closed doors", SOON, || {
        let connected = client.connect(world.tls(), NAME);
        connected.and_then(|mut open| open.ask(&question("one.example."))).is_err()
    });
}

#[test]
fn those_who_send_what_they_like_are_ended() {
    let world = world("", "2s");
    let begun = Instant::now();
    // Nothing, rubbish, and the beginning of a handshake.
    let mut silent: Vec<TcpStream> = Vec::new();
    for (address, octets) in [
        (world.tls(), &b""[..]),
        (world.tls(), b"GET / HTTP/1.1\r\n\r\n"),
        (world.tls(), b"\x16\x03\x01\x02\x00\x01"),
        (world.https(), b"\x16\x03\x01\xff\xff\x01"),
        (world.https(), b"\x00\x1f"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(octets).unwrap();
        silent.push(stream);
    }
    // One that is idle after a query.
    let mut idle = world.connect();
    idle.ask(&question("one.example.")).unwrap();
    for mut stream in silent {
        let mut rest = Vec::new();
        // Reset or ended.
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(matches!(idle.receive(), Ok(None)), "the end is said");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // A flood of connections of one client, of which some get no place.
    let flood: Vec<TcpStream> =
        (0..600).filter_map(|_| TcpStream::connect(world.tls()).ok()).collect();
    assert_eq!(
        world.nodens.client().ask("one.example.", RecordType::A).unwrap().message.answers.len(),
        1
    );
    drop(flood);
    wait_for("places", SOON, || {
        let connected = world.client(None).connect(world.tls(), NAME);
        connected.and_then(|mut open| open.ask(&question("one.example."))).is_ok()
    });
    // Messages that are none end the connection or are passed over, and take nothing for good.
    let mut broken = world.connect();
    broken.send_raw(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(addresses(&broken.ask(&question("one.example.")).unwrap()), ["10.0.0.1"]);
    drop(broken);
    let big = world.nodens.folder().join("big");
    std::fs::write(&big, vec![0; 70_000]).unwrap();
    let data = format!("@{}", big.display());
    let kind = "content-type: application/dns-message";
    let (head, _) = world.curl(&["-H", kind, "--data-binary", &data, &world.url("/dns-query")]);
    assert!(head.contains(" 413"), "{head}");
    pause(Duration::from_millis(100));
    world.nodens.wait_for_metrics("nothing to be held", SOON, |metrics| {
        metrics.sum("nodens_tcp_connections", &[]) == 0.0
            && metrics.sum("nodens_tcp_buffer_bytes", &[]) == 0.0
    });
}

#[test]
fn mistakes_are_named_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let path = folder.path().join("Corefile");
        std::fs::write(&path, text).unwrap();
        let (status, out, err) = run(&["check", &path.to_string_lossy()]);
        (status.success(), format!("{out}{err}"))
    };
    let (authority, other) = (authority(), authority());
    let (Pair { certificate, .. }, Pair { key, .. }) = (pair(&authority), pair(&other));
    std::fs::write(folder.path().join("cert.pem"), certificate).unwrap();
    std::fs::write(folder.path().join("other.pem"), key).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (text, wanted) in [
        ("tls://. {\n whoami\n}".to_owned(), "Corefile:1: tls://.:853 has no certificate"),
        (
            format!("tls://. {{\n tls {} {}\n whoami\n}}", path("cert.pem"), path("other.pem")),
            "Corefile:2: tls: the certificate or its key is not usable",
        ),
        (
            format!(
                "tls://.:53 {{\n tls {} {}\n whoami\n}}\n. {{\n whoami\n}}",
                path("cert.pem"),
                path("other.pem")
            ),
            "Corefile:5: port 53 is for tls:// already",
        ),
    ] {
        let (is_good, said) = check(&text);
        assert!(!is_good && said.contains(wanted), "{text}\n{said}");
    }
    // The files may be on another machine, where the server starts.
    let elsewhere =
        format!("tls://. {{\n tls {} {}\n whoami\n}}", path("cert.pem"), path("none.pem"));
    let (is_good, said) = check(&elsewhere);
    assert!(is_good && said.contains("Corefile:2: warning: tls: "), "{said}");
    let here = Setup::new(&elsewhere).ready(Ready::No).spawn();
    let said = here.wait_for_log("none.pem: I/O error", SOON);
    assert!(said.contains("Corefile:2: tls: "), "{said}");
}
