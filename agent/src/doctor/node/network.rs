//! The link, the rules, kube-proxy, connection tracking.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netsetup::LinkKind;
use netsetup::observed::{Conntrack, ObservedTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::facts::Facts;
use super::super::finding::{Finding, few};
use super::super::procfs;

/// kube-proxy's metrics port, at which it tells its mode.
const KUBE_PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_249);
/// The links of Cilium.
const CILIUM: [&str; 2] = ["cilium_host", "cilium_net"];
/// The mount of Cilium's maps of Services; present if it handles them.
const CILIUM_MAPS: &str = "/sys/fs/bpf/tc/globals/cilium_lb4_services_v2";

/// Whether link, addresses and rules are as the flags want them.
pub fn link(facts: &Facts) -> Finding {
    let (wanted, observed) = match (&facts.wanted, &facts.observed) {
        (Ok(wanted), Ok(observed)) => (wanted, observed),
        (Err(why), _) => return Finding::skipped(why.clone()),
        (_, Err(why)) => {
            return Finding::skipped(format!("the kernel's links cannot be read: {why}"));
        }
    };
    if !wanted.is_any() {
        return Finding::skipped("no -localip: the addresses are made by other means");
    }
    let cure = "`nodens net apply` with the server's flags makes it; docs/network.md says who may remove it";
    if let ObservedTable::Unknown(why) = &observed.table {
        return Finding::warning(
            format!("the rules cannot be read: {why}"),
            "run this as root, or in the pod (it has CAP_NET_ADMIN)",
        );
    }
    match netsetup::plan(&wanted.desired, observed) {
        Err(refusal) => Finding::problem(refusal.to_string(), "see docs/network.md"),
        Ok(plan) if plan.is_empty() => {
            let link = wanted.desired.link.as_ref();
            let link = link.map_or("no link", |link| link.name.as_str());
            let addresses = few(wanted.desired.addresses.iter().map(ToString::to_string));
            Finding::ok(format!("{link} has {addresses}, and the rules are complete"))
        }
        // Before the server serves its rules are not there, and after it neither.
        Ok(plan) => Finding::problem(
            format!("missing: {}", few(plan.iter().map(ToString::to_string))),
            cure,
        ),
    }
}

/// Whether the kernel can make the link.
pub fn driver(facts: &Facts) -> Finding {
    let Ok(wanted) = &facts.wanted else { return Finding::skipped("the flags make no sense") };
    let Some(link) = wanted.desired.link.as_ref().filter(|_| wanted.is_any()) else {
        return Finding::skipped("no link is to be made");
    };
    let kinds: Vec<LinkKind> = [Some(link.kind), link.fallback].into_iter().flatten().collect();
    let links =
        facts.observed.as_ref().map(|observed| observed.links.as_slice()).unwrap_or_default();
    let has = |kind: &&LinkKind| {
        let name = kind.to_string();
        links.iter().any(|link| link.kind.as_deref() == Some(name.as_str()))
    };
    if let Some(kind) = kinds.iter().find(has) {
        return Finding::ok(format!("the kernel has a link of the kind {kind}"));
    }
    for kind in &kinds {
        match module(facts, &kind.to_string()) {
            Some(true) => return Finding::ok(format!("the kernel has the driver {kind}")),
            Some(false) => {}
            None => {
                return Finding::skipped(format!(
                    "no {kind} link is there, and /lib/modules is not: on the node, `modprobe {kind}` shows it"
                ));
            }
        }
    }
    Finding::problem(
        format!("this kernel has no driver for {} links", link.kind),
        format!(
            "install the package with the kernel's further modules (linux-modules-extra) and `modprobe {0}`; or choose another \
             kind (--link-kind ifb or bridge, --link-fallback), or make the interface by other means (-setupinterface=false)",
            link.kind
        ),
    )
}

