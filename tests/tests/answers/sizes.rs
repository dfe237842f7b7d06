//! What TCP cannot carry is never told in part.

use super::*;

fn fails_whole(nodens: &Nodens, name: &str, kind: RecordType) {
    let answer = tcp(nodens, name, kind);
    assert_eq!(answer.normal.rcode, "SERVFAIL", "{name}");
    assert!(answer.message.answers.is_empty() && !answer.is_truncated(), "{name}");
    let edns = nodens::wire::Layout::parse(&answer.bytes).unwrap().edns.unwrap();
    assert!(edns.end - edns.options > 6, "{name}: an extended error");
    nodens.wait_for_log("does not fit into the 65535 octets", SOON);
    let over_udp = nodens.client().udp(&Question::new(name, kind)).unwrap();
    assert!(over_udp.is_truncated() || over_udp.normal.rcode == "SERVFAIL", "{name}");
}

#[test]
fn a_set_of_a_file_that_is_too_large_fails_whole() {
    let upstream = zone();
    let mut zone_file = String::from("@ 30 IN SOA ns h 1 1 1 1 1\n");
    for n in 0..400 {
        zone_file.push_str(&format!("txt 30 IN TXT \"{n:0>220}\"\n"));
    }
    for n in 0..1_500 {
        let target = format!("host-{n}.a-domain-with-a-long-name.elsewhere.example.com.");
        zone_file.push_str(&format!("_s._tcp 30 IN SRV 0 0 80 {target}\n"));
    }
    let nodens = setup(&upstream, "file @folder@/db example.net").file("db", &zone_file).start();
    fails_whole(&nodens, "txt.example.net.", RecordType::TXT);
    let answer = tcp(&nodens, "_s._tcp.example.net.", RecordType::SRV);
    assert_eq!(answer.message.answers.len(), 1_500);
}

#[test]
fn a_rewritten_set_of_compressed_targets_stays_whole() {
    let upstream = zone();
    upstream.on_query(|seen| {
        if seen.transport == tests::upstream::Transport::Udp {
            return Act::Truncate;
        }
        let end = nodens::wire::Layout::parse(&seen.bytes).unwrap().question_end;
        let mut bytes = seen.bytes[..end].to_vec();
        bytes[2] |= 0x80;
        bytes[6..12].copy_from_slice(&[0x09, 0x60, 0, 0, 0, 0]);
        for n in 0..2_400u16 {
            // `hNNNN` and a pointer to the question.
            bytes
                .extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 14, 0, 0, 0, 0, 0, 80]);
            bytes.extend_from_slice(format!("\x05h{n:04}").as_bytes());
            bytes.extend_from_slice(&[0xc0, 12]);
        }
        Act::Raw(bytes)
    });
    let nodens = start(&upstream, "rewrite name exact short.test _a._tcp.in-a-domain.test");
    let answer = tcp(&nodens, "short.test.", RecordType::SRV);
    assert_eq!((answer.normal.rcode.as_str(), answer.message.answers.len()), ("NOERROR", 2_400));
}

#[test]
fn addresses_that_become_too_many_octets_fail_whole() {
    let upstream = zone();
    upstream.on_query(|seen| {
        if seen.kind != RecordType::A {
            return response(seen, |_| ());
        }
        match seen.transport {
            tests::upstream::Transport::Udp => Act::Truncate,
            tests::upstream::Transport::Tcp => addresses(seen, 4_050),
        }
    });
    let nodens = start(&upstream, "dns64 {\n allow_ipv4\n }");
    fails_whole(&nodens, "many.test.", RecordType::AAAA);
}
