use std::sync::Arc;

use super::*;
use crate::plugin::testing::{Client, Fixed, complaints, parsed};

fn client(directives: &[&str]) -> Client {
    let templates = directives.iter().map(|text| parsed(text, Config::parse)).collect();
    let behind = Fixed::waiting("behind.example.org. 5 A 1.1.1.1\nother. 5 A 2.2.2.2");
    Client::new(vec![Arc::new(Template::new(templates)), behind])
}

#[test]
fn a_constant_answer_is_prepared() {
    let client = client(&["template IN A {\n answer \"{{ .Name }} 60 IN A 10.0.0.1\"\n}"]);
    assert_eq!(
        client.text("Www.example.org", RecordType::A),
        "NOERROR www.example.org. 60 A 10.0.0.1"
    );
    assert_eq!(client.text("other", RecordType::A), "NOERROR other. 5 A 2.2.2.2");
    assert_eq!(client.text("behind.example.org", RecordType::AAAA), "NOERROR");
    let got = client.ask("www.example.org", RecordType::A).unwrap();
    assert_ne!(got.flags() & flags::AA, 0);
    let config: Config =
        parsed("template IN A {\n answer \"{{ .Name }} 60 IN A 10.0.0.1\"\n}", Config::parse);
    assert!(config.answer[0].prepared.is_some());
}

#[test]
fn groups_make_addresses() {
    let client = client(&["template IN A example.org {
        match ^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)[.]example[.]org[.]$ \"^hex(?P<h>[0-9a-f]{2})[.]\"
        answer \"{{ .Name }} 60 IN A 10.0.{{ .Group.a }}.{{ index .Match 2 }}\"
        additional \"{{ .Zone }} IN TXT {{ .Remote }}\"
        fallthrough
    }"]);
    assert_eq!(
        client.text("ip-3-4.example.org", RecordType::A),
        "NOERROR ip-3-4.example.org. 60 A 10.0.3.4; additional example.org. 3600 TXT \x0810.0.0.9"
    );
    // An address out of range, a group that the expression lacks: both are failures, not addresses.
    assert_eq!(client.text("ip-3-444.example.org", RecordType::A), "SERVFAIL");
    assert_eq!(client.text("hexff.example.org", RecordType::A), "SERVFAIL");
    assert_eq!(
        client.text("behind.example.org", RecordType::A),
        "NOERROR behind.example.org. 5 A 1.1.1.1"
    );
}

#[test]
fn no_match_without_fallthrough_fails() {
    let both = client(&[
        "template ANY ANY {\n match ^a\n rcode NXDOMAIN\n}",
        "template IN A {\n answer \"x. A 1.1.1.1\"\n}",
    ]);
    assert_eq!(both.text("a.example.org", RecordType::SRV), "NXDOMAIN");
    assert_eq!(both.text("behind.example.org", RecordType::A), "SERVFAIL");
    let through = client(&[
        "template ANY ANY {\n match ^a\n rcode NXDOMAIN\n fallthrough b.example.org\n}",
        "template IN A {\n answer \"x. A 1.1.1.1\"\n}",
    ]);
    assert_eq!(through.text("c.b.example.org", RecordType::A), "NOERROR x. 3600 A 1.1.1.1");
    assert_eq!(through.text("c.example.org", RecordType::A), "SERVFAIL");
}

#[test]
fn negative_answers_have_their_sections_and_errors() {
    let mut client = client(&["template IN AAAA {
        rcode NXDOMAIN
        authority \"{{ .Zone }} 60 IN SOA ns.{{ .Zone }} h.{{ .Zone }} 1 60 60 60 60\"
        ederror 15 \"not here\"
    }"]);
    client.edns = Some((1232, false));
    let got = client.ask("a.example.org", RecordType::AAAA).unwrap();
    assert_eq!(got.text(), "NXDOMAIN authority example.org. 60 SOA ns.example.org.");
    assert_eq!(got.message.options(), b"\0\x0f\0\x0a\0\x0fnot here");
}

#[test]
fn an_alias_is_followed() {
    let client = client(&["template IN ANY example.org {
        match ^alias[.]
        answer \"{{ .Name }} 60 IN CNAME behind.{{ .Zone }}\"
        authority \"{{ .Zone }} 60 IN NS ns.{{ .Zone }}\"
        fallthrough
    }"]);
    assert_eq!(
        client.text("alias.example.org", RecordType::A),
        "NOERROR alias.example.org. 60 CNAME behind.example.org.; behind.example.org. 5 A 1.1.1.1; \
         authority example.org. 60 NS ns.example.org."
    );
    assert!(
        client
            .text("alias.example.org", RecordType::TXT)
            .starts_with("NOERROR alias.example.org. 60 CNAME")
    );
}

#[test]
fn an_alias_to_itself_ends() {
    let longer =
        client(&["template IN ANY {\n answer \"{{ .Name }} 60 IN CNAME x.{{ .Name }}\"\n}"]);
    assert_eq!(longer.text("a.example.org", RecordType::A).matches("CNAME").count(), 8);
    for circle in [
        "answer \"{{ .Name }} 60 IN CNAME {{ .Name }}\"",
        "answer \"{{ .Name }} 60 IN CNAME B.{{ .Name }}\"\n answer \"b.{{ .Name }} 60 IN CNAME {{ .Name }}\"",
    ] {
        let client = client(&[&format!("template IN ANY {{\n{circle}\n}}")]);
        let text = client.text("a.example.org", RecordType::A);
        assert!(text.starts_with("SERVFAIL a.example.org. 60 CNAME "), "{text}");
        let text = client.text("a.example.org", RecordType::CNAME);
        assert!(text.starts_with("NOERROR a.example.org. 60 CNAME "), "{text}");
    }
    // Aliases in any order.
    let client = client(&["template IN A example.org {
        answer \"b.{{ .Name }} 60 IN CNAME other\"
        answer \"{{ .Name }} 60 IN CNAME b.{{ .Name }}\"
    }"]);
    let text = client.text("a.example.org", RecordType::A);
    assert!(text.ends_with("; other. 5 A 2.2.2.2"), "{text}");
}

#[test]
fn what_is_wrong_is_said() {
    let (_, said) = complaints(
        "template IN XX {
            match (
            answer \"{{ randInt 1 2 }} A 1.1.1.1\"
            answer \"{{ .Name }} 60 IN A 10.0.0\"
            answer \"{{ .Group.x }} A 1.1.1.{{ index .Match 3 }}\"
            answer
            rcode NOPE
            zone x
            fallthrough
        }",
        Config::parse,
    );
    let said: Vec<&str> = said.iter().map(|line| line.split([';', ',']).next().unwrap()).collect();
    assert_eq!(
        said,
        [
            "Corefile:2: template: \"XX\" is not a type",
            "Corefile:3: template: match: \"(\" is not a regular expression: unclosed group",
            "Corefile:4: template: answer: function \"randInt\" is not defined",
            "Corefile:5: warning: template: answer: \"{{ .Name }} 60 IN A 10.0.0\" is not a record: \"10.0.0\" is not an IPv4 address",
            "Corefile:6: warning: template: answer: no expression has a group named \"x\"",
            "Corefile:6: warning: template: answer: no expression has a group 3",
            "Corefile:7: template: answer: an argument is missing",
            "Corefile:8: template: rcode: \"NOPE\" is not a response code",
            "Corefile:9: template: there is no option \"zone\"",
        ]
    );
}
