use std::net::SocketAddr;

use proptest::prelude::*;

use super::compile::compile;
use super::condition::Condition;
use super::facts::Facts;
use super::lexer::{MAX_LEN, Wrong};
use super::*;
use crate::clock::CoarseInstant;
use crate::cluster::object::{NodePod, ObjectId, PodDns};
use crate::plugin::testing::read;
use crate::request::{Origin, Transport};
use crate::wire::query::write_query;
use crate::wire::{Class, Name, Query, RecordType, flags};

/// A query that expressions are evaluated for.
struct Asked {
    client: &'static str,
    name: &'static str,
    qtype: u16,
    class: u16,
    transport: Transport,
    edns: Option<(u16, bool)>,
    is_pod: bool,
}

const ASKED: Asked = Asked {
    client: "10.1.2.3:4242",
    name: "www.Example.org",
    qtype: 1,
    class: 1,
    transport: Transport::Udp,
    edns: None,
    is_pod: false,
};

fn compiled(text: &str) -> (Result<Condition, Wrong>, Vec<Wrong>) {
    let mut doubts = Vec::new();
    (compile(text, &mut doubts), doubts)
}

impl Asked {
    fn holds(&self, text: &str) -> bool {
        let (condition, doubts) = compiled(text);
        let condition = condition.unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        assert_eq!(doubts, [], "{text}");
        self.fits(&condition)
    }

    fn fits(&self, condition: &Condition) -> bool {
        let mut packet = Vec::new();
        let name = Name::from_text(self.name).unwrap();
        let (qtype, class) = (RecordType(self.qtype), Class(self.class));
        write_query(&mut packet, 7, flags::RD, name.as_ref(), qtype, class, self.edns);
        let request = Request {
            query: Query::parse(&packet).unwrap(),
            origin: Origin {
                client: self.client.parse().unwrap(),
                local: "[::ffff:169.254.20.10]:53".parse::<SocketAddr>().unwrap(),
                transport: self.transport,
                worker: 0,
                received: CoarseInstant::now(),
            },
        };
        let pod = NodePod {
            id: ObjectId { namespace: "shop".into(), name: "web-1".into() },
            addresses: Default::default(),
            host_network: false,
            created: 0,
            dns: PodDns::default(),
            owner: None,
            labels: Box::default(),
        };
        condition.holds(&Facts::new(&request, self.is_pod.then_some(&pod)))
    }
}

#[test]
fn expressions_have_values() {
    for (text, wanted) in [
        ("true", true),
        ("false", false),
        ("not false", true),
        ("!true", false),
        ("!!true", true),
        ("true and false or true", true),
        ("true or false and false", true),
        ("(true or false) and false", false),
        ("true && true && true", true),
        ("false || false || false", false),
        ("not false and false", false),
        ("true == true", true),
        ("false == do()", true),
        ("do() != true", true),
        ("1 < 2", true),
        ("-1 > 0", false),
        ("0x10 == 16", true),
        ("1_000 >= 0b11 and 0o7 <= 7", true),
        ("'a' < 'b'", true),
        ("'a' == \"a\" and `a` == 'a'", true),
        ("'\\x61\\u0062\\t' == 'ab\\t'", true),
        ("'it\\'s' == \"it's\"", true),
        ("'x' in []", false),
        ("'x' in ['y', 'x']", true),
        ("3 not in [1, 2]", true),
        ("incidr(client_ip(), '10.0.0.0/8')", true),
        ("incidr(client_ip(), '10.1.2.3/8')", true),
        ("incidr(client_ip(), '10.1.2.4/32')", false),
        ("incidr(client_ip(), '::ffff:10.0.0.0/104')", true),
        ("incidr(client_ip(), '2001:0DB8::/32')", false),
        ("not incidr(client_ip(), '192.0.2.0/24')", true),
        ("incidr(server_ip(), '169.254.0.0/16')", true),
        ("client_ip() == '10.1.2.3'", true),
        ("'10.1.2.3' != client_ip()", false),
        ("client_ip() in ['10.1.2.9', '10.1.2.3']", true),
        ("client_ip() == '[::ffff:10.1.2.3]'", true),
        ("client_ip() startsWith '10.1.'", true),
        ("client_ip() matches '^10\\\\.1\\\\.2\\\\.[1-9]$'", true),
        ("server_ip() == '169.254.20.10' and server_port() == '53'", true),
        ("port() == '4242'", true),
        ("proto() == 'udp'", true),
        ("name() == 'www.example.org.'", true),
        ("name() in ['a.', 'www.example.org.']", true),
        ("name() endsWith '.example.org.' and not (name() contains 'ftp')", true),
        ("name() not contains 'ftp'", true),
        ("name() not endsWith 'org.'", false),
        ("name() matches '^www\\\\..*\\\\.org\\\\.$'", true),
        ("type() == 'A'", true),
        ("type() in ['AAAA', 'A']", true),
        ("type() not in ['AAAA', 'A']", false),
        ("class() == 'IN'", true),
        ("bufsize() == 512", true),
        ("id() == 7 and opcode() == 0", true),
        ("size() in [33, 34] and size() < 40", true),
        ("do()", false),
        ("metadata('kubernetes/client-namespace') == ''", true),
        ("metadata('kubernetes/client-namespace') in ['shop']", false),
    ] {
        assert_eq!(ASKED.holds(text), wanted, "{text}");
    }
}

