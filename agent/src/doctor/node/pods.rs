//! The kubelet's settings, and what pods have in their resolv.conf.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::facts::Facts;
use super::super::finding::{Finding, few};
use super::super::procfs;
use crate::upstream::follow::RESOLVED_CONF;
use crate::upstream::resolv_conf::ResolvConf;

/// Where kubelets have their settings: kubeadm, k3s/RKE2 and kind are like the first; EKS, GKE and AKS like the others.
const CONFIGS: [&str; 4] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/home/kubernetes/kubelet-config.yaml",
    "/etc/default/kubeletconfig.json",
];
/// The most that is read of settings, in octets.
const MAX_CONFIG: u64 = 1 << 20;
/// Of a resolv.conf.
const MAX_RESOLV_CONF: u64 = 64 << 10;
/// Pods that are looked at.
const MAX_PODS: usize = 1_000;
/// Search domains that the kubelet writes for a pod itself.
const OWN_DOMAINS: usize = 3;

/// What the kubelet is set to, as far as DNS goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kubelet {
    file: PathBuf,
    cluster_dns: Vec<String>,
    cluster_domain: Option<String>,
    resolv_conf: Option<String>,
}

/// The kubelet's settings: its file, the files of its drop-in folder, and its command line, which counts most.
fn kubelet(facts: &Facts) -> Result<Kubelet, String> {
    let process = procfs::processes().into_iter().find(|process| process.name == "kubelet");
    let words = process.map(|process| process.words()).unwrap_or_default();
    let flag = |name: &str| flag(&words, name);
    let mut files: Vec<PathBuf> = match flag("config") {
        Some(file) => vec![facts.path(&file)],
        None => CONFIGS
            .iter()
            .map(|file| facts.path(file))
            .filter(|file| file.exists())
            .take(1)
            .collect(),
    };
    if let Some(folder) = flag("config-dir") {
        let folder = fs::read_dir(facts.path(&folder)).into_iter().flatten();
        let mut more: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        more.sort();
        files.extend(more);
    }
    let mut found = Kubelet::default();
    for file in files {
        let text = procfs::read(&file, MAX_CONFIG)
            .ok_or_else(|| format!("{} cannot be read", file.display()))?;
        let value: Value = serde_yaml_ng::from_str(&text)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        found.take(&value);
        found.file = file;
    }
    if let Some(list) = flag("cluster-dns") {
        found.cluster_dns = list.split(',').map(str::to_owned).collect();
    }
    found.cluster_domain = flag("cluster-domain").or(found.cluster_domain);
    found.resolv_conf = flag("resolv-conf").or(found.resolv_conf);
    if found.file.as_os_str().is_empty() && words.is_empty() {
        return Err("no kubelet, and none of its files".to_owned());
    }
    Ok(found)
}

/// `--name=VALUE` or `--name VALUE`.
fn flag(words: &[String], name: &str) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(rest) = word.trim_start_matches('-').strip_prefix(name) else { continue };
        match rest.strip_prefix('=') {
            Some(value) => return Some(value.to_owned()),
            None if rest.is_empty() => return words.next().cloned(),
            None => {}
        }
    }
    None
}

impl Kubelet {
    fn take(&mut self, value: &Value) {
        if let Some(list) = value.get("clusterDNS").and_then(Value::as_array) {
            self.cluster_dns =
                list.iter().filter_map(|ip| ip.as_str().map(str::to_owned)).collect();
        }
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        self.cluster_domain = text("clusterDomain").or(self.cluster_domain.take());
        self.resolv_conf = text("resolvConf").or(self.resolv_conf.take());
    }
}

/// Whether `clusterDNS` leads to Nodens.
pub fn cluster_dns(facts: &Facts) -> Finding {
    let kubelet = match kubelet(facts) {
        Ok(kubelet) => kubelet,
        Err(why) => return Finding::skipped(why),
    };
    let ours = facts.addresses();
    let file = kubelet.file.display();
    if ours.is_empty() {
        return Finding::skipped("no address of Nodens is known");
    }
    let names = few(kubelet.cluster_dns.iter().cloned());
    let is_ours = |text: &String| text.parse().is_ok_and(|ip: IpAddr| facts.is_ours(ip));
    let cure = format!(
        "set clusterDNS to {} and restart the kubelet; pods that were started before keep the old server (docs/kubelet.md)",
        few(ours.iter().map(ToString::to_string))
    );
    match kubelet.cluster_dns.first() {
        None => Finding::problem(
            format!("{file} has no clusterDNS: pods get the node's resolv.conf"),
            cure,
        ),
        Some(first) if is_ours(first) => Finding::ok(format!("{file}: {names}")),
        Some(_) if kubelet.cluster_dns.iter().any(is_ours) => Finding::warning(
            format!(
                "{file}: {names}: Nodens is not the first, so it is asked when the first does not answer"
            ),
            cure,
        ),
        Some(_) => Finding::problem(format!("{file}: {names}: pods do not ask Nodens"), cure),
    }
}

