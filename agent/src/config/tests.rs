//! Whole files, from their text to zones and directives.

use super::*;
use crate::corefile;

/// Reads a file as the server does.
fn read_text(text: &str) -> (Vec<ServerBlock>, Diagnostics) {
    let (file, mut diagnostics) = corefile::parse("Corefile", text, &|_| None);
    let blocks = read(&file, 53, &mut diagnostics);
    diagnostics.sort();
    (blocks, diagnostics)
}

#[track_caller]
fn good(text: &str) -> Vec<ServerBlock> {
    let (blocks, diagnostics) = read_text(text);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    blocks
}

#[track_caller]
fn bad(text: &str, wanted: &[&str]) {
    let (_, diagnostics) = read_text(text);
    let shown = diagnostics.to_string();
    assert_eq!(shown.lines().count(), wanted.len(), "{shown}");
    for (line, wanted) in shown.lines().zip(wanted) {
        assert!(line.starts_with(wanted), "{line}\nwanted {wanted}");
    }
}

#[test]
fn blocks_have_zones_and_directives() {
    let blocks = good(
        "cluster.local:53 10.0.0.0/8 {\n errors\n cache 30\n}\n.:53 {\n forward . 1.1.1.1\n forward a. 1.1.1.1\n}",
    );
    let zones: Vec<_> = blocks[0].zones.iter().map(ToString::to_string).collect();
    assert_eq!(zones, ["dns://cluster.local.:53", "dns://10.in-addr.arpa.:53"]);
    assert_eq!(blocks[0].zone_names().len(), 2);
    assert_eq!(blocks[1].named("forward").count(), 2);
}

#[test]
fn five_mistakes_are_five_lines() {
    bad(
        "example.org:99999 {\n    forwrad . 1.1.1.1\n    cache 30\n    cache 60\n}\nquic://. {\n    proxy . 8.8.8.8\n    transfer\n}\n",
        &[
            "Corefile:1: the port in \"example.org:99999\" is out of range, expected a port from 1 to 65535",
            "Corefile:2: there is no directive \"forwrad\"; did you mean \"forward\"?",
            "Corefile:4: cache: duplicate directive; first used at Corefile:3; keep one of them",
            "Corefile:6: \"quic://.\": serving over quic is not supported yet, expected",
            "Corefile:7: proxy: removed from CoreDNS long ago; use `forward`",
            "Corefile:8: transfer: not supported by Nodens; use a server made for zone transfers",
        ],
    );
}

#[test]
fn directives_that_are_not_served() {
    bad(
        ". {\n pprof\n rrl\n whatever\n b.org {\n  log\n }\n \"\"\n}\n",
        &[
            "Corefile:2: warning: pprof: has no effect in Nodens; use perf",
            "Corefile:3: rrl: a plugin from outside of CoreDNS",
            "Corefile:4: there is no directive \"whatever\"; use a directive",
            "Corefile:5: the server block \"b.org\" is inside of another one; close the block above it with a }",
            "Corefile:8: the name of a directive is empty",
        ],
    );
    bad(
        ". {\n tls_servername a.b\n lameduck 5s\n}\n",
        &[
            "Corefile:2: there is no directive \"tls_servername\"; it is an option: write it into the block of forward",
            "Corefile:3: there is no directive \"lameduck\"; it is an option: write it into the block of health",
        ],
    );
    bad(
        ". {\n on_startup /bin/true\n sgin x\n}\n",
        &[
            "Corefile:2: startup: removed from CoreDNS long ago; remove the line, and run the command",
            "Corefile:3: sign: not supported by Nodens; sign the zone before",
        ],
    );
}

