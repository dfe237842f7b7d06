//! The DaemonSet of the Kubernetes add-on with nothing but its image changed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::client::{Answer, Client};
use tests::log::Log;
use tests::upstream::{Transport, Upstream};
use tests::zone::Zone;
use tests::{http, poll, process};

use super::tests_deadline;
use super::world::{Pod, kind, kube_proxy, on_a_node, sh, snapshot};

/// The add-on's arguments, after the manifest's own placeholders were filled in.
const ARGUMENTS: [&str; 6] = [
    "-localip",
    "169.254.20.10,10.96.0.10",
    "-conf",
    "/etc/Corefile",
    "-upstreamsvc",
    "kube-dns-upstream",
];

/// Its ConfigMap, likewise.
const TEMPLATE: &str = "cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
ip6.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__UPSTREAM__SERVERS__
    prometheus :9253
    }
";

/// What a container has in /etc comes from a folder; the rest of /etc is empty, as in the image.
const CONTAINER: &str = "mount --make-rprivate / 2>/dev/null || true
    folder=$1; shift
    mount -t tmpfs tmpfs /etc
    mkdir /etc/coredns /etc/kube-dns
    cp \"$folder/resolv.conf\" /etc/resolv.conf
    mount --bind \"$folder/coredns\" /etc/coredns
    mount --bind \"$folder/kube-dns\" /etc/kube-dns
    exec \"$@\"";

struct Container {
    child: Child,
    log: Log,
}

impl Container {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-ec", CONTAINER, "sh"])
            .arg(folder)
            .arg(process::binary())
            .args(ARGUMENTS)
            // What the kubelet puts there; the link kind stands in for a kernel module that this machine may lack.
            .envs([
                ("KUBE_DNS_SERVICE_HOST", "10.96.0.10"),
                ("KUBE_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.53"),
            ])
            .env("NODENS_LINK_KIND", kind())
            .env("NODENS_SOCKET", folder.join("socket"));
        let log = Log::of(&mut command, &folder.join("log"));
        Self { child: command.spawn().unwrap(), log }
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let mut gone = || self.child.try_wait().unwrap().is_some();
        assert!(poll::until(tests_deadline(), &mut gone), "it does not stop");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log ---\n{}\n--- end of log ---", self.log);
        }
    }
}

/// Cluster names over TCP from the cluster's DNS, other names from the node's resolvers, stub domains from the ConfigMap as
/// soon as they are there; health and metrics where probes and scrapers look; nothing is left after SIGTERM.
pub fn the_add_on_answers_with_only_the_image_changed() {
    on_a_node(|| {
        kube_proxy();
        let pod = Pod::start(1);
        sh("for i in 53 54 55; do ip addr add 10.96.0.$i/32 dev lo; done");
        let cluster = upstream(
            "10.96.0.53",
            "kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1\n\
             1.0.96.10.in-addr.arpa. 5 IN PTR kubernetes.default.svc.cluster.local.\n",
        );
        let world = upstream("10.96.0.54", "www.example. 60 IN A 192.0.2.80\n");
        let corp = upstream("10.96.0.55", "db.corp.example. 60 IN A 192.0.2.99\n");
        let folder = tempfile::tempdir().unwrap();
        for name in ["coredns", "kube-dns"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("coredns/Corefile.base"), TEMPLATE).unwrap();
        fs::write(folder.path().join("resolv.conf"), "nameserver 10.96.0.54\n").unwrap();

        let before = snapshot();
        let mut container = Container::start(folder.path());
        let local = "169.254.20.10";
        poll::wait_for("the first answer", tests_deadline(), || {
            assert!(container.child.try_wait().unwrap().is_none(), "{}", container.log);
            ask(local, "www.example.", RecordType::A)
                .is_some_and(|a| a.data(RecordType::A) == ["192.0.2.80"])
        });
        // Until then the ClusterIP is led to kube-proxy's backend, which does not exist here.
        container.log.wait_for("write nftables table", tests_deadline());
        let data = |name: &'static str, kind: RecordType| {
            // From a pod, which knows the ClusterIP only.
            pod.run(move || ask("10.96.0.10", name, kind)).unwrap().data(kind)
        };
        assert_eq!(data("kubernetes.default.svc.cluster.local.", RecordType::A), ["10.96.0.1"]);
        let reverse = data("1.0.96.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(reverse, ["kubernetes.default.svc.cluster.local."]);
        assert_eq!(data("www.example.", RecordType::A), ["192.0.2.80"]);
        assert_eq!(cluster.count_over(Transport::Udp), 0, "force_tcp: {:?}", cluster.seen());
        assert!(cluster.count_over(Transport::Tcp) > 0 && world.total() > 0);

        let get = |address: &str, path: &str| {
            let reply = http::get(address.parse().unwrap(), path, Duration::from_secs(5));
            reply.unwrap_or_else(|error| panic!("{address}{path}: {error}\n{}", container.log))
        };
        assert_eq!(get("169.254.20.10:8080", "/health").status, 200);
        for address in ["10.244.1.1:9253", "10.244.1.1:9353"] {
            let page = get(address, "/metrics").body;
            for line in [
                "coredns_nodecache_setup_errors_total{errortype=\"iptables\"} 0",
                "server=\"dns://10.96.0.10:53\"",
                "coredns_forward_",
            ] {
                assert!(page.contains(line), "no {line} at {address}:\n{page}");
            }
        }

        assert_eq!(corp.total(), 0);
        replace(&folder.path().join("kube-dns/stubDomains"), r#"{"corp.example": ["10.96.0.55"]}"#);
        poll::wait_for("the stub domain", tests_deadline(), || {
            ask(local, "db.corp.example.", RecordType::A)
                .is_some_and(|answer| answer.data(RecordType::A) == ["192.0.2.99"])
        });
        replace(&folder.path().join("kube-dns/stubDomains"), "{");
        container.log.wait_for("the kube-dns ConfigMap is not used", tests_deadline());
        assert_eq!(data("db.corp.example.", RecordType::A), ["192.0.2.99"]);

        container.stop();
        assert_eq!(snapshot(), before, "{}", container.log);
    });
}

fn ask(address: &str, name: &str, kind: RecordType) -> Option<Answer> {
    let client = Client::new(SocketAddr::new(address.parse().unwrap(), 53));
    client.within(Duration::from_secs(5)).ask(name, kind).ok()
}

fn upstream(address: &str, zone: &str) -> Upstream {
    let zone = Zone::parse(&format!("$ORIGIN .\n$TTL 5\n. IN SOA ns. admin. 1 60 60 60 5\n{zone}"))
        .unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), 53);
    let upstream = Upstream::start_at(zone, address).unwrap();
    upstream.offer_recursion();
    upstream
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}
