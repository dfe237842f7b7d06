//! What the manifests say, run word for word: arguments, Corefile, capabilities, folders, probes and rights of each overlay, and
//! the command line of the systemd unit.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use netsetup::privileges::{Capability, drop_capabilities};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chown};
use serde_json::{Value, json};
use tests::api::{ApiServer, Policy};
use tests::client::Client;
use tests::log::Log;
use tests::process::Ready;
use tests::upstream::Upstream;
use tests::zone::Zone;
use tests::{http, manifests, poll, process};

use super::tests_deadline;
use super::world::{Pod, kind, kube_proxy, link_index, on_a_node, sh, snapshot};

/// The node's address, as pod 1 knows it.
const NODE: &str = "10.244.1.1";
/// The ClusterIPs of kube-dns and of the Service behind it.
const KUBE_DNS: &str = "10.96.0.10";
const UPSTREAM: &str = "10.96.0.53";
/// The node's resolver: a machine elsewhere, for which pod 2 stands.
const RESOLVER: &str = "10.244.2.2";
/// The user of the unit, by number: these machines have no such name.
const USER: u32 = 65_532;

/// What the kubelet sets.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("POD_IP", NODE),
    ("KUBE_DNS_SERVICE_HOST", KUBE_DNS),
    ("NODENS_UPSTREAM_SERVICE_HOST", UPSTREAM),
];

/// The container's folders: all of /etc, /run and /var/lib is empty but for what the manifests mount.
const FOLDERS: &str = "mount --make-rprivate / 2>/dev/null || true
    mount -t tmpfs tmpfs /etc; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib
    mkdir -p /etc/nodens /run/nodens /run/systemd/resolve /var/lib/nodens /var/run/secrets/kubernetes.io/serviceaccount
    cp \"$FOLDER\"/etc/* /etc/nodens; cp \"$FOLDER/resolv.conf\" /etc/resolv.conf
    mount --bind \"$FOLDER/run\" /run/nodens
    mount --bind \"$FOLDER/state\" /var/lib/nodens
    mount --bind \"$FOLDER/account\" /var/run/secrets/kubernetes.io/serviceaccount";

/// A running container, or unit.
struct Deployed {
    child: Child,
    log: Log,
    folder: tempfile::TempDir,
}

