//! What is deployed: every document parsed strictly, every Corefile started, every right needed, overlays and chart the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tests::api::{ApiServer, Policy, StreamingLists};
use tests::client::Client;
use tests::manifests::{self, corefile, helm, kustomize, strict};
use tests::poll;
use tests::process::{self, Nodens, Ready, Setup};

/// The overlays that run Nodens, and the chart's values that make the same.
fn modes() -> [(&'static str, Value); 4] {
    [
        ("link-local", json!({})),
        ("takeover", json!({ "mode": "takeover" })),
        ("pod-network", json!({ "mode": "pod-network" })),
        ("headless-only", json!({ "kubernetes": { "endpoints": "headless" } })),
    ]
}

/// What the kubelet sets in the container.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("POD_IP", "127.0.0.1"),
    ("NODENS_METRICS", "127.0.0.1:9153"),
    ("KUBE_DNS_SERVICE_HOST", "10.96.0.10"),
    ("NODENS_UPSTREAM_SERVICE_HOST", "10.96.0.53"),
];

const DEADLINE: Duration = Duration::from_secs(20);

/// Every folder with a kustomization.
fn kustomizations() -> Vec<PathBuf> {
    files(&manifests::folder())
        .into_iter()
        .filter(|path| path.ends_with("kustomization.yaml"))
        .filter_map(|path| path.parent().map(Path::to_path_buf))
        .collect()
}

fn is_component(folder: &Path) -> bool {
    folder.parent().is_some_and(|parent| parent.ends_with("components"))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn every_document_is_of_its_kind() {
    let mut seen = 0;
    let mut check = |documents: &[Value], what: &str| {
        for document in documents {
            strict::parse(document).unwrap_or_else(|error| panic!("{what}: {error:#}"));
            seen += 1;
        }
    };
    for folder in kustomizations().iter().filter(|folder| !is_component(folder)) {
        let rendered = kustomize::render(folder).unwrap();
        check(&rendered, &folder.display().to_string());
    }
    // What stands alone; of the overlays' folders the parts were checked above.
    for path in files(&manifests::folder()) {
        let stands_alone = ["examples", "kubelet", "systemd"]
            .iter()
            .any(|folder| path.starts_with(manifests::folder().join(folder)));
        if stands_alone && path.extension().is_some_and(|end| end == "yaml" || end == "conf") {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("\nkind:") {
                check(&manifests::read(&path).unwrap(), &path.display().to_string());
            }
        }
    }
    assert!(seen > 45, "{seen}");
}

/// A reader is to know what each file does before its first line of YAML.
#[test]
fn every_file_says_what_it_is() {
    for path in files(&manifests::folder()) {
        let is_yaml = path.extension().is_some_and(|end| end == "yaml");
        let elsewhere =
            ["demo", "helm"].iter().any(|f| path.starts_with(manifests::folder().join(f)));
        if is_yaml && !elsewhere {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("# "), "{} has no comment", path.display());
        }
    }
}

#[test]
fn the_daemonset_keeps_its_promises() {
    for (mode, _) in modes() {
        let all = manifests::overlay(mode);
        let set = manifests::find(&all, "DaemonSet", "nodens");
        let pod = &set["spec"]["template"]["spec"];
        let container = manifests::container(&all);
        assert_eq!(set["metadata"]["namespace"], "kube-system");
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        assert_eq!(pod["dnsPolicy"], "Default");
        assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        let host = mode != "pod-network";
        assert_eq!(pod["hostNetwork"] == true, host, "{mode}");
        // Ports of a pod in the node's network are the node's, and keep the second pod of an update off it.
        assert_eq!(container["ports"].is_null(), host, "{mode}");
        let wanted = if host {
            json!(["NET_ADMIN", "NET_BIND_SERVICE"])
        } else {
            json!(["NET_BIND_SERVICE"])
        };
        assert_eq!(context["capabilities"]["add"], wanted, "{mode}");
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert!(container[probe].is_object(), "{mode}: {probe}");
        }
        let folders: Vec<&str> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(folders, ["/run/systemd/resolve", "/var/lib/nodens"], "{mode}");
        let update = &set["spec"]["updateStrategy"]["rollingUpdate"];
        assert_eq!((&update["maxSurge"], &update["maxUnavailable"]), (&json!(1), &json!(0)));
        assert_eq!(container["image"], "registry.example/nodens:0.1.0");
    }
}

