//! Each surprise of CoreDNS's parser, and what holds for every text whatsoever.

use proptest::prelude::*;

use super::*;

fn environment(name: &str) -> Option<String> {
    match name {
        "ZONE" => Some("example.org".to_owned()),
        "ZONES" => Some("a b".to_owned()),
        "BRACE" => Some("{".to_owned()),
        "FILE" => Some("more.conf".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> (File, Diagnostics) {
    super::super::parse("Corefile", text, &environment)
}

/// `keys | name args { name args }` of each block, for a text without anything wrong.
#[track_caller]
fn shape(text: &str) -> Vec<String> {
    let (file, diagnostics) = read(text);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    shape_of(&file)
}

fn shape_of(file: &File) -> Vec<String> {
    fn line(directive: &Directive) -> String {
        let words: Vec<_> =
            std::iter::once(&directive.name).chain(&directive.args).map(Token::as_str).collect();
        match &directive.block {
            Some(block) => format!(
                "{} {{{}}}",
                words.join(" "),
                block.iter().map(line).collect::<Vec<_>>().join(";")
            ),
            None => words.join(" "),
        }
    }
    let block = |block: &ServerBlock| {
        let keys: Vec<_> = block.keys.iter().map(Token::as_str).collect();
        format!(
            "{} | {}",
            keys.join(" "),
            block.directives.iter().map(line).collect::<Vec<_>>().join(";")
        )
    };
    file.blocks.iter().map(block).collect()
}

#[track_caller]
fn errors(text: &str, wanted: &[&str]) -> File {
    let (file, mut diagnostics) = read(text);
    diagnostics.sort();
    let shown = diagnostics.to_string();
    assert_eq!(shown.lines().count(), wanted.len(), "{shown}");
    for (line, wanted) in shown.lines().zip(wanted) {
        assert!(line.starts_with(wanted), "{line}\nwanted {wanted}");
    }
    file
}

/// Kubernetes' default, as the ConfigMap has it.
const KUBERNETES: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

/// The node-local one after rendering.
const NODE_LOCAL: &str = "\
cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.11 {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    forward . 10.96.0.11 {
            force_tcp
    }
    }
.:53 {
    errors
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . /etc/resolv.conf
    prometheus :9253
    }
";

#[test]
fn the_usual_files() {
    assert_eq!(
        shape(KUBERNETES),
        [
            ".:53 | errors;health {lameduck 5s};ready;kubernetes cluster.local in-addr.arpa ip6.arpa {pods insecure;\
         fallthrough in-addr.arpa ip6.arpa;ttl 30};prometheus :9153;forward . /etc/resolv.conf {max_concurrent 1000};\
         cache 30;loop;reload;loadbalance"
        ]
    );
    assert_eq!(shape(NODE_LOCAL).len(), 3);
    let bound = KUBERNETES.replace("    errors\n", "    bind eth0\n    errors\n");
    let bound = bound.replace("pods insecure\n", "kubeconfig /etc/kubeconfig admin\n");
    assert!(
        shape(&bound)[0].contains("bind eth0;errors")
            && shape(&bound)[0].contains("{kubeconfig /etc/kubeconfig admin;")
    );
    let hosts = ". {\n hosts {\n 10.0.0.1 a.org b.org # both\n ttl 60\n fallthrough\n }\n}\n";
    assert_eq!(shape(hosts), [". | hosts {10.0.0.1 a.org b.org;ttl 60;fallthrough}"]);
}

#[test]
fn zones_and_their_braces() {
    assert_eq!(
        shape("a.org b.org:54 {\n log\n}\nc.org {\n}"),
        ["a.org b.org:54 | log", "c.org | "]
    );
    assert_eq!(shape("a.org, b.org,\n c.org {\n log\n}"), ["a.org b.org c.org | log"]);
    assert_eq!(shape("a,b {\n log\n}"), ["a,b | log"]);
    assert_eq!(shape("a.org\n{\n log\n}\n"), ["a.org | log"]);
    assert_eq!(shape("a.org,\nb.org\n{\n log\n}\n"), ["a.org b.org | log"]);
    assert_eq!(shape(". { log\n}"), [". | log"]);
    assert_eq!(shape(". { }\n"), [". | "]);
    assert_eq!(shape("\n  . {\n\tlog\n  }"), [". | log"]);
}

#[test]
fn one_server_without_braces() {
    assert_eq!(shape(".:5353\nlog\ncache {\n denial 5\n}\n"), [".:5353 | log;cache {denial 5}"]);
    assert_eq!(shape("a {\n log\n}\nb\nlog\nerrors"), ["a | log", "b | log;errors"]);
    assert_eq!(shape("a.org"), ["a.org | "]);
}

#[test]
fn words_after_an_opening_brace_are_its_first_line() {
    assert_eq!(
        shape(". {\n forward . 1.1.1.1 { force_tcp\n expire 5s\n }\n}"),
        [". | forward . 1.1.1.1 {force_tcp;expire 5s}"]
    );
}

#[test]
fn braces_that_coredns_takes_by_accident() {
    let one_line = errors(
        ". {\n hosts { fallthrough }\n log\n}",
        &["Corefile:2: there is a } at the end of a line"],
    );
    assert_eq!(shape_of(&one_line), [". | hosts {fallthrough};log"]);
    let whole = errors(". { whoami }", &["Corefile:1: there is a } at the end of a line"]);
    assert_eq!(shape_of(&whole), [". | whoami"]);
    errors(". {\n cache {\n  success 5 }\n}", &["Corefile:3: there is a }"]);
    errors(". {\n log\n}\n}", &["Corefile:4: this } closes no block"]);
    errors(". {\n log\n", &["Corefile:1: the block that begins here is never closed"]);
    errors(
        ". {\n cache {\n success 5\n}\n",
        &["Corefile:1: the block that begins here is never closed"],
    );
    let glued = errors(
        ".:53{\n log\n}",
        &["Corefile:1: the brace is part of the word \".:53{\"; write a space before {"],
    );
    assert_eq!(shape_of(&glued), [".:53 | log"]);
    let below = errors(
        ". {\n cache\n {\n  success 5\n }\n}",
        &["Corefile:3: cache: the { is on a line of its own"],
    );
    assert_eq!(shape_of(&below), [". | cache {success 5}"]);
    errors(". {\n cache {\n } log\n}", &["Corefile:3: \"log\" follows a }"]);
    errors("{\n log\n}", &["Corefile:1: the block has no zone"]);
    errors("a, {\n log\n}", &["Corefile:1: the list of zones ends with a comma"]);
    errors("a,, b {\n log\n}", &["Corefile:1: there is a comma too many"]);
}

#[test]
fn nothing_configured() {
    for text in ["", "\n\n", "# only a comment", "\u{feff}", "(unused) {\n log\n}"] {
        errors(text, &["Corefile:1: nothing is configured; add a server block"]);
    }
}

#[test]
fn variables_are_put_in_after_the_words_are_cut() {
    assert_eq!(
        shape("{$ZONE}:53 tls://{%ZONE%} {\n {$ZONE} \"x {$ZONE}\"\n}"),
        ["example.org:53 tls://example.org | example.org x example.org"]
    );
    let (file, _) = read("{$ZONES} {\n log {$BRACE}\n errors\n}");
    assert_eq!(file.blocks[0].keys[0].as_str(), "a b");
    assert_eq!(shape_of(&file), ["a b | log {;errors"]);
    let file = errors(
        ". {\n cache {$NONE}\n}",
        &["Corefile:2: warning: the environment variable NONE is not set"],
    );
    assert_eq!(file.blocks[0].directives[0].args[0].as_str(), "");
    errors(
        "{$NONE} {\n log\n}",
        &[
            "Corefile:1: warning: the environment variable NONE",
            "Corefile:1: warning: an empty word among the zones",
            "Corefile:1: the zone is empty",
        ],
    );
    errors(
        ". {\n forward . __PILLAR__CLUSTER__DNS__\n}",
        &["Corefile:2: the placeholder __PILLAR__CLUSTER__DNS__ has not been filled in"],
    );
}

#[test]
fn snippets() {
    assert_eq!(
        shape(
            "(corp:example:com) {\n log\n cache {\n denial 5\n }\n}\n. {\n import corp:example:com\n errors\n}"
        ),
        [". | log;cache {denial 5};errors"]
    );
    assert_eq!(
        shape("(opts)\n{\n force_tcp\n}\n. {\n forward . ::1 {\n import opts\n expire 5s\n }\n}"),
        [". | forward . ::1 {force_tcp;expire 5s}"]
    );
    assert_eq!(
        shape(
            "(a) {\n log\n}\n(b) {\n import a\n}\n(servers) {\n a.org {\n import b\n }\n}\nimport servers\n"
        ),
        ["a.org | log"]
    );
    let late = ". {\n import a\n}\n(a) {\n log\n}";
    errors(late, &["Corefile:2: import: the snippet (a) is defined only at Corefile:4"]);
    errors(
        "(a) {\n log\n}\n(a) {\n errors\n}\n. {\n import a\n}",
        &["Corefile:4: the snippet (a) is defined twice"],
    );
    errors(
        "(a) {\n import a\n}\n. {\n import a\n}",
        &["Corefile:2: import: the snippet (a) imports itself"],
    );
    errors(
        "(a) {\n log\n}\n. {\n import\n import \"\"\n import a b\n import a {\n }\n}",
        &[
            "Corefile:5: import: nothing is named",
            "Corefile:6: import: the name is empty",
            "Corefile:7: import: there is a second argument",
            "Corefile:8: import: it has a block",
        ],
    );
}

#[test]
fn imported_words_keep_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("zones")).unwrap();
    std::fs::create_dir(path("zones/..data.conf")).unwrap();
    std::fs::write(path("zones/b.conf"), "b.org {\n import ../more.conf\n}\n").unwrap();
    std::fs::write(path("zones/a.conf"), "\n\na.org {\n log\n}\n").unwrap();
    std::fs::write(path("more.conf"), "# first\nerrors\ncache 30").unwrap();
    let text = "import zones/*.conf\nimport none/*.server\n. {\n import {$FILE}\n import missing.conf\n import *.*\n}\n";
    std::fs::write(path("Corefile"), text).unwrap();
    let (file, diagnostics) = super::super::parse(path("Corefile"), text, &environment);
    assert_eq!(shape_of(&file), ["a.org | log", "b.org | errors;cache 30", ". | errors;cache 30"]);
    assert_eq!(file.blocks[1].directives[1].at(), &Location::new(path("zones/../more.conf"), 3));
    let shown: Vec<_> =
        diagnostics.iter().map(|diagnostic| (diagnostic.severity, diagnostic.at.line)).collect();
    assert_eq!(
        shown,
        [
            (super::super::Severity::Warning, 2),
            (super::super::Severity::Error, 5),
            (super::super::Severity::Error, 6)
        ]
    );
}

