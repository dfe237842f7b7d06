//! `view`: server blocks for some queries, chosen by who asks for what; what they know is kept apart.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::json;
use tests::client::{Client, Question};
use tests::cluster::Cluster;
use tests::poll::{pause, wait_for};
use tests::process::{Nodens, Setup, run};
use tests::upstream::{Act, Upstream};
use tests::zone::Zone;

const SOON: Duration = Duration::from_secs(20);
const OFFICE: &str = "127.0.1.1";
const HOME: &str = "127.0.2.1";
const OTHER: &str = "127.0.3.1";

const COREFILE: &str = "test.:@port@ {
    bind 127.0.0.1
    view office {
        expr incidr(client_ip(), '127.0.1.0/24') and proto() == 'udp'
    }
    log . \"asked {remote} of {/view/name} {name}\"
    cache 60
    forward . @office@
    prometheus 127.0.0.1:@metrics@
    reload 2s 1s
}
test.:@port@ {
    bind 127.0.0.1
    view home {
        expr client_ip() in ['127.0.2.1', '127.0.2.2']
        expr name() not contains 'private'
    }
    cache 60
    forward . @home@
}
a.test.:@port@ {
    bind 127.0.0.1
    view a {
        expr client_ip() == '127.0.1.9'
    }
    template IN A a.test. {
        answer \"{{ .Name }} 60 IN A 192.0.2.99\"
    }
}
alias.test.:@port@ {
    bind 127.0.0.1
    template IN A alias.test. {
        answer \"{{ .Name }} 60 IN CNAME www.test.\"
    }
}
test.:@port@ {
    bind 127.0.0.1
    log . \"asked {remote} of {/view/name} {name}\"
    cache 60
    forward . @other@
}
only.:@port@ {
    bind 127.0.0.1
    view only {
        expr type() == 'A' && !incidr(client_ip(), '127.0.3.0/24')
    }
    template IN A only. {
        answer \"{{ .Name }} 60 IN A 192.0.2.50\"
    }
    log . \"asked {remote} of {/view/name} {name}\"
}
";

/// Three upstreams that answer one name with different addresses, and the address at which they are told apart.
struct World {
    office: Upstream,
    home: Upstream,
    other: Upstream,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

fn zone(last: u8) -> String {
    let names: String =
        ["www", "private", "slow"].map(|name| format!("{name} IN A 192.0.2.{last}\n")).concat();
    format!("$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n{names}")
}

impl World {
    fn new() -> Self {
        let [office, home, other] = [1, 2, 3].map(|last| Upstream::with_zone(&zone(last)));
        let address = SocketAddr::from(([127, 0, 0, 1], tests::ports::one()));
        Self { office, home, other, address, folder: tempfile::tempdir().unwrap() }
    }

    fn start(&self, corefile: &str) -> Nodens {
        Setup::new(corefile)
            .word("port", self.address.port())
            .word("office", self.office.address())
            .word("home", self.home.address())
            .word("other", self.other.address())
            .arguments(&["--socket", &self.socket()])
            .ready(tests::process::Ready::AnswerAt(self.address))
            .start()
    }

    fn socket(&self) -> String {
        self.folder.path().join("nodens.sock").to_string_lossy().into_owned()
    }

    /// What a command prints, asked at this server.
    fn says(&self, command: &[&str]) -> String {
        let (status, out, error) = run(&[command, &["--socket", &self.socket()]].concat());
        assert!(status.success(), "{command:?}: {out}{error}");
        out
    }

    fn asked(&self) -> [usize; 3] {
        [&self.office, &self.home, &self.other]
            .map(|upstream| upstream.count("www.test.", RecordType::A))
    }

    fn ask(&self, from: &str, name: &str) -> String {
        ask(self.address, from, name, RecordType::A)
    }

