//! docs/coredns-options.md: what it says of every option of CoreDNS is what `nodens check` says.

use std::path::Path;

use tests::api::certificates::{Authority, Pair};
use tests::process::run;

/// A row of the table.
struct Row {
    example: String,
    verdict: String,
}

fn rows() -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/coredns-options.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|line| {
        let (example, rest) = line.split_once("` | ").expect("a verdict follows");
        let verdict = rest.split(" |").next().unwrap().to_owned();
        Row { example: example.replace("\\|", "|"), verdict }
    })
    .collect()
}

/// A Corefile with the example as it stands in CoreDNS's manual, and what it needs beside it.
fn corefile(example: &str, folder: &Path) -> String {
    let mut lines = Vec::new();
    match example.split_once(" { ").zip(example.strip_suffix(" }")) {
        Some(((head, _), whole)) => {
            lines.push(format!("{head} {{"));
            let inner = &whole[head.len() + 3..];
            lines.extend(inner.split("; ").map(str::to_owned));
            lines.push("}".to_owned());
        }
        None => lines.push(example.to_owned()),
    }
    let directive = example.split(' ').next().unwrap();
    if directive == "tls" {
        lines.insert(0, format!("root {}", folder.display()));
    }
    if directive != "bind" {
        lines.insert(0, "bind 127.0.0.1".to_owned());
    }
    if !["forward", "kubernetes", "whoami"].contains(&directive) {
        lines.push("forward . 192.0.2.53".to_owned());
    }
    if example.ends_with("@kubernetes") {
        lines.push("kubernetes cluster.local".to_owned());
    }
    let scheme = if directive == "tls" { "tls://" } else { "" };
    format!("{scheme}.:5398 {{\n{}\n}}\n", lines.join("\n"))
}

#[test]
fn every_option_is_taken_as_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["cert.pem", "key.pem", "ca.pem", "weights", "config", "db.example.org"] {
        std::fs::write(folder.path().join(file), "\n").unwrap();
    }
    let authority = Authority::new("of listeners").unwrap();
    let Pair { certificate, key } = authority.server(&["dns.test"]).unwrap();
    for (file, text) in
        [("cert.pem", &*certificate), ("key.pem", &key), ("ca.pem", authority.pem())]
    {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let path = folder.path().join("Corefile").to_string_lossy().into_owned();
    let rows = rows();
    assert!(rows.len() > 150, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for Row { example, verdict } in rows {
        std::fs::write(&path, corefile(&example, folder.path())).unwrap();
        let (status, out, err) = run(&["check", &path]);
        let is_right = match verdict.as_str() {
            "yes" | "no effect" => status.success(),
            "no" => status.code() == Some(1),
            other => panic!("{example}: no verdict {other:?}"),
        };
        if !is_right {
            wrong.push(format!("{example}: {verdict}, but: {out}{err}"));
        }
        // An error says what to do instead.
        if verdict == "no" && is_right {
            let told = format!("{out}{err}");
            let is_helpful =
                ["; ", "expected ", "supported"].iter().any(|word| told.contains(word));
            assert!(is_helpful, "{example}: {told}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