impl Deployed {
    /// Starts `command` where the container's folders are, with no more than these capabilities.
    fn start(folder: tempfile::TempDir, mut command: Command, keep: Vec<Capability>) -> Self {
        let log = Log::of(&mut command, &folder.path().join("log"));
        let script = FOLDERS.replace("$FOLDER", &folder.path().display().to_string());
        // Mounts and capabilities are a thread's own, and its child's.
        let starter = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            sh(&script);
            if !keep.is_empty() {
                drop_capabilities(&keep, &keep).unwrap();
            }
            command.spawn().unwrap()
        });
        Self { child: starter.join().unwrap(), log, folder }
    }

    /// The DaemonSet's container.
    fn container(all: &[Value], api: &ApiServer) -> Self {
        Self::container_in(folder(manifests::corefile(all)), all, api)
    }

    /// The DaemonSet's container on the node of another one, with which it shares the folder of the host.
    fn beside(other: &Self, all: &[Value], api: &ApiServer) -> Self {
        let folder = folder(manifests::corefile(all));
        let state = folder.path().join("state");
        fs::remove_dir(&state).unwrap();
        std::os::unix::fs::symlink(other.folder.path().join("state"), state).unwrap();
        Self::container_in(folder, all, api)
    }

    fn container_in(folder: tempfile::TempDir, all: &[Value], api: &ApiServer) -> Self {
        api.write_service_account(&folder.path().join("account"));
        let mut command = Command::new(process::binary());
        command.args(manifests::arguments(all, &ENVIRONMENT)).env_clear();
        command.envs(ENVIRONMENT).envs(api.environment()).env("NODENS_LINK_KIND", kind());
        let added = &manifests::container(all)["securityContext"]["capabilities"]["add"];
        let keep = added.as_array().unwrap().iter().map(|name| match name.as_str() {
            Some("NET_ADMIN") => Capability::NetAdmin,
            Some("NET_BIND_SERVICE") => Capability::NetBindService,
            other => panic!("{other:?}"),
        });
        Self::start(folder, command, keep.collect())
    }

    /// One of the container's probes, as the kubelet does it; what it says where it says no.
    fn probe(&self, all: &[Value], which: &str) -> Result<(), String> {
        let probe = &manifests::container(all)[which];
        if let Some(words) = probe["exec"]["command"].as_array() {
            assert_eq!(words[0], "/nodens");
            let output = Command::new(process::binary())
                .args(words.iter().skip(1).map(|word| word.as_str().unwrap()))
                // From outside of the container its folder is elsewhere.
                .env("NODENS_SOCKET", self.folder.path().join("run/nodens.sock"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return if output.status.success() { Ok(()) } else { Err(said) };
        }
        let get = &probe["httpGet"];
        let address = format!("{}:{}", get["host"].as_str().unwrap_or(NODE), get["port"]);
        let path = get["path"].as_str().unwrap();
        match http::get(address.parse().unwrap(), path, Duration::from_secs(5)) {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn wait_for_probes(&mut self, all: &[Value]) {
        for which in ["startupProbe", "readinessProbe", "livenessProbe"] {
            poll::wait_for(which, tests_deadline(), || {
                assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log);
                self.probe(all, which).is_ok()
            });
        }
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let mut gone = || self.child.try_wait().unwrap().is_some();
        assert!(poll::until(tests_deadline(), &mut gone), "it does not stop");
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        // As the end of a container is that of all its processes.
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let _ = self.child.kill();
        for child in children.unwrap_or_default().split_whitespace() {
            let _ = kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log ---\n{}\n--- end of log ---", self.log);
        }
    }
}

fn folder(corefile: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["etc", "run", "state", "account"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("etc/Corefile"), corefile).unwrap();
    fs::write(folder.path().join("resolv.conf"), format!("nameserver {RESOLVER}\n")).unwrap();
    folder
}

/// An API server that allows what this ClusterRole says, with one Service and one headless one.
fn cluster(role: &Value) -> ApiServer {
    let api = ApiServer::start();
    let policy = Policy::from_yaml(&role.to_string()).unwrap();
    api.configure(|behaviour| behaviour.policy = Some(policy));
    api.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }));
    api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": [{ "port": 80 }] },
    }));
    api
}

/// A DNS server for other names, somewhere else.
fn resolver() -> (Pod, Upstream) {
    let elsewhere = Pod::start(2);
    let upstream = elsewhere.run(|| server(RESOLVER));
    (elsewhere, upstream)
}

fn server(address: &str) -> Upstream {
    let zone =
        "$ORIGIN .\n$TTL 5\n. IN SOA ns. admin. 1 60 60 60 5\nwww.example. 60 IN A 192.0.2.80\n";
    let address = SocketAddr::new(address.parse().unwrap(), 53);
    let upstream = Upstream::start_at(Zone::parse(zone).unwrap(), address).unwrap();
    upstream.offer_recursion();
    upstream
}

/// A pod asks for a cluster name and for another one, over UDP and TCP.
fn pod_is_answered(pod: &Pod, address: &'static str) {
    pod.run(move || {
        let client =
            Client::new(SocketAddr::new(address.parse().unwrap(), 53)).within(tests_deadline());
        for (name, wanted) in
            [("web.default.svc.cluster.local.", "10.96.0.20"), ("www.example.", "192.0.2.80")]
        {
            let answer = client.ask(name, RecordType::A).unwrap();
            assert_eq!(answer.data(RecordType::A), [wanted], "{name} at {address}");
        }
    });
}

/// Where pods of a mode ask.
fn address(mode: &str) -> &'static str {
    match mode {
        "takeover" => KUBE_DNS,
        "pod-network" => NODE,
        _ => "169.254.20.10",
    }
}

