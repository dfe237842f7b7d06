use super::*;

#[tokio::test]
async fn an_answer_is_kept_and_counted_down() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("www.example.org", 300, 1), a("www.example.org", 300, 2)]));
    let first = rig.ask("www.example.org").await;
    assert!(first.waited);
    assert_eq!((first.outcome.cache, first.outcome.plugin), (CacheUse::Miss, Plugin::Forward));
    assert_eq!(first.ttls(), [300, 300]);
    for (millis, ttl) in [(0, 300), (999, 300), (1, 299), (298_999, 1)] {
        advance(millis);
        let again = rig.ask("www.example.org").await;
        assert!(!again.waited);
        assert_eq!((again.outcome.cache, again.outcome.plugin), (CacheUse::Success, Plugin::Cache));
        assert_eq!(again.ttls(), [ttl, ttl]);
        assert_eq!(again.lasts(), [1, 2]);
    }
    assert_eq!(rig.asked(), 1);
    advance(1_001);
    assert!(rig.ask("www.example.org").await.waited);
    assert_eq!(rig.asked(), 2);
}

#[tokio::test]
async fn case_is_the_client_s_and_does_not_matter() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    rig.ask("www.example.org").await;
    let mut packet = query("www.example.org", RecordType::A, flags::RD);
    packet[13..16].copy_from_slice(b"WwW");
    let got = rig.ask_packet(&packet).await;
    assert!(!got.waited);
    assert_eq!(&got.bytes[12..16], b"\x03WwW");
}

#[tokio::test]
async fn questions_are_told_apart_by_type_and_bits() {
    let mut rig = Rig::new("");
    rig.says(answers(Vec::new()));
    let mut packets = Vec::new();
    for dnssec in [false, true] {
        for word in [flags::RD, flags::RD | flags::CD] {
            for qtype in [RecordType::A, RecordType::AAAA] {
                packets.push(query_with("www.example.org", qtype, word, Some((1232, dnssec))));
            }
        }
    }
    for (number, packet) in packets.iter().enumerate() {
        assert!(rig.ask_packet(packet).await.waited);
        assert_eq!(rig.asked(), number + 1);
    }
    for packet in &packets {
        assert!(!rig.ask_packet(packet).await.waited);
    }
}

#[tokio::test]
async fn floors_and_caps_are_coredns_s() {
    for (options, ttl, first, lives) in [
        ("", 1, 5, 5),
        ("", 7_200, 3_600, 3_600),
        ("30", 300, 30, 30),
        ("3", 300, 3, 3),
        ("{\n success 1000 100 50\n}", 10, 50, 50),
        ("{\n success 1000 100 0\n}", 10, 10, 10),
    ] {
        let mut rig = Rig::new(options);
        rig.says(answers(vec![a("www.example.org", ttl, 1)]));
        assert_eq!(rig.ask("www.example.org").await.ttls(), [first], "{options}");
        advance(lives * 1_000 - 1);
        assert!(!rig.ask("www.example.org").await.waited, "{options}");
        advance(1);
        assert!(rig.ask("www.example.org").await.waited, "{options}");
    }
}

#[tokio::test]
async fn a_time_to_live_of_nothing_is_not_kept_without_a_floor() {
    let mut rig = Rig::new("{\n success 1000 100 0\n}");
    rig.says(answers(vec![a("www.example.org", 0, 1)]));
    assert_eq!(rig.ask("www.example.org").await.ttls(), [0]);
    assert!(rig.ask("www.example.org").await.waited);
}