/// Whether `clusterDomain` is the zone that Nodens serves.
pub fn cluster_domain(facts: &Facts) -> Finding {
    let kubelet = match kubelet(facts) {
        Ok(kubelet) => kubelet,
        Err(why) => return Finding::skipped(why),
    };
    if facts.setup.domains.is_empty() {
        return Finding::skipped("no kubernetes directive");
    }
    let domain = kubelet.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned());
    let absolute = format!("{}.", domain.trim_end_matches('.').to_lowercase());
    let served = few(facts.setup.domains.iter().cloned());
    if facts.setup.domains.contains(&absolute) {
        return Finding::ok(format!("both have {domain}"));
    }
    Finding::problem(
        format!("kubelet's clusterDomain is {domain}, and `kubernetes` serves {served}"),
        "write the same domain in both: short names are looked up below kubelet's",
    )
}

/// Whether `resolvConf`, which pods with `dnsPolicy: Default` inherit, leads anywhere but to a stub or back here.
pub fn resolv_conf(facts: &Facts) -> Finding {
    let kubelet = match kubelet(facts) {
        Ok(kubelet) => kubelet,
        Err(why) => return Finding::skipped(why),
    };
    let named = kubelet.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".to_owned());
    if named.is_empty() {
        return Finding::ok("kubelet's resolvConf is empty: pods inherit nothing of the node");
    }
    let file = facts.path(&named);
    let Some(text) = procfs::read(&file, MAX_RESOLV_CONF) else {
        return Finding::problem(
            format!("kubelet's resolvConf {} cannot be read", file.display()),
            "name a file that exists: without it the kubelet starts no pod",
        );
    };
    let servers = ResolvConf::parse(text.as_bytes()).servers;
    let loopback: Vec<String> = servers
        .iter()
        .filter(|server| server.ip().is_loopback())
        .map(|server| server.ip().to_string())
        .collect();
    let ours: Vec<String> = servers
        .iter()
        .filter(|server| facts.is_ours(server.ip()) && !server.ip().is_loopback())
        .map(|server| server.ip().to_string())
        .collect();
    if !loopback.is_empty() {
        return Finding::problem(
            format!(
                "kubelet's resolvConf {named} names {}, which in a pod is the pod itself",
                few(loopback)
            ),
            format!(
                "with systemd-resolved: resolvConf: {RESOLVED_CONF}; else a file with the node's real servers"
            ),
        );
    }
    if !ours.is_empty() {
        return Finding::problem(
            format!(
                "kubelet's resolvConf {named} names {}, which is Nodens: pods with `dnsPolicy: Default`, as the DNS servers \
                     themselves, would ask it in a circle",
                few(ours)
            ),
            "name a file with the node's real servers in resolvConf",
        );
    }
    if servers.is_empty() {
        return Finding::warning(
            format!("kubelet's resolvConf {named} has no server"),
            "name a file with the node's real servers in resolvConf",
        );
    }
    Finding::ok(format!("{named}: {}", few(servers.iter().map(|server| server.ip().to_string()))))
}

/// A pod's resolv.conf, and the process that sees it.
struct Seen {
    pid: i32,
    name: String,
    text: String,
}

/// One process of each container whose file system can be looked into.
fn containers(facts: &Facts) -> Vec<Seen> {
    let own = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|meta| meta.ino());
    let here = own("self");
    let mut known: HashSet<u64> = [here, own("1")].into_iter().flatten().collect();
    let nodens: HashSet<i32> = facts.instances.iter().map(|process| process.pid).collect();
    let mut found = Vec::new();
    for process in procfs::processes() {
        let Some(namespace) = own(&process.pid.to_string()) else { continue };
        if nodens.contains(&process.pid) || !known.insert(namespace) || found.len() >= MAX_PODS {
            continue;
        }
        // A service of the node with its own mounts is no pod.
        let group = procfs::read(format!("/proc/{}/cgroup", process.pid), 4_096);
        let resolv_conf = procfs::within(process.pid, Path::new("/etc/resolv.conf"));
        let Some(text) = procfs::read(resolv_conf, MAX_RESOLV_CONF) else { continue };
        let is_pods = group.is_some_and(|group| group.contains("kubepods"));
        // The kubelet gives every pod of `ClusterFirst` such a list.
        let is_cluster_first = search_list(&text).iter().any(|domain| domain.starts_with("svc."));
        if is_pods || is_cluster_first {
            found.push(Seen { pid: process.pid, name: process.name, text });
        }
    }
    found
}