#[test]
fn imports_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, ". {\n log\n}\nimport Corefile\n").unwrap();
    let (_, diagnostics) = super::super::load(&path);
    assert!(diagnostics.to_string().contains("imports itself"), "{diagnostics}");
    std::fs::write(folder.path().join("open.conf"), "cache {\n").unwrap();
    let (_, diagnostics) = super::super::parse(&path, ". {\n import open.conf\n}\n", &environment);
    assert!(
        diagnostics.to_string().contains("open.conf:1: the block that begins here"),
        "{diagnostics}"
    );
    let (_, diagnostics) = super::super::load(folder.path());
    assert!(diagnostics.to_string().contains("cannot be read: it is a directory"), "{diagnostics}");

    let mut bomb = String::from("(s0) {\n log\n}\n");
    for level in 1..40 {
        bomb += &format!(
            "({0}s) {{\n}}\n(s{0}) {{\n import s{1}\n import s{1}\n}}\n",
            level,
            level - 1
        );
    }
    let (_, diagnostics) = read(&format!("{bomb}. {{\n import s39\n import s12\n}}\n"));
    assert!(diagnostics.to_string().contains("nested too deeply"));
    assert!(diagnostics.to_string().contains("too many imports"), "{diagnostics}");
}

#[test]
fn everything_is_bounded() {
    let deep = format!(". {{\n{}{}}}\n", "a {\n".repeat(100_000), "}\n".repeat(100_000));
    let (_, diagnostics) = read(&deep);
    assert!(diagnostics.to_string().contains("nested too deeply"));
    let (_, diagnostics) = read(&"a ".repeat(limits::TOKENS + 1));
    assert!(diagnostics.to_string().contains("too many words"));
    let (_, diagnostics) = read(&"\n".repeat(limits::FILE_BYTES + 1));
    assert!(diagnostics.to_string().contains("too long"));
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    errors(
        "a.org,, {\n hosts { fallthrough }\n import nothing\n}\n. {\n forward . {$X:1}\n log \"open\n}\n",
        &[
            "Corefile:1: there is a comma too many",
            "Corefile:1: the list of zones",
            "Corefile:2: there is a }",
            "Corefile:3: import: nothing cannot be imported",
            "Corefile:5: the block that begins here is never closed",
            "Corefile:6: the environment variable \"X:1\" cannot exist",
            "Corefile:7: the quote that begins here is never closed",
        ],
    );
}

