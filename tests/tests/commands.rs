//! Commands that need no running server, or one that is elsewhere: version, completions, manual pages, look-ups, and
//! `kubectl nodens`.

#[path = "commands/kubectl.rs"]
mod kubectl;

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::process::{self, Nodens, Setup};

const ZONE: &str = "test.:@dns@ {
    bind 127.0.0.1
    template IN A fast.test {
        answer \"fast.test 60 IN A 192.0.2.1\"
    }
    template IN TXT big.test {
@answers@    }
    template ANY ANY {
        rcode NXDOMAIN
    }
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

fn server() -> Nodens {
    let answer = |n| format!("        answer \"big.test 60 IN TXT {}{n}\"\n", "x".repeat(200));
    let answers: String = (10..30).map(answer).collect();
    Setup::new(ZONE).word("answers", answers).start()
}

fn lookup(words: &[&str]) -> (Option<i32>, String, String) {
    let (status, out, err) = process::run(&[["lookup"].as_slice(), words].concat());
    (status.code(), out, err)
}

#[test]
fn the_version_says_what_was_built() {
    let (status, out, _) = process::run(&["--version"]);
    assert!(status.success());
    let begin = concat!("nodens ", env!("CARGO_PKG_VERSION"), " (revision ");
    assert!(out.starts_with(begin), "{out}");
    let revision = out[begin.len()..].split(',').next().unwrap();
    let metrics = server().metrics();
    let (labels, _) = metrics.all("coredns_build_info").next().unwrap();
    let exported = &labels["revision"];
    assert!(exported.starts_with(revision), "{exported} and {revision}");
}

#[test]
fn shells_and_man_read_what_is_generated() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef nodens"), ("fish", "complete -c nodens")]
    {
        let (status, out, err) = process::run(&["completions", shell]);
        assert!(
            status.success() && out.contains(word) && out.contains("page-listen-address"),
            "{shell}: {err}"
        );
        // What the shell itself says, where it is there.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodens");
        std::fs::write(&file, &out).unwrap();
        if let Ok(read) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
        }
    }
    let (status, out, _) = process::run(&["man"]);
    assert!(
        status.success() && out.contains(".TH nodens 1") && out.contains("nodens\\-status(1)"),
        "{out}"
    );
    let folder = tempfile::tempdir().unwrap();
    let (status, _, err) = process::run(&["man", folder.path().to_str().unwrap()]);
    assert!(status.success(), "{err}");
    for page in ["nodens.1", "nodens-check.1", "nodens-cache-show.1", "nodens-lookup.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    let (status, _, err) = process::run(&["man", "/nonexistent"]);
    assert!(!status.success() && err.contains("/nonexistent"), "{err}");
}

#[test]
fn a_lookup_prints_records_and_says_who_answered() {
    let server = server();
    let address = format!("--server={}", server.dns());
    let (code, out, err) = lookup(&[&address, "fast.test"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with("fast.test. 60 IN A 192.0.2.1\n; No Error, 1 record, from 127.0.0.1:"),
        "{out}"
    );
    assert!(out.contains("over UDP in "), "{out}");
    // What UDP does not carry.
    let (code, out, err) = lookup(&[&address, "big.test.", "txt"]);
    assert!(code == Some(0) && out.lines().count() == 21 && out.contains("over TCP"), "{out}{err}");
    let (code, out, _) = lookup(&[&address, "--tcp", "FAST.test", "a"]);
    assert!(code == Some(0) && out.contains("over TCP"), "{out}");
    let (code, out, _) = lookup(&[&address, "no.test"]);
    assert!(code == Some(1) && out.starts_with("; Non-Existent Domain, 0 records"), "{out}");
}

#[test]
fn a_lookup_that_fails_says_why() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let (code, _, err) = lookup(&["--server", &address, "--timeout=600ms", "a.test"]);
    assert!(code == Some(1) && err.contains("does not answer within 600ms"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // The datagrams that it sent are three questions.
    silent.set_nonblocking(true).unwrap();
    let mut buffer = [0; 512];
    let received = std::iter::from_fn(|| silent.recv(&mut buffer).ok()).count();
    assert_eq!(received, 3);
    for (words, wanted) in [
        (["--server=dns.example", "a.test"].as_slice(), "expected ADDRESS"),
        (&["--server=127.0.0.1:1", "a..test"], "no domain name"),
        (&["--server=127.0.0.1:1", "a.test", "NONSENSE"], "no record type"),
        (&["--server=127.0.0.1:1", "--tcp", "a.test"], "can be reached from here"),
    ] {
        let (code, _, err) = lookup(words);
        assert!(code.is_some_and(|code| code != 0) && err.contains(wanted), "{words:?}: {err}");
    }
}