/// The score that the page states is the one that systemd gives.
#[test]
fn the_units_score_is_what_the_page_says() {
    let unit = manifests::folder().join("systemd/nodens.service");
    let output = std::process::Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output();
    let Ok(output) = output else {
        eprintln!("no systemd-analyze: not compared");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(score) = text.split("exposure level for nodens.service: ").nth(1) else {
        eprintln!("this systemd-analyze knows no --offline: not compared");
        return;
    };
    let score: f64 = score.split(' ').next().unwrap().parse().unwrap();
    let page = std::fs::read_to_string(manifests::folder().join("README.md")).unwrap();
    let stated = page.split("`systemd-analyze security` gives **").nth(1).unwrap();
    let stated: f64 = stated.split("**").next().unwrap().parse().unwrap();
    // Newer versions of systemd look at more, and weigh alike.
    assert!((score - stated).abs() <= 0.3, "{score}, and the page says {stated}");
}

#[test]
fn components_change_what_they_say() {
    let folder = manifests::folder();
    let mut all = manifests::overlay("link-local");
    for name in ["pods-verified", "node-resolv-conf"] {
        kustomize::add_component(&folder.join("components").join(name), &mut all).unwrap();
    }
    all.iter().for_each(|document| strict::parse(document).unwrap());
    let rules = manifests::find(&all, "ClusterRole", "nodens")["rules"].to_string();
    assert!(rules.contains("\"pods\""), "{rules}");
    let mounts = manifests::container(&all)["volumeMounts"].to_string();
    assert!(mounts.contains("/host/etc"), "{mounts}");
}

/// As the real kustomize does it, where there is one.
#[test]
fn kubectl_renders_the_same() {
    for folder in kustomizations().iter().filter(|folder| !is_component(folder)) {
        let output = std::process::Command::new("kubectl").arg("kustomize").arg(folder).output();
        let Some(output) = output.ok().filter(|output| {
            output.status.success() || !String::from_utf8_lossy(&output.stderr).contains("unknown")
        }) else {
            eprintln!("no kubectl with kustomize: not compared");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let theirs = manifests::documents(&text).unwrap();
        assert!(output.status.success() && !theirs.is_empty(), "{}: {error}", folder.display());
        same(&kustomize::render(folder).unwrap(), &theirs, &folder.display().to_string());
    }
}

/// The same documents, in any order.
fn same(ours: &[Value], theirs: &[Value], what: &str) {
    let by_name = |all: &[Value]| -> BTreeMap<String, Value> {
        let named = all.iter().map(|document| {
            let of =
                |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
            let name = [of("/kind"), of("/metadata/namespace"), of("/metadata/name")].join(" ");
            (name, document.clone())
        });
        named.collect()
    };
    let (ours, theirs) = (by_name(ours), by_name(theirs));
    let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{what}");
    for (name, document) in &ours {
        let other = &theirs[name];
        let corefiles = (&document["data"]["Corefile"], &other["data"]["Corefile"]);
        if let (Value::String(left), Value::String(right)) = corefiles {
            for (number, (left, right)) in left.lines().zip(right.lines()).enumerate() {
                assert_eq!(left, right, "{what}: {name}: line {} of the Corefile", number + 1);
            }
        }
        assert_eq!(document, other, "{what}: {name}");
    }
}

/// Without Go it says so and passes, unless CI=true.
fn engine_is_here() -> bool {
    let here = helm::is_possible();
    assert!(
        here || std::env::var("CI").as_deref() != Ok("true"),
        "go is missing: golang-go of Debian"
    );
    if !here {
        eprintln!("\n*** SKIPPED: no go to render the chart with (Debian: golang-go) ***");
    }
    here
}

#[test]
fn the_chart_renders_what_the_overlays_render() {
    if !engine_is_here() {
        return;
    }
    for (mode, changes) in modes() {
        let values = helm::values(&changes).unwrap();
        same(&helm::render(&values).unwrap(), &manifests::overlay(mode), mode);
    }
    // Monitoring is an overlay of its own, applied beside; in the chart it comes on top.
    let wanted = json!({ "monitoring": { "serviceMonitor": true, "prometheusRule": true, "dashboard": true } });
    let mut both = manifests::overlay("link-local");
    both.extend(manifests::overlay("monitoring"));
    same(&helm::render(&helm::values(&wanted).unwrap()).unwrap(), &both, "monitoring");
    let wanted = json!({ "kubernetes": { "pods": "verified" }, "nodeResolvConf": true });
    let mut more = manifests::overlay("link-local");
    for name in ["pods-verified", "node-resolv-conf"] {
        let component = manifests::folder().join("components").join(name);
        kustomize::add_component(&component, &mut more).unwrap();
    }
    let text = manifests::corefile(&more).replace("pods insecure", "pods verified");
    let map = more.iter_mut().find(|document| document["kind"] == "ConfigMap").unwrap();
    map["data"]["Corefile"] = text.into();
    same(&helm::render(&helm::values(&wanted).unwrap()).unwrap(), &more, "components");
}

/// What no overlay has: every value is used, and what comes of it is sound.
#[test]
fn the_charts_other_values_work() {
    if !engine_is_here() {
        return;
    }
    let values = helm::values(&json!({
        "image": { "repository": "registry.example/other", "tag": "2", "pullPolicy": "Always" },
        "imagePullSecrets": [{ "name": "pull" }],
        "mode": "takeover",
        "localIPs": ["169.254.20.10", "fd00::10"],
        "clusterDomain": "k8s.example",
        "kubernetes": { "endpoints": "none", "snapshot": false, "fallback": ["10.96.0.10"], "maxStaleness": "10m" },
        "cache": { "size": "64Mi", "serveStale": "" },
        "forward": { "to": ["192.0.2.1", "192.0.2.2"], "maxConcurrent": 7 },
        "extraServers": "corp.example:53 {\n    bind 169.254.20.10\n    forward . 192.0.2.3\n}\n",
        "clusterDNS": { "service": "rke2-dns", "selector": { "app": "dns" } },
        "log": { "level": "debug", "format": "json" },
        "resources": {},
        "nodeSelector": { "a": "b" },
        "updateStrategy": { "type": "OnDelete" },
    }))
    .unwrap();
    let all = helm::render(&values).unwrap();
    all.iter().for_each(|document| strict::parse(document).unwrap());
    let text = manifests::corefile(&all);
    for line in [
        "bind 169.254.20.10 fd00::10 {$RKE2_DNS_SERVICE_HOST}",
        "kubernetes k8s.example in-addr.arpa ip6.arpa {",
        "fallback 10.96.0.10",
        "max_staleness 10m",
        "endpoints none",
        "size 64Mi",
        "forward . 192.0.2.1 192.0.2.2 {",
        "max_concurrent 7",
        "corp.example:53 {",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("serve_stale") && !text.contains("snapshot"), "{text}");
    assert_good_corefile(text, &[("RKE2_DNS_SERVICE_HOST", "10.96.0.10")]);
    let arguments = manifests::arguments(&all, &ENVIRONMENT).join(" ");
    for word in [
        "fd00::10,$(RKE2_DNS_SERVICE_HOST)",
        "--clusterip=$(RKE2_DNS_SERVICE_HOST)",
        "--log-level=debug",
    ] {
        assert!(arguments.contains(word), "{arguments}");
    }
    assert_eq!(manifests::container(&all)["image"], "registry.example/other:2");
    let own = helm::values(&json!({ "corefile": ".:53 {\n    whoami\n}\n" })).unwrap();
    assert_eq!(manifests::corefile(&helm::render(&own).unwrap()), ".:53 {\n    whoami\n}\n");
}

#[test]
fn the_charts_schema_fits_its_values_and_refuses_mistakes() {
    let path = manifests::folder().join("helm/nodens/values.schema.json");
    let schema: manifests::schema::Schema =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(schema.check(&helm::values(&json!({})).unwrap()), [""; 0]);
    for (changes, place) in [
        (json!({ "mode": "node-local" }), "/mode"),
        (json!({ "localIP": "169.254.20.10" }), "/localIP"),
        (json!({ "localIPs": [] }), "/localIPs"),
        (json!({ "kubernetes": { "pods": true } }), "/kubernetes/pods"),
        (json!({ "cache": { "size": "32 MB" } }), "/cache/size"),
        (json!({ "forward": { "maxConcurrent": 0 } }), "/forward/maxConcurrent"),
        (json!({ "image": { "repository": null } }), "/image/repository"),
    ] {
        let wrong = schema.check(&helm::values(&changes).unwrap());
        assert!(wrong.len() == 1 && wrong[0].starts_with(place), "{changes}: {wrong:?}");
    }
}

fn assert_good_corefile(text: &str, environment: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, text).unwrap();
    let output = std::process::Command::new(process::binary())
        .arg("check")
        .arg(&path)
        .envs(ENVIRONMENT)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning:"), "{said}");
}

#[test]
fn every_corefile_is_good() {
    for (mode, _) in modes() {
        assert_good_corefile(manifests::corefile(&manifests::overlay(mode)), &[]);
    }
    let alone = files(&manifests::folder()).into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("Corefile"))
            && !path.starts_with(manifests::folder().join("demo"))
    });
    for path in alone {
        assert_good_corefile(&std::fs::read_to_string(path).unwrap(), &[]);
    }
}