/// Each overlay's DaemonSet: its probes are content, a pod is answered, metrics are where they should be and nowhere else, and after
/// its end the node is as it should be.
pub fn every_overlay_runs_as_written() {
    for mode in ["link-local", "all-endpoints", "takeover", "pod-network"] {
        on_a_node(move || {
            kube_proxy();
            let pod = Pod::start(1);
            let _resolver = resolver();
            let all = manifests::overlay(mode);
            let api = cluster(manifests::find(&all, "ClusterRole", "nodens"));
            let before = snapshot();
            let mut container = Deployed::container(&all, &api);
            container.wait_for_probes(&all);
            if mode == "takeover" {
                container.log.wait_for("write nftables table", tests_deadline());
            }
            pod_is_answered(&pod, address(mode));
            let get = |port: u16| {
                let at = SocketAddr::new(NODE.parse().unwrap(), port);
                http::get(at, "/metrics", Duration::from_secs(5)).map(|reply| reply.status)
            };
            assert_eq!(get(9153).unwrap(), 200, "{mode}");
            assert!(get(9353).is_err(), "{mode}: NodeLocal DNSCache's port is open");
            assert!(fs::read_dir(container.folder.path().join("state")).is_ok());
            container.stop();
            let log = container.log.complete(&mut container.child);
            assert!(!log.contains(" ERROR "), "{mode}: {log}");
            match mode {
                "link-local" | "all-endpoints" => assert!(link_index().is_some(), "{mode}"),
                _ => assert_eq!(snapshot(), before, "{mode}: {log}"),
            }
            // The snapshot was written at the end, where the host's folder keeps it.
            assert!(fs::read_dir(container.folder.path().join("state")).unwrap().next().is_some());
        });
    }
}

/// A rolling update with maxSurge: the new pod is ready by its own word, the old one goes, and no query of a pod is lost.
pub fn two_pods_change_places_without_losing_a_query() {
    on_a_node(|| {
        kube_proxy();
        let pod = Pod::start(1);
        let _resolver = resolver();
        let all = manifests::overlay("link-local");
        let api = cluster(manifests::find(&all, "ClusterRole", "nodens"));
        let mut old = Deployed::container(&all, &api);
        old.wait_for_probes(&all);
        let link = link_index();

        // One that may not list anything is not ready, whatever the old one says at the same address.
        let forbidden = cluster(&json!({ "kind": "ClusterRole", "rules": [] }));
        let mut bad = Deployed::container(&all, &forbidden);
        poll::wait_for("the bad one's socket", tests_deadline(), || {
            bad.probe(&all, "startupProbe").is_ok()
        });
        let said = bad.probe(&all, "readinessProbe").unwrap_err();
        assert!(said.contains("waiting for the first list"), "{said}");
        old.probe(&all, "readinessProbe").unwrap();
        // It may have begun to serve without the objects, with sockets of its own.
        bad.stop();
        drop(bad);

        let (stop, stopped) = channel::<()>();
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let seen = Arc::clone(&counts);
        let load = std::thread::spawn(move || {
            pod.run(move || {
                let client =
                    Client::new("169.254.20.10:53".parse().unwrap()).within(Duration::from_secs(2));
                while stopped.recv_timeout(Duration::from_millis(1))
                    == Err(RecvTimeoutError::Timeout)
                {
                    let answer = client.ask("web.default.svc.cluster.local.", RecordType::A);
                    let good = answer.is_ok_and(|a| a.data(RecordType::A) == ["10.96.0.20"]);
                    seen[usize::from(good)].fetch_add(1, Relaxed);
                }
            });
        });
        let answered = |more: usize| {
            let before = counts[1].load(Relaxed);
            poll::wait_for("answers", tests_deadline(), || counts[1].load(Relaxed) > before + more);
        };
        answered(50);
        let mut new = Deployed::beside(&old, &all, &api);
        new.wait_for_probes(&all);
        // It has left by itself: it is not process 1 of its container here.
        let mut gone = || old.child.try_wait().unwrap().is_some();
        assert!(poll::until(tests_deadline(), &mut gone), "the old one stays");
        answered(50);
        drop(stop);
        load.join().unwrap();
        let [lost, good] = [0, 1].map(|which: usize| counts[which].load(Relaxed));
        println!("{good} queries answered, {lost} lost");
        assert_eq!(lost, 0, "of {good}; the old one's log:\n{}", old.log);
        assert_eq!(link_index(), link, "the link was never away");
        new.probe(&all, "readinessProbe").unwrap();
    });
}

