//! Upstreams: dead, slow, refusing, truncating, without TCP, without EDNS, with a bad certificate.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tests::doctor::{BOUND, Findings};
use tests::ports;
use tests::upstream::{Act, Transport, Upstream};

use super::resolver;

/// What the doctor says of upstreams, without a server of DNS.
fn examined(upstreams: &[SocketAddr]) -> Findings {
    let to: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
    let corefile =
        format!(".:{} {{\n    bind 127.0.0.1\n    forward . {}\n}}\n", ports::one(), to.join(" "));
    written(&corefile)
}

fn written(corefile: &str) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let path = path.to_string_lossy();
    Findings::of(&["upstreams", "--socket", "/nonexistent/nodens.sock", "-conf", &path])
}

fn misbehaving(
    act: impl Fn(&tests::upstream::Seen) -> Act + Send + 'static,
) -> (Upstream, Findings) {
    let upstream = resolver();
    upstream.on_query(act);
    let found = examined(&[upstream.address()]);
    (upstream, found)
}

#[test]
fn upstreams_that_are_well() {
    let upstream = resolver();
    let found = examined(&[upstream.address()]);
    for id in ["upstream-udp", "upstream-tcp", "upstream-edns", "upstream-truncation"] {
        found.demand(id, "ok", &upstream.address().to_string());
    }
    found.demand("upstream-fragments", "skipped", "no answer that needs fragments");
    found.demand("upstream-tls", "skipped", "no upstream over TLS");
}

#[test]
fn a_dead_one_beside_a_good_one() {
    let (good, dead) = (resolver(), resolver());
    dead.always(Act::Drop);
    let found = examined(&[good.address(), dead.address()]);
    found.demand("upstream-udp", "problem", &format!("{}: no answer within", dead.address()));
    assert!(!found.has("upstream-udp", "problem", &good.address().to_string()));
    assert!(found.took < BOUND, "{:?}", found.took);
}

#[test]
fn a_slow_one() {
    let (_upstream, found) =
        misbehaving(|_| Act::Delay(Duration::from_millis(500), Box::new(Act::Answer)));
    found.demand("upstream-udp", "warning", " took 5");
}

#[test]
fn one_that_refuses() {
    let (_upstream, found) = misbehaving(|_| Act::Rcode(ResponseCode::Refused));
    found.demand("upstream-udp", "warning", "answers");
}

#[test]
fn one_that_truncates_everything() {
    let (_upstream, found) = misbehaving(|_| Act::Truncate);
    found.demand("upstream-truncation", "problem", "truncates an answer of");
}

/// Nothing listens for TCP.
#[test]
fn one_without_tcp() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let zone = tests::zone::Zone::parse(super::ROOT).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let _ = socket.send_to(&zone.answer(&query).to_vec().unwrap(), from);
        }
    });
    let found = examined(&[address]);
    found.demand("upstream-tcp", "problem", "but not over TCP: Connection refused");
    found.demand("upstream-udp", "ok", "");
    // Nor has it EDNS.
    found.demand("upstream-edns", "warning", "no OPT in its answer");
}

#[test]
fn one_without_edns() {
    let (_upstream, found) = misbehaving(|_| Act::NoEdns);
    found.demand("upstream-edns", "warning", "to EDNS");
    // A firewall that drops what it does not know: the last count of the header is that of OPT.
    let (_upstream, found) = misbehaving(|seen| match seen.bytes.get(11) {
        Some(0) => Act::Answer,
        _ => Act::Drop,
    });
    found.demand("upstream-edns", "problem", "but with EDNS: no answer");
    found.demand("upstream-udp", "ok", "");
}

#[test]
fn one_that_closes_tcp() {
    let (_upstream, found) = misbehaving(|seen| match seen.transport {
        Transport::Tcp => Act::Close,
        Transport::Udp => Act::Answer,
    });
    found.demand("upstream-tcp", "problem", "but not over TCP");
}

mod tls {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use hickory_proto::op::Message;
    use tests::api::certificates::Authority;
    use tests::ports;

    use super::written;

    /// A server of DNS over TLS with a certificate of its own authority for 127.0.0.1.
    fn start() -> (std::net::SocketAddr, Authority) {
        let authority = Authority::new("upstream").unwrap();
        let config = authority.server_config().unwrap();
        // Not HTTP.
        let mut config = (*config).clone();
        config.alpn_protocols.clear();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let zone = tests::zone::Zone::parse(super::super::ROOT).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::StreamOwned::new(session, stream);
                let zone = zone.clone();
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        if stream.read_exact(&mut query).is_err() {
                            return;
                        }
                        let Ok(query) = Message::from_vec(&query) else { return };
                        let answer = zone.answer(&query).to_vec().unwrap();
                        let mut framed =
                            u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
                        framed.extend_from_slice(&answer);
                        if stream.write_all(&framed).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, authority)
    }

    #[test]
    fn one_whose_certificate_is_good_and_one_whose_authority_is_another() {
        let (address, authority) = start();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.crt");
        for (pem, verdict, words) in [
            (authority.pem().to_owned(), "ok", "answers over TLS"),
            (Authority::new("other").unwrap().pem().to_owned(), "problem", "tls://127.0.0.1:"),
        ] {
            std::fs::write(&ca, pem).unwrap();
            let found = written(&format!(
                ".:{} {{\n    bind 127.0.0.1\n    forward . tls://{address} {{\n        tls {}\n    }}\n}}\n",
                ports::one(),
                ca.display()
            ));
            found.demand("upstream-tls", verdict, words);
        }
    }
}
