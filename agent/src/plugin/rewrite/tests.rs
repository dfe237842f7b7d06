use std::sync::Arc;

use super::*;
use crate::plugin::testing::{Client, Fixed, complaints, parsed};

const RECORDS: &str = "a.internal.net. 60 A 10.0.0.1
    b.internal.net. 90 CNAME a.internal.net.
    srv.internal.net. 60 SRV 1 2 3 a.internal.net.
    web.consul. 5 A 10.0.0.2
    x.org. 5 HINFO a b
    new.target. 7 A 10.0.0.7";

fn client(rules: &[&str]) -> Client {
    let rules = rules.iter().map(|text| parsed(text, Config::parse)).collect();
    Client::new(vec![Arc::new(Rewrite::new(rules)), Fixed::waiting(RECORDS)])
}

#[test]
fn an_exact_name_comes_back() {
    let client = client(&["rewrite name www.Example.org a.internal.net"]);
    assert_eq!(
        client.text("WWW.example.org", RecordType::A),
        "NOERROR www.example.org. 60 A 10.0.0.1"
    );
    assert_eq!(
        client.text("a.internal.net", RecordType::A),
        "NOERROR a.internal.net. 60 A 10.0.0.1"
    );
    assert_eq!(client.text("www.example.org", RecordType::MX), "NOERROR");
    assert_eq!(client.text("nope.example.org", RecordType::MX), "NXDOMAIN");
}

#[test]
fn parts_of_names() {
    let c = client(&["rewrite name suffix .example.org .internal.net answer auto"]);
    assert_eq!(
        c.text("b.example.org", RecordType::CNAME),
        "NOERROR b.example.org. 90 CNAME a.example.org."
    );
    assert_eq!(
        c.text("srv.example.org", RecordType::SRV),
        "NOERROR srv.example.org. 60 SRV a.example.org."
    );
    let c = client(&["rewrite name prefix old-a. a."]);
    assert_eq!(
        c.text("old-a.internal.net", RecordType::A),
        "NOERROR a.internal.net. 60 A 10.0.0.1"
    );
    let c = client(&["rewrite stop name substring example.org internal.net answer auto"]);
    assert_eq!(c.text("a.example.org", RecordType::A), "NOERROR a.example.org. 60 A 10.0.0.1");
}

#[test]
fn expressions_with_answers_on_one_line_and_in_a_block() {
    for rule in [
        r"rewrite name regex (.*)\.example\.org {1}.internal.net answer name (.*)\.internal\.net {1}.example.org value a\.(.*) z.{1}",
        "rewrite stop {
            name regex (.*)\\.example\\.org {1}.internal.net
            answer name (.*)\\.internal\\.net {1}.example.org
            answer value a\\.(.*) z.{1}
        }",
    ] {
        let c = client(&[rule]);
        assert_eq!(
            c.text("b.example.org", RecordType::CNAME),
            "NOERROR b.example.org. 90 CNAME z.internal.net."
        );
    }
    let c = client(&[r"rewrite name regex ^(\w+)\.svc\.example\.org\.$ {1}.consul answer auto"]);
    assert_eq!(
        c.text("web.svc.example.org", RecordType::A),
        "NOERROR web.svc.example.org. 5 A 10.0.0.2"
    );
}

#[test]
fn rules_go_on_and_are_undone_backwards() {
    let c = client(&[
        "rewrite continue name one.example.org two.example.org",
        "rewrite continue name two.example.org a.internal.net",
        "rewrite ttl suffix internal.net 5-10",
        "rewrite name a.internal.net never.example.org",
    ]);
    assert_eq!(c.text("one.example.org", RecordType::A), "NOERROR one.example.org. 10 A 10.0.0.1");
}

#[test]
fn types_classes_codes_and_times() {
    let c = client(&["rewrite type ANY HINFO"]);
    assert_eq!(c.text("x.org", RecordType::ANY), "NOERROR x.org. 5 HINFO \x01a\x01b");
    let mut c = client(&["rewrite class HS IN"]);
    c.class = Class(4);
    assert_eq!(c.text("x.org", RecordType::HINFO), "NOERROR x.org. 5 HINFO \x01a\x01b");
    let c = client(&["rewrite continue rcode regex .* NXDOMAIN 5", "rewrite ttl regex ^x 77"]);
    assert_eq!(c.text("none.org", RecordType::A), "REFUSED");
    assert_eq!(c.text("x.org", RecordType::HINFO), "NOERROR x.org. 77 HINFO \x01a\x01b");
}

#[test]
fn the_target_of_an_alias() {
    let c = client(&["rewrite cname exact a.internal.net new.target"]);
    assert_eq!(
        c.text("b.internal.net", RecordType::A),
        "NOERROR b.internal.net. 90 CNAME new.target.; new.target. 7 A 10.0.0.7"
    );
    assert_eq!(c.text("a.internal.net", RecordType::A), "NOERROR a.internal.net. 60 A 10.0.0.1");
}

#[test]
fn a_name_that_is_none_fails() {
    let c = client(&["rewrite name prefix a. .."]);
    assert_eq!(c.text("a.example.org", RecordType::A), "SERVFAIL");
}

#[test]
fn what_is_wrong_is_said() {
    for (rule, said) in [
        (
            "rewrite",
            "an argument is missing, expected name, type, class, ttl, rcode, cname or edns0",
        ),
        (
            "rewrite edns0 cookie set 0xffee x",
            "there is no kind of option \"cookie\", expected local, nsid or subnet",
        ),
        (
            "rewrite edns0 local put 0xffee x",
            "there is no action \"put\", expected set, append, replace or unset",
        ),
        (
            "rewrite edns0 local set 0xffee",
            "an argument is missing, expected text, 0x and hexadecimal digits, or a variable as {client_ip}",
        ),
        (
            "rewrite edns0 subnet set 33 56",
            "\"33\" is out of range, expected a whole number from 0 to 32",
        ),
        (
            "rewrite edns0 nsid set revert",
            "nodens does not undo options in answers, \
             expected no revert: a client gets the options of its answer as they come",
        ),
        (
            "rewrite nmae a b",
            "\"nmae\" cannot be rewritten, expected name, type, class, ttl, rcode, cname or edns0",
        ),
        (
            "rewrite name regex ( b",
            "\"(\" is not a regular expression: unclosed group, expected one as ^(.*)\\.example\\.org\\.$",
        ),
        (
            "rewrite name regex (a) {2}.b",
            "the expression has no group 2 for \"{2}.b\", expected {0} to {1}",
        ),
        ("rewrite name a b c", "\"c\" follows the names, expected answer, or nothing more"),
        ("rewrite ttl a 9-3", "\"9-3\" is not a range, expected the lower number first, as 30-300"),
        ("rewrite type A", "an argument is missing, expected a type as A"),
    ] {
        let (_, lines) = complaints(rule, Config::parse);
        assert_eq!(lines, [format!("Corefile:2: rewrite: {said}")], "{rule}");
    }
}
