//! Text that is a record, and text that is none.

use super::*;
use crate::wire::Class;

fn rdata(text: &str) -> Vec<u8> {
    record(text).unwrap_or_else(|e| panic!("{text}: {e}")).rdata.into_vec()
}

#[test]
fn one_record_on_its_own() {
    let a = record("A.example 60 IN A 10.0.0.1").unwrap();
    assert_eq!((a.owner.to_string().as_str(), a.ttl, a.class), ("a.example.", 60, Class::IN));
    assert_eq!(record("a. IN 60 A 1.1.1.1").unwrap().ttl, 60);
    assert_eq!(record("a. CH TXT x").unwrap().class, Class::CHAOS);
    assert_eq!(record("a. AAAA ::1").unwrap().ttl, 3_600);
    assert_eq!(rdata("a. MX 10 mail.b."), b"\0\x0a\x04mail\x01b\0");
    assert_eq!(rdata("a. SRV 1 2 3 b."), b"\0\x01\0\x02\0\x03\x01b\0");
    assert_eq!(rdata(r#"a. TXT "a b;c" d\"e \065"#), b"\x05a b;c\x03d\"e\x01A");
    assert_eq!(rdata(r#"a. CAA 0 issue "ca.org""#), b"\0\x05issueca.org");
    assert_eq!(rdata(r"a. TYPE9999 \# 3 ab cdef"), [0xab, 0xcd, 0xef]);
    assert_eq!(rdata(r"a. A \# 4 0a000001"), [10, 0, 0, 1]);
    assert_eq!(
        rdata("a. SOA ns. h. 1 1h 2m 3 4")[7..],
        [0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 0, 120, 0, 0, 0, 3, 0, 0, 0, 4]
    );
    assert_eq!(rdata("a. HTTPS 1 . alpn=h2"), b"\0\x01\0\0\x01\0\x03\x02h2");
    assert_eq!(rdata("a. HTTPS 1 . alpn=\"h2\""), b"\0\x01\0\0\x01\0\x03\x02h2");
    assert_eq!(rdata(&format!("a. TXT {}", "x".repeat(300))).len(), 302);
}

#[test]
fn what_is_no_record_says_why() {
    for (text, message) in [
        ("", "the record has no owner"),
        ("a.", "the record has no type"),
        ("a. 60 IN", "the record has no type"),
        ("a. IN X 1", "\"X\" is not a record type"),
        ("a. A 1.1.1", "\"1.1.1\" is not an IPv4 address"),
        ("a. A 1.1.1.1 x", "the data go on with \"x\""),
        ("a. MX 10", "the data end where a name should stand"),
        ("a..b A 1.1.1.1", "\"a..b\" is not a name: a label is empty"),
        ("a. TXT \"x", "a quote is not closed"),
        ("a. TXT ( x", "a parenthesis is not matched"),
        ("a. TXT x )", "a parenthesis is not matched"),
        (r"a. A \# 4 0a0000", "\"4\" is not the length of the data"),
        ("a. A 1.1.1.1\nb. A 1.1.1.1", "the data go on with \"b.\""),
    ] {
        assert_eq!(record(text).unwrap_err().to_string(), message, "{text}");
    }
    assert!(matches!(record("a. HTTPS x"), Err(TextError::Rare { .. })));
}

#[test]
fn lines_go_on_in_parentheses() {
    let text = "@ IN SOA ns ( host ; a comment )\n 1 2\n 3 4 5 )\n\n; nothing\n\t600 NS ns\r\nns A 1.1.1.1 ; end";
    let mut context = Context::new(Name::from_text("example.org").unwrap());
    let records: Vec<_> =
        Lines::of(text).map(|line| context.record(&line.unwrap()).unwrap()).collect();
    let owners: Vec<_> = records.iter().map(|record| record.owner.to_string()).collect();
    assert_eq!(owners, ["example.org.", "example.org.", "ns.example.org."]);
    assert_eq!(records[1].target().unwrap().to_string(), "ns.example.org.");
    assert_eq!(records[2].ttl, 600);
    let numbers: Vec<_> = Lines::of(text).map(|line| line.unwrap().number).collect();
    assert_eq!(numbers, [1, 6, 7]);
}

proptest::proptest! {
    #[test]
    fn any_text_is_lines_or_an_error(text in "[a-z0-9 \\\\.\"();\n#$@]{0,80}|\\PC{0,40}") {
        let _ = Lines::of(&text).count();
        let _ = record(&text);
    }

    #[test]
    fn any_data_are_a_record_or_an_error(
        rtype in "A|AAAA|MX|TXT|SRV|SOA|CAA|NAPTR|HTTPS|SVCB|TLSA|SSHFP|DS|HINFO|DNSKEY|RRSIG|NSEC|LOC|URI",
        data in "[a-z0-9 \\\\.\"#=,]{0,40}",
    ) {
        let _ = record(&format!("a. {rtype} {data}"));
    }
}