#[tokio::test]
async fn denials_live_as_the_soa_says() {
    for (rcode, records, lives) in [
        (Rcode::NXDOMAIN, vec![soa(900, 60)], 60),
        (Rcode::NXDOMAIN, vec![soa(40, 60)], 40),
        (Rcode::NXDOMAIN, vec![soa(86_400, 86_400)], 1_800),
        (Rcode::NXDOMAIN, vec![], 5),
        (Rcode::NOERROR, vec![soa(900, 60)], 60),
        (Rcode::NOERROR, vec![], 5),
        (Rcode::NOERROR, vec![cname("www.example.org", 30, "x.example.org"), soa(900, 60)], 30),
        (Rcode::NOERROR, vec![cname("www.example.org", 300, "x.example.org"), soa(900, 60)], 60),
        (Rcode::NXDOMAIN, vec![cname("www.example.org", 300, "x.example.org"), soa(900, 60)], 60),
    ] {
        let mut rig = Rig::new("");
        rig.says(denies(rcode, records.clone()));
        rig.ask("www.example.org").await;
        advance(lives * 1_000 - 1);
        let got = rig.ask("www.example.org").await;
        assert!(!got.waited, "{rcode} {records:?}");
        assert_eq!((got.outcome.cache, got.outcome.rcode), (CacheUse::Denial, rcode));
        if let Some(record) = got.layout.section(Section::Authority).next() {
            assert_eq!(
                record.ttl, 1,
                "the negative answer's own time is counted down, RFC 2308 section 5"
            );
        }
        advance(1);
        assert!(rig.ask("www.example.org").await.waited, "{rcode} {records:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_kept() {
    let good = vec![a("www.example.org", 300, 1)];
    for says in [
        denies(Rcode::REFUSED, Vec::new()),
        denies(Rcode::FORMERR, Vec::new()),
        Says { flags: flags::TC, ..answers(good.clone()) },
        Says { instead: Some("www.example.net"), ..answers(good.clone()) },
        answers(vec![a("www.example.org", 300, 1), a("bank.example", 300, 6)]),
        answers(vec![cname("www.example.org", 300, "x.example.org"), a("y.example.org", 300, 6)]),
        answers(
            (0..40)
                .map(|n| (Section::Answer, "www.example.org", RecordType::A, 300, vec![n; 250]))
                .collect(),
        ),
    ] {
        let mut rig = Rig::new("");
        rig.says(says);
        assert!(rig.ask("www.example.org").await.waited);
        assert!(rig.ask("www.example.org").await.waited);
        assert_eq!(rig.asked(), 2);
    }
}

#[tokio::test]
async fn what_does_not_belong_is_counted_as_dropped() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("bank.example", 300, 6)]));
    rig.ask("www.example.org").await;
    assert_eq!(rig.cache.stats().drops.load(Relaxed), 1);
}

#[tokio::test]
async fn chains_of_aliases_are_kept() {
    let dname = Name::from_text("example.net").unwrap().as_bytes().to_vec();
    for records in [
        vec![cname("www.example.org", 300, "a.example.org"), a("a.example.org", 60, 1)],
        vec![
            a("b.example.com", 60, 1),
            cname("a.example.org", 9, "b.example.com"),
            cname("www.example.org", 300, "a.example.org"),
        ],
        vec![
            (Section::Answer, "example.org", RecordType::DNAME, 300, dname),
            cname("www.example.org", 300, "www.example.net"),
            a("www.example.net", 60, 1),
        ],
    ] {
        let mut rig = Rig::new("");
        rig.says(answers(records.clone()));
        let first = rig.ask("www.example.org").await;
        let again = rig.ask("www.example.org").await;
        assert!(!again.waited, "{records:?}");
        assert_eq!(first.ttls(), again.ttls());
    }
}

#[tokio::test]
async fn only_what_is_data_in_class_in_is_kept() {
    let mut rig = Rig::new("");
    rig.says(answers(Vec::new()));
    for qtype in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR, RecordType(0)] {
        let packet = query("www.example.org", qtype, flags::RD);
        assert!(rig.ask_packet(&packet).await.waited);
        assert!(rig.ask_packet(&packet).await.waited);
    }
    assert_eq!(rig.asked(), 8);
}

#[tokio::test]
async fn who_wants_no_recursion_does_not_fill_the_cache() {
    let mut rig = Rig::new("");
    rig.says(answers(Vec::new()));
    let packet = query("www.example.org", RecordType::A, 0);
    assert!(rig.ask_packet(&packet).await.waited);
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    assert!(rig.ask("www.example.org").await.waited);
    assert_eq!(rig.ask_packet(&packet).await.lasts(), [1], "but is answered from it");
}

#[tokio::test]
async fn zones_and_disabled_sides_are_left_alone() {
    let mut rig =
        Rig::new("example.org example.net {\n disable success no.example.org\n disable denial\n}");
    for (name, kept) in [
        ("www.example.org", true),
        ("x.example.net", true),
        ("x.example.com", false),
        ("a.no.example.org", false),
    ] {
        rig.says(answers(vec![a(name, 300, 1)]));
        rig.ask(name).await;
        assert_eq!(!rig.ask(name).await.waited, kept, "{name}");
    }
    rig.says(denies(Rcode::NXDOMAIN, vec![soa(300, 300)]));
    rig.ask("y.example.org").await;
    assert!(rig.ask("y.example.org").await.waited);
}

#[tokio::test]
async fn a_denial_without_soa_holds_briefly_and_a_referral_not_at_all() {
    for rcode in [Rcode::NOERROR, Rcode::NXDOMAIN] {
        let mut rig = Rig::new("");
        rig.says(denies(rcode, vec![cname("www.example.org", 900, "a.example.org")]));
        assert_eq!(rig.ask("www.example.org").await.ttls(), [900]);
        let got = rig.ask("www.example.org").await;
        assert_eq!((got.waited, got.outcome.cache), (false, CacheUse::Denial), "{rcode}");
        advance(5_000);
        assert!(rig.ask("www.example.org").await.waited, "{rcode}");
    }
    let mut rig = Rig::new("");
    rig.says(answers(vec![(Section::Authority, "org", RecordType::NS, 3_600, vec![0])]));
    rig.ask("www.example.org").await;
    assert!(rig.ask("www.example.org").await.waited);
}

