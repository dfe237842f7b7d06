//! The resolvers: how the program of each is built and run. Their sources are in `tests/resolvers`; each reads names and writes a
//! line for each.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tests::peers::{find, skip};

use crate::node::world::Pod;

/// How long one look-up may take, with the time-outs of a resolver.
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    Glibc,
    /// Which asks for A alone.
    GlibcV4,
    Musl,
    Go,
    Cares,
    Node,
    Java,
}

/// Those that the lane is to run: all with NODENS_RESOLVERS=all, else those whose packages are small or there in any case. One
/// that is not installed is skipped, or fails the test where it may not be.
pub fn of_this_lane() -> Vec<Resolver> {
    use Resolver::{Cares, Glibc, GlibcV4, Go, Java, Musl, Node};
    let all = std::env::var("NODENS_RESOLVERS").is_ok_and(|which| which == "all");
    let small = [Glibc, GlibcV4, Musl, Go, Cares];
    let large = if all { &[Node, Java][..] } else { &[] };
    let is_here = |resolver: &Resolver| {
        let found = resolver
            .needs()
            .iter()
            .find(|needed| find(needed).is_none() && !Path::new(needed).is_file());
        if let Some(missing) = found {
            skip(&format!("{resolver:?} needs {missing} (scripts/test installs it)"));
        }
        found.is_none()
    };
    small.iter().chain(large).copied().filter(is_here).collect()
}

impl Resolver {
    /// Programs of the path, and files.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Glibc | Self::GlibcV4 => &["cc"],
            Self::Musl => &["musl-gcc"],
            Self::Go => &["go"],
            Self::Cares => &["cc", "/usr/include/ares.h"],
            Self::Node => &["node"],
            Self::Java => &["javac", "java"],
        }
    }

    /// Its name and version.
    pub fn version(self) -> String {
        let script = match self {
            Self::Glibc => "getconf GNU_LIBC_VERSION",
            Self::GlibcV4 => "echo glibc, A only",
            Self::Musl => "echo musl $(/lib/ld-musl-*.so.1 2>&1 | sed -n 's/^Version //p')",
            Self::Go => "go version | sed -E 's/.* go([0-9.]+) .*/Go \\1/'",
            Self::Cares => {
                "sed -nE 's/^#define ARES_VERSION_STR \"(.*)\"/c-ares \\1/p' /usr/include/ares_version.h"
            }
            Self::Node => "node --version | sed 's/^v/Node /'",
            Self::Java => "java --version | sed -nE '1s/^[a-z]+ ([0-9.]+).*/Java \\1/p'",
        };
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Builds its program in a folder, if it is one to be built, and returns the command that runs it.
    pub fn build(self, folder: &Path) -> Vec<OsString> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("resolvers");
        let source = |name: &str| sources.join(name).into_os_string();
        let program = folder.join(format!("{self:?}")).into_os_string();
        let out = [OsStr::new("-o"), &program];
        match self {
            Self::Glibc | Self::GlibcV4 => {
                make(Command::new("cc").args(out).arg(source("getaddrinfo.c")));
            }
            Self::Musl => {
                make(
                    Command::new("musl-gcc").arg("-static").args(out).arg(source("getaddrinfo.c")),
                );
            }
            Self::Cares => make(Command::new("cc").args(out).arg(source("ares.c")).arg("-lcares")),
            Self::Go => make(
                Command::new("go")
                    .arg("build")
                    .args(out)
                    .arg(source("resolve.go"))
                    // Nothing but the standard library; nothing is fetched.
                    .envs([("GO111MODULE", "off"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local")])
                    .env("GOCACHE", std::env::temp_dir().join("nodens-go-cache")),
            ),
            Self::Node => return vec!["node".into(), source("resolve.js")],
            Self::Java => {
                make(Command::new("javac").arg("-d").arg(folder).arg(source("Resolve.java")));
                return vec!["java".into(), "-cp".into(), folder.into(), "Resolve".into()];
            }
        }
        let mut words = vec![program];
        words.extend((self == Self::GlibcV4).then(|| "-4".into()));
        words
    }
}

fn make(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A resolver that runs in a pod; killed when dropped.
pub struct Running {
    child: Child,
    names: ChildStdin,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(pod: &Pod, words: &[OsString]) -> Self {
        let words = words.to_vec();
        let mut child = pod.run(move || {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.env("GODEBUG", "netdns=go").env_remove("LOCALDOMAIN").env_remove("RES_OPTIONS");
            command.spawn().unwrap()
        });
        let (names, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, names, lines }
    }

    /// Looks names up, one after the other.
    pub fn look_up(&mut self, names: &[String]) -> Vec<String> {
        let look_up = |name: &String| {
            writeln!(self.names, "{name}").unwrap();
            let line = self.lines.recv_timeout(PATIENCE);
            line.unwrap_or_else(|error| panic!("no answer to {name}: {error}"))
        };
        names.iter().map(look_up).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
