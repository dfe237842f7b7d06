//! Answers, options, and files that change.

use std::net::IpAddr;
use std::time::Instant;

use super::*;
use crate::plugin::testing::{block, read, request_of};
use crate::wire::layout::Layout;

fn config(text: &str) -> (Config, String) {
    read(text, |directive, diagnostics| Config::parse(directive, &block(". a.org"), diagnostics))
}

fn inline(options: &str) -> Hosts {
    let (config, shown) = config(&format!("hosts /dev/null {{\n{options}\n}}"));
    assert_eq!(shown, "");
    Hosts::new(config, false)
}

/// What is answered: `next`, or the response code and the answers' data as text.
fn ask(hosts: &Hosts, name: &str, qtype: RecordType) -> String {
    request_of(name, qtype, |request| {
        let mut buf = Vec::new();
        let mut reply = Reply::begin(&mut buf, &request.query, false);
        let Step::Done(outcome) = hosts.serve(request, &mut reply, &mut Local::new(0)) else {
            assert_eq!(
                (reply.len(), reply.rcode()),
                (request.query.question_end(), Rcode::NOERROR)
            );
            return "next".to_owned();
        };
        assert_eq!((outcome.plugin, outcome.rcode), (Plugin::Hosts, reply.rcode()));
        reply.finish(None);
        let layout = Layout::parse(&buf).unwrap();
        assert_eq!(layout.flags & flags::AA != 0, outcome.rcode == Rcode::NOERROR);
        let mut shown = vec![outcome.rcode.to_string()];
        for record in &layout.records {
            let data = record.rdata(&buf);
            let value = match (record.rtype, data) {
                (RecordType::A, &[a, b, c, d]) => IpAddr::from([a, b, c, d]).to_string(),
                (RecordType::AAAA, data) => {
                    IpAddr::from(<[u8; 16]>::try_from(data).unwrap()).to_string()
                }
                (_, data) => NameRef::parse(data).unwrap().to_string(),
            };
            shown.push(format!("{}/{value}", record.ttl));
        }
        shown.join(" ")
    })
}

