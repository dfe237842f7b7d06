//! Containers: mount namespaces with a resolv.conf of their own, a read-only file system, a control group with a limit.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::process::{Ready, Setup};

use super::world::{on_a_node, sh};
use super::{SOON, wanted};

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something that runs in a mount namespace with this resolv.conf.
fn container(folder: &Path, name: &str, resolv_conf: &str) -> Ends {
    let file = folder.join(name);
    std::fs::write(&file, resolv_conf).unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf; exec sleep 120", file.display());
    let child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", &script])
        .spawn();
    Ends(child.unwrap())
}

fn pods(arguments: &[&str]) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, ".:53 {\n    bind 169.254.20.10\n    whoami\n}\n").unwrap();
    let path = path.to_string_lossy();
    let mut all = vec![
        "pods",
        "--socket",
        "/nonexistent/nodens.sock",
        "-conf",
        &*path,
        "-localip=169.254.20.10",
    ];
    all.extend(arguments);
    Findings::of(&all)
}

#[test]
fn doctor_pods_that_ask_another_server() {
    on_a_node(|| {
        let folder = tempfile::tempdir().unwrap();
        let list = "search default.svc.cluster.local svc.cluster.local cluster.local";
        let good = format!("nameserver 169.254.20.10\n{list}\noptions ndots:5\n");
        let _new = container(folder.path(), "new", &good);
        wait_for("the container", SOON, || {
            pods(&[]).has("pod-resolv-conf", "ok", "1 containers have Nodens")
        });
        let _old = container(folder.path(), "old", &good.replace("169.254.20.10", "10.96.0.10"));
        wait_for("the other", SOON, || {
            pods(&[]).has("pod-resolv-conf", "warning", "10.96.0.10: sleep (process")
        });
        // Their search list is what look-ups are made with.
        let _long = container(
            folder.path(),
            "long",
            &format!("nameserver 169.254.20.10\n{list} a.test b.test\n"),
        );
        wait_for("the list", SOON, || pods(&[]).has("search-list", "warning", "a.test; b.test"));
    });
}

/// The node's folder is mounted, but not to be written.
#[test]
fn doctor_a_read_only_file_system() {
    on_a_node(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        sh(&format!("mount --make-rprivate /; mount -t tmpfs -o ro none {}", path.display()));
        let socket = path.join("nodens.sock");
        let found =
            Findings::of(&["node", "-conf", "/dev/null", "--socket", &socket.to_string_lossy()]);
        found.demand("handover-folder", "problem", "its file system is read-only");
    });
}

/// A control group of memory, removed when dropped; `None` where there can be none.
struct Group(PathBuf, bool);

impl Group {
    fn new() -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v1 = v1.join("memory.limit_in_bytes").exists();
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        if !is_v1 {
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let folder = root.join(format!("nodens-doctor-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let group = Self(folder, is_v1);
        group.limit(1 << 30).then_some(group)
    }

    fn limit(&self, octets: u64) -> bool {
        let file = if self.1 { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(self.0.join(file), octets.to_string()).is_ok()
    }

    /// What cannot be given back at once.
    fn needed(&self) -> u64 {
        let (used, inactive) = match self.1 {
            true => ("memory.usage_in_bytes", "total_inactive_file "),
            false => ("memory.current", "inactive_file "),
        };
        let read = |file: &str| std::fs::read_to_string(self.0.join(file)).unwrap();
        let used: u64 = read(used).trim().parse().unwrap();
        let stat = read("memory.stat");
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)).unwrap();
        used - inactive.trim().parse::<u64>().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn doctor_memory_near_its_limit() {
    on_a_node(|| {
        let Some(group) = Group::new() else {
            let skipped =
                "\n*** SKIPPED: no control group with a memory limit can be made here ***";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), skipped.as_bytes());
            return;
        };
        let script = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", group.0.display());
        let setup = Setup::new(".:@dns@ {\n    bind 127.0.0.1\n    whoami\n}\n");
        let nodens = setup.wrapper(&["sh", "-c", &script]).ready(Ready::Answer).start();
        Findings::of_server(&nodens, &["node"]).demand("memory", "ok", "of 1024 MiB are used");
        assert!(group.limit(group.needed() * 100 / 96));
        let found = Findings::of_server(&nodens, &["node"]);
        let near = found.has("memory", "problem", "MiB are used")
            || found.has("memory", "warning", "MiB are used");
        assert!(near, "{:#}", found.check("memory"));
        drop(nodens);
        let _ = wanted(&[]);
    });
}
