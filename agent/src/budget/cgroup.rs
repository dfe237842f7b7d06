//! The memory limit that the kernel holds this process to: that of its control group and of those above it.
//!
//! Versions 1 and 2 of control groups say the same by different files (`memory.limit_in_bytes` and `memory.max`, ...). What
//! a container sees of them depends on its runtime: the whole path from the node's root, its own group as the root of a
//! mount, or nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file that is read here is longer, in octets; what is beyond is not looked at.
const MAX_FILE: u64 = 64 << 10;
/// Groups above one another that are looked at.
const MAX_LEVELS: usize = 16;
/// Version 1 says "no limit" by a number of pages that is about 2^63 octets.
const NO_LIMIT: u64 = 1 << 60;

/// The groups that hold this process to a limit, its own first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    levels: Vec<PathBuf>,
    is_v1: bool,
}

/// What a group says at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Octets that it may use; `None`: any number.
    pub limit: Option<u64>,
    /// Octets in use that the kernel cannot simply take back: all but the file cache.
    pub used: u64,
    /// How often it was throttled at `memory.high`; version 2 only.
    pub high_events: u64,
}

impl Cgroup {
    /// The group of this process.
    pub fn own() -> Self {
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        let found = Self::find(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        // Without a name space of its own, a container may be told a path that it does not see.
        found.unwrap_or_default().that_exist()
    }

    /// The groups by what `/proc/self/cgroup` and `/proc/self/mountinfo` say (cgroups(7), proc(5)).
    fn find(groups: &str, mounts: &str) -> Option<Self> {
        let lines = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?, parts.next()?, parts.next()?))
        });
        let is_memory = |controllers: &str| controllers.split(',').any(|name| name == "memory");
        let (mut v1, mut v2) = (None, None);
        for (number, controllers, path) in lines {
            match controllers {
                "" if number == "0" => v2 = Some(path),
                controllers if is_memory(controllers) => v1 = Some(path),
                _ => {}
            }
        }
        // Where both are mounted, memory is with version 1, if it is named there.
        let path = v1.or(v2)?;
        let mut found = None;
        for line in mounts.lines() {
            let Some((fields, rest)) = line.split_once(" - ") else { continue };
            let mut fields = fields.split(' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
            let mut rest = rest.split(' ');
            let (kind, options) = (rest.next().unwrap_or(""), rest.nth(1).unwrap_or(""));
            let fits = match v1 {
                Some(_) => kind == "cgroup" && is_memory(options),
                None => kind == "cgroup2",
            };
            if fits {
                found = Some((unescaped(root), unescaped(point)));
            }
        }
        let (root, point) = found?;
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        // Component by component, so that nothing below leaves no slash at the end.
        let folder: PathBuf = Path::new(&point).components().chain(below.components()).collect();
        let levels = folder.ancestors().take_while(|level| level.starts_with(&point));
        let levels = levels.take(MAX_LEVELS).map(Path::to_owned).collect();
        Some(Self { levels, is_v1: v1.is_some() })
    }

    /// Without those that are not there.
    fn that_exist(mut self) -> Self {
        self.levels.retain(|level| level.is_dir());
        self
    }

    /// What the groups say now, this process's own first.
    pub fn read(&self) -> Vec<Level> {
        self.levels.iter().map(|level| self.level(level)).collect()
    }

    fn level(&self, folder: &Path) -> Level {
        let number = |name: &str| -> Option<u64> { read(&folder.join(name))?.trim().parse().ok() };
        let within = |name: &str| number(name).filter(|limit| *limit < NO_LIMIT);
        let field = |file: &str, name: &str| -> Option<u64> {
            let text = read(&folder.join(file))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.trim().parse().ok()
        };
        let (limit, current, files) = if self.is_v1 {
            let files = ["total_inactive_file", "total_active_file"];
            ("memory.limit_in_bytes", "memory.usage_in_bytes", files)
        } else {
            ("memory.max", "memory.current", ["inactive_file", "active_file"])
        };
        let high = if self.is_v1 { None } else { within("memory.high") };
        let limit = [within(limit), high].into_iter().flatten().min();
        if limit.is_none() {
            return Level::default();
        }
        let cached: u64 = files.iter().filter_map(|name| field("memory.stat", name)).sum();
        Level {
            limit,
            used: number(current).unwrap_or(0).saturating_sub(cached),
            high_events: field("memory.events", "high").unwrap_or(0),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A path of mountinfo, in which blanks and the like are written as three octal digits.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "36 25 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      38 25 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn levels(groups: &str, mounts: &str) -> Vec<String> {
        let found = Cgroup::find(groups, mounts).unwrap_or_default();
        found.levels.iter().map(|level| level.display().to_string()).collect()
    }

    #[test]
    fn the_groups_of_containers_and_units_are_found() {
        let v2 = |root: &str| format!("30 24 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
        // In a container with a name space of its own: its group is the root.
        assert_eq!(levels("0::/\n", &v2("/")), ["/sys/fs/cgroup"]);
        // Without one: the path of the node, of which the mount shows this part.
        let path = "0::/kubepods/pod1/ctr\n";
        assert_eq!(levels(path, &v2("/kubepods/pod1/ctr")), ["/sys/fs/cgroup"]);
        assert_eq!(
            levels(path, &v2("/")),
            [
                "/sys/fs/cgroup/kubepods/pod1/ctr",
                "/sys/fs/cgroup/kubepods/pod1",
                "/sys/fs/cgroup/kubepods",
                "/sys/fs/cgroup",
            ]
        );
        // A mount that shows another part: its root is all that can be seen.
        assert_eq!(levels("0::/../other\n", &v2("/kubepods")), ["/sys/fs/cgroup"]);
        let groups = "9:cpu,cpuacct:/x\n4:memory:/system.slice/nodens.service\n0::/\n";
        assert_eq!(
            levels(groups, V1).first().map(String::as_str),
            Some("/sys/fs/cgroup/memory/system.slice/nodens.service")
        );
        let odd = "30 24 0:26 / /a\\040b rw shared:1 - cgroup2 cgroup rw\n";
        assert_eq!(levels("0::/x\n", odd), ["/a b/x", "/a b"]);
        for nothing in ["", "4:memory\n", "x", "3:cpu:/\n"] {
            assert!(levels(nothing, V1).is_empty() && levels("0::/\n", nothing).is_empty());
        }
    }

    #[test]
    fn both_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let levels = vec![folder.path().to_owned()];
        let v2 = Cgroup { levels: levels.clone(), is_v1: false };
        assert_eq!(v2.read(), [Level::default()]);
        write("memory.max", "67108864\n");
        write("memory.high", "max\n");
        write("memory.current", "50000000\n");
        write("memory.stat", "anon 1\ninactive_file 9999993\nactive_file 7\n");
        write("memory.events", "low 0\nhigh 3\nmax 9\n");
        let level = Level { limit: Some(64 << 20), used: 40_000_000, high_events: 3 };
        assert_eq!(v2.read(), [level]);
        write("memory.high", "33554432\n");
        assert_eq!(v2.read().first().unwrap().limit, Some(32 << 20));
        write("memory.high", "max\n");
        write("memory.max", "max\n");
        assert_eq!(v2.read(), [Level::default()]);
        let v1 = Cgroup { levels, is_v1: true };
        write("memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(v1.read(), [Level::default()]);
        write("memory.limit_in_bytes", "201326592\n");
        write("memory.usage_in_bytes", "9\n");
        write("memory.stat", "total_inactive_file 10\n");
        assert_eq!(v1.read().first().unwrap().limit, Some(192 << 20));
    }

    #[test]
    fn this_process_has_a_group_or_none() {
        assert!(Cgroup::own().read().len() <= MAX_LEVELS);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(groups in "\\PC{0,80}|[0-9:/a-z,\n]{0,80}", mounts in "\\PC{0,120}|[0-9:/ \\-a-z\n]{0,120}") {
            let _ = Cgroup::find(&groups, &mounts);
        }
    }
}
