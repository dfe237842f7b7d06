//! A zone with every kind of record that the field asks for, and 1,000 questions about it.
//!
//! `peers.test.` is signed by the server that serves it, `plain.test.` is not, and `bogus.test.` is signed with a key that validators
//! are configured not to trust.

use std::fmt::Write as _;

use super::ask::Ask;

/// A.
pub const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const LOC: u16 = 29;
const SRV: u16 = 33;
const NAPTR: u16 = 35;
const DNAME: u16 = 39;
const SSHFP: u16 = 44;
/// DNSKEY.
pub const DNSKEY: u16 = 48;
const TLSA: u16 = 52;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const CAA: u16 = 257;
const UNKNOWN: u16 = 65_400;

/// How many questions there are.
pub const QUESTIONS: usize = 1_000;

/// Zones with their master files.
#[must_use]
pub fn zones() -> [(&'static str, String); 3] {
    [("peers.test.", peers()), ("plain.test.", plain()), ("bogus.test.", bogus())]
}

/// The questions: names in mixed letter case, with and without DO, CD and AD.
#[must_use]
pub fn questions() -> Vec<Ask> {
    (0..QUESTIONS).map(question).collect()
}

fn head(zone: &str) -> String {
    format!(
        "$ORIGIN {zone}\n$TTL 3600\n@ 7200 IN SOA ns admin 7 3600 600 86400 300\n@ 3600 IN NS ns\n\
         ns 3600 IN A 127.0.0.1\n"
    )
}

fn peers() -> String {
    let mut zone = head("peers.test.");
    let mut add = |line: String| {
        zone.push_str(&line);
        zone.push('\n');
    };
    for n in 0..50 {
        // TTLs of a few seconds do not outlive a test: the least is a minute.
        let ttl = 60 + n * 977;
        for k in 0..=n % 20 {
            add(format!("a{n} {ttl} IN A 192.0.{n}.{k}"));
        }
        for k in 0..=n % 12 {
            add(format!("six{n} {ttl} IN AAAA 2001:db8:{n:x}::{k:x}"));
        }
        for k in 0..=n % 5 {
            add(format!("mail{n} {ttl} IN MX {} Exchange{k}.Peers.test.", 10 * k + 1));
        }
        add(format!(
            "txt{n} {ttl} IN TXT \"v=spf1 -all; n={n}\" \"\" \"Second \\\"String\\\" \\200\\000\""
        ));
        for k in 0..=n % 4 {
            add(format!("_s{n}._tcp {ttl} IN SRV {k} {n} {} a{n}.peers.test.", 1000 + k));
        }
        add(format!("web{n} {ttl} IN HTTPS 1 . alpn=h2,h3 port={} ipv4hint=192.0.2.{n}", 8000 + n));
        add(format!("_dns{n} {ttl} IN SVCB 0 a{n}.peers.test."));
        add(format!("caa{n} {ttl} IN CAA 128 issue \"ca{n}.example; policy=ev\""));
        add(format!("odd{n} {ttl} IN TYPE65400 \\# 6 c00c{n:04x}c000"));
        add(format!("ptr{n} {ttl} IN PTR Target{n}.Peers.Test."));
        add(format!("tlsa{n} {ttl} IN TLSA 3 1 1 {:064x}", n * 7919));
    }
    for n in 0..40 {
        add(format!("big{n} 600 IN TXT {}", strings(5 + n * 4)));
    }
    for n in 0..60 {
        // Chains of one to six links, every fourth to nowhere, every fifth into the unsigned zone.
        let links = 1 + n % 6;
        for k in 0..links {
            let end = match (k + 1 < links, n % 4, n % 5) {
                (true, ..) => format!("Link{}-{n}.peers.test.", k + 1),
                (false, 0, _) => format!("gone{n}.peers.test."),
                (false, _, 0) => format!("a{}.plain.test.", n % 10),
                _ => format!("a{}.peers.test.", n % 50),
            };
            let owner = if k == 0 { format!("chain{n}") } else { format!("link{k}-{n}") };
            add(format!("{owner} {} IN CNAME {end}", 300 + k));
        }
    }
    for line in [
        "*.wild 900 IN A 192.0.2.200",
        "*.wild 900 IN TXT \"from the wild card\"",
        "tree 900 IN DNAME plain.test.",
        "empty.non.terminal 60 IN A 192.0.2.9",
        "loc 60 IN LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
        "naptr 60 IN NAPTR 100 10 \"S\" \"SIP+D2U\" \"!^.*$!sip:info@peers.test!\" _sip._udp.peers.test.",
        "sshfp 60 IN SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789",
        "under_score 60 IN A 192.0.2.10",
    ] {
        add(line.to_owned());
    }
    zone
}

fn plain() -> String {
    let mut zone = head("plain.test.");
    for n in 0..10 {
        let _ = writeln!(zone, "a{n} {} IN A 198.51.100.{n}", 400 + n);
    }
    zone
}

fn bogus() -> String {
    let mut zone = head("bogus.test.");
    for n in 0..10 {
        let _ = writeln!(zone, "a{n} {} IN A 203.0.113.{n}", 400 + n);
    }
    zone
}

/// So many strings of 200 octets.
fn strings(count: usize) -> String {
    (0..count)
        .map(|n| format!("\"{}\"", format!("{n:04}-").repeat(40)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// What the question of this number is about.
fn question(number: usize) -> Ask {
    // A prime number of kinds, so that every kind meets every mix of bits and letters.
    let (n, kind) = (number / 23, number % 23);
    let plain = |label: &str, modulus: usize| format!("{label}{}.peers.test.", n % modulus);
    let (name, kind) = match kind {
        0 | 1 => (plain("a", 50), A),
        2 => (plain("six", 50), AAAA),
        3 => (plain("mail", 50), MX),
        4 => (plain("txt", 50), TXT),
        5 => (plain("big", 40), TXT),
        6 => (format!("_s{n}._tcp.peers.test."), SRV),
        7 => (plain("web", 50), HTTPS),
        8 => (plain("_dns", 50), SVCB),
        9 => (plain("caa", 50), CAA),
        10 => (plain("odd", 50), UNKNOWN),
        11 | 12 => (plain("chain", 60), if kind == 11 { A } else { AAAA }),
        13 => (format!("no{n}.peers.test."), A),
        14 => (format!("no{n}.below.a1.peers.test."), [A, MX, HTTPS, UNKNOWN][n % 4]),
        15 => (plain("mail", 50), [A, AAAA, TXT, SRV][n % 4]),
        16 => (format!("x{n}.wild.peers.test."), [A, TXT, AAAA][n % 3]),
        17 => (plain("ptr", 50), PTR),
        18 => (plain("tlsa", 50), TLSA),
        19 => (format!("a{}.tree.peers.test.", n % 12), A),
        20 => (format!("a{}.bogus.test.", n % 10), A),
        21 => (format!("a{}.plain.test.", n % 12), A),
        _ => match n % 11 {
            0 => ("peers.test.".to_owned(), SOA),
            1 => ("peers.test.".to_owned(), NS),
            2 => ("peers.test.".to_owned(), DNSKEY),
            3 => ("loc.peers.test.".to_owned(), LOC),
            4 => ("naptr.peers.test.".to_owned(), NAPTR),
            5 => ("sshfp.peers.test.".to_owned(), SSHFP),
            6 => ("under_score.peers.test.".to_owned(), A),
            7 => ("non.terminal.peers.test.".to_owned(), A),
            8 => ("chain7.peers.test.".to_owned(), CNAME),
            9 => ("tree.peers.test.".to_owned(), DNAME),
            _ => ("a1.peers.test.".to_owned(), UNKNOWN + 1),
        },
    };
    Ask {
        name: if n % 3 == 1 { mixed_case(&name, number) } else { name },
        kind,
        dnssec_ok: n % 2 == 1,
        checking_disabled: n % 4 >= 2,
        authentic: n % 5 == 0,
    }
}

fn mixed_case(name: &str, seed: usize) -> String {
    let upper = |at: usize| (at * 7 + seed).is_multiple_of(3);
    name.char_indices().map(|(at, c)| if upper(at) { c.to_ascii_uppercase() } else { c }).collect()
}
