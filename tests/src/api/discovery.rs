//! The paths that say what the server is and serves.

use serde_json::{Value, json};

use super::resource::{RESOURCES, Resource};

/// The document at a path, if it is one of these.
pub(crate) fn document(path: &str, version: &str, multicluster: bool) -> Option<Value> {
    let served = || RESOURCES.iter().filter(move |r| multicluster || !r.custom);
    let trimmed = path.trim_end_matches('/');
    Some(match trimmed {
        "/version" => {
            let mut numbers = version.trim_start_matches('v').split('.');
            json!({
                "major": numbers.next(), "minor": numbers.next(), "gitVersion": version,
                "gitCommit": "0000000000000000000000000000000000000000", "gitTreeState": "clean",
                "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64",
            })
        }
        "/api" => {
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        }
        "/apis" => {
            let mut groups: Vec<(&str, &str)> =
                served().filter(|r| !r.group.is_empty()).map(|r| (r.group, r.version)).collect();
            groups.dedup();
            let groups: Vec<Value> = groups.into_iter().map(|(g, v)| group(g, v)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        "/api/v1" => resources("", "v1", served()),
        _ => {
            let (name, version) = trimmed.strip_prefix("/apis/")?.split_once('/')?;
            served().find(|r| r.group == name && r.version == version)?;
            resources(name, version, served())
        }
    })
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str, all: impl Iterator<Item = &'static Resource>) -> Value {
    let list: Vec<Value> = all
        .filter(|r| r.group == group && r.version == version)
        .map(|r| {
            json!({
                "name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced, "kind": r.kind,
                "shortNames": short_names(r.plural), "verbs": ["get", "list", "watch"],
            })
        })
        .collect();
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list})
}

/// What people type at kubectl.
fn short_names(plural: &str) -> &'static [&'static str] {
    match plural {
        "services" => &["svc"],
        "pods" => &["po"],
        "namespaces" => &["ns"],
        "nodes" => &["no"],
        "configmaps" => &["cm"],
        _ => &[],
    }
}