#[test]
fn zones_are_served_once_for_each_address() {
    good("a.org {\n bind 10.0.0.1\n log\n}\na.org {\n bind 10.0.0.2 lo\n log\n}\n");
    good("a.org {\n log\n}\n. {\n log\n}\na.org:54 {\n log\n}\n");
    bad(
        "a.org A.org. {\n log\n}\n",
        &["Corefile:1: dns://a.org.:53 is served already at Corefile:1"],
    );
    bad(
        ".:53 {\n log\n}\ndns://. {\n log\n}\n",
        &["Corefile:4: dns://.:53 is served already at Corefile:1"],
    );
    bad(
        "a {\n bind fd00::1\n log\n}\na {\n bind fd00:0::1\n log\n}\n",
        &["Corefile:5: dns://a.:53 on fd00::1 is served already at Corefile:1"],
    );
    bad(
        "a {\n bind 10.0.0.1\n log\n}\na {\n log\n}\n",
        &[
            "Corefile:5: dns://a.:53 is served already, by a block with other addresses, at Corefile:1",
        ],
    );
    bad(
        "a {\n bind 10.0.0.1 lo\n bind 10.0.0.1\n log\n}\n",
        &["Corefile:3: bind: \"10.0.0.1\" stands twice"],
    );
    bad(
        "10.0.0.0/23 0.0.10.in-addr.arpa {\n log\n}\n",
        &["Corefile:1: dns://0.0.10.in-addr.arpa.:53 is served"],
    );
}

#[test]
fn views_share_a_zone_and_an_address() {
    let view = " view v {\n  expr do()\n }\n";
    good(&format!("a {{\n{view} log\n}}\na {{\n log\n}}\n"));
    let other = " view w {\n  expr do()\n }\n";
    good(&format!("a {{\n bind ::1\n{view} log\n}}\na {{\n bind ::1 ::2\n{other} log\n}}\n"));
    good(&format!("a {{\n bind ::1\n{view} log\n}}\na {{\n bind ::2\n{view} log\n}}\n"));
    bad(
        &format!("a {{\n bind ::1\n{view} log\n}}\na {{\n bind ::1 ::2\n{view} log\n}}\n"),
        &[
            "Corefile:8: dns://a.:53 on ::1 is served already, by a view of the same name, at Corefile:1",
        ],
    );
    bad(
        &format!("a {{\n{view} log\n}}\na {{\n log\n}}\na {{\n log\n}}\n"),
        &["Corefile:10: dns://a.:53 is served already at Corefile:7"],
    );
    bad(
        &format!("a {{\n bind ::1\n{view} log\n}}\na {{\n log\n}}\n"),
        &[
            "Corefile:8: dns://a.:53 is served already, by a block with other addresses, at Corefile:1",
        ],
    );
    bad(
        &format!("a a {{\n{view} log\n}}\n"),
        &["Corefile:1: dns://a.:53 is served already at Corefile:1"],
    );
    bad(&format!(". {{\n{view}{view} log\n}}\n"), &["Corefile:5: view: duplicate directive"]);
    let many: String = (0..=corefile::limits::VIEWS)
        .map(|number| format!("a {{\n view v{number} {{\n  expr do()\n }}\n log\n}}\n"))
        .collect();
    let shown = read_text(&many).1.to_string();
    assert!(shown.contains("view: there are too many views, expected at most 256"), "{shown}");
}

#[test]
fn a_template_that_was_not_rendered_says_so_and_nothing_else() {
    bad(
        "__PILLAR__DNS__DOMAIN__:53 {\n forward . __PILLAR__CLUSTER__DNS__ {\n  force_tcp\n }\n health __PILLAR__LOCAL__DNS__:8080\n}\n",
        &[
            "Corefile:1: the placeholder __PILLAR__DNS__DOMAIN__ has not been filled in",
            "Corefile:2: the placeholder __PILLAR__CLUSTER__DNS__ has not been filled in",
            "Corefile:5: the placeholder __PILLAR__LOCAL__DNS__ has not been filled in",
        ],
    );
}

#[test]
fn a_distributions_empty_folders_of_additions_are_only_warned_about() {
    bad(
        ".:53 {\n log\n import /nonexistent/custom/*.override\n}\nimport /nonexistent/custom/*.server\n",
        &[
            "Corefile:3: warning: import: the pattern \"/nonexistent/custom/*.override\" matches no file",
            "Corefile:5: warning: import: the pattern \"/nonexistent/custom/*.server\" matches no file",
        ],
    );
}

#[test]
fn there_is_an_end_to_zones() {
    let many = "10.0.0.0/9 ".repeat(corefile::limits::ZONES / 128 + 1);
    let (blocks, diagnostics) = read_text(&format!("{many} {{\n log\n}}\n"));
    assert!(blocks[0].zones.len() <= corefile::limits::ZONES);
    assert!(diagnostics.to_string().contains("there are too many zones"));
}
