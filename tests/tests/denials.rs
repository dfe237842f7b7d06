//! What was good for long and is denied all of a sudden is answered as it was, for a while (`stale_on_denial`).

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use tests::client::Question;
use tests::poll::{pause, wait_for};
use tests::process::{Nodens, Setup, run};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);

const ZONE: &str = "$ORIGIN test.\n$TTL 1\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 1\n\
    old IN A 192.0.2.1\nyoung IN A 192.0.2.2\nother IN A 192.0.2.3\n";

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    forward . @up@
    cache 1 {
        success 1000 1 1
        denial 1000 1 1
    }
    stale_on_denial {
        after 3s
        for 5s
        zones old.test young.test
    }
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

/// The code, the address, and the text of the extended error.
fn ask(nodens: &Nodens, name: &str) -> (ResponseCode, String, String) {
    let answer = nodens.client().udp(&Question::new(name, RecordType::A)).unwrap();
    let edns = answer.message.edns.as_ref();
    let told = edns.and_then(|edns| match edns.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, octets) => {
            Some(String::from_utf8_lossy(octets.get(2..)?).into_owned())
        }
        _ => None,
    });
    let code = answer.message.metadata.response_code;
    (code, answer.data(RecordType::A).join(" "), told.unwrap_or_default())
}

#[test]
fn a_denial_of_what_was_good_for_long_is_not_believed_for_a_while() {
    let up = Upstream::with_zone(ZONE);
    let nodens = Setup::new(COREFILE).word("up", up.address()).start();
    let good = |name: &str| (ResponseCode::NoError, name.to_owned(), String::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(ask(&nodens, "old.test."), good("192.0.2.1"));
        assert_eq!(ask(&nodens, "other.test."), good("192.0.2.3"));
        pause(Duration::from_millis(300));
    }
    assert_eq!(ask(&nodens, "young.test."), good("192.0.2.2"));
    up.always(Act::Rcode(ResponseCode::NXDomain));
    pause(Duration::from_millis(1_500));
    let denied = Instant::now();
    let (code, address, told) = ask(&nodens, "old.test.");
    assert_eq!((code, address.as_str()), (ResponseCode::NoError, "192.0.2.1"));
    assert!(told.contains("last good answer"), "{told:?}");
    // It was too short a time, or is of no zone that was named.
    assert_eq!(ask(&nodens, "young.test.").0, ResponseCode::NXDomain);
    assert_eq!(ask(&nodens, "other.test.").0, ResponseCode::NXDomain);
    // Upstreams are not asked for each query.
    let asked = up.count("old.test.", RecordType::A);
    for _ in 0..20 {
        assert_eq!(ask(&nodens, "old.test.").1, "192.0.2.1");
    }
    assert_eq!(up.count("old.test.", RecordType::A), asked);
    let metrics = nodens.metrics();
    assert_eq!(metrics.sum("nodens_cache_denials_overruled_total", &[]), 1.0);
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, said, _) = run(&["explain", "old.test", "--socket", &socket]);
    assert!(said.contains("upstreams deny it"), "{said}");
    let status = || run(&["status", "--socket", &socket]).1;
    wait_for("the condition", SOON, || status().contains("upstreams deny names"));

    // It ends.
    pause(Duration::from_secs(6).saturating_sub(denied.elapsed()));
    assert_eq!(ask(&nodens, "old.test.").0, ResponseCode::NXDomain);
    // What is good again has to prove itself again.
    up.always(Act::Answer);
    wait_for("an answer", SOON, || ask(&nodens, "old.test.") == good("192.0.2.1"));
    up.always(Act::Rcode(ResponseCode::NXDomain));
    wait_for("a denial", SOON, || ask(&nodens, "old.test.").0 == ResponseCode::NXDomain);
}

#[test]
fn it_needs_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    let text = ". {\n forward . 192.0.2.1\n stale_on_denial {\n  after 3x\n  untl 3d\n }\n}\n";
    std::fs::write(&path, text).unwrap();
    let (status, out, err) = run(&["check", &path.to_string_lossy()]);
    let said = format!("{out}{err}");
    assert!(!status.success(), "{said}");
    for wanted in ["Corefile:3: stale_on_denial: there is no cache", "Corefile:4: ", "Corefile:5: "]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
