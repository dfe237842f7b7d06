//! What a Corefile is told about: lines without effect, mistakes with their remedies, and what a reload makes of both.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::poll;
use tests::process::{self, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(15);

const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwww IN A 192.0.2.1\n";

/// What `nodens check` prints of a Corefile before the configuration in effect, without the file's name.
fn checked(text: &str) -> (bool, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, text).unwrap();
    let (status, out, _) = process::run(&["check", &path.to_string_lossy()]);
    let place = format!("{}:", path.display());
    let found = out.lines().filter_map(|line| line.strip_prefix(&place));
    // The last line has no number, but that of all errors.
    let found = found.filter(|line| !line.starts_with(' ')).map(str::to_owned);
    (status.success(), found.collect())
}

#[track_caller]
fn warned(text: &str, expected: &[&str]) {
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
        "cluster.local {\n    kubernetes cluster.locl {\n        objects /nonexistent\n    }\n}\n",
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
fn what_real_corefiles_have_is_not_warned_about() {
    for text in [
        // Kubernetes' default, NodeLocal DNSCache's blocks, a home server's.
        ".:53 {\n    errors\n    health {\n        lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        objects /nonexistent\n        pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }\n    prometheus :9153\n    forward . 203.0.113.1 {\n        max_concurrent 1000\n    }\n    cache 30\n    loop\n    reload\n    loadbalance\n}\n",
        "cluster.local:53 {\n    errors\n    cache {\n        success 9984 30\n        denial 9984 5\n    }\n    reload\n    loop\n    forward . 203.0.113.1 {\n        force_tcp\n    }\n    prometheus :9253\n}\nin-addr.arpa:53 {\n    errors\n    cache 30\n    reload\n    loop\n    forward . 203.0.113.1\n}\n.:53 {\n    errors\n    cache 30\n    reload\n    loop\n    forward . 203.0.113.2\n}\n",
        ".:53 {\n    hosts {\n        203.0.113.1 a.home\n        fallthrough\n    }\n    template IN AAAA . {\n        rcode NOERROR\n    }\n    forward . 203.0.113.1 203.0.113.2 {\n        policy sequential\n    }\n    log\n    cache\n}\n",
        ".:53 {\n    rewrite stop {\n        name regex (.*)\\.corp\\.test\\.$ {1}.svc.cluster.local\n        answer auto\n    }\n    rewrite name substring a.test b.test\n    forward . 203.0.113.1 {\n        next NXDOMAIN\n    }\n    forward . 203.0.113.2\n    cache 160 skydns.local\n}\n",
    ] {
        warned(text, &[]);
    }
}

#[test]
fn warnings_are_logged_at_the_start_and_by_a_reload() {
    let upstream = Upstream::with_zone(ZONE);
    let text = ". {\n    forward . @upstream@\n    @more@\n}\n".replacen('.', ".:@dns@", 1);
    let setup = Setup::new(&text.replace("@more@", "whoami"));
    let nodens = setup.word("upstream", upstream.address()).start();
    nodens.wait_for_log(":3: warning: whoami: is never asked", SOON);
    let address = upstream.address();
    let reloaded = text.replace("@upstream@", &address.to_string());
    nodens.write_corefile(&reloaded.replace("@more@", "forward a.test 192.0.2.9"));
    nodens.signal(nix::sys::signal::Signal::SIGHUP);
    nodens.wait_for_log(":3: warning: forward: is never asked", SOON);
}

#[test]
fn mistakes_come_with_a_remedy() {
    for (line, expected) in [
        ("forward 203.0.113.1", "2: forward: the zone to forward is missing"),
        ("cache 30\n    cache 60\n    whoami", "3: cache: duplicate directive; first used at"),
        (
            "on_startup /bin/true\n    whoami",
            "2: startup: removed from CoreDNS long ago; remove the line",
        ),
        ("sign db.test\n    whoami", "2: sign: not supported by Nodens; "),
        (
            "forwrad . 203.0.113.1\n    whoami",
            "2: there is no directive \"forwrad\"; did you mean \"forward\"?",
        ),
    ] {
        let (good, found) = checked(&format!(". {{\n    {line}\n}}\n"));
        assert!(!good && found.len() == 1, "{line}\n{found:#?}");
        assert!(found[0].starts_with(expected), "{}", found[0]);
    }
}

#[test]
fn an_upstream_of_several_blocks_is_up_once() {
    let upstream = Upstream::with_zone(ZONE);
    let block = "    forward . @upstream@ {\n        max_fails 1\n    }\n    loop\n";
    let text = format!(
        ".:@dns@ {{\n{block}    prometheus 127.0.0.1:@metrics@\n}}\ntest:@dns@ {{\n{block}}}\na.test:@dns@ {{\n{block}}}\n"
    );
    let nodens = Setup::new(&text).word("upstream", upstream.address()).start();
    let to = upstream.address().to_string();
    let up = || nodens.metrics().sum("nodens_forward_upstream_up", &[("to", &to)]);
    poll::wait_for("the upstream to be up", SOON, || up() == 1.0);
    assert_eq!(nodens.metrics().sum("nodens_loop_upstream", &[("upstream", &to)]), 0.0);
    // One block finds it dead: then it is down, whatever the others know.
    upstream.always(Act::Drop);
    let mut number = 0;
    poll::wait_for("the upstream to be down", SOON, || {
        number += 1;
        let _ = nodens.client().ask(&format!("n{number}.a.test."), RecordType::A);
        up() == 0.0
    });
    upstream.always(Act::Answer);
    poll::wait_for("the upstream to be up again", SOON, || up() == 1.0);
}
