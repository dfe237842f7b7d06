//! `autopath` with the resolvers of real programs, in a pod with the resolv.conf that the kubelet gives it: with it, every look-up
//! comes to the same as without, in fewer queries.

mod names;
mod programs;
mod table;

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::Cluster;
use tests::peers::note;
use tests::process::{Nodens, Setup};
use tests::upstream::Act;
use tests::zone::Zone;

use self::names::{BROKEN, FAILING, Group, NODE_DOMAIN, V6_ONLY, groups, zone};
use self::programs::{Resolver, Running, of_this_lane};
use self::table::Table;
use crate::node::world::{Pod, kind, on_a_node, sh};

const SOON: Duration = Duration::from_secs(20);
const POD: &str = "10.244.1.2";

const COREFILE: &str = "cluster.local:53 {
    bind 169.254.20.10
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    @autopath@
    kubernetes cluster.local {
        kubeconfig @kubeconfig@
        pods insecure
        pods node
    }
}
.:53 {
    bind 169.254.20.10
    prometheus 127.0.0.1:@metrics@
    cache 30
    forward . @upstream@
}
";

/// What the server has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queries: u64,
    /// Queries and responses, as DNS messages.
    pub octets: u64,
}

/// What became of a group of names.
struct Looked {
    found: Vec<String>,
    counts: Counts,
}

/// A node with an API server, an upstream and one pod.
struct World {
    cluster: Cluster,
    pod: Pod,
    folder: TempDir,
}

impl World {
    /// On the calling thread's node, whose resolv.conf has `domain` for its search list.
    fn new(domain: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let node = if domain.is_empty() { String::new() } else { format!("search {domain}\n") };
        fs::write(path("node"), format!("{node}nameserver 192.0.2.1\n")).unwrap();
        let search =
            format!("search default.svc.cluster.local svc.cluster.local cluster.local {domain}");
        let options = "options ndots:5 timeout:1 attempts:2";
        fs::write(path("pod"), format!("{search}\nnameserver 169.254.20.10\n{options}\n")).unwrap();
        fs::write(path("hosts"), "127.0.0.1 localhost\n10.244.1.2 web-1\n").unwrap();
        fs::write(path("nsswitch.conf"), "hosts: files dns\n").unwrap();
        sh(&format!("mount --make-rprivate /; mount --bind {} /etc/resolv.conf", path("node")));
        let pod = Pod::start(1);
        let (resolv_conf, hosts, switch) = (path("pod"), path("hosts"), path("nsswitch.conf"));
        pod.run(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            sh(&format!(
                "mount --bind {resolv_conf} /etc/resolv.conf; mount --bind {hosts} /etc/hosts
                 mount --bind {switch} /etc/nsswitch.conf"
            ));
        });
        let cluster = Cluster::default();
        let names = Zone::parse(&zone()).unwrap();
        cluster.upstream.change(|zone| *zone = names);
        let broken = format!("{BROKEN}.example.org.");
        cluster.upstream.on_query(move |seen| match seen.name.ends_with(&broken) {
            true => Act::Rcode(ResponseCode::ServFail),
            false => Act::Answer,
        });
        for object in objects() {
            cluster.server.put(object);
        }
        Self { cluster, pod, folder }
    }

    fn start(&self, autopath: bool) -> Nodens {
        let line = if autopath { "autopath @kubernetes" } else { "" };
        let nodens = Setup::new(COREFILE)
            .word("autopath", line)
            .word("kubeconfig", self.cluster.path("kubeconfig").display())
            .word("upstream", self.cluster.upstream.address())
            .environment("NODE_NAME", "node-9")
            .arguments(&[
                "-localip",
                "169.254.20.10",
                &format!("--link-kind={}", kind()),
                "--notrack=off",
                "--socket=@folder@/socket",
                "-metrics-listen-address=127.0.0.1:0",
            ])
            .start();
        nodens.wait_for_metrics("the Pod", SOON, |metrics| {
            metrics.sum("nodens_kubernetes_objects", &[("kind", "NodePod")]) == 1.0
        });
        nodens
    }

    /// Looks all names up by a fresh server, so many times.
    fn look_up(
        &self,
        autopath: bool,
        program: &[OsString],
        groups: &[Group],
        rounds: usize,
    ) -> Vec<Vec<Looked>> {
        let mut nodens = self.start(autopath);
        let mut resolver = Running::start(&self.pod, program);
        let mut look_up = |group: &Group| {
            let before = counts(&nodens);
            let found = resolver.look_up(&group.names);
            let after = counts(&nodens);
            let counts = Counts {
                queries: after.queries - before.queries,
                octets: after.octets - before.octets,
            };
            Looked { found, counts }
        };
        let all = (0..rounds).map(|_| groups.iter().map(&mut look_up).collect()).collect();
        nodens.stop(SOON);
        all
    }
}

fn counts(nodens: &Nodens) -> Counts {
    let metrics = nodens.metrics();
    let sum = |name: &str| metrics.sum(name, &[]) as u64;
    let octets =
        sum("coredns_dns_request_size_bytes_sum") + sum("coredns_dns_response_size_bytes_sum");
    Counts { queries: sum("coredns_dns_requests_total"), octets }
}

