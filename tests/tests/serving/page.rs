//! The page without a browser: what is served, where, and what a browser may do with it.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tests::http::Reply;
use tests::ports;
use tests::process::{Nodens, Setup};

use super::plain;

/// Octets of the page: a phone gets it in one round trip or two.
const MAX_SIZE: usize = 60 << 10;

fn get(nodens: &Nodens, path: &str) -> Reply {
    nodens.get(nodens.ports().metrics, path).unwrap()
}

fn header(reply: &Reply, name: &str) -> String {
    let begin = format!("{name}:");
    let found = reply.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&begin));
    found.map_or(String::new(), |line| line[begin.len()..].trim().to_owned())
}

/// What is between two words, once.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.split_once(from).unwrap().1.split_once(to).unwrap().0
}

#[test]
fn the_page_is_one_file_that_runs_only_what_is_in_it() {
    let nodens = plain();
    let page = get(&nodens, "/");
    assert_eq!(page.status, 200);
    assert!(page.body.len() < MAX_SIZE, "{} octets", page.body.len());
    assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
    let policy = header(&page, "content-security-policy");
    let hash =
        |text: &str| STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
    for (part, from, to) in
        [("style-src", "<style>", "</style>"), ("script-src", "<script>", "</script>")]
    {
        let wanted = format!("{part} 'sha256-{}'", hash(between(&page.body, from, to)));
        assert!(policy.contains(&wanted), "{wanted}\n{policy}");
    }
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{part}\n{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    assert_eq!(header(&page, "referrer-policy"), "no-referrer");
    // Nothing is asked of others, and nothing from the server is read as HTML.
    let rest = page.body.replace("http://www.w3.org/2000/svg", "");
    for word in [
        "http://",
        "https://",
        "src=",
        "@import",
        "url(",
        "innerHTML",
        "insertAdjacentHTML",
        "eval(",
        " style=",
        "onclick",
    ] {
        assert!(!rest.contains(word), "{word}");
    }
    for word in [
        "<html lang=\"en\">",
        "name=\"viewport\"",
        "prefers-color-scheme: dark",
        "<main>",
        "<noscript>",
        "href=\"/metrics\"",
        "href=\"/ready?verbose\"",
    ] {
        assert!(page.body.contains(word), "{word}");
    }
}

#[test]
fn the_data_of_the_page_is_the_status_and_the_history() {
    let nodens = plain();
    let json = |path: &str| -> Value {
        let reply = get(&nodens, path);
        assert_eq!(
            (reply.status, header(&reply, "content-type").as_str()),
            (200, "application/json"),
            "{path}"
        );
        assert_eq!(header(&reply, "cache-control"), "no-store");
        serde_json::from_str(&reply.body).unwrap()
    };
    let socket = nodens.folder().join("nodens.sock");
    let words = ["status", "-o", "json", "--socket", socket.to_str().unwrap()];
    let (status, out, err) = tests::process::run(&words);
    assert!(status.success(), "{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&json("/status.json")), names(&told));
    assert_eq!(json("/status.json")["pid"], told["pid"]);
    let history = json("/history.json");
    assert_eq!(history["span_seconds"], 900);
    for plot in ["sources", "rcodes", "latency", "hit_rate", "upstreams", "store_age", "memory"] {
        assert!(history["series"][plot].is_object(), "{plot}: {history}");
    }
    assert_eq!(get(&nodens, "/ready?verbose").status, 200, "a link of the page");
    // Only read.
    let mut stream = TcpStream::connect(("127.0.0.1", nodens.ports().metrics)).unwrap();
    stream.write_all(b"POST /status.json HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[test]
fn one_flag_moves_the_page_or_takes_it_away() {
    let corefile = "test.:@dns@ {\n    bind 127.0.0.1\n    whoami\n    prometheus 127.0.0.1:@metrics@\n    ready 127.0.0.1:@ready@\n}\n";
    let off = Setup::new(corefile).arguments(&["--page-listen-address=off"]).start();
    for path in ["/", "/status.json", "/history.json"] {
        assert_eq!(get(&off, path).status, 404, "{path}");
    }
    assert_eq!(get(&off, "/metrics").status, 200);
    let port = ports::several().health;
    let flag = format!("--page-listen-address=127.0.0.1:{port}");
    let moved = Setup::new(corefile).arguments(&[&flag]).start();
    assert_eq!(get(&moved, "/").status, 404);
    for path in ["/", "/status.json", "/metrics", "/ready"] {
        assert_eq!(moved.get(port, path).unwrap().status, 200, "{path}");
    }
    assert_eq!(moved.get(port, "/health").unwrap().status, 404, "it was not asked for");
    // Nor is it at the other pages' addresses.
    assert_eq!(off.get(off.ports().ready, "/").unwrap().status, 404);
}