/// A cluster with one of everything that the rules are for.
fn cluster(policy: Policy, lists: StreamingLists) -> ApiServer {
    let api = ApiServer::start();
    api.configure(|behaviour| {
        behaviour.policy = Some(policy);
        behaviour.streaming_lists = lists;
    });
    api.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }));
    api.put(service("web", "10.96.0.20"));
    api
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": address, "clusterIPs": [address], "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

fn start(corefile: &str, api: &ApiServer) -> Nodens {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig);
    // The one line that a pod does not need: its account is in a place that only a pod has.
    let corefile = corefile::on_loopback(corefile).replace(
        "        pods ",
        "        kubeconfig @folder@/kubeconfig\n        startup_timeout 1ms\n        pods ",
    );
    let mut setup = Setup::new(&corefile)
        .file("kubeconfig", &std::fs::read_to_string(&kubeconfig).unwrap())
        .arguments(&["--socket=@folder@/socket"])
        .ready(Ready::Answer);
    for (name, value) in ENVIRONMENT {
        setup = setup.environment(name, value);
    }
    setup.start()
}

fn waits(nodens: &Nodens) -> String {
    nodens.get(nodens.ports().ready, "/ready").map(|reply| reply.body).unwrap_or_default()
}

fn is_ready(nodens: &Nodens) -> bool {
    nodens.get(nodens.ports().ready, "/ready").is_some_and(|reply| reply.status == 200)
}