#[test]
fn queries_differ() {
    let six = Asked { client: "[2001:db8::7]:53", ..ASKED };
    assert!(six.holds("client_ip() == '2001:0DB8:0::7' and incidr(client_ip(), '2001:db8::/32')"));
    assert!(six.holds("client_ip() startsWith '2001:db8::'"));
    let mapped = Asked { client: "[::ffff:10.1.2.3]:53", ..ASKED };
    assert!(mapped.holds("client_ip() == '10.1.2.3' and incidr(client_ip(), '10.0.0.0/8')"));
    let other = Asked { qtype: 65_280, class: 3, edns: Some((1_400, true)), ..ASKED };
    assert!(
        other.holds("type() == 'TYPE65280' and class() == 'CH' and bufsize() == 1400 and do()")
    );
    let over_tcp = Asked { transport: Transport::Tcp, edns: Some((1_400, false)), ..ASKED };
    assert!(over_tcp.holds("proto() == 'tcp' and bufsize() == 65535"));
    let pod = Asked { is_pod: true, ..ASKED };
    assert!(pod.holds(
        "metadata('kubernetes/client-namespace') == 'shop' and metadata('kubernetes/client-pod-name') matches '^web-'"
    ));
    let root = Asked { name: ".", ..ASKED };
    assert!(root.holds("name() == '.'"));
    let odd = Asked { name: "a\\.b\\032c.org", ..ASKED };
    assert!(odd.holds("name() == 'a\\\\.b\\\\032c.org.'"));
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, at, what, expected) in [
        ("", 1, "a value is missing before the end", "a function"),
        ("name() ==", 10, "a value is missing before the end", "a function"),
        ("name() == A", 11, "\"A\" is no value", "'A': the Corefile takes double quotes away"),
        ("name == 'a.'", 1, "\"name\" is no value", "name()"),
        ("invalid expression", 1, "\"invalid\" is no value", "invalid()"),
        ("nmae() == 'a.'", 1, "there is no function \"nmae\"", "name"),
        ("geoip('x')", 1, "there is no function \"geoip\"", "one of bufsize, class"),
        ("name('a')", 1, "name() has 1 arguments", "none"),
        ("incidr(client_ip())", 1, "incidr() has 1 arguments", "two"),
        ("incidr('x', '10.0.0.0/8')", 8, "incidr() of 'x'", "client_ip() or server_ip() first"),
        ("incidr(client_ip(), '10.0.0.0/33')", 21, "\"10.0.0.0/33\" is not a network", "a network"),
        ("incidr(client_ip(), '10.0.0.1')", 21, "\"10.0.0.1\" is not a network", "'10.1.2.3/32'"),
        ("incidr(client_ip(), name())", 21, "name() is no network", "a network"),
        ("client_ip() == 'office'", 16, "\"office\" is not an address", "incidr"),
        ("client_ip() in ['10.0.0.0/8']", 17, "\"10.0.0.0/8\" is not an address", "incidr"),
        ("port() == 53", 8, "port() is a string, and 53 is a number", "'53' in single quotes"),
        ("size() < '5'", 8, "size() is a number, and '5' is a string", "one type"),
        ("do() < true", 6, "do() is true or false", "two numbers"),
        ("name()", 1, "name() is a string", "a condition"),
        ("true and size()", 10, "size() is a number", "a condition"),
        ("not name() == 'a.'", 5, "name() is a string", "not (...)"),
        ("name() == ['a.']", 8, "name() is a string, and [...] is a list", "in before a list"),
        ("type() in 'A'", 11, "'A' is no list", "a list behind in"),
        ("type() in ['A', 5]", 17, "5 is in the list", "strings"),
        ("size() in [5, 'A']", 15, "'A' is in the list", "whole numbers"),
        ("do() in [true]", 1, "do() is true or false", "before in"),
        ("type() in [name()]", 12, "name() is in the list", "strings"),
        ("name() matches '('", 16, "\"(\" is not a regular expression", "one as"),
        ("name() matches name()", 16, "name() is no regular expression", "a string"),
        ("name() contains 5", 17, "5 is a number", "a string beside contains"),
        ("name() == '\\.'", 12, "there is no such escape", "\\\\ for a backslash"),
        ("name() == 'a", 11, "the string never ends", "a closing '"),
        ("size() == 1.5", 11, "\"1.5\" is not a whole number", "a whole number"),
        ("size() == 99999999999999999999", 11, "is not a whole number", "a whole number"),
        ("size() = 5", 8, "\"=\" is not supported", "=="),
        ("size() + 5 > 3", 8, "\"+\" is not supported", "the operators =="),
        ("do() ? true : false", 6, "\"?\" is not supported", "functions"),
        ("(true", 6, "the end is not expected here", "\")\""),
        ("true)", 5, "\")\" is not expected here", "functions"),
        ("true false", 6, "\"false\" is not expected here", "functions"),
        ("true not true", 6, "\"not\" is not expected here", "in, matches"),
        ("true not == true", 6, "\"not\" is not expected here", "in, matches"),
        ("type() in ['A' 'B']", 16, "the string \"B\" is not expected here", "\",\""),
        ("metadata(name())", 10, "name() is no label", "'kubernetes/client-namespace'"),
        ("- name()", 1, "\"-\" is no operator here", "a number"),
    ] {
        let wrong = compiled(text).0.expect_err(text);
        assert!(
            wrong.at == at && wrong.what.contains(what) && wrong.expected.contains(expected),
            "{text}: {wrong:?}"
        );
    }
}

