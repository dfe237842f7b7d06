//! Aliases of every origin have the code of their target (RFC 6604), and only whole answers behind them.

use super::*;

/// `file`, `template` and `kubernetes`, each with an alias to a name of the upstream.
fn aliases(upstream: &Upstream, target: &str) -> Nodens {
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: ext, namespace: default}}, \
         spec: {{type: ExternalName, externalName: {target}}}}}\n---\n\
         {{apiVersion: v1, kind: Namespace, metadata: {{name: default}}}}\n"
    );
    let directives = format!(
        "file @folder@/db example.net
    kubernetes cluster.local {{
        objects @folder@/objects
    }}
    template IN ANY tpl.test {{
        answer \"{{{{ .Name }}}} 30 IN CNAME {target}.\"
    }}
    cache"
    );
    let zone = format!("@ 30 IN SOA ns h 1 1 1 1 1\nfile 30 IN CNAME {target}.\n");
    setup(upstream, &directives).file("db", &zone).file("objects/all.yaml", &service).start()
}

const NAMES: [&str; 3] = ["file.example.net.", "tpl.test.", "ext.default.svc.cluster.local."];

#[test]
fn an_alias_has_the_code_of_its_target() {
    let upstream = zone();
    let nodens = aliases(&upstream, "gone.test");
    for name in NAMES {
        let answer = udp(&nodens, name);
        assert!(line(&answer).starts_with(&format!("NXDOMAIN {name}")), "{}", line(&answer));
        assert_eq!(answer.normal.authority.len(), 1, "{name}: the SOA of the target");
    }
    upstream.always(Act::Rcode(ResponseCode::ServFail));
    let nodens = aliases(&upstream, "fails.test");
    for name in NAMES {
        assert!(line(&udp(&nodens, name)).starts_with("SERVFAIL"), "{name}");
    }
}

#[test]
fn a_truncated_answer_behind_an_alias_is_a_failure() {
    let upstream = zone();
    upstream.on_query(|seen| match seen.transport {
        tests::upstream::Transport::Udp => Act::Truncate,
        tests::upstream::Transport::Tcp => response(seen, |message| {
            message.metadata.truncation = true;
        }),
    });
    let nodens = aliases(&upstream, "cut.test");
    for name in NAMES {
        for answer in [udp(&nodens, name), tcp(&nodens, name, RecordType::A)] {
            assert!(!answer.is_truncated(), "{name}");
            assert!(line(&answer).starts_with("SERVFAIL"), "{name}: {}", line(&answer));
        }
    }
}

#[test]
fn names_behind_an_alias_are_compressed() {
    let upstream = zone();
    let many = "a-name-of-some-length.in-a-domain.test";
    upstream.on_query(|seen| match seen.transport {
        // Over UDP it would not fit.
        tests::upstream::Transport::Udp => Act::Truncate,
        tests::upstream::Transport::Tcp if seen.kind == RecordType::A => addresses(seen, 120),
        tests::upstream::Transport::Tcp => addresses(seen, 2_000),
    });
    let nodens = aliases(&upstream, many);
    for name in NAMES {
        let answer = tcp(&nodens, name, RecordType::A);
        assert_eq!(answer.message.answers.len(), 121, "{name}");
        assert!(answer.bytes.len() < 120 * 16 + 200, "{name}: {}", answer.bytes.len());
        let answer = tcp(&nodens, name, RecordType::AAAA);
        assert_eq!(answer.message.answers.len(), 2_001, "{name}");
        let plain = Question::new(name, RecordType::A).without_edns();
        let answer = nodens.client().udp(&plain).unwrap();
        assert!(answer.is_truncated());
        assert!(answer.message.answers.len() > 22, "{name}: {}", answer.message.answers.len());
    }
}