/// The Pod that asks, and Services with other names.
fn objects() -> Vec<Value> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "client", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "nodeName": "node-9", "dnsPolicy": "ClusterFirst",
            "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "2"}]},
        },
        "status": {"phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}]},
    });
    let aliases = [
        ("to-host", "host-1.example.org"),
        ("to-nothing", "absent.example.org"),
        ("to-service", "api.prod.svc.cluster.local"),
    ];
    let aliases = aliases.map(|(name, target)| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": target},
        })
    });
    [pod].into_iter().chain(aliases).collect()
}

/// What is found with `autopath` and not the same without, and what costs more than it should.
fn complaints(
    resolver: Resolver,
    groups: &[Group],
    without: &[Looked],
    with: &[Looked],
) -> Vec<String> {
    let mut complaints = Vec::new();
    for ((group, without), with) in groups.iter().zip(without).zip(with) {
        for ((name, without), with) in group.names.iter().zip(&without.found).zip(&with.found) {
            if without != with && !is_its_own(resolver, name, without, with) {
                complaints.push(format!("{name}\n    without: {without}\n    with:    {with}"));
            }
        }
        let (asked, count) =
            ((without.counts.queries, with.counts.queries), group.names.len() as u64);
        let wanted = match (group.cost, resolver) {
            // An address of the other type is none to it, and denied without an alias.
            (_, Resolver::GlibcV4) if group.kind == V6_ONLY => None,
            (Some((without, with)), Resolver::GlibcV4) => {
                Some((without / 2 * count, with / 2 * count))
            }
            (cost, _) => cost.map(|(without, with)| (without * count, with * count)),
        };
        let is_wanted = match wanted {
            Some(wanted) => asked == wanted,
            None => asked.1 <= asked.0 || group.kind == FAILING,
        };
        if !is_wanted {
            complaints.push(format!("{count} {}: {asked:?} queries, not {wanted:?}", group.kind));
        }
    }
    complaints
}

/// Whether it is the resolver that makes the difference.
fn is_its_own(resolver: Resolver, name: &str, without: &str, with: &str) -> bool {
    let addresses = |line: &str| -> Vec<String> {
        line.split(' ').filter(|word| !word.starts_with('(')).map(str::to_owned).collect()
    };
    let (all, found) = (addresses(without), addresses(with));
    match resolver {
        // Before 1.2.4 it has no TCP: it takes the part of an answer that fits into 512 octets beside the alias.
        Resolver::Musl if name.starts_with("big-") => {
            found.len() > 20 && found.iter().all(|one| all.contains(one))
        }
        Resolver::Musl if name.len() > 200 => with == "Name does not resolve",
        // It ignores an alias to a name with an underscore: the canonical name is the one that was asked for.
        Resolver::Musl => name.starts_with('_') && all == found,
        // It gives up at a name that is too long with one of the domains; the server goes on to the next one.
        Resolver::Cares => name.len() > 200 && without == "Misformatted domain name",
        _ => false,
    }
}

/// Every name by every resolver, without `autopath`, with it, and with it again when all is cached.
pub fn every_resolver_finds_the_same_in_fewer_queries() {
    on_a_node(|| {
        let (world, groups) = (World::new(NODE_DOMAIN), groups());
        assert!(groups.iter().map(|group| group.names.len()).sum::<usize>() >= 200);
        let mut table = Table::new(&groups);
        let mut all = Vec::new();
        for resolver in of_this_lane() {
            let (who, program) = (resolver.version(), resolver.build(world.folder.path()));
            let without = world.look_up(false, &program, &groups, 1);
            let with = world.look_up(true, &program, &groups, 2);
            for (round, with) in ["first", "again"].iter().zip(&with) {
                let found = complaints(resolver, &groups, &without[0], with);
                all.extend(found.iter().map(|one| format!("{who}, {round}: {one}")));
            }
            let counts = |looked: &[Looked]| looked.iter().map(|one| one.counts).collect();
            table.add(who, counts(&without[0]), counts(&with[0]));
        }
        note(&table.to_string());
        assert!(all.is_empty(), "{} differences:\n{}", all.len(), all.join("\n"));
    });
}

/// Where the node has no search list: eight queries for a name. And names that are asked for as they are, and look like the first
/// of a list: that of another name is found.
pub fn a_short_list_and_what_looks_like_one() {
    on_a_node(|| {
        let world = World::new("");
        let mut groups = groups();
        groups.truncate(1);
        groups[0].cost = Some((8, 2));
        let like = ["api.prod.default.svc.cluster.local", "api.prod.default.svc.cluster.local."];
        groups.push(Group { kind: "like", names: like.map(str::to_owned).into(), cost: None });
        for resolver in of_this_lane() {
            let program = resolver.build(world.folder.path());
            let without = world.look_up(false, &program, &groups, 1).remove(0);
            let with = world.look_up(true, &program, &groups, 1).remove(0);
            assert_eq!(
                complaints(resolver, &groups[..1], &without, &with),
                [""; 0],
                "{resolver:?}"
            );
            let has =
                |looked: &Looked| looked.found.iter().all(|found| found.contains("10.111.6.141"));
            assert!(!has(&without[1]) && has(&with[1]), "{resolver:?}: {:?}", with[1].found);
        }
    });
}
