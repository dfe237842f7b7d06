//! What holds for every handler and every query.

use proptest::prelude::*;

use super::*;
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::config::table;
use crate::corefile;
use crate::plugin;
use crate::request::{Origin, Request, Step, Transport};
use crate::wire::query::write_query;
use crate::wire::{Class, Name, Query, RecordType, Reply};

/// Every directive that has a handler, in two blocks where one does not suffice.
const COREFILE: &str = "cluster.local example.org in-addr.arpa . {
    bind 127.0.0.1
    local
    acl {
        drop net 10.0.0.3
        filter type MX
    }
    any
    filter_aaaa v4.example.org
    dns64 {
        allow_ipv4
    }
    rewrite name suffix .old.example .example.org answer auto
    rewrite ttl short.example.org 5
    header {
        response set ra
    }
    minimal
    template IN A tpl.example.org {
        match ^a[.]
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
        fallthrough
    }
    hosts {
        192.0.2.80 intranet.example.org
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa {
        objects @objects@
        fallthrough
    }
    file @zone@ file.example.org
    special_names
    cache
    loop
    forward test 127.0.0.1:9
    forward . 127.0.0.1:9 {
        except example.org
    }
    whoami
}
";

fn assembled(dir: &std::path::Path) -> Assembled {
    let zone = dir.join("zone");
    std::fs::write(&zone, "@ 30 IN SOA ns h 1 1 1 1 1\nwww 30 IN A 192.0.2.1\n").unwrap();
    let objects = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo/objects");
    let text = COREFILE.replace("@objects@", objects).replace("@zone@", &zone.to_string_lossy());
    let (file, mut diagnostics) = corefile::parse("Corefile", &text, &|_| None);
    let blocks = plugin::read(&file, 53, &mut diagnostics);
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    let shared = Arc::new(Shared::new(1));
    assemble(blocks, &shared).unwrap()
}

fn names() -> impl Strategy<Value = String> {
    let label = prop_oneof![
        Just("www"),
        Just("a"),
        Just("old"),
        Just("web"),
        Just("default"),
        Just("svc"),
        Just("1"),
        Just("_tcp"),
        Just("localhost"),
        Just("short"),
        Just("intranet"),
    ];
    let zone = prop_oneof![
        Just("."),
        Just("cluster.local."),
        Just("example.org."),
        Just("v4.example.org."),
        Just("tpl.example.org."),
        Just("file.example.org."),
        Just("old.example."),
        Just("10.in-addr.arpa."),
        Just("test."),
        Just("onion."),
        Just("x.test.cluster.local."),
    ];
    (proptest::collection::vec(label, 0..4), zone).prop_map(|(labels, zone)| {
        let text = labels.iter().fold(String::new(), |text, label| text + label + ".");
        if zone == "." && !text.is_empty() { text } else { text + zone }
    })
}

fn types() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(1u16),
        Just(28),
        Just(5),
        Just(12),
        Just(13),
        Just(15),
        Just(33),
        Just(255),
        any::<u16>()
    ]
}

/// What a reply to the query is without and with what a handler did to it, and whether it passed the query on.
fn reply(query: &Query<'_>, serve: impl FnOnce(&mut Reply<'_>)) -> Vec<u8> {
    let mut buf = Vec::new();
    let mut reply = Reply::begin(&mut buf, query, false);
    serve(&mut reply);
    reply.finish(None);
    buf
}

/// A handler that bypasses a query passes it on, which resolving misses in place relies on; and one that passes a query on, or
/// waits, leaves the reply as it was.
#[test]
fn a_handler_that_bypasses_a_query_passes_it_on_and_leaves_the_reply_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let assembled = runtime.block_on(async { assembled(dir.path()) });
    let handlers = assembled.chains[0].handlers();
    let written = COREFILE.lines().filter_map(|line| line.split_whitespace().next());
    let written: std::collections::BTreeSet<_> = written.collect();
    for handler in handlers {
        assert!(written.contains(handler.plugin().name()), "{}", handler.plugin().name());
    }
    assert!(handlers.len() > 16 && table::all().len() > handlers.len(), "{}", handlers.len());
    let bypassed = std::cell::Cell::new(0);
    let query = (
        names(),
        types(),
        any::<bool>(),
        any::<bool>(),
        0u8..6,
        prop_oneof![Just(1u16), Just(3), Just(255)],
    );
    proptest!(|((name, qtype, dnssec, edns, host, class) in query)| {
        let name = Name::from_text(&name).unwrap();
        let mut packet = Vec::new();
        let edns = edns.then_some((1_232, dnssec));
        write_query(&mut packet, 7, 0x0100, name.as_ref(), RecordType(qtype), Class(class), edns);
        let query = Query::parse(&packet).unwrap();
        let untouched = reply(&query, |_| {});
        let origin = Origin {
            client: ([10, 0, 0, host], 5_353).into(),
            local: ([127, 0, 0, 1], 53).into(),
            transport: Transport::Udp,
            worker: 0,
            received: CoarseInstant::now(),
        };
        let request = Request { query, origin };
        for handler in handlers {
            let bypasses = handler.bypasses(&request);
            bypassed.set(bypassed.get() + usize::from(bypasses));
            let mut passed = None;
            let replied = reply(&request.query, |reply| {
                passed = Some(handler.serve(&request, reply, &mut Local::new(0)));
            });
            let handler = handler.plugin().name();
            let is_next = matches!(passed, Some(Step::Next));
            prop_assert!(is_next || !bypasses, "{handler} bypasses {name} and serves it");
            if !matches!(passed, Some(Step::Done(_))) {
                prop_assert!(replied == untouched, "{handler} writes on {name} and passes it on");
            }
        }
    });
    assert!(bypassed.get() > 100, "only {}", bypassed.get());
}
