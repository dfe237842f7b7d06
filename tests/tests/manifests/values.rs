//! The chart's values beyond what overlays have: places to extend it, what Helm prints and tests, and a schema that refuses
//! what the program refuses.

use nodens::upstream::Target;
use serde_json::{Value, json};
use tests::manifests::{self, helm, schema::Schema, strict};

use super::chart::engine_is_here;

fn schema() -> Schema {
    let path = manifests::folder().join("helm/nodens/values.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with the values, with these laid over.
fn wrong(changes: &Value) -> Vec<String> {
    schema().check(&helm::values(changes).unwrap())
}

fn render(changes: &Value) -> Vec<Value> {
    assert_eq!(wrong(changes), [""; 0], "{changes}");
    let all = helm::render(&helm::values(changes).unwrap()).unwrap();
    all.iter().for_each(|document| strict::parse(document).unwrap());
    all
}

fn pod(all: &[Value]) -> &Value {
    &manifests::find(all, "DaemonSet", "nodens")["spec"]["template"]
}

#[test]
fn everything_can_be_added_to_the_pods() {
    if !engine_is_here() {
        return;
    }
    let digest = format!("sha256:{}", "0a".repeat(32));
    let all = render(&json!({
        "image": { "digest": digest, "tag": "9" },
        "notrack": "on",
        "extraArgs": ["--log-format=json", "--workers=2"],
        "extraEnv": [
            { "name": "CORP_DNS", "value": "192.0.2.1" },
            { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        ],
        "extraVolumes": [{ "name": "ca", "hostPath": { "path": "/etc/ssl/certs" } }],
        "extraVolumeMounts": [{ "name": "ca", "mountPath": "/etc/ssl/certs", "readOnly": true }],
        "podAnnotations": { "example.com/owner": "dns", "prometheus.io/scrape": "true" },
        "podLabels": { "team": "network" },
        "updateStrategy": { "rollingUpdate": { "maxSurge": "10%" } },
        "minReadySeconds": 30,
        "nodeSelector": { "pool": "a" },
    }));
    let (set, pod) = (manifests::find(&all, "DaemonSet", "nodens"), pod(&all));
    let container = manifests::container(&all);
    assert_eq!(container["image"], format!("registry.example/nodens@{digest}"));
    let words = container["args"].as_array().unwrap();
    assert!(words.contains(&json!("--notrack=on")));
    assert_eq!(words[words.len() - 2..], [json!("--log-format=json"), json!("--workers=2")]);
    let names: Vec<_> =
        container["env"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["POD_IP", "NODE_NAME", "CORP_DNS", "NODE"]);
    let last = |list: &Value| list.as_array().unwrap().last().unwrap()["name"].clone();
    assert_eq!(
        (last(&container["volumeMounts"]), last(&pod["spec"]["volumes"])),
        ("ca".into(), "ca".into())
    );
    assert_eq!(pod["metadata"]["annotations"]["example.com/owner"], "dns");
    assert_eq!(pod["metadata"]["labels"]["team"], "network");
    assert_eq!(pod["metadata"]["labels"]["k8s-app"], "nodens");
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], "10%");
    assert_eq!(set["spec"]["minReadySeconds"], 30);
    assert_eq!(pod["spec"]["nodeSelector"]["pool"], "a");
    // The labels by which the DaemonSet knows its pods are not for values.
    let label = json!({ "podLabels": { "k8s-app": "other" } });
    let error = helm::render(&helm::values(&label).unwrap()).unwrap_err().to_string();
    assert!(error.contains("podLabels: k8s-app"), "{error}");
}

/// Each term of a required affinity fits nodes by itself, so each has to leave out virtual nodes and canaries.
#[test]
fn affinity_is_held_beside_the_charts_own() {
    if !engine_is_here() {
        return;
    }
    let key = |term: &Value, key: &str| {
        term["matchExpressions"].as_array().unwrap().iter().any(|one| one["key"] == key)
    };
    let all = render(&json!({ "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }, { "key": "gpu", "operator": "Exists" }] },
                { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n"] }] },
            ] },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 1, "preference": { "matchExpressions": [{ "key": "fast", "operator": "Exists" }] } },
            ],
        },
        "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "k8s-app": "node-local-dns" } } },
        ] },
    } }));
    let affinity = &pod(&all)["spec"]["affinity"];
    let required = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = affinity.pointer(required).unwrap().as_array().unwrap();
    assert_eq!(terms.len(), 2);
    for term in terms {
        for wanted in ["nodens-channel", "type", "eks.amazonaws.com/compute-type"] {
            assert!(key(term, wanted), "{wanted}: {term}");
        }
    }
    assert!(key(&terms[0], "zone") && key(&terms[0], "gpu"));
    assert_eq!(terms[1]["matchFields"][0]["values"], json!(["n"]));
    let preferred = &affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(preferred[0]["weight"], 1);
    assert!(affinity["podAntiAffinity"].is_object());
}

