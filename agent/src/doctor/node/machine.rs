//! The machine: descriptors, memory, folders, and what a start waits for.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::super::facts::Facts;
use super::super::finding::{Finding, few};
use super::super::procfs;

/// A node without a network of pods is one that starts, until it has been up for so long.
const STARTING: Duration = Duration::from_secs(300);
/// Less free space than this does for no snapshot, in octets.
const LITTLE_SPACE: u64 = 16 << 20;
/// The real-time clock may differ so much: it is set at shutdown, and drifts.
const RTC_SKEW: u64 = 60;

/// Whether the server is near its limit of file descriptors.
pub fn descriptors(facts: &Facts) -> Finding {
    let Some(pid) = facts.pid() else { return Finding::skipped("no server answers") };
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Finding::skipped(format!(
            "the descriptors of process {pid} cannot be seen: run this as its user"
        ));
    };
    let open = folder.count() as u64;
    let limits = procfs::read(format!("/proc/{pid}/limits"), 16_384).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    let Some(limit) = limit else {
        return Finding::ok(format!("{open} open, without a limit"));
    };
    let seen = format!("{open} of {limit} descriptors are open");
    let cure = "raise the limit (LimitNOFILE= of the unit, or of the container runtime); idle TCP clients are the usual reason";
    match open.saturating_mul(100) / limit.max(1) {
        95.. => Finding::problem(seen, cure),
        80..95 => Finding::warning(seen, cure),
        _ => Finding::ok(seen),
    }
}

/// A control group of memory, by version.
struct Group {
    folder: PathBuf,
    limit: u64,
    used: u64,
    /// Memory of files that can be given back at once.
    inactive: u64,
    kills: u64,
}

/// The tightest limit of a process' control groups.
fn group(pid: i32) -> Option<Group> {
    let text = procfs::read(format!("/proc/{pid}/cgroup"), 16_384)?;
    let mut found: Option<Group> = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let top = Path::new(if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" });
        let own = top.join(path.trim_start_matches('/'));
        let (limit, used, events) = match v2 {
            true => ("memory.max", "memory.current", "memory.events"),
            false => ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
        };
        for folder in own.ancestors().take_while(|folder| folder.starts_with(top)) {
            let Some(limit) = procfs::number(folder.join(limit)) else { continue };
            // Version 1 has no word for "no limit".
            if limit >= 1 << 60 || found.as_ref().is_some_and(|found| found.limit <= limit) {
                continue;
            }
            let word = |file: &str, name: &str| {
                let text = procfs::read(folder.join(file), 65_536).unwrap_or_default();
                let value = |line: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
                text.lines().find_map(value).unwrap_or(0)
            };
            let inactive =
                word("memory.stat", if v2 { "inactive_file " } else { "total_inactive_file " });
            found = Some(Group {
                folder: folder.to_owned(),
                limit,
                used: procfs::number(folder.join(used)).unwrap_or(0),
                inactive,
                kills: word(events, "oom_kill "),
            });
        }
    }
    found
}

/// Whether the server is near its limit of memory, or was killed for it.
pub fn memory(facts: &Facts) -> Finding {
    let Some(pid) = facts.pid() else { return Finding::skipped("no server answers") };
    let Some(group) = group(pid) else {
        return Finding::ok("no control group limits its memory");
    };
    let needed = group.used.saturating_sub(group.inactive);
    let mib = |octets: u64| octets >> 20;
    let seen = format!(
        "{} of {} MiB are used ({})",
        mib(needed),
        mib(group.limit),
        group.folder.display()
    );
    let cure = "raise resources.limits.memory, or make the cache smaller (`cache { capacity }`); the cache shrinks near the limit";
    if group.kills > 0 {
        return Finding::warning(
            format!(
                "the kernel has killed {} processes of this control group for memory; {seen}",
                group.kills
            ),
            cure,
        );
    }
    match needed.saturating_mul(100) / group.limit.max(1) {
        95.. => Finding::problem(seen, cure),
        90..95 => Finding::warning(seen, cure),
        _ => Finding::ok(seen),
    }
}

/// Whether the folders of snapshots can be written.
pub fn snapshot(facts: &Facts) -> Finding {
    let dirs =
        facts.setup.clusters.iter().filter_map(|spec| Some(spec.snapshot.as_ref()?.dir.clone()));
    let found = dirs
        .map(|dir| folder(facts, &dir, "a restart without an API server would know nothing"))
        .collect();
    Finding::worst(found, "no snapshot is configured")
}

/// Whether the folders of the sockets of hand-over and control can be written.
pub fn handover(facts: &Facts) -> Finding {
    let mut folders: Vec<PathBuf> = Vec::new();
    let sockets = [facts.serve.handover_socket(), Some(facts.serve.socket.clone())];
    for socket in sockets.into_iter().flatten() {
        let parent =
            socket.parent().map(Path::to_owned).filter(|folder| !folder.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|folder| !folders.contains(folder)) {
            folders.push(parent);
        }
    }
    let consequence = "the next instance cannot take over, and `nodens status` does not work";
    let found = folders.iter().map(|dir| folder(facts, dir, consequence)).collect();
    Finding::worst(found, "no socket is configured")
}