#[tokio::test]
async fn what_is_told_first_is_what_is_told_later() {
    for (records, ttls) in [
        (vec![a("www.example.org", 1_800, 1)], vec![10]),
        (vec![a("www.example.org", 0x8000_0000, 1)], vec![5]),
        (vec![soa(100, 7)], vec![7]),
        (vec![cname("www.example.org", 100, "a.example.org"), soa(100, 7)], vec![10, 7]),
    ] {
        let mut rig = Rig::new("10");
        rig.says(Says { flags: flags::AA, ..answers(records) });
        for waited in [true, false] {
            let got = rig.ask("www.example.org").await;
            assert_eq!((got.waited, got.ttls()), (waited, ttls.clone()));
            assert_eq!(got.layout.flags & flags::AA, 0);
        }
    }
}

#[tokio::test]
async fn failures_are_kept_for_a_moment_and_hide_nothing() {
    let mut rig = Rig::new("{\n servfail 2s\n}");
    rig.says(fails());
    rig.ask("www.example.org").await;
    let got = rig.ask("www.example.org").await;
    assert!(!got.waited);
    assert_eq!((got.outcome.rcode, got.outcome.cache), (Rcode::SERVFAIL, CacheUse::Denial));
    assert_eq!(got.extended_errors(), [13]);
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    advance(2_000);
    assert_eq!(rig.ask("www.example.org").await.lasts(), [1]);
    assert_eq!(rig.ask("www.example.org").await.lasts(), [1]);
    assert_eq!(rig.asked(), 2);

    let mut rig = Rig::new("{\n servfail 0\n}");
    rig.says(fails());
    rig.ask("www.example.org").await;
    assert!(rig.ask("www.example.org").await.waited);
}

#[tokio::test]
async fn times_stand_still_with_keepttl() {
    let mut rig = Rig::new("100 {\n keepttl\n}");
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    rig.ask("www.example.org").await;
    advance(99_999);
    assert_eq!(rig.ask("www.example.org").await.ttls(), [100]);
    advance(1);
    assert!(rig.ask("www.example.org").await.waited);
}

#[tokio::test]
async fn addresses_take_turns_where_wanted() {
    let mut rig = Rig::with_store("", Arc::new(Store::new(4 << 20)), true);
    let mut records = vec![cname("www.example.org", 300, "a.example.org")];
    records.extend((1..=3).map(|last| a("a.example.org", 60, last)));
    records.push(soa(300, 300));
    rig.says(answers(records));
    rig.ask("www.example.org").await;
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..6 {
        advance(1_000);
        let got = rig.ask("www.example.org").await;
        let mut addresses = got.lasts()[1..4].to_vec();
        firsts.insert(addresses[0]);
        addresses.sort_unstable();
        assert_eq!(addresses, [1, 2, 3]);
        assert_eq!(got.layout.records[0].rtype, RecordType::CNAME);
        assert_eq!(got.ttls()[1..4].iter().collect::<std::collections::BTreeSet<_>>().len(), 1);
    }
    assert_eq!(firsts.len(), 3);
}

#[tokio::test]
async fn authenticated_data_is_told_to_who_asked() {
    let mut rig = Rig::new("");
    rig.says(Says { flags: flags::AD | flags::AA, ..answers(vec![a("www.example.org", 300, 1)]) });
    rig.ask("www.example.org").await;
    let got = rig.ask("www.example.org").await;
    assert_eq!(got.layout.flags & (flags::AD | flags::AA), 0);
    let got = rig.ask_packet(&query("www.example.org", RecordType::A, flags::RD | flags::AD)).await;
    assert!(!got.waited);
    assert_eq!(got.layout.flags & (flags::AD | flags::AA), flags::AD);
}

#[tokio::test]
async fn nothing_is_below_what_does_not_exist() {
    let mut rig = Rig::new("{\n nxdomain_cut on\n}");
    rig.says(denies(Rcode::NXDOMAIN, vec![soa(300, 60)]));
    rig.ask("gone.example.org").await;
    advance(10_000);
    let got = rig.ask("a.b.gone.example.org").await;
    assert_eq!(
        (rig.asked(), got.outcome.rcode, got.outcome.cache),
        (1, Rcode::NXDOMAIN, CacheUse::Denial)
    );
    assert_eq!(got.ttls(), [50]);
    assert_eq!(
        got.layout.records[0].owner(&got.bytes).unwrap().as_name().to_string(),
        "example.org."
    );
    rig.ask("other.example.org").await;
    assert_eq!(rig.asked(), 2);
    advance(50_000);
    rig.ask("a.b.gone.example.org").await;
    assert_eq!(rig.asked(), 3);
}

