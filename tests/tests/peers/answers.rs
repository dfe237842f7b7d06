//! 1,000 mixed answers through Nodens, compared octet for octet with what the peer says when it is asked itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tests::peers::ask::{Ask, Asker};
use tests::peers::content::Content;
use tests::peers::quic::Front;
use tests::peers::servers::{self, Certificates, Encrypted, SERVER_NAME};
use tests::peers::{have, note, zone};
use tests::process::{Nodens, Setup};

/// A server that passes on, and at its second port one that keeps what it hears.
const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    forward . @to@ {
        @options@
    }
}
.:@dns2@ {
    bind 127.0.0.1
    cache 86400
    forward . @to@ {
        @options@
    }
}
";

/// TTLs may have gone down by so much between two looks at a peer that counts them down.
const SECONDS: u32 = 30;

const RECURSION_AVAILABLE: u16 = 0x80;
const CHECKING_DISABLED: u16 = 0x10;

/// How a peer is asked: servers leave out of datagrams what has no room, and put it into streams.
#[derive(Clone, Copy)]
enum Over {
    Udp,
    Tcp,
}

/// What a peer says itself.
struct Direct {
    over: Over,
    answers: Vec<(Ask, Content)>,
}

impl Over {
    fn ask(self, asker: &mut Asker, server: SocketAddr, ask: &Ask) -> Content {
        let answer = match self {
            Self::Udp => asker.ask(ask),
            Self::Tcp => asker.tcp(ask),
        };
        let answer = answer.unwrap_or_else(|error| panic!("{server}: {ask:?}: {error}"));
        Content::of(&answer).unwrap_or_else(|error| panic!("{server}: {ask:?}: {error}"))
    }
}

fn ask_directly(peer: SocketAddr, over: Over) -> Direct {
    let mut asker = Asker::new(peer).unwrap();
    let mut ask = |ask: Ask| {
        let content = over.ask(&mut asker, peer, &ask);
        (ask, content)
    };
    Direct { over, answers: zone::questions().into_iter().map(&mut ask).collect() }
}

/// Nodens in front of `to`, with these options of `forward`.
fn nodens(to: &str, options: &str, certificates: &Certificates) -> Nodens {
    let tls =
        format!("tls @folder@/ca.pem\n        tls_servername {SERVER_NAME}\n        {options}");
    let options = if to.contains("://") { tls.as_str() } else { options };
    let setup = Setup::new(&COREFILE.replace("@options@", options)).word("to", to);
    setup.file("ca.pem", &certificates.authority).start()
}

/// Asks Nodens everything that `direct` has, over the same, and compares.
fn compare(what: &str, nodens: &Nodens, direct: &Direct) {
    let mut asker = Asker::new(nodens.dns()).unwrap();
    let mut wrong = Vec::new();
    for (ask, theirs) in &direct.answers {
        let ours = direct.over.ask(&mut asker, nodens.dns(), ask);
        if let Err(why) = same(ask, &ours, theirs) {
            wrong.push(format!("{ask:?}: {why}"));
        }
    }
    note(&format!(
        "{what}: {} of {} answers are the same",
        direct.answers.len() - wrong.len(),
        direct.answers.len()
    ));
    assert!(
        wrong.is_empty(),
        "{what}: {} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
}

/// Everything the same but RA and CD, which are ours: we do offer recursion, whatever the upstream is, and CD is the client's
/// (RFC 4035 section 3.2.2), which servers that check no signatures leave out.
fn same(ask: &Ask, ours: &Content, theirs: &Content) -> Result<(), String> {
    for (ours, theirs) in ours.ttls().zip(theirs.ttls()) {
        if ours > theirs || theirs - ours > SECONDS {
            return Err(format!("TTL {ours} for {theirs}"));
        }
    }
    let (ours, mut theirs) = (ours.clone().without_ttls(), theirs.clone().without_ttls());
    theirs.word |= RECURSION_AVAILABLE;
    theirs.word = theirs.word & !CHECKING_DISABLED | u16::from(ask.checking_disabled) << 4;
    if ours == theirs {
        return Ok(());
    }
    let head =
        |c: &Content| format!("{:04x} {} DO {:?} {:?}", c.word, c.rcode, c.dnssec_ok, c.errors);
    let mut why = format!("\n  ours   {}\n  theirs {}", head(&ours), head(&theirs));
    if ours.question != theirs.question {
        why += &format!(
            "\n  question {} for {}",
            ours.question.escape_ascii(),
            theirs.question.escape_ascii()
        );
    }
    for (n, (ours, theirs)) in ours.sections.iter().zip(&theirs.sections).enumerate() {
        if ours != theirs {
            why += &format!("\n  section {n}\n    ours   {ours:?}\n    theirs {theirs:?}");
        }
    }
    Err(why)
}

/// How many answers have what a peer is to be tested with: proof that the questions are what they claim to be.
fn census(direct: &Direct) -> BTreeMap<&'static str, usize> {
    let mut census = BTreeMap::new();
    for (_, content) in &direct.answers {
        let records = || content.sections.iter().flatten();
        for (what, is) in [
            ("signed", records().any(|r| r.kind == 46)),
            ("AD", content.word & 0x20 != 0),
            ("AA", content.word & 0x400 != 0),
            ("NXDOMAIN", content.rcode == 3),
            ("SERVFAIL", content.rcode == 2),
            ("NODATA", content.rcode == 0 && content.sections[0].is_empty()),
            ("extended error", !content.errors.is_empty()),
            ("chain", content.sections[0].iter().filter(|r| r.kind == 5).count() > 1),
            ("unknown type", records().any(|r| r.kind == 65_400)),
            (
                "over 1232",
                records().map(|r| r.owner.len() + 10 + r.data.len()).sum::<usize>() > 1232,
            ),
        ] {
            *census.entry(what).or_default() += usize::from(is);
        }
    }
    census
}

