//! What is logged, and how it looks.

use super::*;
use crate::clock::CoarseInstant;
use crate::logging::test::captured;
use crate::plugin::testing::{block, read};
use crate::request::{Origin, Plugin, Transport};
use crate::wire::query::write_query;
use crate::wire::{Class as QClass, Owner, Query, Reply, flags};

fn config(lines: &str) -> (Vec<Config>, String) {
    let parse = |line| read(line, |directive, found| Config::parse(directive, &block("."), found));
    let (configs, shown): (Vec<_>, Vec<String>) = lines.split("---").map(parse).unzip();
    (configs, shown.concat())
}

/// What a log writes for one query: for `name`, answered with `rcode` and so many records.
fn logged(
    lines: &str,
    format: Format,
    name: &str,
    rcode: Rcode,
    records: usize,
    micros: u64,
) -> String {
    let log = Log::new(config(lines).0, format, Arc::default());
    let mut packet = Vec::new();
    let name = Name::from_text(name).unwrap();
    write_query(
        &mut packet,
        29008,
        flags::RD,
        name.as_ref(),
        RecordType::A,
        QClass::IN,
        Some((1232, true)),
    );
    let request = Request {
        query: Query::parse(&packet).unwrap(),
        origin: Origin {
            client: "[fd00::7]:4242".parse().unwrap(),
            local: "10.0.0.10:53".parse().unwrap(),
            transport: Transport::Udp,
            worker: 0,
            received: CoarseInstant::default(),
        },
    };
    let mut reply = Vec::new();
    let mut writer = Reply::begin(&mut reply, &request.query, false);
    writer.set_rcode(rcode);
    for _ in 0..records {
        writer.record(Section::Answer, Owner::Question, RecordType::A, 5, &[10, 0, 0, 1]);
    }
    writer.finish(None);
    let outcome = Outcome::new(Plugin::Forward, rcode);
    captured(format, || {
        if log.wants(&request, &outcome) {
            log.write(&request, &outcome, &reply, micros);
        }
    })
}

#[test]
fn the_common_format_is_that_of_coredns() {
    let line = logged("log", Format::Text, "a.Example.ORG", Rcode::NOERROR, 1, 37_990);
    assert!(
        line.ends_with(
            "INFO query: [fd00::7]:4242 - 29008 \"A IN a.example.org. udp 42 true 1232\" NOERROR qr,rd 58 0.03799s\n"
        ),
        "{line}"
    );
}

#[test]
fn own_formats() {
    let shown = |lines: &str| logged(lines, Format::Text, "a.org", Rcode::NXDOMAIN, 0, 0);
    let line =
        shown("log . \"{remote} {local} {rcode} {>opcode} {/kubernetes/pod} {nothing} {rsize\"");
    assert!(line.ends_with("query: [fd00::7] 10.0.0.10 NXDOMAIN 0 - {nothing} {rsize\n"), "{line}");
    assert!(shown("log . {combined}").ends_with(" 0s \"0\"\n"));
    assert!(shown("log . {common}").ends_with(" 0s\n"));
}

#[test]
fn placeholders_that_stand_for_nothing_are_told() {
    let (_, told) =
        config("log . \"{/kubernetes/client-pod-name} {/kubernetes/client-pod} {rcod}\"");
    assert!(
        told.contains("Corefile:2: warning: log: there is no metadata {/kubernetes/client-pod}:")
    );
    assert!(told.contains("there is no placeholder {rcod}") && told.lines().count() == 2, "{told}");
}

#[test]
fn json_has_fields() {
    let line = logged("log . {common}", Format::Json, "a.org", Rcode::NOERROR, 1, 1_500);
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (
            &json["name"],
            &json["type"],
            &json["duration"],
            &json["rflags"],
            &json["plugin"],
            &json["target"]
        ),
        (
            &"a.org.".into(),
            &"A".into(),
            &0.0015.into(),
            &"qr,rd".into(),
            &"forward".into(),
            &"query".into()
        )
    );
}

#[test]
fn classes_names_and_durations_choose() {
    let is = |lines: &str, name: &str, rcode, records, micros| {
        !logged(lines, Format::Text, name, rcode, records, micros).is_empty()
    };
    let denial = "log . {\n class denial\n}";
    assert!(is(denial, "a.org", Rcode::NXDOMAIN, 0, 0));
    assert!(is(denial, "a.org", Rcode::NOERROR, 0, 0));
    assert!(!is(denial, "a.org", Rcode::NOERROR, 1, 0));
    assert!(!is(denial, "a.org", Rcode::SERVFAIL, 0, 0));
    let slow = "log . {\n class error\n minDuration 1s\n}";
    assert!(is(slow, "a.org", Rcode::NOERROR, 1, 1_000_000));
    assert!(!is(slow, "a.org", Rcode::NOERROR, 1, 999_999));
    assert!(is(slow, "a.org", Rcode::SERVFAIL, 0, 0));
    let two = "log a.org {\n class error\n}---log . {\n class success\n class denial\n}";
    assert!(!is(two, "x.a.org", Rcode::NOERROR, 1, 0));
    assert!(is(two, "b.org", Rcode::NOERROR, 1, 0));
    assert!(!is(two, "b.org", Rcode::REFUSED, 0, 0));
    assert!(!is("log a.org b.org", "c.org", Rcode::NOERROR, 1, 0));
}

#[test]
fn what_is_taken_otherwise_than_meant_is_a_warning() {
    for (line, wanted) in [
        ("log stdout", "Corefile:2: warning: log: \"stdout\" is taken as a name"),
        (
            "log /var/log/queries",
            "Corefile:2: warning: log: \"/var/log/queries\" is taken as a name",
        ),
        (
            "log \"{remote} {type}\"",
            "Corefile:2: warning: log: CoreDNS takes \"{remote} {type}\" for a name",
        ),
        ("log . {nmae}", "Corefile:2: warning: log: there is no placeholder {nmae}"),
        ("log . {\n class some\n}", "Corefile:3: log: class: there is no class \"some\""),
        ("log . {\n clas all\n}", "Corefile:3: log: there is no option \"clas\", expected class"),
    ] {
        let shown = config(line).1;
        assert!(shown.starts_with(wanted) && shown.lines().count() == 1, "{line}: {shown}");
    }
    assert_eq!(config("log a.org . {combined}").1, "");
}
