//! Lines that are sound and do nothing, and those that are not warned about.

use super::checked;

#[track_caller]
pub fn warned(text: &str, expected: &[&str]) {
    let (good, found) = checked(text);
    assert!(good, "{text}\n{found:#?}");
    assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{text}\n{found}");
        assert!(found.contains("; "), "no remedy: {found}");
    }
}

#[test]
fn lines_without_effect_are_warned_about() {
    warned(
        ". {\n    rewrite name regex (.*) {1}\n    rewrite name exact a.test b.test\n    whoami\n}\n",
        &["3: warning: rewrite: never applies"],
    );
    warned(
        ". {\n    rewrite name exact a.test b.test\n    rewrite name exact a.test c.test\n    whoami\n}\n",
        &["3: warning: rewrite: never applies"],
    );
    warned(
        ". {\n    forward . 203.0.113.1\n    forward a.test 203.0.113.2\n}\n",
        &["3: warning: forward: is never asked"],
    );
    warned(
        ". {\n    forward . 203.0.113.1\n    cache 3600s\n}\n",
        &["3: warning: cache: \"3600s\" is taken for a zone"],
    );
    warned(
        "cluster.local {\n    kubernetes cluster.locl {\n        objects /etc\n    }\n}\n",
        &["2: warning: kubernetes: no query for cluster.locl. comes here"],
    );
    warned(
        "a.test {\n    hosts /dev/null b.test\n    forward . 203.0.113.1\n}\n",
        &["2: warning: hosts: no query for b.test. comes here"],
    );
    warned(
        ". {\n    log\n    errors\n}\n",
        &["1: warning: no directive of this server block answers"],
    );
    warned(
        ". {\n    acl {\n        allow net *\n        block net 192.0.2.0/24\n    }\n    whoami\n}\n",
        &["4: warning: acl: block: has no effect"],
    );
}

#[test]
fn lines_that_need_what_is_not_watched_are_warned_about() {
    let kubernetes = |options: &str| {
        format!(
            "cluster.local 10.in-addr.arpa {{\n    kubernetes cluster.local 10.in-addr.arpa {{\n        objects /etc\n{options}    }}\n}}\n"
        )
    };
    warned(
        &kubernetes("        endpoints headless\n"),
        &["2: warning: kubernetes: PTR queries in 10.in-addr.arpa."],
    );
    warned(
        &kubernetes("        endpoints none\n        endpoint_pod_names\n"),
        &["2: warning: kubernetes: endpoint_pod_names is without effect"],
    );
    warned(&kubernetes("        endpoints headless\n        fallback 10.96.0.10\n"), &[]);
}

#[test]
fn what_real_corefiles_have_is_not_warned_about() {
    for text in [
        // Kubernetes' default, NodeLocal DNSCache's blocks, a home server's.
        ".:53 {\n    errors\n    health {\n        lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        objects /etc\n        pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }\n    prometheus :9153\n    forward . 203.0.113.1 {\n        max_concurrent 1000\n    }\n    cache 30\n    loop\n    reload\n    loadbalance\n}\n",
        "cluster.local:53 {\n    errors\n    cache {\n        success 9984 30\n        denial 9984 5\n    }\n    reload\n    loop\n    forward . 203.0.113.1 {\n        force_tcp\n    }\n    prometheus :9253\n}\nin-addr.arpa:53 {\n    errors\n    cache 30\n    reload\n    loop\n    forward . 203.0.113.1\n}\n.:53 {\n    errors\n    cache 30\n    reload\n    loop\n    forward . 203.0.113.2\n}\n",
        ".:53 {\n    hosts {\n        203.0.113.1 a.home\n        fallthrough\n    }\n    template IN AAAA . {\n        rcode NOERROR\n    }\n    forward . 203.0.113.1 203.0.113.2 {\n        policy sequential\n    }\n    log\n    cache\n}\n",
        ".:53 {\n    rewrite stop {\n        name regex (.*)\\.corp\\.test\\.$ {1}.svc.cluster.local\n        answer auto\n    }\n    rewrite name substring a.test b.test\n    forward . 203.0.113.1 {\n        next NXDOMAIN\n    }\n    forward . 203.0.113.2\n    cache 160 skydns.local\n}\n",
    ] {
        warned(text, &[]);
    }
}
