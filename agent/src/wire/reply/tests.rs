//! Replies of every size.

use super::*;
use crate::wire::{Layout, Name, query::write_query};

fn query(edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = Name::from_text("Api.default.svc.cluster.local").unwrap();
    write_query(&mut bytes, 9, flags::RD, name.as_ref(), RecordType::A, Class::IN, edns);
    bytes[13] = b'A';
    bytes
}

fn addresses(n: u8) -> Vec<u8> {
    (0..n).flat_map(|i| [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, i]).collect()
}

#[test]
fn addresses_rotate_and_the_case_is_kept() {
    let packet = query(Some((1232, true)));
    let query = Query::parse(&packet).unwrap();
    let mut buf = Vec::new();
    let mut reply = Reply::begin(&mut buf, &query, false);
    assert!(reply.records_from(Section::Answer, 16, &addresses(3), 5));
    reply.set_flags(flags::AA, true);
    reply.finish(None);
    let layout = Layout::parse(&buf).unwrap();
    let last: Vec<u8> = layout.records.iter().map(|r| r.rdata(&buf)[3]).collect();
    assert_eq!(last, [2, 0, 1]);
    assert_eq!(
        layout.flags & (flags::AA | flags::RD | flags::QR | flags::TC),
        flags::AA | flags::RD | flags::QR
    );
    assert!(layout.edns.unwrap().dnssec_ok);
    assert_eq!(buf.get(12..query.question_end()), Some(query.question()));
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let packet = query(None);
    let query = Query::parse(&packet).unwrap();
    for tcp in [false, true] {
        let mut buf = Vec::new();
        let mut reply = Reply::begin(&mut buf, &query, tcp);
        assert_eq!(reply.records_from(Section::Answer, 16, &addresses(60), 0), tcp);
        reply.finish(None);
        let layout = Layout::parse(&buf).unwrap();
        assert_eq!(layout.flags & flags::TC != 0, !tcp);
        assert_eq!(layout.records.len(), if tcp { 60 } else { (512 - query.question_end()) / 16 });
    }
}

#[test]
fn a_kept_message_is_copied_with_its_times_counted_down() {
    let packet = query(None);
    let asked = Query::parse(&packet).unwrap();
    let mut kept = Vec::new();
    let mut reply = Reply::begin(&mut kept, &asked, true);
    reply.records_from(Section::Answer, 16, &addresses(40), 0);
    reply.finish(None);
    let message = Message::from_received(kept).unwrap();
    for (limit, fits) in [(4096, true), (512, false)] {
        let packet = query(Some((limit, false)));
        let asked = Query::parse(&packet).unwrap();
        let mut buf = vec![0xee; 3];
        let mut reply = Reply::begin(&mut buf, &asked, false);
        let places = message.layout().records.iter().map(|record| record.ttl_at);
        let end = message.layout().question_end;
        reply.message(message.as_bytes(), end, message.rcode(), places, Ttl::Minus(2, 1));
        let len = reply.finish(None);
        let out = &buf[3..];
        assert_eq!(len, out.len());
        assert!(len <= usize::from(limit));
        let layout = Layout::parse(out).unwrap();
        assert_eq!(layout.flags & flags::TC == 0, fits);
        assert_eq!(layout.records.len() == 40, fits);
        assert!(layout.records.iter().all(|r| r.ttl == 3));
    }
}

proptest::proptest! {
    #[test]
    fn every_size_is_honest(size in 512u16..4097, count in 0u8..255) {
        let packet = query(Some((size, false)));
        let asked = Query::parse(&packet).unwrap();
        let mut buf = Vec::new();
        let mut reply = Reply::begin(&mut buf, &asked, false);
        let whole = reply.records_from(Section::Answer, 16, &addresses(count), 7);
        reply.finish(None);
        let layout = Layout::parse(&buf).unwrap();
        proptest::prop_assert!(buf.len() <= usize::from(size));
        proptest::prop_assert_eq!(whole, layout.flags & flags::TC == 0);
        proptest::prop_assert_eq!(whole, layout.records.len() == usize::from(count));
    }
}
