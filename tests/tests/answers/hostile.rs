//! Answers of upstreams whose names cannot be expanded, or are made to cost time.

use super::*;

/// A pointer to `octets` behind the question of a query for `name`.
fn pointer(name: &str, octets: usize) -> [u8; 2] {
    (0xc000 | (12 + name.len() + 1 + 4 + octets) as u16).to_be_bytes()
}

#[test]
fn a_name_that_cannot_be_expanded_is_no_answer() {
    let upstream = zone();
    upstream.on_query(|seen| {
        let name = seen.name.as_str();
        let fixed = |rtype: u8, len: u8| [0, rtype, 0, 1, 0, 0, 3, 132, 0, len];
        let itself = pointer(name, 12);
        let record = match name {
            // A CNAME whose target is a pointer to itself.
            "target.test." => [&[0xc0, 12][..], &fixed(5, 2), &itself].concat(),
            // An owner that is a pointer to itself.
            "owner.test." => [&pointer(name, 0)[..], &fixed(1, 4), &[1, 2, 3, 4]].concat(),
            // Names in an MX, an SOA and an SRV.
            "mx.test." => [&[0xc0, 12][..], &fixed(15, 4), &[0, 1], &pointer(name, 14)].concat(),
            "soa.test." => {
                let times = [0; 20];
                [&[0xc0, 12][..], &fixed(6, 24), &itself, &[0xc0, 12], &times].concat()
            }
            "srv.test." => [&[0xc0, 12][..], &fixed(33, 8), &[0; 6], &pointer(name, 18)].concat(),
            _ => return Act::Answer,
        };
        raw(seen, [1, 0, 0], &record)
    });
    let nodens = start(&upstream, "cache");
    for name in ["target.test.", "owner.test.", "mx.test.", "soa.test.", "srv.test."] {
        let answer = udp(&nodens, name);
        assert_eq!(line(&answer), "SERVFAIL", "{name}");
    }
    nodens.wait_for_log("a name in the message is malformed", SOON);
    assert_eq!(line(&udp(&nodens, "www.test.")), "NOERROR www.test. 1800 A 192.0.2.1");
}

#[test]
fn chains_of_pointers_cost_nothing() {
    let upstream = zone();
    upstream.on_query(|seen| {
        if seen.name == "www.test." {
            return Act::Answer;
        }
        if seen.transport == tests::upstream::Transport::Udp {
            return Act::Truncate;
        }
        let mut records = vec![0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60];
        let mut data = Vec::new();
        let first = 12 + seen.name.len() + 1 + 4 + 12;
        data.extend_from_slice(&[0xc0, 12]);
        for n in 0..7_000usize {
            let to = first + 2 * n;
            data.extend_from_slice(&(0xc000 | to as u16).to_be_bytes());
        }
        records.extend_from_slice(&(data.len() as u16).to_be_bytes());
        let last = first + data.len() - 2;
        records.extend_from_slice(&data);
        for n in 0..3_000u16 {
            records.extend_from_slice(&(0xc000 | last as u16).to_be_bytes());
            let [high, low] = n.to_be_bytes();
            records.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, high, low]);
        }
        raw(seen, [3_001, 0, 0], &records)
    });
    for directives in ["cache", "dns64 {\n allow_ipv4\n translate_all\n }", "minimal"] {
        let nodens = start(&upstream, directives);
        let before = nodens.cpu();
        for n in 0..20 {
            let answer = tcp(&nodens, &format!("n{n}.test."), RecordType::A);
            assert_eq!(answer.normal.rcode, "SERVFAIL", "{directives}");
        }
        // One of them took 78 ms of the processor.
        let took = nodens.cpu() - before;
        assert!(took < Duration::from_millis(1_000), "{directives}: {took:?}");
        assert_eq!(udp(&nodens, "www.test.").normal.rcode, "NOERROR");
    }
}