#[test]
fn notes_say_what_to_run_next() {
    if !engine_is_here() {
        return;
    }
    let notes = |changes: &Value| helm::release(&helm::values(changes).unwrap()).unwrap().notes;
    let local = notes(&json!({ "localIPs": ["169.254.20.10", "fd00::10"] }));
    for line in [
        "kubectl -n kube-system rollout status daemonset/nodens",
        "helm test nodens --namespace kube-system",
        "clusterDNS: [169.254.20.10, fd00::10]",
        "monitoring.prometheusRule",
    ] {
        assert!(local.contains(line), "{line}\n{local}");
    }
    let takeover = notes(&json!({ "mode": "takeover", "monitoring": { "prometheusRule": true } }));
    assert!(takeover.contains("ClusterIP of kube-dns") && !takeover.contains("prometheusRule"));
    assert!(notes(&json!({ "mode": "pod-network" })).contains("ciliumlocalredirectpolicies"));
    let none = notes(&json!({ "mode": "pod-network", "redirectPolicy": false }));
    assert!(none.contains("prefer-same-node.yaml"), "{none}");
    assert!(notes(&json!({ "canary": true })).contains("daemonset/nodens-canary"));
}

/// The pod of `helm test` asks for what every cluster has, without any right.
#[test]
fn helm_test_asks_the_node() {
    if !engine_is_here() {
        return;
    }
    let hooks = |changes: &Value| helm::release(&helm::values(changes).unwrap()).unwrap().hooks;
    let arguments = |changes: &Value| -> Vec<String> {
        let hooks = hooks(changes);
        let [pod] = hooks.as_slice() else { panic!("{hooks:?}") };
        strict::parse(pod).unwrap();
        assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let words = container["args"].as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let name = "kubernetes.default.svc.cluster.local";
    assert_eq!(arguments(&json!({})), ["lookup", "--server=169.254.20.10", name]);
    assert_eq!(arguments(&json!({ "mode": "pod-network" })), ["lookup", name]);
    assert_eq!(hooks(&json!({ "canary": true })), [Value::Null; 0]);
    for words in [arguments(&json!({})), arguments(&json!({ "mode": "pod-network" }))] {
        let all = std::iter::once("nodens".to_owned()).chain(words).map(Into::into);
        nodens::args::Cli::read(all).unwrap();
    }
}

#[test]
fn runbooks_are_where_the_values_say() {
    if !engine_is_here() {
        return;
    }
    let urls = |address: &str| -> Vec<String> {
        let wanted = json!({ "monitoring": { "prometheusRule": true, "runbookUrl": address } });
        let all = render(&wanted);
        let groups = &manifests::find(&all, "PrometheusRule", "nodens")["spec"]["groups"];
        let rules =
            groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        let url = |rule: &Value| rule["annotations"]["runbook_url"].as_str().map(str::to_owned);
        rules.filter_map(url).collect()
    };
    let begin = "https://runbooks.example/nodens#nodens";
    let all = urls("https://runbooks.example/nodens");
    assert!(all.len() > 20 && all.iter().all(|url| url.starts_with(begin)), "{all:?}");
    assert_eq!(urls("https://runbooks.example/nodens#"), all);
    assert!(urls("").iter().all(|url| url.starts_with("docs/alerts.md#nodens")));
}

/// What the program takes as an upstream, the schema takes, and the other way round.
#[test]
fn the_schema_and_the_program_agree_on_upstreams() {
    for (word, good) in [
        ("192.0.2.1", true),
        ("192.0.2.1:5353", true),
        ("2001:db8::1", true),
        ("[2001:db8::1]:53", true),
        ("::1", true),
        ("1:2:3:4:5:6:7:8", true),
        ("dns://192.0.2.1", true),
        ("tls://192.0.2.1%dns.example", true),
        ("tls://192.0.2.1%dns.example:853", true),
        ("tls://[2001:db8::1%dns.example]:853", true),
        ("https://192.0.2.1%dns.example/dns-query", true),
        ("https://192.0.2.1", true),
        ("quic://192.0.2.1:853", true),
        ("dns.google", false),
        ("tls://dns.google", false),
        ("999.1.1.1", false),
        ("1.1.1", false),
        ("1.1.1.1.1", false),
        ("192.0.2.1:0", false),
        ("192.0.2.1:70000", false),
        ("1::2::3", false),
        ("grpc://192.0.2.1", false),
        ("udp://192.0.2.1", false),
        ("tls://192.0.2.1:853%dns.example", false),
        ("", false),
    ] {
        let found = wrong(&json!({ "forward": { "to": [word] } }));
        assert_eq!(found.is_empty(), good, "schema: {word}: {found:?}");
        assert_eq!(Target::parse(word).is_ok(), good, "program: {word}");
    }
    let at_most = |count: usize| wrong(&json!({ "forward": { "to": vec!["192.0.2.1"; count] } }));
    assert!(at_most(64).is_empty() && !at_most(65).is_empty());
}

/// The same of flags.
#[test]
fn the_schema_and_the_program_agree_on_flags() {
    let takes = |flag: &str, word: &str| {
        let words = ["nodens".to_owned(), format!("{flag}={word}")];
        nodens::args::Cli::read(words.into_iter().map(Into::into)).is_ok()
    };
    for (level, good) in [
        ("warning", true),
        ("WARN", true),
        ("off", true),
        ("info,nodens::cluster=debug", true),
        ("", true),
        ("loud", false),
        ("info,nodens=loud", false),
        ("info,,debug", false),
    ] {
        let found = wrong(&json!({ "log": { "level": level } }));
        assert_eq!(found.is_empty(), good, "schema: {level:?}: {found:?}");
        assert_eq!(takes("--log-level", level), good, "program: {level:?}");
    }
    for (mode, good) in [("on", true), ("auto", true), ("off", true), ("yes", false)] {
        assert_eq!(wrong(&json!({ "notrack": mode })).is_empty(), good, "{mode}");
        assert_eq!(takes("--notrack", mode), good, "{mode}");
    }
    for (address, good) in [
        ("169.254.20.10", true),
        ("fd00::10", true),
        ("999.1.1.1", false),
        ("169.254.20", false),
        ("dns.example", false),
    ] {
        assert_eq!(wrong(&json!({ "localIPs": [address] })).is_empty(), good, "{address}");
        assert_eq!(takes("-localip", address), good, "{address}");
    }
    // Refused at the start: it names no interface.
    assert!(!wrong(&json!({ "localIPs": ["fe80::1"] })).is_empty());
}

#[test]
fn mistakes_in_the_new_values_are_refused() {
    for (changes, place) in [
        (json!({ "image": { "digest": "sha256:12" } }), "/image/digest"),
        (json!({ "image": { "tag": "a b" } }), "/image/tag"),
        (json!({ "extraArgs": ["serve"] }), "/extraArgs/0"),
        (json!({ "extraEnv": [{ "value": "x" }] }), "/extraEnv/0/name"),
        (
            json!({ "extraVolumeMounts": [{ "name": "x", "mountPath": "y" }] }),
            "/extraVolumeMounts/0/mountPath",
        ),
        (json!({ "affinity": { "node": {} } }), "/affinity/node"),
        (json!({ "podLabels": { "a": true } }), "/podLabels/a"),
        (
            json!({ "updateStrategy": { "rollingUpdate": { "maxSurge": "120%" } } }),
            "/updateStrategy/rollingUpdate/maxSurge",
        ),
        (json!({ "updateStrategy": { "type": "Recreate" } }), "/updateStrategy/type"),
        (json!({ "clusterDomain": "a..b" }), "/clusterDomain"),
        (json!({ "cache": { "size": "512Ki" } }), "/cache/size"),
        (json!({ "cache": { "serveStale": "1d" } }), "/cache/serveStale"),
        (json!({ "kubernetes": { "maxStaleness": "0s" } }), "/kubernetes/maxStaleness"),
        (json!({ "kubernetes": { "fallback": ["kube-dns"] } }), "/kubernetes/fallback/0"),
        (json!({ "monitoring": { "runbookUrl": "docs/alerts.md" } }), "/monitoring/runbookUrl"),
    ] {
        let wrong = wrong(&changes);
        assert!(wrong.len() == 1 && wrong[0].starts_with(place), "{changes}: {wrong:?}");
    }
}