/// Whether the kernel has a module, loaded, built in or to be loaded; `None` if that cannot be told.
fn module(facts: &Facts, name: &str) -> Option<bool> {
    if facts.path(&format!("/sys/module/{name}")).exists() {
        return Some(true);
    }
    let release = procfs::read("/proc/sys/kernel/osrelease", 256)?;
    let folder = facts.path(&format!("/lib/modules/{}", release.trim()));
    let file = format!("/{name}.ko");
    let mut known = false;
    for list in ["modules.dep", "modules.builtin"] {
        let Some(text) = procfs::read(folder.join(list), MAX_LIST) else { continue };
        known = true;
        let named = |line: &str| line.split(':').next().is_some_and(|path| path.contains(&file));
        if text.lines().any(named) {
            return Some(true);
        }
    }
    known.then_some(false)
}

/// The most that is read of a list of modules, in octets.
const MAX_LIST: u64 = 8 << 20;

/// Whether kube-proxy's mode goes with ours.
pub async fn kube_proxy(facts: Arc<Facts>) -> Finding {
    let mode = proxy_mode().await;
    let takeover = facts.wanted.as_ref().is_ok_and(|wanted| !wanted.desired.cluster_ips.is_empty());
    let ipvs = facts.observed.as_ref().is_ok_and(|observed| observed.ipvs().is_some());
    let link = "the link kube-ipvs0 is there";
    match (mode.as_deref(), ipvs, takeover) {
        (Some("ipvs"), _, true) => Finding::problem(
            "kube-proxy runs in IPVS mode and owns every ClusterIP, and a ClusterIP is to be taken over",
            "use the overlay link-local and point kubelet's clusterDNS at the address, or run kube-proxy in nftables mode",
        ),
        (None, true, true) => Finding::problem(
            format!(
                "{link}: kube-proxy runs in IPVS mode and owns every ClusterIP, and a ClusterIP is to be taken over"
            ),
            "use the overlay link-local and point kubelet's clusterDNS at the address; or, if kube-proxy is in another mode \
             now, delete the left-over (ip link delete kube-ipvs0)",
        ),
        (Some(mode), true, _) if mode != "ipvs" => Finding::warning(
            format!("kube-proxy's mode is {mode}, but {link}, with ClusterIPs that lead nowhere"),
            "delete the left-over: ip link delete kube-ipvs0",
        ),
        (Some(mode), _, _) => Finding::ok(format!("kube-proxy's mode is {mode}")),
        (None, true, false) => {
            Finding::ok("kube-proxy runs in IPVS mode; no ClusterIP is taken over")
        }
        (None, false, true) => Finding::ok("no sign of IPVS; kube-proxy does not tell its mode"),
        (None, false, false) => {
            Finding::skipped(format!("kube-proxy does not answer at {KUBE_PROXY}"))
        }
    }
}

/// `GET /proxyMode`: one word.
async fn proxy_mode() -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(KUBE_PROXY).await.ok()?;
        let request = "GET /proxyMode HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(4_096).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let is_good = head.split(' ').nth(1) == Some("200");
        let word = body.trim();
        let is_word =
            !word.is_empty() && word.len() < 32 && word.bytes().all(|b| b.is_ascii_alphanumeric());
        (is_good && is_word).then(|| word.to_owned())
    };
    tokio::time::timeout(Duration::from_millis(800), asked).await.ok()?
}

/// Whether Cilium handles Services, so that a ClusterIP never reaches our link.
pub fn cilium(facts: &Facts) -> Finding {
    let Ok(observed) = &facts.observed else {
        return Finding::skipped("the kernel's links cannot be read");
    };
    let Some(link) = CILIUM.iter().find(|name| observed.link(name).is_some()) else {
        return Finding::skipped("no link of Cilium");
    };
    let takeover = facts.wanted.as_ref().is_ok_and(|wanted| !wanted.desired.cluster_ips.is_empty());
    let maps = facts.path(CILIUM_MAPS).exists();
    match (takeover, maps) {
        (true, true) => Finding::problem(
            format!(
                "{link} and {CILIUM_MAPS} are there: Cilium translates ClusterIPs in the pods' own sockets, before our link"
            ),
            "use the overlay pod-network with a CiliumLocalRedirectPolicy (docs/network.md), or link-local with kubelet's \
             clusterDNS",
        ),
        (true, false) => Finding::warning(
            format!(
                "{link} is there: if Cilium replaces kube-proxy, ClusterIPs never reach our link"
            ),
            "see `cilium status` for KubeProxyReplacement; if it is on, use pod-network with a CiliumLocalRedirectPolicy",
        ),
        (false, _) => Finding::ok(format!(
            "{link} is there, and no ClusterIP is to be taken over; a policy must allow the node's address"
        )),
    }
}

