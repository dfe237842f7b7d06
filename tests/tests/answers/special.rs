//! Names that are not to be forwarded.

use super::*;

const NAMES: [(&str, &str); 6] = [
    ("a.localhost.", "NOERROR a.localhost. 604800 A 127.0.0.1"),
    ("x.invalid.", "NXDOMAIN"),
    ("abc.onion.", "NXDOMAIN"),
    ("wallet.gns.alt.", "NXDOMAIN"),
    ("printer.home.arpa.", "NXDOMAIN"),
    ("x.resolver.arpa.", "NXDOMAIN"),
];

#[test]
fn special_names_are_answered_here_unless_turned_off() {
    let upstream = zone();
    let nodens = start(&upstream, "cache");
    for (name, wanted) in NAMES {
        for _ in 0..2 {
            let answer = udp(&nodens, name);
            assert_eq!(line(&answer), wanted);
            assert_eq!(answer.normal.authority.len(), usize::from(wanted == "NXDOMAIN"), "{name}");
        }
        assert_eq!(upstream.count(name, RecordType::A), 0, "{name}");
    }
    for name in ["a.local.", "a.test.", "10.in-addr.arpa.", "localhost.example."] {
        udp(&nodens, name);
        assert_eq!(upstream.count(name, RecordType::A), 1, "{name}");
    }
    let nodens = start(&upstream, "special_names off");
    for (name, _) in NAMES {
        udp(&nodens, name);
        assert_eq!(upstream.count(name, RecordType::A), 1, "{name}");
    }
}

#[test]
fn a_special_zone_that_is_served_is_the_operators() {
    let upstream = zone();
    let directives = format!(
        "hosts {{\n 192.0.2.9 named.onion\n fallthrough\n }}\n forward home.arpa {}",
        upstream.address()
    );
    let nodens = start(&upstream, &directives);
    assert_eq!(line(&udp(&nodens, "named.onion.")), "NOERROR named.onion. 3600 A 192.0.2.9");
    assert_eq!(line(&udp(&nodens, "other.onion.")), "NXDOMAIN");
    udp(&nodens, "printer.home.arpa.");
    assert_eq!(upstream.count("printer.home.arpa.", RecordType::A), 1);
    let block = |corefile: &str| {
        let forward = upstream.address();
        format!("{corefile}\ninvalid:@dns@ {{\n bind 127.0.0.1\n forward . {forward}\n}}\n")
    };
    let nodens = setup(&upstream, "").corefile(block).start();
    udp(&nodens, "x.invalid.");
    assert_eq!(upstream.count("x.invalid.", RecordType::A), 1);
}