#[test]
fn what_is_hardly_meant_is_doubted() {
    for (text, at, what) in [
        ("name() == 'example.org'", 11, "is never equal: name() ends with a dot"),
        ("name() in ['a.', 'B.']", 18, "is never equal"),
        ("'a' != type()", 1, "is never equal: type() is in capitals"),
        ("type() in ['A', 'TYPE28']", 17, "is never equal"),
        ("type() == 'AAAAA'", 11, "is never equal: it is no type of records that has a name"),
        ("name() endsWith 'example.org'", 17, "is never found: name() ends with a dot"),
        ("name() startsWith 'WWW.'", 19, "is never found: name() is in lower case"),
        ("name() not contains 'Www'", 21, "is never found: name() is in lower case"),
        ("proto() == 'quic'", 12, "is never equal: proto() is udp or tcp"),
        ("metadata('geoip/city/name') == 'x'", 10, "is always empty"),
    ] {
        let (condition, doubts) = compiled(text);
        assert!(condition.is_ok(), "{text}");
        assert!(
            matches!(doubts.as_slice(), [one] if one.at == at && one.what.contains(what)),
            "{text}: {doubts:?}"
        );
    }
}

#[test]
fn what_no_query_decides_is_decided_at_once() {
    for (text, wanted) in [
        ("true", true),
        ("'prod' == 'test'", false),
        ("do() or 1 == 1", true),
        ("do() and 'a' in ['b']", false),
        ("not ('a' matches 'b') and 2 in [2]", true),
        ("metadata('no/such') != ''", false),
    ] {
        assert_eq!(compiled(text).0, Ok(Condition::Fixed(wanted)), "{text}");
    }
    assert_eq!(compiled("true and do() and (do() or true)").0, Ok(Condition::DnssecOk));
}

