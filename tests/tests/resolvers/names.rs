//! The names that resolvers look up, in groups of one kind, and the zone with those outside the cluster.

use std::fmt::Write as _;

/// The search domain of the node, as a cloud gives it.
pub const NODE_DOMAIN: &str = "eu-central-1.compute.internal";
pub const V6_ONLY: &str = "AAAA only";
/// `broken.example.org` and the names below it are SERVFAIL at the upstream.
pub const BROKEN: &str = "broken";
/// What they are called. They cost more where a resolver asks twice after SERVFAIL: for the first name, then for the last.
pub const FAILING: &str = "failing";

/// Names of one kind.
pub struct Group {
    /// What they have in common.
    pub kind: &'static str,
    pub names: Vec<String>,
    /// The queries that each name costs without and with `autopath`, where they are the same for all resolvers.
    pub cost: Option<(u64, u64)>,
}

/// Ten queries are A and AAAA of the four names of the list and of the name itself.
const EXTERNAL: Option<(u64, u64)> = Some((10, 2));
/// A and AAAA of the first name, or of the name itself where there is no list.
const AT_ONCE: Option<(u64, u64)> = Some((2, 2));

/// All names, for a Pod of the namespace `default` in the recorded cluster.
pub fn groups() -> Vec<Group> {
    let mut all = outside();
    all.extend(inside());
    all.extend(spelling());
    all
}

fn group(kind: &'static str, cost: Option<(u64, u64)>, names: &[&str]) -> Group {
    Group { kind, names: names.iter().map(ToString::to_string).collect(), cost }
}

fn numbered(
    kind: &'static str,
    cost: Option<(u64, u64)>,
    count: usize,
    name: impl Fn(usize) -> String,
) -> Group {
    Group { kind, names: (0..count).map(name).collect(), cost }
}

fn both(number: usize) -> String {
    let parents = ["example", "example.org", "a.example.org", "b.a.example.org"];
    format!("host-{number}.{}", parents[number % parents.len()])
}

fn one_type(kind: &str, number: usize) -> String {
    let parents = ["example", "example.org", "a.example.org"];
    format!("{kind}-{number}.{}", parents[number % parents.len()])
}

/// An alias that leads to an address after 1 to 5 others.
fn alias(number: usize) -> String {
    format!("alias-{number}-0.example.org")
}

fn aliases(number: usize) -> usize {
    number % 5 + 1
}

fn absent(number: usize) -> String {
    let parents = ["example", "example.org", "a.example.org", "nowhere", "www.example.org"];
    format!("absent-{number}.{}", parents[number % parents.len()])
}

const BIG: [usize; 5] = [8, 20, 28, 40, 70];
const LONG: [usize; 5] = [27, 31, 38, 40, 50];

/// A name of four dots and of 196 characters and so many more: with 27 every domain can be appended, then all but that of the node,
/// then two, one, and none.
fn long(more: usize) -> String {
    let label = "l".repeat(63);
    format!("{label}.{label}.{label}.{}.org", "m".repeat(more))
}

fn outside() -> Vec<Group> {
    vec![
        numbered("A and AAAA", EXTERNAL, 48, both),
        numbered("A only", EXTERNAL, 20, |number| one_type("v4", number)),
        numbered(V6_ONLY, EXTERNAL, 16, |number| one_type("v6", number)),
        numbered("aliases", EXTERNAL, 16, alias),
        Group {
            kind: "many addresses",
            names: BIG.iter().map(|count| format!("big-{count}.example.org")).collect(),
            cost: None,
        },
        numbered("no such name", Some((10, 10)), 20, absent),
        group("alias without a target", None, &["dangling.example.org", "dangling-2.example.org"]),
        group(
            "no address",
            None,
            &[
                "text-0.example",
                "text-1.example.org",
                "text-2.a.example.org",
                "parent.example.org",
                "a.example.org",
                "alias-to-text.example.org",
            ],
        ),
        group(FAILING, None, &["www.broken.example.org"]),
        // `prod` is a namespace, too: a name without addresses, earlier in the list. So is `text.example` in the node's domain.
        group(
            "of the node's domain",
            None,
            &["intra", "db.intra", "mail", "half.example", "text.example", "absent.intra", "prod"],
        ),
        group(
            "5 and 6 dots",
            None,
            &[
                "a.b.c.d.e.example",
                "b.b.c.d.e.example",
                "a.b.c.d.e.example.org",
                "b.b.c.d.e.example.org",
                "absent.b.c.d.e.example",
                "absent.b.c.d.e.example.org",
                "db-0.db.default.svc.cluster.local",
                "api.prod.svc.cluster.local.nowhere",
            ],
        ),
    ]
}

