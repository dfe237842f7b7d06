//! What is deployed: every document parsed strictly, every Corefile started, every right needed, overlays and chart the same.

#[path = "manifests/chart.rs"]
mod chart;
#[path = "manifests/rights.rs"]
mod rights;
#[path = "manifests/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::manifests::{self, kustomize, strict};
use tests::process;

/// The overlays that run Nodens, and the chart's values that make the same.
fn modes() -> [(&'static str, Value); 4] {
    [
        ("link-local", json!({})),
        ("takeover", json!({ "mode": "takeover" })),
        ("pod-network", json!({ "mode": "pod-network" })),
        ("all-endpoints", json!({ "kubernetes": { "endpoints": "all" } })),
    ]
}

/// What the kubelet sets in the container.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("POD_IP", "127.0.0.1"),
    ("NODENS_METRICS", "127.0.0.1:9153"),
    ("KUBE_DNS_SERVICE_HOST", "10.96.0.10"),
    ("NODENS_UPSTREAM_SERVICE_HOST", "10.96.0.53"),
];

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
            // By HTTP a pod could take the kubelet's places.
            assert_eq!(container[probe]["exec"]["command"][0], "/nodens", "{mode}: {probe}");
        }
        let folders: Vec<&str> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(folders, ["/run/systemd/resolve", "/var/lib/nodens"], "{mode}");
        assert_eq!(set["spec"]["minReadySeconds"], 10, "{mode}");
        let update = &set["spec"]["updateStrategy"]["rollingUpdate"];
        assert_eq!((&update["maxSurge"], &update["maxUnavailable"]), (&json!(1), &json!(0)));
        assert_eq!(container["image"], "registry.example/nodens:0.2.0");
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
    for name in ["pods-verified", "pods-node", "topology", "node-resolv-conf", "multicluster"] {
        kustomize::add_component(&folder.join("components").join(name), &mut all).unwrap();
    }
    all.iter().for_each(|document| strict::parse(document).unwrap());
    let rules = manifests::find(&all, "ClusterRole", "nodens")["rules"].to_string();
    assert!(rules.contains("\"pods\"") && rules.contains("\"nodes\""), "{rules}");
    assert!(words(&all).iter().any(|word| word.0 == "multicluster.x-k8s.io"), "{rules}");
    let mounts = manifests::container(&all)["volumeMounts"].to_string();
    assert!(mounts.contains("/host/etc"), "{mounts}");
}

/// Two DaemonSets, no node with both, and no pod that both would take for theirs.
#[test]
fn the_canary_is_beside_the_others() {
    let (all, canary) = (manifests::overlay("link-local"), manifests::overlay("canary"));
    let kinds: Vec<&str> = canary.iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    let (one, other) = (
        manifests::find(&all, "DaemonSet", "nodens"),
        manifests::find(&canary, "DaemonSet", "nodens-canary"),
    );
    let term = |set: &Value| {
        let term = "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0";
        set.pointer(term).unwrap().clone()
    };
    let wanted = |operator: &str| json!({ "key": "nodens-channel", "operator": operator, "values": ["canary"] });
    assert_eq!((term(one), term(other)), (wanted("NotIn"), wanted("In")));
    let labels = |set: &Value| {
        let selector = set["spec"]["selector"]["matchLabels"]["k8s-app"].clone();
        assert_eq!(selector, set["spec"]["template"]["metadata"]["labels"]["k8s-app"]);
        selector
    };
    assert_ne!(labels(one), labels(other));
    let metrics = manifests::find(&all, "Service", "nodens-metrics");
    let selected = &metrics["spec"]["selector"]["app.kubernetes.io/name"];
    assert_eq!(
        selected,
        &other["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
    );
    let volume = &other["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"];
    assert_eq!(volume, "nodens-canary");
    let corefile = &manifests::find(&canary, "ConfigMap", "nodens-canary")["data"]["Corefile"];
    assert_eq!(corefile, manifests::corefile(&all), "until it is changed");
}

/// With the component, the real kustomize gives the ConfigMap a name by its content, and the DaemonSet mounts that one.
#[test]
fn a_hashed_corefile_is_an_update() {
    let rendered = |corefile: &str| -> Option<Vec<Value>> {
        let folder = tempfile::tempdir().unwrap();
        let manifests = manifests::folder();
        std::fs::write(folder.path().join("Corefile"), corefile).unwrap();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - {0}/overlays/link-local\n\
             configMapGenerator:\n  - name: nodens\n    namespace: kube-system\n    behavior: replace\n    files: [Corefile]\n    \
             options: {{ disableNameSuffixHash: true }}\ncomponents:\n  - {0}/components/hashed-config\n",
            manifests.display()
        );
        std::fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
        let output =
            std::process::Command::new("kubectl").arg("kustomize").arg(folder.path()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        manifests::documents(&String::from_utf8(output.stdout).unwrap()).ok()
    };
    let Some(one) = rendered(".:53 {\n    whoami\n}\n") else {
        eprintln!("no kubectl with kustomize: not rendered");
        return;
    };
    let name = |all: &[Value]| {
        let map = all.iter().find(|one| one["kind"] == "ConfigMap").unwrap();
        strict::parse(map).unwrap();
        assert!(map["metadata"]["annotations"].is_null(), "{map}");
        let name = map["metadata"]["name"].as_str().unwrap().to_owned();
        let set = manifests::find(all, "DaemonSet", "nodens");
        assert_eq!(set["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"], *name);
        name
    };
    assert!(name(&one).starts_with("nodens-") && name(&one).len() == "nodens-".len() + 10);
    let other = rendered(".:53 {\n    whoami\n    errors\n}\n").unwrap();
    assert_ne!(name(&one), name(&other));
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

/// link-local with the component, and its Corefile as the component's comment says.
fn multicluster() -> Vec<Value> {
    let mut all = manifests::overlay("link-local");
    let component = manifests::folder().join("components/multicluster");
    let comment = std::fs::read_to_string(component.join("kustomization.yaml")).unwrap();
    kustomize::add_component(&component, &mut all).unwrap();
    let line = "kubernetes cluster.local clusterset.local in-addr.arpa ip6.arpa {";
    let option = "multicluster clusterset.local";
    assert!(comment.contains(line) && comment.contains(option), "{comment}");
    let remark = "# Services of a set of clusters, by ServiceImports: that needs the right to watch them (components/multicluster).";
    let before = "        # Addresses that are not the cluster's";
    let text = manifests::corefile(&all)
        .replace("kubernetes cluster.local in-addr.arpa ip6.arpa {", line)
        .replace(before, &format!("        {remark}\n        {option}\n{before}"));
    set_corefile(&mut all, text);
    all
}

fn set_corefile(all: &mut [Value], text: String) {
    let map = all.iter_mut().find(|document| document["kind"] == "ConfigMap").unwrap();
    map["data"]["Corefile"] = text.into();
}

const KUBECONFIG: &str = r"
apiVersion: v1
kind: Config
clusters: [{name: demo, cluster: {server: 'https://192.0.2.1:6443'}}]
users: [{name: node, user: {token: secret}}]
contexts: [{name: demo, context: {cluster: demo, user: node}}]
current-context: demo
";

fn assert_good_corefile(text: &str, environment: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    // The unit's kubeconfig is a file of the node.
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, KUBECONFIG).unwrap();
    let text = text.replace("/etc/nodens/kubeconfig", kubeconfig.to_str().unwrap());
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
    // This machine has none of the node's addresses.
    let is_other = |line: &&str| line.contains("warning:") && !line.contains("no interface has");
    assert_eq!(said.lines().find(is_other), None, "{said}");
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
