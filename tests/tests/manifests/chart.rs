//! The chart: the same as the overlays and components, and sound where it goes beyond them.

use serde_json::{Value, json};
use tests::manifests::{self, helm, kustomize, strict};

use super::{ENVIRONMENT, assert_good_corefile, modes, multicluster, same, set_corefile};

/// Without Go it says so and passes, unless CI=true.
pub(super) fn engine_is_here() -> bool {
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
    let wanted = json!({
        "kubernetes": { "pods": "verified", "multicluster": true }, "nodeResolvConf": true,
    });
    let mut more = multicluster();
    for name in ["pods-verified", "node-resolv-conf"] {
        let component = manifests::folder().join("components").join(name);
        kustomize::add_component(&component, &mut more).unwrap();
    }
    let text = manifests::corefile(&more).replace("pods insecure", "pods verified");
    set_corefile(&mut more, text);
    // In the one the rules are in the order of the components, in the other in that of the template.
    rules(&mut more).sort_by_key(Value::to_string);
    let mut chart = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    rules(&mut chart).sort_by_key(Value::to_string);
    same(&chart, &more, "components");
    let wanted = json!({ "kubernetes": { "podsOfNode": true } });
    let chart = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    let mut component = manifests::overlay("link-local");
    let folder = manifests::folder().join("components/pods-node");
    kustomize::add_component(&folder, &mut component).unwrap();
    let with = "pods insecure\n        # Who a client is: in the log, in limits and in `nodens top`.\n        pods node";
    let text = manifests::corefile(&component).replace("pods insecure", with);
    set_corefile(&mut component, text);
    same(&chart, &component, "pods of the node");
    let wanted = json!({ "kubernetes": { "topology": "require", "zonal": true } });
    let chart = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    let mut component = manifests::overlay("link-local");
    kustomize::add_component(&manifests::folder().join("components/topology"), &mut component)
        .unwrap();
    let with = "pods insecure\n        # Endpoints of headless Services with a trafficDistribution that are in this node's zone, or on it.\n        topology require\n        # ZONE.pin._zone.SERVICE.NAMESPACE.svc and ZONE.prefer._zone.SERVICE.NAMESPACE.svc.\n        zonal";
    let text = manifests::corefile(&component).replace("pods insecure", with);
    set_corefile(&mut component, text);
    same(&chart, &component, "topology");
}

#[test]
fn the_chart_and_the_component_give_the_same_for_imports() {
    if !engine_is_here() {
        return;
    }
    let wanted = json!({ "kubernetes": { "multicluster": true } });
    let chart = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    same(&chart, &multicluster(), "multicluster");
    assert_good_corefile(manifests::corefile(&chart), &[]);
}

/// Pods run; how queries get to them is left to other software.
#[test]
fn the_chart_can_leave_the_redirect_policy_out() {
    if !engine_is_here() {
        return;
    }
    let mut wanted = json!({ "mode": "pod-network", "redirectPolicy": false });
    let mut overlay = manifests::overlay("pod-network");
    let policy = |document: &Value| document["kind"] == "CiliumLocalRedirectPolicy";
    assert_eq!(overlay.iter().filter(|document| policy(document)).count(), 1);
    overlay.retain(|document| !policy(document));
    same(&helm::render(&helm::values(&wanted).unwrap()).unwrap(), &overlay, "without policy");
    // It belongs to one mode.
    wanted = json!({ "redirectPolicy": true });
    let all = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    assert!(!all.iter().any(policy));
}

/// The chart's value, and the kustomization of the page, for operators that choose by a label.
#[test]
fn the_label_of_an_operator_reaches_what_it_takes_up() {
    let page = manifests::folder().join("../docs/alerts.md");
    let page = std::fs::read_to_string(page).unwrap();
    let shown = page.split("```").find(|part| part.starts_with("yaml\n# kustomization.yaml"));
    let shown = shown.unwrap().trim_start_matches("yaml\n");
    let overlay = manifests::folder().join("overlays/monitoring");
    assert!(shown.contains("- ../nodens/manifests/overlays/monitoring"), "{shown}");
    let here = shown.replace("../nodens/manifests/overlays/monitoring", overlay.to_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kustomization.yaml"), here).unwrap();
    let chosen = |all: Vec<Value>| -> Vec<Value> {
        let kinds = ["ServiceMonitor", "PrometheusRule"];
        all.into_iter()
            .filter(|d| kinds.contains(&d["kind"].as_str().unwrap_or_default()))
            .collect()
    };
    let labelled = chosen(kustomize::render(folder.path()).unwrap());
    assert_eq!(labelled.len(), 2);
    for document in &labelled {
        strict::parse(document).unwrap();
        assert_eq!(document["metadata"]["labels"]["release"], "kube-prometheus-stack");
    }
    if !engine_is_here() {
        return;
    }
    let wanted = json!({ "monitoring": {
        "serviceMonitor": true, "prometheusRule": true, "labels": { "release": "kube-prometheus-stack" },
    } });
    let chart = helm::render(&helm::values(&wanted).unwrap()).unwrap();
    same(&chosen(chart), &labelled, "labels");
}

fn rules(all: &mut [Value]) -> &mut Vec<Value> {
    let role = all.iter_mut().find(|document| document["kind"] == "ClusterRole").unwrap();
    role["rules"].as_array_mut().unwrap()
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
fn the_chart_has_the_canary_and_hashed_names() {
    if !engine_is_here() {
        return;
    }
    let canary = helm::render(&helm::values(&json!({ "canary": true })).unwrap()).unwrap();
    same(&canary, &manifests::overlay("canary"), "canary");
    let render = |more: &str| {
        let wanted = json!({ "hashedConfig": true, "extraServers": more });
        helm::render(&helm::values(&wanted).unwrap()).unwrap()
    };
    let name = |all: &[Value]| {
        let map = all.iter().find(|one| one["kind"] == "ConfigMap").unwrap();
        assert_eq!(map["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        let set = manifests::find(all, "DaemonSet", "nodens");
        let mounted = &set["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"];
        assert_eq!(mounted, &map["metadata"]["name"]);
        mounted.as_str().unwrap().to_owned()
    };
    let (one, other) = (render(""), render("corp.example:53 {\n    forward . 192.0.2.3\n}\n"));
    one.iter().for_each(|document| strict::parse(document).unwrap());
    assert!(name(&one).len() == "nodens-".len() + 10 && name(&one) != name(&other));
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
        (json!({ "redirectPolicy": "no" }), "/redirectPolicy"),
        (
            json!({ "kubernetes": { "multicluster": "clusterset.local" } }),
            "/kubernetes/multicluster",
        ),
        (json!({ "monitoring": { "labels": { "release": 1 } } }), "/monitoring/labels/release"),
        (json!({ "kubernetes": { "pods": true } }), "/kubernetes/pods"),
        (json!({ "cache": { "size": "32 MB" } }), "/cache/size"),
        (json!({ "forward": { "maxConcurrent": 0 } }), "/forward/maxConcurrent"),
        (json!({ "image": { "repository": null } }), "/image/repository"),
        (json!({ "canary": "yes" }), "/canary"),
        (json!({ "minReadySeconds": -1 }), "/minReadySeconds"),
    ] {
        let wrong = schema.check(&helm::values(&changes).unwrap());
        assert!(wrong.len() == 1 && wrong[0].starts_with(place), "{changes}: {wrong:?}");
    }
}