fn inside() -> Vec<Group> {
    vec![
        group(
            "Services of the namespace",
            AT_ONCE,
            &[
                "api",
                "db",
                "kubernetes",
                "myapp-svc",
                "mysql",
                "pod",
                "podinfo",
                "svc",
                "web",
                "mysql-0.mysql",
                "mysql-1.mysql",
                "my-pod.myapp-svc",
            ],
        ),
        group(
            "Services by namespace",
            None,
            &[
                "api.prod",
                "sctp.prod",
                "v6only.prod",
                "kube-dns.kube-system",
                "dual-headless.team-a",
                "dh-0.dual-headless.team-a",
                "manual.team-a",
                "alpha.manual.team-a",
                "nobody-vip.team-a",
                "publish-unready.team-a",
                "v6-headless.team-a",
                "lb.team-b",
                "nodeport.team-b",
                "web.default",
                "mysql-2.mysql.default",
                "api.prod.svc",
                "kube-dns.kube-system.svc",
                "dual-headless.team-a.svc",
                "lb.team-b.svc",
                "web.default.svc",
                "mysql-2.mysql.default.svc",
            ],
        ),
        group(
            "Services in full",
            None,
            &[
                "api.prod.svc.cluster.local",
                "v6only.prod.svc.cluster.local",
                "kube-dns.kube-system.svc.cluster.local",
                "dual-headless.team-a.svc.cluster.local",
                "web.default.svc.cluster.local",
                "kubernetes.default.svc.cluster.local",
                "web.default.svc.cluster",
                "dns-version.cluster.local",
            ],
        ),
        group(
            "ExternalName",
            None,
            &[
                "ext.team-b",
                "ext-in.team-b",
                "ext-ip.team-b",
                "ext-ports.team-b.svc",
                "ext-in.team-b.svc.cluster.local",
                "to-host",
                "to-nothing",
                "to-service",
            ],
        ),
        group(
            "no such Service",
            None,
            &[
                "absent",
                "absent.prod",
                "absent.prod.svc",
                "absent.prod.svc.cluster.local",
                "api.absent",
                "db-9.db",
                "nobody.team-a",
                "unready.team-a",
                "mysql-9.mysql.default",
                "pod.cluster.local",
                "team-a.svc",
            ],
        ),
        // Outside there are all of them, too, or all but the last label.
        group(
            "inside and outside",
            None,
            &[
                "web",
                "router",
                "api.prod",
                "web.default",
                "shop.prod",
                "sub.web",
                "sub.db",
                "kubernetes.default.svc",
                "www.api",
            ],
        ),
    ]
}