#[test]
fn expressions_are_bounded() {
    let deep = |count: usize| "(".repeat(count) + "true" + &")".repeat(count);
    assert!(compiled(&deep(20)).0.is_ok());
    for text in [
        deep(2_000),
        "!".repeat(4_000) + "true",
        "[".repeat(4_000),
        "true == ".repeat(400) + "true",
        "name(".repeat(800),
    ] {
        assert!(compiled(&text).0.unwrap_err().what.contains("nested too deeply"), "{text}");
    }
    let row = vec!["do()"; 400];
    assert!(compiled(&row.join(" or ")).0.is_ok() && compiled(&row.join(" && ")).0.is_ok());
    assert!(compiled(&" ".repeat(MAX_LEN + 1)).0.unwrap_err().what.contains("4097 octets"));
}

fn config(text: &str) -> (Config, String) {
    let block = crate::plugin::testing::block(".");
    read(text, |directive, diagnostics| {
        let mut cx = crate::plugin::directive::ReadContext {
            block: &block,
            zones: &[],
            root: std::path::Path::new(""),
            diagnostics,
        };
        crate::plugin::directive::ReadDirective::read(directive, &mut cx)
    })
}

#[test]
fn lines_are_read() {
    let (first, said) = config("view a {\n expr type() in ['A', 'AAAA']\n expr do()\n}");
    assert_eq!((said.as_str(), first.takes_all(), first.names_clients()), ("", false, false));
    let (wider, _) = config("view b {\n expr   do()\n}");
    assert!(wider.shadows(&first) && !first.shadows(&wider));
    let (all, said) = config("view c {\n expr true\n}");
    assert!(all.takes_all() && all.shadows(&first) && said.is_empty());
    let (pods, _) = config("view d {\n expr metadata('kubernetes/client-namespace') == 'shop'\n}");
    assert!(pods.names_clients());
    // A quoted expression is one word.
    assert_eq!(config("view e {\n expr \"name() == 'a b.'\"\n}").1, "");
    for (text, wanted) in [
        ("view", "2: view: an argument is missing, expected the view's name"),
        ("view a b", "2: view: there is an argument too many"),
        ("view a", "2: warning: view: it has no expr"),
        ("view a {\n foo bar\n}", "3: view: there is no option \"foo\", expected expr"),
        ("view a {\n expr\n}", "3: view: expr: the expression is missing"),
        ("view a {\n expr false\n}", "2: warning: view: no query comes here"),
        (
            "view a {\n expr do()\n expr incidr(client_ip(), '10.0.0.0/99')\n}",
            "4: view: expr: character 21: \"10.0.0.0/99\" is not a network, expected a network",
        ),
        (
            "view a {\n expr name() == 'a'\n}",
            "3: warning: view: expr: character 11: \"a\" is never equal: name() ends with a dot and is in lower case; write one as 'a.'",
        ),
    ] {
        let said = config(text).1;
        assert!(said.starts_with(&format!("Corefile:{wanted}")), "{text}: {said}");
    }
    let many = format!("view a {{\n{}}}", "expr do()\n".repeat(65));
    assert!(config(&many).1.contains("expected at most 64"));
}

fn has_its_mistake_within(text: &str) {
    if let Err((at, what)) = check(text) {
        assert!((1..=text.chars().count() + 1).contains(&at) && !what.is_empty(), "{text}: {at}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_expression_or_has_a_mistake_in_it(text in "\\PC{0,60}") {
        has_its_mistake_within(&text);
    }

    #[test]
    fn any_words_are_an_expression_or_have_a_mistake_in_them(
        words in proptest::collection::vec(prop_oneof![
            Just("name()"), Just("type()"), Just("client_ip()"), Just("size()"), Just("do()"), Just("true"), Just("'a.'"),
            Just("'10.0.0.1'"), Just("5"), Just("-"), Just("("), Just(")"), Just("["), Just("]"), Just(","), Just("=="),
            Just("!="), Just("<"), Just("in"), Just("not"), Just("and"), Just("or"), Just("!"), Just("contains"),
            Just("matches"), Just("incidr(client_ip(), '10.0.0.0/8')"), Just("metadata('kubernetes/client-namespace')"),
        ], 0..14)
    ) {
        let text = words.join(" ");
        has_its_mistake_within(&text);
        if let Ok(condition) = compiled(&text).0 {
            // The value of the whole is that of its parts, however often it is folded.
            let folded = condition.clone().folded();
            prop_assert_eq!(ASKED.fits(&condition), ASKED.fits(&folded), "{}", text);
        }
    }
}
