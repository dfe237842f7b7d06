//! A resolv.conf that changes, in every way in which nodes change it, and one that names nobody.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::peers::meanwhile::{OBJECTS, cluster_name};
use tests::peers::note;
use tests::poll::wait_for;
use tests::process::{self, Nodens, Setup};
use tests::upstream::Upstream;

/// Far below the 5 s of the slow poll: it was inotify.
const SOON: Duration = Duration::from_secs(4);

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    kubernetes cluster.local {
        objects @folder@/objects
    }
    forward . @folder@/etc/resolv.conf
    loop
}
";

/// A way to put a text into resolv.conf, and its name.
type Way<'a> = (&'a str, &'a dyn Fn(&str));

/// An upstream whose only answer is its number.
fn upstream(number: usize) -> Upstream {
    Upstream::with_zone(&format!(
        "$ORIGIN test.\n$TTL 60\n@ 60 IN SOA ns.test. admin.test. 1 3600 600 86400 60\nwho IN A 192.0.2.{number}\n"
    ))
}

fn nameserver(upstream: &Upstream) -> String {
    format!("# written by a test\nsearch example\nnameserver {}\n", upstream.address())
}

fn setup(resolv_conf: &str) -> Setup {
    Setup::new(COREFILE).file("objects/web.yaml", OBJECTS).file("etc/resolv.conf", resolv_conf)
}

/// Who answers now; the text of the failure where nobody does.
fn who(nodens: &Nodens) -> String {
    let answer = nodens.client().ask("who.test.", RecordType::A).unwrap();
    let data = answer.data(RecordType::A);
    data.first().cloned().unwrap_or(answer.normal.rcode)
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("tmp");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

#[test]
fn resolv_conf_is_followed_however_it_changes() {
    let ups: Vec<Upstream> = (1..=6).map(upstream).collect();
    let nodens = setup(&nameserver(&ups[0])).start();
    let path = nodens.folder().join("etc/resolv.conf");
    let link = nodens.folder().join("etc/link");
    assert_eq!(who(&nodens), "192.0.2.1");
    let ways: [Way<'_>; 5] = [
        ("renamed over", &|text| replace(&path, text)),
        ("written in place", &|text| std::fs::write(&path, text).unwrap()),
        ("a link to a file of another folder", &|text| {
            let real = nodens.folder().join("objects/resolv.conf.txt");
            std::fs::write(&real, text).unwrap();
            symlink(&real, &link).unwrap();
            std::fs::rename(&link, &path).unwrap();
        }),
        ("the file behind the link renamed over", &|text| {
            replace(&nodens.folder().join("objects/resolv.conf.txt"), text);
        }),
        ("removed and written again", &|text| {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, text).unwrap();
        }),
    ];
    for (number, (what, change)) in ways.into_iter().enumerate() {
        let (old, new) = (&ups[number], &ups[number + 1]);
        change(&nameserver(new));
        let begun = std::time::Instant::now();
        wait_for(what, SOON, || who(&nodens) == format!("192.0.2.{}", number + 2));
        note(&format!("resolv.conf, {what}: followed after {:.0?}", begun.elapsed()));
        let change = format!("gone={} new={}", old.address(), new.address());
        let line = nodens.wait_for_log(&change, SOON);
        assert!(line.contains("the upstreams have changed"), "{what}: {line}");
        cluster_name(nodens.dns());
    }
}

#[test]
fn resolv_conf_changes_take_over_only_when_they_answer() {
    let (old, new) = (upstream(1), upstream(2));
    new.always(tests::upstream::Act::Drop);
    let nodens = setup(&nameserver(&old)).start();
    nodens.write_file("etc/resolv.conf", &nameserver(&new));
    nodens.wait_for_log("the upstreams have changed", SOON);
    wait_for("a probe of the new one", SOON, || new.total() > 0);
    assert_eq!(who(&nodens), "192.0.2.1");
    new.always(tests::upstream::Act::Answer);
    wait_for("the new one", SOON, || who(&nodens) == "192.0.2.2");
    // A file that names nobody changes nothing.
    nodens.write_file("etc/resolv.conf", "search example\n");
    nodens.wait_for_log("the upstreams from before are kept", SOON);
    assert_eq!(who(&nodens), "192.0.2.2");
}

/// From `nodens check` and from the answer: what is wrong and what to do. Cluster names go on, and so does all when mended.
#[test]
fn resolv_conf_without_servers_is_told_with_its_cure() {
    let up = upstream(1);
    for empty in ["", "search example\noptions ndots:5\n", "nameserver 0.0.0.0\n"] {
        let nodens = setup(empty).start();
        let corefile = nodens.folder().join("Corefile");
        let (status, out, _) = process::run(&["check", &corefile.to_string_lossy()]);
        // As the start sees it: the file may change.
        assert!(status.success(), "{empty:?}: {out}");
        for part in [
            "Corefile:8: warning: forward: there is no upstream",
            "etc/resolv.conf",
            "name an address in the forward line",
        ] {
            assert!(out.contains(part), "{empty:?}: no {part:?} in {out}");
        }
        nodens.wait_for_log("there is no upstream", SOON);
        let answer = nodens.client().ask("who.test.", RecordType::A).unwrap();
        assert_eq!(answer.normal.rcode, "SERVFAIL");
        let error = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(error.contains("name an address in the forward line"), "{error:?}");
        cluster_name(nodens.dns());

        nodens.write_file("etc/resolv.conf", &nameserver(&up));
        wait_for("the first upstream", SOON, || who(&nodens) == "192.0.2.1");
        assert!(process::run(&["check", &corefile.to_string_lossy()]).0.success());
        cluster_name(nodens.dns());
    }
    // A file that is not there may be there on the node: a warning.
    let nodens = setup("").start();
    std::fs::remove_file(nodens.folder().join("etc/resolv.conf")).unwrap();
    let corefile = nodens.folder().join("Corefile");
    let (status, out, _) = process::run(&["check", &corefile.to_string_lossy()]);
    assert!(status.success() && out.contains("cannot be read"), "{out}");
}