fn spelling() -> Vec<Group> {
    let mut odd = group(
        "odd names",
        None,
        &[
            "_under.score.example.org",
            "a..example.org",
            ".example.org",
            "-dash.example.org",
            "198.51.100.7",
            "2001:db8::77",
            "localhost",
            "xn--bcher-kva.example",
        ],
    );
    odd.names.push(format!("{}.example.org", "x".repeat(63)));
    odd.names.push(format!("{}.example.org", "x".repeat(64)));
    vec![
        group(
            "with a final dot",
            None,
            &[
                "host-1.example.org.",
                "v4-1.example.org.",
                "absent.example.org.",
                "api.prod.svc.cluster.local.",
                "web.default.svc.cluster.local.",
                "api.prod.",
                "router.",
            ],
        ),
        group(
            "in capitals",
            None,
            &[
                "HOST-1.Example.Org",
                "V4-1.EXAMPLE.ORG",
                "Alias-1-0.Example.org",
                "Absent.Example.Org",
                "API",
                "Api.Prod",
                "Web.Default.SVC",
                "Kube-DNS.kube-system.svc.Cluster.Local",
                "MySQL-0.MySQL",
            ],
        ),
        numbered("long names", None, LONG.len(), |number| long(LONG[number])),
        odd,
    ]
}

/// The zone of the upstream.
pub fn zone() -> String {
    let mut zone =
        "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n".to_owned();
    let mut host = |name: &str, number: usize, v4: bool, v6: bool| {
        if v4 {
            let _ = writeln!(zone, "{name}. IN A 203.0.113.{}", number % 250 + 1);
        }
        if v6 {
            let _ = writeln!(zone, "{name}. IN AAAA 2001:db8::{:x}", number + 1);
        }
    };
    (0..48).for_each(|number| host(&both(number), number, true, true));
    for number in 0..20 {
        host(&one_type("v4", number), number, true, false);
        host(&one_type("v6", number), number, false, true);
    }
    let outside = [
        "web",
        "router",
        "api.prod",
        "web.default",
        "shop.prod",
        "sub.web",
        "sub.db",
        "kubernetes.default.svc",
        "www.api",
        "www.example.com",
        "ext.example.net",
        "a.b.c.d.e.example",
        "a.b.c.d.e.example.org",
        "x.parent.example.org",
        "text.example",
        "_under.score.example.org",
        "xn--bcher-kva.example",
    ];
    for (number, name) in outside.iter().enumerate() {
        host(name, 100 + number, true, true);
    }
    host("b.b.c.d.e.example", 120, true, false);
    host("b.b.c.d.e.example.org", 121, false, true);
    host("half.example", 122, true, true);
    for (number, name) in ["intra", "db.intra", "api", "web", "prod"].iter().enumerate() {
        host(&format!("{name}.{NODE_DOMAIN}"), 130 + number, true, true);
    }
    host(&format!("mail.{NODE_DOMAIN}"), 140, false, true);
    host(&format!("half.example.{NODE_DOMAIN}"), 141, true, false);
    for (number, more) in LONG.iter().enumerate() {
        host(&long(*more), 150 + number, true, true);
    }
    host(&format!("{}.example.org", "x".repeat(63)), 160, true, true);
    for number in 0..16 {
        let last = aliases(number);
        for at in 0..last {
            let _ = writeln!(
                zone,
                "alias-{number}-{at}.example.org. IN CNAME alias-{number}-{}.example.org.",
                at + 1
            );
        }
        let _ = writeln!(zone, "alias-{number}-{last}.example.org. IN A 203.0.113.{number}");
        if number % 3 > 0 {
            let _ =
                writeln!(zone, "alias-{number}-{last}.example.org. IN AAAA 2001:db8::a{number:x}");
        }
    }
    for count in BIG {
        for number in 0..count {
            let _ = writeln!(zone, "big-{count}.example.org. IN A 198.51.100.{}", number + 1);
        }
    }
    let text = format!("text.example.{NODE_DOMAIN}");
    for name in ["text-0.example", "text-1.example.org", "text-2.a.example.org", &text] {
        let _ = writeln!(zone, "{name}. IN TXT \"no address\"");
    }
    zone + "alias-to-text.example.org. IN CNAME text-1.example.org.\n\
            dangling.example.org. IN CNAME absent.example.org.\n\
            dangling-2.example.org. IN CNAME dangling.example.org.\n"
}
