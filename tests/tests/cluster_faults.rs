//! Faults of cluster names that were seen through the binary: see `agent/src/plugin/kubernetes/tests/costs.rs` for what the
//! biggest objects cost.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use tests::poll::wait_for;
use tests::process::{Nodens, Setup};

const SOON: Duration = Duration::from_secs(60);

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    kubernetes cluster.local in-addr.arpa {
        objects @folder@/objects
    }
}
";

/// Slices of 100 endpoints of the headless Service `big`: half of them have the hostname that `name` gives them, and stand
/// before the half that share one.
fn slices(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = writeln!(
            text,
            "---\nkind: EndpointSlice\nmetadata: {{name: big-{number:05}, labels: {{kubernetes.io/service-name: big}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 80}}]\nendpoints:"
        );
        for n in 0..100 {
            let own = format!("a{number}-{n}");
            let hostname = if n < 50 { own.as_str() } else { "shared" };
            let _ = writeln!(
                text,
                "- {{addresses: [10.{}.{}.{n}], hostname: {hostname}}}",
                number / 200,
                number % 200
            );
        }
    }
    text
}

fn records(nodens: &Nodens, name: &str, qtype: RecordType) -> usize {
    nodens.client().ask(name, qtype).map_or(0, |answer| answer.data(qtype).len())
}

/// Case Q16: 300 such slices took 1.8 s for one query, in the receive loop.
#[test]
fn a_service_whose_endpoints_share_a_hostname_holds_nobody_up() {
    let service = "kind: Service\nmetadata: {name: big}\nspec: {clusterIP: None, ports: [{name: http, port: 80}]}\n\
        ---\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1}\n";
    let nodens = Setup::new(COREFILE)
        .file("objects/a.yaml", service)
        .file("objects/b.yaml", &slices(0..150))
        .start();
    nodens.write_file("objects/c.yaml", &slices(150..300));
    let big = "big.default.svc.cluster.local.";
    let name = "a299-1.big.default.svc.cluster.local.";
    wait_for("the slices added later", SOON, || records(&nodens, name, RecordType::A) == 1);
    // One query each, by any of them beside a name that has nothing to do with it.
    for (asked, qtype) in [
        (big.to_owned(), RecordType::SRV),
        (format!("_http._tcp.{big}"), RecordType::SRV),
        (format!("shared.{big}"), RecordType::A),
        (format!("shared.{big}"), RecordType::SRV),
        (big.to_owned(), RecordType::A),
    ] {
        let before = nodens.cpu();
        for _ in 0..50 {
            assert!(records(&nodens, &asked, qtype) > 0, "{asked} {qtype}");
        }
        // 90 s before; a millisecond now, the server's other work included.
        let took = nodens.cpu() - before;
        assert!(took < Duration::from_secs(3), "50 queries of {asked} {qtype} took {took:?}");
    }
    let began = Instant::now();
    assert_eq!(records(&nodens, "web.default.svc.cluster.local.", RecordType::A), 1);
    println!("another name after {:?}", began.elapsed());
}

/// Case Q23 (kubernetes#124418).
#[test]
fn the_hostname_comes_first_among_the_names_of_an_address() {
    let slice = |service: &str, hostname: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{name: {service}-x, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [10.1.0.7]{hostname}}}]\n"
        )
    };
    let services = ["aaa", "mysql", "zzz"].map(|name| {
        format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None}}\n")
    });
    // Whatever comes first: each order of objects.
    for order in 0..3 {
        let mut slices =
            [slice("aaa", ""), slice("mysql", ", hostname: mysql-0"), slice("zzz", "")];
        slices.rotate_left(order);
        let text = services.concat() + &slices.concat();
        let nodens = Setup::new(COREFILE).file("objects/a.yaml", &text).start();
        for (n, slice) in slices.iter().enumerate() {
            nodens.write_file(&format!("objects/{n}.yaml"), slice);
        }
        let answer = nodens.client().ask("7.0.1.10.in-addr.arpa.", RecordType::PTR).unwrap();
        // As they came: `data` sorts them.
        let names: Vec<String> =
            answer.message.answers.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[0], "mysql-0.mysql.default.svc.cluster.local.", "{names:?}");
    }
}