/// The rules of an overlay's ClusterRole, one for each group, resource and verb.
fn words(all: &[Value]) -> Vec<(String, String, String)> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut words = Vec::new();
    for rule in manifests::find(all, "ClusterRole", "nodens")["rules"].as_array().unwrap() {
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    words.push((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    words
}

fn policy<'a>(words: impl IntoIterator<Item = &'a (String, String, String)>) -> Policy {
    words.into_iter().fold(Policy::default(), |policy, (group, resource, verb)| {
        policy.allow(group, &[resource], &[verb])
    })
}

/// All of a mode's rights, on API servers with and without streaming lists: names are answered, changes arrive, `/ready` is content.
fn rights_suffice(mode: &str, all: &[Value]) {
    for lists in [StreamingLists::Supported, StreamingLists::Refused] {
        let api = cluster(policy(&words(all)), lists);
        let nodens = start(manifests::corefile(all), &api);
        poll::wait_for(mode, DEADLINE, || is_ready(&nodens));
        api.put(service("later", "10.96.0.21"));
        let client = Client::new(nodens.dns());
        poll::wait_for("the change", DEADLINE, || {
            let answer = client.ask("later.default.svc.cluster.local.", RecordType::A);
            answer.is_ok_and(|answer| answer.data(RecordType::A) == ["10.96.0.21"])
        });
        let refused = api.requests().into_iter().filter(|request| request.status == 403).count();
        assert_eq!(refused, 0, "{mode}: {:?}", nodens.log());
    }
}

/// Each right by itself: without it the server says 403, and Nodens says so and is not ready.
fn each_right_is_needed(mode: &str, all: &[Value]) {
    let words = words(all);
    for missing in &words {
        // A server with streaming lists is only watched; one without is listed first.
        let lists =
            if missing.2 == "list" { StreamingLists::Refused } else { StreamingLists::Supported };
        let api = cluster(policy(words.iter().filter(|word| *word != missing)), lists);
        let nodens = start(manifests::corefile(all), &api);
        poll::wait_for(&format!("{mode} without {missing:?}"), DEADLINE, || {
            let refused = api.requests_of(&missing.2, &missing.1).iter().any(|r| r.status == 403);
            refused && nodens.log().contains("403")
        });
        if missing.2 == "list" {
            let waits = waits(&nodens);
            assert!(waits.contains("waiting for the first list"), "{mode} {missing:?}: {waits}");
        }
    }
}

#[test]
fn the_rights_suffice_in_every_mode() {
    for (mode, _) in modes() {
        rights_suffice(mode, &manifests::overlay(mode));
    }
}

#[test]
fn each_right_is_needed_in_every_mode() {
    for (mode, _) in modes() {
        each_right_is_needed(mode, &manifests::overlay(mode));
    }
}

#[test]
fn the_right_to_watch_pods_is_needed_for_verified_pods_only() {
    let mut all = manifests::overlay("link-local");
    kustomize::add_component(&manifests::folder().join("components/pods-verified"), &mut all)
        .unwrap();
    let map = all.iter_mut().find(|document| document["kind"] == "ConfigMap").unwrap();
    let text = map["data"]["Corefile"].as_str().unwrap().replace("pods insecure", "pods verified");
    map["data"]["Corefile"] = text.into();
    assert!(words(&all).iter().any(|word| word.1 == "pods"));
    rights_suffice("verified", &all);
    each_right_is_needed("verified", &all);
}