/// Nodens before the peer at `to`, compared with `direct`.
fn through(what: &str, to: &str, options: &str, certificates: &Certificates, direct: &Direct) {
    compare(what, &nodens(to, options, certificates), direct);
}

/// Over UDP and TCP, with the peer's own answers over each, which it returns.
fn plain(name: &str, peer: SocketAddr, certificates: &Certificates) -> [Direct; 2] {
    let (udp, tcp) = (ask_directly(peer, Over::Udp), ask_directly(peer, Over::Tcp));
    note(&format!("{name}: {:?}", census(&tcp)));
    let to = peer.to_string();
    through(&format!("{name}, UDP"), &to, "", certificates, &udp);
    through(&format!("{name}, TCP"), &to, "force_tcp", certificates, &tcp);
    [udp, tcp]
}

/// Over TLS, which carries what TCP carries, and over HTTPS.
fn encrypted(
    name: &str,
    peer: &Encrypted,
    certificates: &Certificates,
    tls: &Direct,
    https: &Direct,
) {
    through(&format!("{name}, TLS"), &format!("tls://{}", peer.tls), "", certificates, tls);
    let to = format!("https://{}/dns-query", peer.https);
    through(&format!("{name}, HTTPS"), &to, "", certificates, https);
}

#[test]
fn peers_knot_over_udp_tcp_and_quic() {
    if !have(&["knotd"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), Certificates::new());
    note(&servers::version("knotd", &["--version"]));
    let [udp, tcp] = plain("knot", knot.address(), &certificates);
    let to = knot.address().to_string();
    through("knot, UDP, fresh ports", &to, "source_port fresh", &certificates, &udp);
    let front = Front::start(knot.address(), &certificates.server).unwrap();
    let quic = format!("quic://{}", front.address());
    through("knot behind hickory's QUIC", &quic, "", &certificates, &tcp);
    assert!(front.carried() >= zone::QUESTIONS, "{}", front.carried());
}

#[test]
fn peers_unbound_over_udp_tcp_tls_and_https() {
    if !have(&["knotd", "unbound"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), Certificates::new());
    let unbound = servers::unbound(knot.address(), &certificates);
    note(&format!("unbound {}", servers::version("unbound", &["-V"])));
    // What it has to fetch first is told in another order than what it has.
    ask_directly(unbound.peer.address(), Over::Tcp);
    let [_, tcp] = plain("unbound", unbound.peer.address(), &certificates);
    encrypted("unbound", &unbound, &certificates, &tcp, &tcp);
}

#[test]
fn peers_dnsdist_over_udp_tcp_tls_and_https() {
    if !have(&["knotd", "dnsdist"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), Certificates::new());
    let dnsdist = servers::dnsdist(knot.address(), &certificates);
    note(&servers::version("dnsdist", &["--version"]));
    let [udp, tcp] = plain("dnsdist", dnsdist.peer.address(), &certificates);
    // What comes over HTTPS it asks its own server over UDP.
    encrypted("dnsdist", &dnsdist, &certificates, &tcp, &udp);
}

#[test]
fn peers_dnsmasq_over_udp_and_tcp() {
    if !have(&["knotd", "dnsmasq"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), Certificates::new());
    let dnsmasq = servers::dnsmasq(knot.address());
    note(&servers::version("dnsmasq", &["--version"]));
    plain("dnsmasq", dnsmasq.address(), &certificates);
}

/// An upstream with a certificate for another name, or of an authority that is not ours, is never asked.
#[test]
fn peers_with_a_wrong_certificate_are_not_asked() {
    if !have(&["knotd", "unbound"]) {
        return;
    }
    let (knot, certificates) = (servers::knot(), Certificates::new());
    let unbound = servers::unbound(knot.address(), &certificates);
    let strangers = Certificates::new();
    for to in [format!("tls://{}", unbound.tls), format!("https://{}", unbound.https)] {
        let nodens = nodens(&to, "", &strangers);
        let mut asker = Asker::new(nodens.dns()).unwrap();
        let answer = asker.ask(&Ask::new("a1.peers.test.", zone::A)).unwrap();
        let content = Content::of(&answer).unwrap();
        assert_eq!(content.rcode, 2, "{to}: {content:?}");
        let told = String::from_utf8_lossy(&content.errors.concat()).to_lowercase();
        assert!(told.contains("certificate"), "{to}: {told}");
    }
}
