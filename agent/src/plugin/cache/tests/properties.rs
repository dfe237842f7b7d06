use proptest::prelude::*;

use super::*;

fn records() -> impl Strategy<Value = Vec<(u32, u16, Vec<u8>)>> {
    let rtype = prop_oneof![Just(1u16), Just(28), Just(16), Just(65_280)];
    let ttl = prop_oneof![0u32..400, Just(u32::MAX), 1_800u32..90_000];
    // An address has its length, whatever its octets are: others are malformed.
    let sized = |(ttl, rtype, mut rdata): (u32, u16, Vec<u8>)| {
        match rtype {
            1 => rdata.resize(4, 7),
            28 => rdata.resize(16, 7),
            _ => {}
        }
        (ttl, rtype, rdata)
    };
    let record = (ttl, rtype, proptest::collection::vec(0u8.., 0..40)).prop_map(sized);
    proptest::collection::vec(record, 0..20)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

proptest! {
    /// What comes out is what went in, with no time to live above the larger of the floor and the upstream's.
    #[test]
    fn the_same_records_come_out(records in records(), age in 0u64..6_000, rotates: bool, denied: bool) {
        let mut rig = Rig::with_store("", Arc::new(Store::new(4 << 20)), rotates);
        let rcode = if denied { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let script = records
            .iter()
            .map(|(ttl, rtype, rdata)| (Section::Answer, "www.example.org", RecordType(*rtype), *ttl, rdata.clone()))
            .collect();
        rig.says(denies(rcode, script));
        runtime().block_on(async {
            let packet = query_with("www.example.org", RecordType::A, flags::RD, Some((4096, false)));
            let first = rig.ask_packet(&packet).await;
            advance(age);
            let again = rig.ask_packet(&packet).await;
            prop_assert!(again.waited == (age >= 5_000 && rig.asked() == 2));
            let sorted = |got: &Got| {
                let mut all: Vec<_> =
                    got.layout.records.iter().map(|r| (r.rtype.0, r.rdata(&got.bytes).to_vec())).collect();
                if rotates {
                    all.sort();
                }
                all
            };
            prop_assert_eq!(sorted(&first), sorted(&again));
            prop_assert_eq!(again.layout.rcode(), rcode);
            if !rotates {
                for (record, (ttl, ..)) in again.layout.records.iter().zip(&records) {
                    prop_assert!(record.ttl <= (*ttl).max(5) && record.ttl >= 1, "{} of {}", record.ttl, ttl);
                }
            }
            Ok(())
        })?;
    }

    /// Nothing that an upstream can send does more than not be kept.
    #[test]
    fn damaged_answers_are_safe(damage in proptest::collection::vec((0usize..200, 0u8..), 0..12), more in 0usize..3) {
        let rig = Rig::new("");
        let packet = query("www.example.org", RecordType::A, flags::RD);
        let view = Request { query: Query::parse(&packet).unwrap(), origin: origin() };
        let mut bytes = Vec::new();
        let mut reply = Reply::begin(&mut bytes, &view.query, true);
        let target = Name::from_text("a.example.org").unwrap();
        reply.record(Section::Answer, Owner::Question, RecordType::CNAME, 60, target.as_bytes());
        for last in 0..=more as u8 {
            reply.record(Section::Answer, Owner::Name(target.as_ref()), RecordType::A, 60, &[192, 0, 2, last]);
        }
        reply.finish(None);
        for (at, octet) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = octet;
            }
        }
        let Ok(message) = Message::from_received(bytes) else { return Ok(()) };
        let key = rig.cache.key(&view.query).unwrap();
        if let Ok((kind, lifetime)) = rules::judge(&rig.cache.config, &message, &key)
            && let Some(entry) = Entry::new(Arc::clone(&rig.cache.stats), 0, kind, &message, lifetime, now())
        {
            prop_assert!(entry.answers(&rig.cache.stats, &key));
            let mut out = Vec::new();
            let mut reply = Reply::begin(&mut out, &view.query, true);
            entry.write(&mut reply, Ttl::Minus(3, 1), 2);
            reply.finish(None);
            let layout = Layout::parse(&out).unwrap();
            prop_assert_eq!(layout.records.len(), message.layout().records.len());
        }
    }
}
