//! What a page is followed on: a node with two pods, an API server that enforces the shipped ClusterRole, and resolvers of the
//! node. The node's /etc, /run and so on are its own, so that nothing of this machine is touched.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tempfile::TempDir;
use tests::api::{ApiServer, Options, Policy};
use tests::process;
use tests::upstream::Upstream;
use tests::zone::Zone;

use super::page::Step;
use crate::node::world::{Pod, kind, kube_proxy, sh};

/// The node's resolver, which /etc/resolv.conf names.
pub const RESOLVER: &str = "192.0.2.53";
/// What dig adds: the processor may be an emulated one.
const PATIENCE: &str = "+tries=2 +time=5";

/// A node on which nothing has been done yet.
pub struct Site {
    /// The cluster's API server.
    pub api: ApiServer,
    /// Two, on this node.
    pub pods: [Pod; 2],
    folder: TempDir,
    _resolver: Upstream,
}

/// A question that a block asked, and what was printed.
#[derive(Debug)]
pub struct Asked {
    /// dig's arguments.
    pub arguments: String,
    /// The lines.
    pub answer: Vec<String>,
}

/// A path of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

impl Site {
    /// Turns the calling thread's node into one; the API server enforces the rules of this file.
    pub fn prepare(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let etc = folder.path().join("etc");
        sh(&format!(
            "mount --make-rprivate / 2>/dev/null || true
             cp -a /etc {etc}
             mount --bind {etc} /etc
             rm -f /etc/resolv.conf; echo 'nameserver {RESOLVER}' > /etc/resolv.conf
             mkdir -p /etc/systemd/system /etc/tmpfiles.d /etc/modules-load.d
             for i in /run /var/lib; do mount -t tmpfs tmpfs $i; done
             ip addr add {RESOLVER}/32 dev lo; ip addr add 192.0.2.10/32 dev lo",
            etc = etc.display()
        ));
        kube_proxy();
        let zone =
            "$ORIGIN .\n$TTL 60\n. IN SOA ns. admin. 1 60 60 60 5\nexample.org. IN A 192.0.2.80\n";
        let address = SocketAddr::new(RESOLVER.parse().unwrap(), 53);
        let resolver = Upstream::start_at(Zone::parse(zone).unwrap(), address).unwrap();
        resolver.offer_recursion();

        let role = fs::read_to_string(project(rules)).unwrap();
        let mut options = Options::default();
        options.behaviour.policy = Some(Policy::from_yaml(&role).unwrap());
        let api = ApiServer::with(options);
        api.load_file(&project("tests/data/conformance/cluster.json")).unwrap();

        let site = Self { api, pods: [Pod::start(1), Pod::start(2)], folder, _resolver: resolver };
        fs::create_dir(site.work()).unwrap();
        symlink(process::binary(), site.work().join("nodens")).unwrap();
        symlink(project("manifests").canonicalize().unwrap(), site.work().join("manifests"))
            .unwrap();
        let dig = sh("command -v dig").trim().to_owned();
        let log = site.path("asked");
        site.stand_in(
            "dig",
            &format!(
                "out=$({dig} {PATIENCE} \"$@\"); code=$?; printf '%s\\n' \"$out\"
                 printf '@@ %s\\n%s\\n' \"$*\" \"$out\" >> {}; exit $code",
                log.display()
            ),
        );
        site.stand_in(
            "curl",
            "for word; do case $word in http*) exec busybox wget -q -O - \"$word\" ;; esac; done; exit 2",
        );
        site
    }

    /// A file of the test itself.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the blocks are run: with the binary, and the manifests.
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// What the administrator brings to the node: the certificate, its key, and that of the authority.
    pub fn bring_certificate(&self) {
        let path = self.path("kubeconfig");
        self.api.write_kubeconfig_with_certificate(&path);
        let config: Value = serde_yaml_ng::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let user = &config["users"][0]["user"];
        for (name, data) in [
            ("ca.crt", &config["clusters"][0]["cluster"]["certificate-authority-data"]),
            ("nodens.crt", &user["client-certificate-data"]),
            ("nodens.key", &user["client-key-data"]),
        ] {
            fs::write(self.work().join(name), STANDARD.decode(data.as_str().unwrap()).unwrap())
                .unwrap();
        }
    }

    /// Puts a command in the place of a program that the node does not have.
    pub fn stand_in(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::create_dir_all(self.path("bin")).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a block as root on the node.
    pub fn on_the_node(&self, step: &Step) -> Vec<Asked> {
        self.run(step, "node", Command::new("sh").args(["-ec", &self.filled(step)]));
        self.asked()
    }

    /// Runs a block in each pod, whose resolv.conf is this.
    pub fn in_the_pods(&self, step: &Step, resolv_conf: &str) -> Vec<Asked> {
        let file = self.path("pod-resolv.conf");
        fs::write(&file, resolv_conf).unwrap();
        let mounted = format!(
            "mount --make-rprivate / 2>/dev/null || true; mount --bind {} /etc/resolv.conf; exec sh -ec \"$1\"",
            file.display()
        );
        for (number, pod) in self.pods.iter().enumerate() {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-ec", &mounted, "sh", &self.filled(step)]);
            self.with_path(&mut command);
            let output = pod.run(move || command.output().unwrap());
            report(step, &format!("pod {}", number + 1), &output);
        }
        self.asked()
    }

    /// The commands, with what a reader fills in.
    fn filled(&self, step: &Step) -> String {
        step.commands.replace("https://192.0.2.10:6443", &self.api.url())
    }

    fn run(&self, step: &Step, place: &str, command: &mut Command) {
        self.with_path(command);
        report(step, place, &command.output().unwrap());
    }

    /// The programs that stand in are found first; nodens is where this build has it, unless the page installs it.
    fn with_path(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        let binary = process::binary();
        let beside = binary.parent().unwrap_or(Path::new("/"));
        let bin = self.path("bin");
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:{path}:{}", bin.display(), beside.display());
        command.env("PATH", path).env("NODENS_LINK_KIND", kind());
        command.current_dir(self.work());
    }

    /// What dig was asked since the last call.
    fn asked(&self) -> Vec<Asked> {
        let log = self.path("asked");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        let mut out: Vec<Asked> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("@@ ") {
                Some(arguments) => {
                    out.push(Asked { arguments: arguments.to_owned(), answer: Vec::new() });
                }
                None if !line.is_empty() => {
                    if let Some(last) = out.last_mut() {
                        last.answer.push(line.to_owned());
                    }
                }
                None => {}
            }
        }
        out
    }
}

/// The resolv.conf that the kubelet writes into a pod of a namespace with the shipped drop-in.
pub fn pod_resolv_conf(namespace: &str) -> String {
    let text = fs::read_to_string(project("manifests/kubelet/50-nodens.conf")).unwrap();
    let kubelet: Value = serde_yaml_ng::from_str(&text).unwrap();
    let domain = kubelet["clusterDomain"].as_str().unwrap_or("cluster.local");
    let servers = kubelet["clusterDNS"].as_array().unwrap().iter();
    let servers: String =
        servers.map(|server| format!("nameserver {}\n", server.as_str().unwrap())).collect();
    format!("search {namespace}.svc.{domain} svc.{domain} {domain}\n{servers}options ndots:5\n")
}

/// Shows what a block printed; it has to succeed.
fn report(step: &Step, place: &str, output: &std::process::Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let commands = step.commands.trim_end().replace('\n', "\n  $ ");
    println!("[{place}] {}\n  $ {commands}\n{out}{err}", step.section);
    assert!(output.status.success(), "line {}: {}: {out}{err}", step.line, output.status);
}
