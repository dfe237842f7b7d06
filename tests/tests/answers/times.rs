//! What is told first is what is told later.

use super::*;

#[test]
fn the_first_answer_has_the_bounds_of_the_cache_by_every_way() {
    let upstream = zone();
    upstream.on_query(|seen| match seen.name.as_str() {
        "top.test." => response(seen, |message| {
            message.answers.push(a("top.test.", 0x8000_0001, 1));
        }),
        "none.test." => response(seen, |message| {
            message.metadata.response_code = NXDOMAIN;
            let soa = hickory_proto::rr::rdata::SOA::new(
                Name::from_ascii("ns.").unwrap(),
                Name::from_ascii("h.").unwrap(),
                1,
                1,
                1,
                1,
                7,
            );
            message.authorities.push(record("test.", 100, RData::SOA(soa)));
        }),
        _ => Act::Answer,
    });
    let zone_file = "@ 30 IN SOA ns h 1 1 1 1 1\nfile 30 IN CNAME www.test.\n";
    let nodens = setup(
        &upstream,
        "cache 10
    file @folder@/db example.net
    template IN ANY tpl.test {
        answer \"{{ .Name }} 30 IN CNAME www.test.\"
    }",
    )
    .file("db", zone_file)
    .start();
    for (name, wanted) in [
        ("www.test.", &[10][..]),
        ("file.example.net.", &[30, 10]),
        ("tpl.test.", &[30, 10]),
        ("alias.test.", &[10, 10]),
        ("none.test.", &[7]),
        // RFC 2181 section 8: zero, raised to the floor.
        ("top.test.", &[5]),
    ] {
        let first = ttls(&udp(&nodens, name));
        assert_eq!(first, wanted, "{name}");
        let again = ttls(&udp(&nodens, name));
        let close = again.iter().zip(wanted).all(|(got, most)| got <= most && got + 5 >= *most);
        assert!(close && again.len() == wanted.len(), "{name}: {again:?}");
    }
}

#[test]
fn a_rewritten_time_is_the_same_first_and_later() {
    let upstream = zone();
    for (range, wanted) in [("1", 1), ("86400", 86_400)] {
        let directives = format!("cache\n rewrite ttl www.test {range}");
        let nodens = start(&upstream, &directives);
        for _ in 0..3 {
            assert_eq!(ttls(&udp(&nodens, "www.test.")), [wanted]);
        }
    }
}

#[test]
fn a_denial_without_soa_and_a_referral_are_not_kept_as_data() {
    let upstream = zone();
    upstream.on_query(|seen| {
        let nx = seen.name.starts_with("nx");
        response(seen, |message| {
            let name = seen.name.clone();
            if name.starts_with("ref") {
                let target = Name::from_ascii("ns.elsewhere.").unwrap();
                let ns = RData::NS(hickory_proto::rr::rdata::NS(target));
                message.authorities.push(record("test.", 3_600, ns));
                return;
            }
            message.answers.push(cname(&name, 900, "y.test."));
            if nx {
                message.metadata.response_code = NXDOMAIN;
            }
        })
    });
    let nodens = start(&upstream, "prometheus 127.0.0.1:@metrics@\n cache");
    for _ in 0..2 {
        udp(&nodens, "referral.test.");
    }
    assert_eq!(upstream.count("referral.test.", RecordType::A), 2);
    for name in ["nx.test.", "no.test."] {
        udp(&nodens, name);
        udp(&nodens, name);
        assert_eq!(upstream.count(name, RecordType::A), 1, "{name}");
    }
    let denials = nodens.metrics().sum("coredns_cache_entries", &[("type", "denial")]);
    assert_eq!(denials, 2.0, "both are denials");
}

/// The alias may be kept for long. What is said of its target says nothing of how long it holds.
#[test]
fn a_denial_without_soa_is_soon_asked_for_again() {
    let upstream = zone();
    upstream.on_query(|seen| {
        response(seen, |message| {
            message.answers.push(cname(&seen.name, 900, "y.test."));
            if seen.name.starts_with("nx") {
                message.metadata.response_code = NXDOMAIN;
            }
        })
    });
    let nodens = start(&upstream, "cache");
    let names = ["nx.test.", "no.test."];
    for name in names {
        udp(&nodens, name);
        udp(&nodens, name);
        assert_eq!(upstream.count(name, RecordType::A), 1, "{name}");
    }
    for name in names {
        tests::poll::wait_for(&format!("{name} to be asked for again"), SOON, || {
            udp(&nodens, name);
            upstream.count(name, RecordType::A) > 1
        });
    }
}