/// Whether a folder, or the one in which it would be made, can be written by the server's user.
fn folder(facts: &Facts, dir: &Path, consequence: &str) -> Finding {
    let path = match facts.pid().map(|pid| procfs::within(pid, dir)) {
        Some(inside) if inside.exists() => inside,
        _ => dir.to_owned(),
    };
    let Some(there) = path.ancestors().find(|path| path.exists()) else {
        return Finding::skipped(format!("{} cannot be looked at", dir.display()));
    };
    let cure = format!(
        "make {0} writable for the server's user, on a volume that is not read-only (hostPath with DirectoryOrCreate, \
         chown, or StateDirectory= of the unit)",
        dir.display()
    );
    let problem = |why: String| {
        Finding::problem(format!("{}: {why}: {consequence}", dir.display()), cure.clone())
    };
    if !there.is_dir() {
        return problem(format!("{} is no folder", there.display()));
    }
    if let Ok(system) = statvfs(there) {
        if system.flags().contains(FsFlags::ST_RDONLY) {
            return problem("its file system is read-only".to_owned());
        }
        let free = system.blocks_available().saturating_mul(system.fragment_size());
        if free < LITTLE_SPACE {
            return problem(format!("{} KiB are free", free >> 10));
        }
        if system.files() > 0 && system.files_available() == 0 {
            return problem("no file can be made: all inodes are used".to_owned());
        }
    }
    if !is_writable(facts, there) {
        let owner = fs::metadata(there);
        let owner = owner.map_or(String::new(), |of| {
            format!(
                " ({} has owner {}:{}, mode {:04o})",
                there.display(),
                of.uid(),
                of.gid(),
                of.mode() & 0o7777
            )
        });
        return problem(format!("it cannot be written by the server's user{owner}"));
    }
    Finding::ok(format!("{} can be written", dir.display()))
}

/// By mode bits for the server's user, who may be another one than ours; by the kernel for ourselves.
fn is_writable(facts: &Facts, dir: &Path) -> bool {
    let needed = AccessFlags::W_OK | AccessFlags::X_OK;
    let own = nix::unistd::geteuid().as_raw();
    let server = facts.pid().and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok());
    let server = server.map(|of| (of.uid(), of.gid()));
    let asked = server.or_else(|| facts.serve.node.ours.user.map(|user| (user.uid, user.gid)));
    match (asked, fs::metadata(dir)) {
        (Some((uid, gid)), Ok(of)) if uid != own && uid != 0 => {
            let bits = match (of.uid() == uid, of.gid() == gid) {
                (true, _) => of.mode() >> 6,
                (false, true) => of.mode() >> 3,
                (false, false) => of.mode(),
            };
            bits & 0o3 == 0o3
        }
        _ => access(dir, needed).is_ok(),
    }
}

/// Whether the network of pods is there, or the node only starts.
pub fn cni(facts: &Facts) -> Finding {
    let folder = facts.path("/etc/cni/net.d");
    let kubelet = facts.path("/var/lib/kubelet").exists();
    let configs: Vec<String> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)))
        .collect();
    if !configs.is_empty() {
        return Finding::ok(format!("{}: {}", folder.display(), few(configs)));
    }
    if !folder.exists() && !kubelet {
        return Finding::skipped("no kubelet and no CNI on this machine");
    }
    let up = procfs::uptime().unwrap_or_default();
    let since = fs::metadata(&folder).and_then(|of| of.modified()).ok();
    let since = since.and_then(|at| SystemTime::now().duration_since(at).ok());
    let age = since.map_or(up, |since| since.min(up));
    let seen = format!(
        "{} has no configuration of a pod network, for {} s",
        folder.display(),
        age.as_secs()
    );
    if age < STARTING {
        return Finding::warning(
            format!("{seen}: the node may only be starting"),
            "wait for the pods of the CNI plugin; with hostNetwork Nodens answers without them",
        );
    }
    Finding::problem(
        seen,
        "look at the pods of the CNI plugin on this node (kubectl -n kube-system get pods -o wide): no pod can start before",
    )
}

/// Whether the clock agrees with the machine's own.
pub fn clock(_: &Facts) -> Finding {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return Finding::problem("the clock is before 1970", CLOCK_CURE);
    };
    let Some(rtc) = procfs::number("/sys/class/rtc/rtc0/since_epoch") else {
        return Finding::skipped("no real-time clock can be read");
    };
    let difference = now.as_secs().abs_diff(rtc);
    if difference > RTC_SKEW {
        return Finding::warning(
            format!("the clock differs by {difference} s from the real-time clock"),
            CLOCK_CURE,
        );
    }
    Finding::ok("as the real-time clock")
}

const CLOCK_CURE: &str = "let the machine follow time servers (chronyc tracking, timedatectl): certificates and tokens are refused by a wrong clock";