#[test]
fn json_has_zones_directives_and_blocks() {
    let (file, _) = read("a.org {\n cache 30 {\n  denial 5\n }\n}");
    assert_eq!(
        file.to_json(),
        serde_json::json!({ "serverBlocks": [{
            "at": "Corefile:1",
            "zones": ["a.org"],
            "directives": [{ "at": "Corefile:2", "name": "cache", "args": ["30"], "block": [
                { "at": "Corefile:3", "name": "denial", "args": ["5"] }
            ]}],
        }]})
    );
    assert_eq!(file.to_string(), "a.org {\n    cache 30 {\n        denial 5\n    }\n}\n");
}

/// Text made of the pieces that mean something.
fn anything() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "{",
            "}",
            "\n",
            " ",
            "\"",
            "\\",
            ",",
            "#",
            "import ",
            "import s",
            "(s)",
            ".",
            "a.org",
            "{$ZONE}",
            "{%ZONE%}",
            "\r\n",
            "\r",
            "{$",
            " {\n",
            "}\n",
            "\t",
            "\u{a0}",
            "\u{feff}",
            "__PILLAR__",
            "(",
            ")",
            "\u{2028}",
            "é",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_parsed_and_comes_back_from_its_rendering(text in anything()) {
        // A folder that does not exist, so that an import finds nothing.
        let read = |text: &str| super::super::parse("/nonexistent/Corefile", text, &environment);
        let (file, diagnostics) = read(&text);
        let lines = text.matches('\n').count() as u32 + 1;
        for token in file.tokens() {
            prop_assert!(token.at.line >= 1 && token.at.line <= lines);
        }
        for diagnostic in diagnostics.iter() {
            prop_assert!(diagnostic.at.line >= 1 && diagnostic.at.line <= lines);
        }
        // A variable, or a comma cut from a quoted zone, can leave words that the syntax cannot express.
        let odd = file.blocks.iter().flat_map(|block| &block.keys).any(|key| key.as_str().ends_with('\\'));
        if diagnostics.is_empty() && !odd {
            let rendered = file.to_string();
            let (again, diagnostics) = read(&rendered);
            prop_assert!(!diagnostics.has_errors(), "{}\n{}", rendered, diagnostics);
            prop_assert_eq!(shape_of(&again), shape_of(&file), "{}", &rendered);
            prop_assert_eq!(again.to_string(), rendered);
        }
    }

    #[test]
    fn any_word_survives_its_rendering(words in proptest::collection::vec("[a-z{}#\" \n\t,$%()éü]{0,6}|\\{|\\}", 1..5)) {
        let at = Location::new(Path::new("Corefile"), 1);
        let token = |text: &String| Token::new(text.as_str(), at.clone());
        let directive = Directive { name: Token::new("x", at.clone()), args: words.iter().map(token).collect(), block: None };
        let block = ServerBlock { keys: vec![Token::new(".", at.clone())], directives: vec![directive], at: at.clone() };
        prop_assume!(!words.iter().any(|word| word.contains("{$") || word.contains("{%")));
        let (again, diagnostics) = read(&File { blocks: vec![block] }.to_string());
        prop_assert!(diagnostics.is_empty(), "{}", diagnostics);
        let again: Vec<_> = again.blocks[0].directives[0].args.iter().map(Token::as_str).collect();
        prop_assert_eq!(again, words);
    }
}