#[tokio::test]
async fn blocks_are_told_apart_and_found_again() {
    let store = Arc::new(Store::new(4 << 20));
    let mut rig = Rig::with_store("", Arc::clone(&store), false);
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    rig.ask("www.example.org").await;
    let mut reloaded = Rig::with_store("", Arc::clone(&store), false);
    assert!(!reloaded.ask("www.example.org").await.waited);
    reloaded.cache = Cache::new(Config::new(vec![Name::root()]), Arc::clone(&store), 8, false);
    let name = Name::from_text("www.example.org").unwrap();
    let key = Key { name: name.as_ref(), qtype: RecordType::A, bits: 0 };
    assert!(reloaded.cache.find(store.hash(reloaded.cache.stats(), &key), &key).is_none());
    store.retain_blocks(&[8]);
    assert_eq!(store.iter().count(), 0);
    assert!(
        Rig::with_store("", store, false).ask("www.example.org").await.layout.records.is_empty()
    );
}

#[tokio::test]
async fn workers_forget_what_is_flushed() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    for _ in 0..3 {
        rig.ask("www.example.org").await;
    }
    assert_eq!(rig.asked(), 1);
    assert_eq!(rig.cache.store().remove_if(|entry| entry.qtype() == RecordType::AAAA), 0);
    assert!(!rig.ask("www.example.org").await.waited);
    assert_eq!(rig.cache.store().remove_if(|_| true), 1);
    assert!(rig.ask("www.example.org").await.waited);
}

#[tokio::test]
async fn a_store_is_refilled_in_another_size() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    rig.ask("www.example.org").await;
    let other = Arc::new(rig.cache.store().resized(8 << 20));
    assert_eq!(other.limit(), 8 << 20);
    let mut moved = Rig::with_store("", other, false);
    assert!(!moved.ask("www.example.org").await.waited);
}

#[test]
fn a_block_is_known_by_what_it_answers() {
    let id = |text: &str| {
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", text, &|_| None);
        let blocks = crate::config::read(&file, 53, &mut diagnostics);
        assert!(diagnostics.is_empty(), "{diagnostics}");
        block_id(&blocks[0])
    };
    let first = id(". {\n errors\n cache 30\n forward . 192.0.2.1\n}");
    assert_eq!(first, id(". {\n\n # a comment\n cache  30\n forward . 192.0.2.1\n log\n}"));
    assert_ne!(first, id(". {\n cache 31\n forward . 192.0.2.1\n}"));
    assert_ne!(first, id(". {\n cache 30\n forward . 192.0.2.2\n}"));
    assert_ne!(first, id("example.org {\n cache 30\n forward . 192.0.2.1\n}"));
    let view = |line: &str| id(&format!(". {{\n {line}\n cache 30\n forward . 192.0.2.1\n}}"));
    let views = [
        first,
        view("view a {\n expr do()\n}"),
        view("view b {\n expr do()\n}"),
        view("view a {\n expr not do()\n}"),
    ];
    let all: std::collections::BTreeSet<u64> = views.into_iter().collect();
    assert_eq!(all.len(), 4);
    assert_eq!(views[1], view("view a {\n  expr   do()\n}"));
}

#[tokio::test]
async fn what_is_kept_is_shown_and_flushed() {
    let mut rig = Rig::new("");
    rig.says(answers(vec![a("www.example.org", 300, 1)]));
    rig.ask("www.example.org").await;
    rig.says(denies(Rcode::NXDOMAIN, vec![soa(60, 60)]));
    rig.ask("www.example.net").await;
    advance(10_000);
    let store = rig.cache.store();
    let all = inspect::show(store, None, now()).unwrap();
    assert_eq!((all["success"].as_u64(), all["denial"].as_u64()), (Some(1), Some(1)));
    let shown = inspect::text(&inspect::show(store, Some("Example.org"), now()).unwrap());
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>().join(" "),
        "www.example.org. A: success, 290 s left of 300 s www.example.org. 300 IN A 192.0.2.1"
    );
    assert_eq!(inspect::flush(store, Some("org")).unwrap()["removed"], 1);
    assert!(rig.ask("www.example.org").await.waited);
    assert!(!rig.ask("www.example.net").await.waited);
    assert_eq!(inspect::flush(rig.cache.store(), None).unwrap()["removed"], 2);
    assert!(inspect::show(rig.cache.store(), Some("a..b"), now()).is_err());
}