/// Whether connection tracking is full, or drops.
pub fn conntrack(facts: &Facts) -> Finding {
    let folder = "/proc/sys/net/netfilter";
    let count = procfs::number(format!("{folder}/nf_conntrack_count"));
    let most = procfs::number(format!("{folder}/nf_conntrack_max"));
    let (Some(count), Some(most)) = (count, most) else {
        return Finding::skipped("connections are not tracked here");
    };
    let used = count.saturating_mul(100) / most.max(1);
    let seen = format!("{count} of {most} entries");
    let cure = "raise net.netfilter.nf_conntrack_max, and keep DNS out of it (--notrack on)";
    if used >= 95 {
        return Finding::problem(
            format!("connection tracking is full: {seen}; new connections are dropped"),
            cure,
        );
    }
    if used >= 80 {
        return Finding::warning(format!("connection tracking is nearly full: {seen}"), cure);
    }
    let lost = losses();
    if lost.iter().any(|(_, count)| *count > 0) {
        let lost = lost.iter().filter(|(_, count)| *count > 0);
        let lost = few(lost.map(|(what, count)| format!("{count} {what}")));
        return Finding::warning(
            format!("{seen}; since boot {lost}"),
            "packets that were dropped or collided: keep DNS out of connection tracking (--notrack on), and see whether the \
             numbers of `conntrack -S` climb",
        );
    }
    let tracked = facts.observed.as_ref().map_or(Conntrack::Idle, |observed| observed.conntrack);
    let rules = facts.observed.as_ref().map(|observed| &observed.table);
    let has_rules = matches!(rules, Ok(ObservedTable::Present(_)));
    match (tracked, has_rules) {
        (Conntrack::InUse, true) => Finding::ok(format!("{seen}, and DNS is kept out")),
        (Conntrack::InUse, false) => Finding::ok(format!("{seen}; DNS is tracked")),
        (Conntrack::Idle, _) => Finding::ok("connections are not tracked in this network"),
    }
}

/// `drop`, `early_drop` and `insert_failed` of all processors (proc_net_stat's nf_conntrack: columns of hexadecimal numbers).
fn losses() -> Vec<(&'static str, u64)> {
    let text = procfs::read("/proc/net/stat/nf_conntrack", 1 << 20).unwrap_or_default();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_ascii_whitespace().collect()).collect();
    let sum = |name: &str| -> u64 {
        let Some(column) = names.iter().position(|known| *known == name) else { return 0 };
        let value = |row: &Vec<&str>| u64::from_str_radix(row.get(column)?, 16).ok();
        rows.iter().filter_map(value).sum()
    };
    vec![
        ("packets dropped", sum("drop")),
        ("entries evicted", sum("early_drop")),
        ("insertions failed", sum("insert_failed")),
    ]
}

/// Whether fragments that come in are lost: counted by the kernel.
pub fn fragments(_: &Facts) -> Finding {
    let text = procfs::read("/proc/net/snmp", 1 << 20).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Ip:")).collect();
    let [names, values] = lines.as_slice() else {
        return Finding::skipped("the kernel does not tell its counters");
    };
    let names: Vec<&str> = names.split_ascii_whitespace().collect();
    let values: Vec<&str> = values.split_ascii_whitespace().collect();
    let count = |name: &str| -> u64 {
        let column = names.iter().position(|known| *known == name);
        column.and_then(|column| values.get(column)?.parse().ok()).unwrap_or(0)
    };
    let (failed, whole) = (count("ReasmFails"), count("ReasmOKs"));
    if failed > 0 && failed.saturating_mul(10) > whole {
        return Finding::warning(
            format!(
                "{failed} fragmented packets could not be put together since boot, {whole} could"
            ),
            "something on the way drops fragments (firewall, MTU of an overlay network): answers of more than the MTU get lost; \
             Nodens asks for 1,232 octets at most, others on this node may not",
        );
    }
    Finding::ok(format!(
        "{whole} fragmented packets were put together since boot, {failed} were not"
    ))
}