#[test]
fn addresses_and_names() {
    let hosts = inline(
        "10.0.0.1 a.org b.A.org\n10.0.0.2 a.org\nfd00::1 a.org\n10.0.0.1 a.org\nfallthrough",
    );
    assert_eq!(ask(&hosts, "A.org", RecordType::A), "NOERROR 3600/10.0.0.1 3600/10.0.0.2");
    assert_eq!(ask(&hosts, "a.org", RecordType::AAAA), "NOERROR 3600/fd00::1");
    assert_eq!(ask(&hosts, "b.a.org", RecordType::AAAA), "NOERROR");
    assert_eq!(ask(&hosts, "a.org", RecordType::MX), "NOERROR");
    assert_eq!(ask(&hosts, "c.org", RecordType::A), "next");
    assert_eq!(
        ask(&hosts, "1.0.0.10.in-addr.arpa", RecordType::PTR),
        "NOERROR 3600/a.org. 3600/b.a.org."
    );
    let v6 = format!("1.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&hosts, &v6, RecordType::PTR), "NOERROR 3600/a.org.");
    assert_eq!(ask(&hosts, "9.0.0.10.in-addr.arpa", RecordType::PTR), "next");
}

#[test]
fn options_change_what_is_answered() {
    let hosts = inline("10.0.0.1 a.org\nttl 7\nno_reverse\nfallthrough b.org");
    assert_eq!(ask(&hosts, "a.org", RecordType::A), "NOERROR 7/10.0.0.1");
    assert_eq!(ask(&hosts, "1.0.0.10.in-addr.arpa", RecordType::PTR), "next");
    assert_eq!(ask(&hosts, "x.b.org", RecordType::A), "next");
    assert_eq!(ask(&hosts, "x.c.org", RecordType::A), "SERVFAIL");
}

#[test]
fn other_types_may_be_passed_on() {
    let hosts = inline("10.0.0.1 a.org x.b.org\nfallthrough a.org\nfallthrough_unsupported");
    assert_eq!(ask(&hosts, "a.org", RecordType::MX), "next");
    assert_eq!(ask(&hosts, "a.org", RecordType::AAAA), "NOERROR");
    assert_eq!(ask(&hosts, "x.b.org", RecordType::MX), "NOERROR");
    let (_, shown) = config("hosts {\n 10.0.0.1 a.org\n fallthrough_unsupported\n}");
    assert!(shown.contains("stands without fallthrough"), "{shown}");
}

#[test]
fn names_outside_of_the_zones_are_not_served() {
    let (config, shown) = config("hosts /dev/null b.org {\n 10.0.0.1 x.b.org x.c.org\n}");
    assert_eq!(shown, "");
    let hosts = Hosts::new(config, false);
    assert_eq!(ask(&hosts, "x.b.org", RecordType::A), "NOERROR 3600/10.0.0.1");
    assert_eq!(ask(&hosts, "x.c.org", RecordType::A), "next");
    assert_eq!(ask(&hosts, "1.0.0.10.in-addr.arpa", RecordType::PTR), "NOERROR 3600/x.b.org.");
}

#[test]
fn addresses_go_round_with_loadbalance() {
    let mut hosts = inline("10.0.0.1 a.org\n10.0.0.2 a.org");
    hosts.rotate = true;
    // `ask` begins anew each time, and the first turn is one place further.
    assert_eq!(ask(&hosts, "a.org", RecordType::A), "NOERROR 3600/10.0.0.2 3600/10.0.0.1");
}

#[test]
fn many_names_of_one_address_are_cut_off_honestly() {
    let names: String = (0..200).map(|n| format!("10.0.0.1 name{n}.a.org\n")).collect();
    let hosts = inline(names.trim_end());
    request_of("1.0.0.10.in-addr.arpa", RecordType::PTR, |request| {
        let mut buf = Vec::new();
        let mut reply = Reply::begin(&mut buf, &request.query, false);
        hosts.serve(request, &mut reply, &mut Local::new(0));
        assert!(reply.truncated());
        assert!(reply.finish(None) <= 512);
    });
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    std::fs::write(
        &path,
        "127.0.0.1 localhost\n# nothing\nnonsense here\n10.0.0.1 a.org # its name\n",
    )
    .unwrap();
    let text = format!("hosts {} {{\n 10.0.0.9 i.org\n reload 10ms\n}}", path.display());
    let (config, shown) = config(&text);
    assert_eq!(shown, "");
    let lines = crate::logging::test::capture(crate::logging::Format::Text);
    let hosts = config.build(false, &Handle::current());
    assert!(
        lines
            .text()
            .contains("hosts:3 and perhaps others are ignored: \"nonsense\" is not an address")
    );
    assert_eq!(ask(&hosts, "a.org", RecordType::A), "NOERROR 3600/10.0.0.1");
    assert_eq!(ask(&hosts, "i.org", RecordType::A), "NOERROR 3600/10.0.0.9");
    assert_eq!(hosts.table.load().entries, 6);
    std::fs::write(&path, "10.0.0.22 a.org\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(&hosts, "a.org", RecordType::A) != "NOERROR 3600/10.0.0.22" {
        assert!(Instant::now() < deadline, "the change is not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_file(&path).unwrap();
    hosts.refresh();
    hosts.refresh();
    assert_eq!(
        ask(&hosts, "a.org", RecordType::A),
        "NOERROR 3600/10.0.0.22",
        "a file that is gone takes nothing away"
    );
}

#[test]
fn what_is_wrong() {
    let (_, shown) = config(
        "hosts {\n 10.0.0.300 a.org\n 10.0.0.1\n ttl 0\n reload 5\n fallthru\n no_reverse x\n fallthrough a..b\n}",
    );
    for wanted in [
        "Corefile:3: warning: hosts: 10.0.0.300: neither an address nor an option",
        "Corefile:4: warning: hosts: 10.0.0.1: the address has no name",
        "Corefile:5: hosts: ttl: \"0\" is out of range",
        "Corefile:6: hosts: reload: \"5\" has no unit",
        "Corefile:7: warning: hosts: fallthru: neither an address nor an option",
        "Corefile:8: hosts: no_reverse: there is an argument too many",
        "Corefile:9: hosts: fallthrough: \"a..b\" is not a zone",
    ] {
        assert!(shown.contains(wanted), "{wanted}\n{shown}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_table(text in "(\\PC{0,9}[ \n]?){0,20}|([0-9a-f.:%#]{0,12}[ \n\t]){0,20}") {
        let zones = [Name::root()];
        let mut builder = Builder::new(&zones, 5, true);
        builder.add(&text);
        let table = builder.finish();
        proptest::prop_assert!(table.entries <= 2 * text.len());
    }
}
