//! Each rule that fits works, in order; what is changed has the code, the flags and the names of what it became.

use super::*;

fn with_ad(nodens: &Nodens, name: &str) -> Answer {
    let question =
        Question::new(name, RecordType::A).with(|message| message.metadata.authentic_data = true);
    nodens.client().udp(&question).unwrap()
}

#[test]
fn every_rule_of_a_kind_that_fits_works() {
    let upstream = zone();
    for keyword in ["", "continue ", "stop "] {
        let nodens = start(
            &upstream,
            &format!(
                "rewrite {keyword}cname exact a.nowhere b.aws
    rewrite {keyword}cname exact there.aws new.test
    rewrite {keyword}cname exact glb.test new.test
    rewrite {keyword}rcode suffix test SERVFAIL REFUSED
    rewrite {keyword}rcode suffix test NXDOMAIN NOERROR"
            ),
        );
        let wanted = "NOERROR new.test. 1800 A 192.0.2.7; other.test. 1800 CNAME new.test.";
        assert_eq!(line(&udp(&nodens, "other.test.")), wanted, "{keyword}");
        assert_eq!(line(&udp(&nodens, "gone.test.")), "NOERROR", "{keyword}");
    }
    let nodens =
        start(&upstream, "rewrite continue ttl suffix test 100-\n rewrite ttl exact www.test -200");
    assert_eq!(ttls(&udp(&nodens, "www.test.")), [200]);
}

#[test]
fn the_code_is_that_of_the_new_target() {
    let upstream = zone();
    // A server for each rule, since whether two of a kind work is tested above.
    let nodens = start(&upstream, "rewrite cname exact glb.test new.test");
    let answer = udp(&nodens, "nx.test.");
    assert_eq!(line(&answer), "NOERROR new.test. 1800 A 192.0.2.7; nx.test. 1800 CNAME new.test.");
    assert!(answer.normal.authority.is_empty(), "{:?}", answer.normal);
    let nodens = start(&upstream, "rewrite cname exact www.test gone.test");
    let answer = udp(&nodens, "alias.test.");
    assert_eq!(line(&answer), "NXDOMAIN alias.test. 1800 CNAME gone.test.");
    assert_eq!(answer.normal.authority.len(), 1);
}

#[test]
fn what_is_changed_is_not_authentic() {
    let upstream = zone();
    upstream.validate();
    let nodens = start(
        &upstream,
        "rewrite continue cname exact glb.test new.test
    rewrite continue rcode suffix changed.test NXDOMAIN NOERROR
    rewrite continue ttl exact new.test 5
    rewrite name exact renamed.test www.test",
    );
    for name in ["nx.test.", "changed.test.", "new.test.", "renamed.test."] {
        assert!(!with_ad(&nodens, name).message.metadata.authentic_data, "{name}");
    }
    assert!(with_ad(&nodens, "www.test.").message.metadata.authentic_data, "unchanged");
}

#[test]
fn the_case_of_names_in_data_is_kept() {
    let upstream = zone();
    let zone_file = "@ 30 IN SOA ns h 1 1 1 1 1
_smb._tcp 30 IN PTR Home\\ Media._smb._tcp
_x._tcp 30 IN SRV 1 2 3 Host.Example.Org.
";
    let nodens = setup(
        &upstream,
        "file @folder@/db example.net
    rewrite name exact short.test _smb._tcp.example.net
    template IN PTR tpl.test {
        answer \"{{ .Name }} 30 IN PTR Big.Name.\"
    }",
    )
    .file("db", zone_file)
    .start();
    for (name, kind, wanted) in [
        ("_smb._tcp.example.net.", RecordType::PTR, "Home\\ Media._smb._tcp.example.net."),
        ("_SMB._tcp.example.NET.", RecordType::PTR, "Home\\ Media._smb._tcp.example.net."),
        ("short.test.", RecordType::PTR, "Home\\ Media.short.test."),
        ("_x._tcp.example.net.", RecordType::SRV, "Host.Example.Org."),
        ("tpl.test.", RecordType::PTR, "Big.Name."),
    ] {
        let answer = nodens.client().udp(&Question::new(name, kind)).unwrap();
        let name_of = |record: &Record| match &record.data {
            RData::PTR(target) => target.0.to_ascii(),
            RData::SRV(srv) => srv.target.to_ascii(),
            other => panic!("{other:?}"),
        };
        let got: Vec<String> = answer.message.answers.iter().map(name_of).collect();
        assert_eq!(got, [wanted.replace("\\ ", "\\040")], "{name}");
    }
}

#[test]
fn a_client_may_give_away_less_of_its_address() {
    let upstream = zone();
    let nodens = start(&upstream, "rewrite edns0 subnet set 24 56");
    let subnet = |option: Option<Vec<u8>>| {
        upstream.forget();
        let question = Question::new("www.test.", RecordType::A).edns(|edns| {
            if let Some(data) = option {
                use hickory_proto::rr::rdata::opt::EdnsOption;
                edns.options_mut().insert(EdnsOption::Unknown(8, data));
            }
        });
        nodens.client().udp(&question).unwrap();
        let bytes = upstream.seen().remove(0).bytes;
        let edns = nodens::wire::Layout::parse(&bytes).unwrap().edns.unwrap();
        bytes[usize::from(edns.options) + 4..usize::from(edns.end)].to_vec()
    };
    assert_eq!(subnet(None), [0, 1, 24, 0, 127, 0, 0]);
    assert_eq!(subnet(Some(vec![0, 1, 0, 0])), [0, 1, 0, 0]);
    assert_eq!(subnet(Some(vec![0, 2, 0, 0])), [0, 2, 0, 0]);
    assert_eq!(subnet(Some(vec![0, 1, 20, 0, 10, 1, 0xf0])), [0, 1, 20, 0, 10, 1, 0xf0]);
    assert_eq!(subnet(Some(vec![0, 1, 32, 0, 10, 1, 2, 3])), [0, 1, 24, 0, 127, 0, 0]);
}