fn search_list(text: &str) -> Vec<String> {
    let lines = text.lines().rev().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut lists = lines.filter(|words| matches!(words.first(), Some(&"search" | &"domain")));
    // The last one counts (resolv.conf(5)).
    let list = lists.next().unwrap_or_default();
    list.into_iter().skip(1).map(|word| word.trim_end_matches('.').to_lowercase()).collect()
}

/// The search lists that the kubelet has written for pods of `ClusterFirst` that can be seen.
pub fn search_lists(facts: &Facts) -> Vec<Vec<String>> {
    let lists = containers(facts).into_iter().map(|seen| search_list(&seen.text));
    let is_clusters =
        |list: &Vec<String>| list.get(1).is_some_and(|domain| domain.starts_with("svc."));
    lists.filter(|list| list.len() >= OWN_DOMAINS && is_clusters(list)).collect()
}

/// Whether the pods that run ask Nodens.
pub fn pods(facts: &Facts) -> Finding {
    let ours = facts.addresses();
    if ours.is_empty() {
        return Finding::skipped("no address of Nodens is known");
    }
    let (mut asking, mut others) = (0, BTreeMap::<String, Vec<String>>::new());
    for seen in containers(facts) {
        // Pods with `dnsPolicy: Default` have the node's servers, as they should.
        if !search_list(&seen.text).iter().any(|domain| domain.starts_with("svc.")) {
            continue;
        }
        let servers = ResolvConf::parse(seen.text.as_bytes()).servers;
        match servers.first() {
            Some(first) if facts.is_ours(first.ip()) => asking += 1,
            Some(first) => others
                .entry(first.ip().to_string())
                .or_default()
                .push(format!("{} (process {})", seen.name, seen.pid)),
            None => {}
        }
    }
    if others.is_empty() {
        return match asking {
            0 => Finding::skipped(
                "no container of a pod can be looked into from here (run this as root, with the host's processes)",
            ),
            asking => Finding::ok(format!("{asking} containers have Nodens as their first server")),
        };
    }
    let told =
        others.iter().map(|(server, pods)| format!("{server}: {}", few(pods.iter().cloned())));
    Finding::warning(
        format!("containers ask other servers ({asking} ask Nodens): {}", few(told)),
        "the kubelet writes the file when a pod starts: delete pods that are older than the change of clusterDNS",
    )
}

/// Whether search lists multiply the queries for names outside.
pub fn search(facts: &Facts) -> Finding {
    let mut lists = search_lists(facts);
    let from_pods = !lists.is_empty();
    if lists.is_empty() {
        let Ok(kubelet) = kubelet(facts) else {
            return Finding::skipped("no container of a pod can be looked into, and no kubelet");
        };
        let file = kubelet.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".to_owned());
        let text = procfs::read(facts.path(&file), MAX_RESOLV_CONF).unwrap_or_default();
        // The kubelet puts three domains before those of the node.
        let own = (0..OWN_DOMAINS).map(|_| String::new());
        lists.push(own.chain(search_list(&text)).collect());
    }
    let longest = lists.into_iter().max_by_key(Vec::len).unwrap_or_default();
    let more: Vec<String> = longest.iter().skip(OWN_DOMAINS).cloned().collect();
    let queries = (longest.len() + 1) * 2;
    let whose = if from_pods { "a pod's search list has" } else { "pods inherit" };
    match more.len() {
        0 => Finding::ok(format!(
            "{} domains: {queries} queries for a short name outside (A and AAAA)",
            longest.len()
        )),
        1 => Finding::ok(format!(
            "{whose} {}: {queries} queries for a short name outside",
            few(more)
        )),
        _ => Finding::warning(
            format!(
                "{whose} {} domains of the node ({}): {queries} queries for each short name outside",
                more.len(),
                few(more)
            ),
            "take `search` out of the file that kubelet's resolvConf names; write names outside with a dot at the end, or give \
             such pods dnsConfig with ndots 1",
        ),
    }
}