    #[track_caller]
    fn assert_apart(&self) {
        for (from, last) in [(OFFICE, 1), (HOME, 2), (OTHER, 3), (HOME, 2), (OFFICE, 1)] {
            assert_eq!(self.ask(from, "www.test."), format!("192.0.2.{last}"), "{from}");
        }
    }
}

/// The addresses of an answer, or its code.
fn ask(server: SocketAddr, from: &str, name: &str, kind: RecordType) -> String {
    let from: IpAddr = from.parse().unwrap();
    let client = Client::new(server).from(from);
    match client.ask(name, kind) {
        Ok(answer) if answer.data(kind).is_empty() => answer.normal.rcode,
        Ok(answer) => answer.data(kind).join(" "),
        Err(_) => "silence".to_owned(),
    }
}

#[test]
fn each_view_answers_its_own_clients_from_its_own_cache() {
    let world = World::new();
    let nodens = world.start(COREFILE);
    for _ in 0..3 {
        world.assert_apart();
    }
    assert_eq!(world.asked(), [1, 1, 1]);
    // One of the expressions is false, and so is one over TCP.
    assert_eq!(world.ask(HOME, "private.test."), "192.0.2.3");
    assert_eq!(world.ask(OFFICE, "private.test."), "192.0.2.1");
    let question = tests::client::Question::new("private.test.", RecordType::A);
    let over_tcp = Client::new(world.address).from(OFFICE.parse().unwrap()).tcp(&question);
    assert_eq!(over_tcp.unwrap().data(RecordType::A), ["192.0.2.3"]);
    // The longer zone's only view is for others: the shorter zone has the query.
    assert_eq!(world.ask("127.0.1.9", "www.a.test."), "192.0.2.99");
    assert_eq!(world.ask(OFFICE, "www.a.test."), "NXDOMAIN");
    assert!(world.office.count("www.a.test.", RecordType::A) == 1);
    // An alias leads to the client's own view.
    for (from, wanted) in [(OFFICE, "192.0.2.1"), (HOME, "192.0.2.2"), (OTHER, "192.0.2.3")] {
        assert_eq!(world.ask(from, "alias.test."), wanted, "{from}");
    }
    assert_eq!(world.asked(), [1, 1, 1]);
    // No view fits.
    assert_eq!(world.ask(OFFICE, "x.only."), "192.0.2.50");
    assert_eq!(world.ask(OTHER, "x.only."), "REFUSED");
    assert_eq!(ask(world.address, OFFICE, "x.only.", RecordType::AAAA), "REFUSED");

    let metrics = nodens.metrics();
    // In each round twice, twice and once, the first of all being a miss, and once for the alias.
    for (view, hits) in [("office", 6.0), ("home", 6.0), ("", 3.0)] {
        let found = metrics.sum("coredns_cache_hits_total", &[("view", view), ("type", "success")]);
        assert!((hits - 1.0..=hits).contains(&found), "{view:?}: {found}");
        assert!(metrics.has("coredns_dns_requests_total", &[("view", view), ("zone", "test.")]));
        assert!(metrics.has("coredns_cache_entries", &[("view", view), ("zones", "test.")]));
        assert!(metrics.has("coredns_plugin_enabled", &[("view", view), ("name", "forward")]));
    }
    let matched = metrics.sum("coredns_template_matches_total", &[("view", "only")]);
    assert_eq!(matched, 1.0);
    for (from, view) in [(OFFICE, "office"), (OTHER, "-")] {
        nodens.wait_for_log(&format!("asked {from} of {view} www.test."), SOON);
    }
    let kept = world.says(&["cache", "show", "www.test."]);
    assert!(kept.contains(", view office\n") && kept.contains(", view home\n"), "{kept}");
    assert_eq!(kept.matches("www.test. A: success").count(), 3, "{kept}");
    let explained =
        |client: &str, name: &str| world.says(&["explain", name, "-t", "A", "--client", client]);
    let of_home = explained(HOME, "www.test.");
    assert!(
        of_home.contains("by block test. at dns://127.0.0.1:") && of_home.contains(", view home\n"),
        "{of_home}"
    );
    assert!(!explained(OTHER, "www.test.").contains(", view"));
    let refused = explained(OTHER, "x.only.");
    assert!(refused.contains("fits no view of the server blocks for this name"), "{refused}");
    let status: serde_json::Value =
        serde_json::from_str(&world.says(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["blocks"][0]["view"], "office");
    assert!(status["blocks"][3].get("view").is_none(), "{}", status["blocks"]);
}

#[test]
fn questions_in_flight_are_not_joined_across_views() {
    let world = World::new();
    let _nodens = world.start(COREFILE);
    for upstream in [&world.office, &world.home, &world.other] {
        let later = Duration::from_millis(400);
        upstream.on_query(move |_| Act::Delay(later, Box::new(Act::Answer)));
    }
    let (world, clients) = (&world, [OFFICE, HOME, OTHER, OFFICE, HOME, OTHER]);
    let answers = std::thread::scope(|scope| {
        let asked = clients.map(|from| scope.spawn(move || world.ask(from, "slow.test.")));
        asked.map(|answer| answer.join().unwrap())
    });
    assert_eq!(
        answers,
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.2", "192.0.2.3"]
    );
    for upstream in [&world.office, &world.home, &world.other] {
        assert_eq!(upstream.count("slow.test.", RecordType::A), 1);
    }
}

#[test]
fn views_of_one_upstream_ask_it_each_for_themselves() {
    let world = World::new();
    let _nodens = world.start(SAME);
    world.office.on_query(|_| Act::Delay(Duration::from_millis(400), Box::new(Act::Answer)));
    let world = &world;
    let answers = std::thread::scope(|scope| {
        let clients = [OFFICE, HOME, OTHER, OFFICE, HOME, OTHER];
        let asked = clients.map(|from| scope.spawn(move || world.ask(from, "slow.test.")));
        asked.map(|answer| answer.join().unwrap())
    });
    assert_eq!(answers, ["192.0.2.1"; 6]);
    assert_eq!(world.office.count("slow.test.", RecordType::A), 3);
}

/// Two views and the rest with one upstream, whose answer changes: who gets which of them shows whose cache it comes from.
const SAME: &str = "test.:@port@ {
    bind 127.0.0.1
    view one {
        expr client_ip() == '127.0.1.1'
    }
    cache 60
    forward . @office@
    reload 2s 1s
}
test.:@port@ {
    bind 127.0.0.1
    view two {
        expr client_ip() == '127.0.2.1'
    }
    cache 60
    forward . @office@
}
test.:@port@ {
    bind 127.0.0.1
    cache 60
    forward . @office@
}
";

const NEW: &str = "192.0.2.9";

fn set(upstream: &Upstream, last: u8) {
    upstream.change(|own| *own = Zone::parse(&zone(last)).unwrap());
}

#[test]
fn a_reload_gives_no_view_the_answers_of_another() {
    let swapped = SAME.replace("127.0.1.1", "127.0.9.9").replace("127.0.2.1", "127.0.1.1");
    let swapped = swapped.replace("127.0.9.9", "127.0.2.1");
    for (what, corefile, kept) in [
        ("another name", SAME.replace("view one", "view first"), [false, true, true]),
        (
            "another expression",
            SAME.replace("== '127.0.1.1'", "in ['127.0.1.1']"),
            [false, true, true],
        ),
        ("expressions change places", swapped, [false, false, true]),
        // Its clients are those of the rest, and get what that has kept; nobody's answers are theirs.
        ("a view less", SAME.replacen("test.:@port@ {", "gone.:@port@ {", 1), [true; 3]),
    ] {
        let world = World::new();
        set(&world.office, 8);
        let nodens = world.start(SAME);
        for from in [OFFICE, HOME, OTHER] {
            assert_eq!(world.ask(from, "www.test."), "192.0.2.8");
        }
        set(&world.office, 9);
        let text = corefile
            .replace("@port@", &world.address.port().to_string())
            .replace("@office@", &world.office.address().to_string());
        nodens.write_corefile(&text);
        nodens.wait_for_log("reloaded", SOON);
        let found = [OFFICE, HOME, OTHER].map(|from| world.ask(from, "www.test.") != NEW);
        assert_eq!(found, kept, "{what}");
    }
}

#[test]
fn a_crash_and_another_instance_keep_views_apart() {
    let world = World::new();
    let mut nodens = world.start(COREFILE);
    world.assert_apart();
    // What is kept is written once a second.
    pause(Duration::from_millis(1_500));
    let old = nodens.server();
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
    for _ in 0..2 {
        world.assert_apart();
    }
    assert_eq!(world.asked(), [1, 1, 1], "the cache is there again");
    let next = world.start(COREFILE);
    next.wait_for_log("the previous instance has left", SOON);
    assert!(nodens.wait_exit(SOON).success());
    for _ in 0..2 {
        world.assert_apart();
    }
    assert_eq!(world.asked(), [1, 1, 1], "the cache came along");
    // The next one has the office's clients and those at home change places.
    nodens = next;
    let swapped = COREFILE.replace("127.0.1.0/24", "127.0.2.0/24");
    let swapped = swapped.replace("['127.0.2.1', '127.0.2.2']", "['127.0.1.1']");
    let next = world.start(&swapped);
    next.wait_for_log("the previous instance has left", SOON);
    assert!(nodens.wait_exit(SOON).success());
    assert_eq!(world.ask(OFFICE, "www.test."), "192.0.2.2");
    assert_eq!(world.ask(HOME, "www.test."), "192.0.2.1");
    assert_eq!(world.asked(), [2, 2, 1]);
}

#[test]
fn limits_and_access_lists_are_each_views_own() {
    let block = |view: &str, lines: &str| {
        format!(
            "test.:@dns@ {{\n bind 127.0.0.1\n {view}\n {lines}\n template IN ANY test. {{\n  answer \"{{{{ .Name }}}} 60 IN TXT x\"\n }}\n}}\n"
        )
    };
    let limit = "limit 1 2 {\n refuse\n }";
    let corefile = block("view a {\n expr type() == 'A'\n }", limit)
        + &block("view aaaa {\n expr type() == 'AAAA'\n }", &limit.replace("1 2", "1 4"))
        + &block("", "acl {\n block net 127.0.1.0/24\n }");
    let nodens = Setup::new(&corefile).start();
    let from = "127.0.1.5";
    let refused = |kind: RecordType, count: usize| {
        let codes = (0..count).map(|_| ask(nodens.dns(), from, "www.test.", kind));
        codes.filter(|code| code == "REFUSED").count()
    };
    // A token a second may come back meanwhile.
    let found = [refused(RecordType::A, 6), refused(RecordType::AAAA, 6)];
    assert!((1..=4).contains(&found[0]) && (0..=2).contains(&found[1]), "{found:?}");
    assert!(found[0] > found[1], "{found:?}");
    assert_eq!(refused(RecordType::TXT, 2), 2);
    assert_eq!(ask(nodens.dns(), "127.0.2.5", "www.test.", RecordType::TXT), "\"x\"");
}

fn pod(namespace: &str, name: &str, address: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-9"},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

#[test]
fn a_pods_namespace_decides() {
    let cluster = Cluster::default();
    cluster.server.put(pod("shop", "web-1", "127.0.1.5"));
    cluster.server.put(pod("batch", "job-1", "127.0.1.6"));
    let views = "
.:@dns@ {
    bind 127.0.0.1
    view shop {
        expr metadata('kubernetes/client-namespace') == 'shop'
    }
    template IN A who.test. {
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
    }
}
.:@dns@ {
    bind 127.0.0.1
    view jobs {
        expr metadata('kubernetes/client-pod-name') matches '^job-[0-9]+$'
    }
    template IN A who.test. {
        answer \"{{ .Name }} 60 IN A 192.0.2.2\"
    }
}
";
    let rest = "template IN A who.test. {\n answer \"{{ .Name }} 60 IN A 192.0.2.3\"\n }\n ready";
    let setup = cluster.setup("").environment("NODE_NAME", "node-9");
    // The Pods are asked for by the views alone.
    let nodens =
        setup.corefile(|text| format!("{views}{}", text.replacen("ready", rest, 1))).start();
    let who = |from: &str| ask(nodens.dns(), from, "who.test.", RecordType::A);
    wait_for("the Pod of shop", SOON, || who("127.0.1.5") == "192.0.2.1");
    wait_for("the Pod of batch", SOON, || who("127.0.1.6") == "192.0.2.2");
    assert_eq!(who("127.0.1.7"), "192.0.2.3");
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let explain = |of: &[&str]| {
        let command = [&["explain", "who.test.", "-t", "A", "--socket", &socket], of].concat();
        run(&command).1
    };
    // As a Pod of the namespace that is known.
    let of_batch = explain(&["-n", "batch"]);
    assert!(of_batch.contains("asked as Pod `batch/job-1` with 127.0.1.6"), "{of_batch}");
    assert!(
        of_batch.contains("192.0.2.2") && of_batch.contains("does not fit view shop ("),
        "{of_batch}"
    );
    let unknown = explain(&["-n", "nowhere"]);
    assert!(unknown.contains("no Pod of `nowhere` is known on this node"), "{unknown}");
    // Its address is another Pod's.
    cluster.server.delete("pods", "shop", "web-1");
    cluster.server.put(pod("batch", "job-2", "127.0.1.5"));
    wait_for("the next Pod", SOON, || who("127.0.1.5") == "192.0.2.2");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Corefile");
    let text = ". {\n view a {\n  expr type() == A\n  expr incidr(client_ip(), '10.0.0.0/33')\n  expr nmae() == 'x.'\n }\n whoami\n}\n. {\n whoami\n}\n. {\n view b {\n  expr do()\n }\n whoami\n}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (status, out, _) = run(&["check", file]);
    assert!(!status.success());
    for wanted in [
        ":3: view: expr: character 11: \"A\" is no value",
        ":4: view: expr: character 21: \"10.0.0.0/33\" is not a network",
        ":5: view: expr: character 1: there is no function \"nmae\", expected name",
        ":13: warning: view: no query for . comes here: the block at ",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}");
    }
    let asks = ". {\n view a {\n  expr metadata('kubernetes/client-namespace') == 'x' or metadata('geoip/city') == 'y'\n }\n whoami\n}\n. {\n whoami\n}\n";
    std::fs::write(file, asks).unwrap();
    let (status, out, _) = run(&["check", file]);
    assert!(status.success(), "{out}");
    assert!(
        out.contains(":2: warning: view: no Pod is known, since there is no kubernetes"),
        "{out}"
    );
    assert!(
        out.contains(
            ":3: warning: view: expr: character 60: metadata(\"geoip/city\") is always empty"
        ),
        "{out}"
    );
}

/// Queries that fit no view are refused, which is said to the client, in metrics and in `check`; a reload to that is held back.
#[test]
fn what_fits_no_view_is_refused_and_seen() {
    let world = World::new();
    let metrics = "reload 2s 1s\n    prometheus 127.0.0.1:@metrics@";
    let nodens = world.start(&SAME.replace("reload 2s 1s", metrics));
    assert_eq!(world.ask(OTHER, "www.test."), "192.0.2.1");
    // The last block goes.
    let text = std::fs::read_to_string(nodens.folder().join("Corefile")).unwrap();
    let narrow = text.rsplit_once("test.:").unwrap().0;
    nodens.write_corefile(narrow);
    let (status, _, said) = run(&["reload", "--socket", &world.socket()]);
    assert!(!status.success() && said.contains("fit none of its views would be refused"), "{said}");
    assert_eq!(world.ask(OTHER, "www.test."), "192.0.2.1");
    let (status, _, said) = run(&["reload", "--force", "--socket", &world.socket()]);
    assert!(status.success(), "{said}");
    let client = Client::new(world.address).from(OTHER.parse().unwrap());
    let question = Question::new("www.test.", RecordType::A);
    let answer = client.udp(&question).unwrap();
    assert_eq!(answer.normal.rcode, "REFUSED");
    let says =
        |text: &str| answer.bytes.windows(text.len()).any(|octets| octets == text.as_bytes());
    assert!(says("this query fits no view of its zone"), "{answer:?}");
    assert_eq!(world.ask(OFFICE, "www.test."), "192.0.2.1");
    nodens.wait_for_metrics("the refused query", SOON, |metrics| {
        let labels = [("zone", "dropped"), ("view", ""), ("rcode", "REFUSED")];
        metrics.sum("coredns_dns_responses_total", &labels) >= 1.0
    });
    let file = world.folder.path().join("Corefile");
    std::fs::write(&file, narrow).unwrap();
    let (status, out, _) = run(&["check", file.to_str().unwrap()]);
    assert!(status.success(), "{out}");
    assert!(
        out.contains("warning: view: queries for test. that fit no view of it are refused"),
        "{out}"
    );
}