/// Where nobody answers at a listening address any more, liveness fails, and is back when that is mended.
pub fn liveness_goes_through_the_data_path() {
    on_a_node(|| {
        let corefile = ".:53 {\n bind 169.254.20.10\n whoami\n health 127.0.0.1:@health@\n ready 127.0.0.1:@ready@\n}\n";
        let nodens = process::Setup::new(corefile)
            .arguments(&["-localip=169.254.20.10", "--reconcile=false", "-skipteardown"])
            .arguments(&[&format!("--link-kind={}", kind()), "--socket=@folder@/socket"])
            .arguments(&["-metrics-listen-address=127.0.0.1:0"])
            .ready(Ready::AnswerAt("169.254.20.10:53".parse().unwrap()))
            .start();
        let health = || nodens.get(nodens.ports().health, "/health").unwrap();
        let ready = || nodens.get(nodens.ports().ready, "/ready").unwrap();
        assert_eq!(health().status, 200);
        sh("ip link del nodelocaldns");
        poll::wait_for("/health to fail", tests_deadline(), || health().status == 503);
        assert!(
            health().body.contains("169.254.20.10:53 has not answered us"),
            "{}",
            health().body
        );
        assert_eq!(ready().status, 503);
        sh("ip addr add 169.254.20.10/32 dev lo");
        poll::wait_for("/health to be well", tests_deadline(), || health().status == 200);
    });
}

/// The unit's command line with its environment, user and ambient capabilities: systemd is told when queries are answered.
pub fn the_unit_runs_as_written() {
    on_a_node(|| {
        kube_proxy();
        let pod = Pod::start(1);
        let _resolver = resolver();
        let units = manifests::folder().join("systemd");
        let text = |name: &str| fs::read_to_string(units.join(name)).unwrap();
        let rbac = manifests::read(&units.join("rbac.yaml")).unwrap();
        let api = cluster(manifests::find(&rbac, "ClusterRole", "system:nodens"));

        let folder = folder(&text("Corefile"));
        api.write_kubeconfig_with_certificate(&folder.path().join("etc/kubeconfig"));
        let manager = UnixDatagram::bind(folder.path().join("run/notify")).unwrap();
        manager.set_read_timeout(Some(tests_deadline())).unwrap();
        for path in ["run", "state", "run/notify"] {
            give(&folder.path().join(path));
        }
        let environment: Vec<(String, String)> = text("nodens.env")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let unit = text("nodens.service");
        let setting = |name: &str| {
            let mut lines = unit.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().unwrap_or_else(|| panic!("no {name}")).to_owned()
        };
        let line = environment.iter().fold(setting("ExecStart="), |line, (name, value)| {
            line.replace(&format!("${{{name}}}"), value)
        });
        assert_eq!(setting("AmbientCapabilities="), setting("CapabilityBoundingSet="));
        let capabilities = setting("AmbientCapabilities=");
        let capabilities = |first: &str| {
            let names =
                capabilities.split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase());
            names.fold(first.to_owned(), |list, name| format!("{list},+{name}"))
        };
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into()])
            .arg(format!("--bounding-set={}", capabilities("-all")))
            .arg(format!("--inh-caps={}", capabilities("-all")))
            .arg(format!("--ambient-caps={}", capabilities("-all")))
            .arg("--no-new-privs")
            .arg(process::binary())
            .args(line.split(' ').skip(1))
            .env_clear()
            .envs(environment)
            .env("PATH", std::env::var("PATH").unwrap())
            .env("NODENS_LINK_KIND", kind())
            .env("NOTIFY_SOCKET", "/run/nodens/notify")
            .env("WATCHDOG_USEC", "200000");
        let mut unit = Deployed::start(folder, command, Vec::new());
        let told = || {
            let mut message = [0; 512];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..length]).into_owned()
        };
        assert!(told().starts_with("READY=1\n"), "{}", unit.log);
        assert_eq!(told(), "WATCHDOG=1");
        let status = fs::read_to_string(format!("/proc/{}/status", unit.child.id())).unwrap();
        assert!(status.contains(&format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}")), "{status}");
        assert!(status.contains("CapEff:\t0000000000001400"), "{status}");
        pod_is_answered(&pod, "169.254.20.10");
        unit.stop();
        let mut last = told();
        while last == "WATCHDOG=1" {
            last = told();
        }
        assert!(last.starts_with("STOPPING=1\n"), "{last}");
    });
}

/// What systemd makes belongs to the unit's user.
fn give(path: &Path) {
    chown(path, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
}
