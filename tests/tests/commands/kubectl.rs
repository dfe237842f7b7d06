//! `kubectl nodens` with a kubectl on the PATH that lists two nodes' pods, runs what it is told to run in them, and writes
//! down how it was called.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::process::{self, Nodens};

/// Of each pod: node, name, phase, when it was deleted, whether it is ready.
const PODS: &str = "worker-b\tnodens-b1\tRunning\t\tTrue
worker-a\tnodens-a0\tRunning\t2026-01-01T00:00:00Z\tTrue
worker-a\tnodens-a1\tRunning\t\tTrue
\tnodens-new\tPending\t\t
";

/// `exec NAME -c nodens -- /nodens WORDS`: the real binary, with the socket of the test's server.
const KUBECTL: &str = r#"#!/bin/sh
echo "$*" >> "@folder@/calls"
while [ $# -gt 0 ]; do
  case $1 in
    --namespace) [ "$2" != broken ] || { echo "Error from server (Forbidden): pods is forbidden" >&2; exit 1; }; shift 2 ;;
    --context | --kubeconfig) shift 2 ;;
    *) break ;;
  esac
done
if [ "$1" = get ]; then
  case "$*" in *spec.nodeName=*) node=${*##*spec.nodeName=}; grep "^$node" "@folder@/pods"; exit 0 ;; esac
  cat "@folder@/pods"; exit
fi
pod=$2; shift 6
case "$pod $1" in
  "nodens-b1 probe") echo "not ready: upstreams" >&2; echo "command terminated with exit code 7" >&2; exit 7 ;;
  "nodens-b1 check") exec sleep 60 ;;
  *" observe") case "$*" in *json*) echo "{\"name\": \"$pod\"}"; exit 0 ;; esac
    echo "query by $pod"; echo "and another"; exit 0 ;;
esac
NODENS_SOCKET=@socket@ exec @binary@ "$@"
"#;

struct Plugin {
    folder: TempDir,
    _server: Nodens,
}

impl Plugin {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = super::server();
        let (here, binary) = (folder.path(), process::binary().canonicalize().unwrap());
        let socket = server.folder().join("nodens.sock");
        let text = KUBECTL
            .replace("@folder@", here.to_str().unwrap())
            .replace("@socket@", socket.to_str().unwrap())
            .replace("@binary@", binary.to_str().unwrap());
        let kubectl = here.join("kubectl");
        std::fs::write(&kubectl, text).unwrap();
        std::fs::set_permissions(&kubectl, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(here.join("pods"), PODS).unwrap();
        symlink(binary, here.join("kubectl-nodens")).unwrap();
        Self { folder, _server: server }
    }

    fn here(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        self.run_with(line, self.folder.path())
    }

    fn run_with(&self, line: &str, path: &Path) -> Output {
        Command::new(self.here("kubectl-nodens"))
            .args(line.split(' '))
            .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.here("calls")).unwrap_or_default()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_nodes_are_asked_in_their_order() {
    let plugin = Plugin::new();
    let output = plugin.run("--context lab status");
    let text = out(&output);
    assert!(output.status.success(), "{}", err(&output));
    let titles: Vec<&str> = text.lines().filter(|line| line.starts_with("== ")).collect();
    // Of the two pods of a node, the one that is not being deleted; none of a pod without a node.
    assert_eq!(titles, ["== worker-a (nodens-a1)", "== worker-b (nodens-b1)"]);
    assert_eq!(text.lines().filter(|line| line.starts_with("server ")).count(), 2, "{text}");
    let calls = plugin.calls();
    let wanted = "--context lab --namespace kube-system exec nodens-a1 -c nodens -- /nodens status";
    assert!(calls.lines().any(|line| line == wanted), "{calls}");
    assert!(calls.contains("get pods -l app.kubernetes.io/name=nodens"), "{calls}");
}

#[test]
fn json_of_all_nodes_is_one_object() {
    let plugin = Plugin::new();
    let output = plugin.run("status -o json");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(all["worker-a"]["pid"].is_u64() && all["worker-b"]["pid"].is_u64(), "{all}");
    // One node is no exception, so that a script need not know how many there are.
    let one: Value =
        serde_json::from_slice(&plugin.run("status --node worker-b -o json").stdout).unwrap();
    assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["worker-b"]);
}

#[test]
fn one_node_has_the_terminal_and_its_exit_code() {
    let plugin = Plugin::new();
    let output = plugin.run("-n dns cache show --node=worker-b");
    assert!(output.status.success() && !out(&output).contains("=="), "{}", out(&output));
    assert!(
        plugin.calls().contains("--namespace dns get pods")
            && plugin.calls().contains("spec.nodeName=worker-b")
    );
    let output = plugin.run("--node worker-b probe ready");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn failures_are_told_by_node_and_in_the_exit_code() {
    let plugin = Plugin::new();
    let output = plugin.run("probe ready");
    let text = out(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("== worker-b (nodens-b1)\n! not ready: upstreams\n"), "{text}");
    assert!(!text.contains("terminated with exit code"), "{text}");
    // A node that hangs holds up the others for so long only.
    let begun = Instant::now();
    let output = plugin.run("--timeout 1s check -");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(out(&output).contains("! no end within 1s (--timeout)"), "{}", out(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn streams_carry_the_node_on_each_line() {
    let plugin = Plugin::new();
    let output = plugin.run("observe --rcode SERVFAIL");
    let text = out(&output);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let wanted = [
        "worker-a   and another",
        "worker-a   query by nodens-a1",
        "worker-b   and another",
        "worker-b   query by nodens-b1",
    ];
    assert_eq!(lines, wanted);
    // Each line of JSON stays one.
    let output = plugin.run("observe -o json");
    let mut nodes: Vec<(String, String)> = out(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            (line["node"].as_str().unwrap().to_owned(), line["name"].as_str().unwrap().to_owned())
        })
        .collect();
    nodes.sort();
    let wanted = [("worker-a", "nodens-a1"), ("worker-b", "nodens-b1")];
    assert_eq!(nodes, wanted.map(|(node, name)| (node.to_owned(), name.to_owned())));
    let output = plugin.run("top");
    assert!(err(&output).contains("choose one with --node"), "{}", err(&output));
}

#[test]
fn what_cannot_be_done_is_said() {
    let plugin = Plugin::new();
    for (line, wanted) in [
        ("upgrade", "there is no command \"upgrade\" for pods, expected one of status, doctor"),
        ("-n broken status", "kubectl cannot list the pods: Error from server (Forbidden)"),
        (
            "--node worker-z status",
            "there is no pod of Nodens in namespace kube-system with app.kubernetes.io/name=nodens on worker-z",
        ),
    ] {
        let output = plugin.run(line);
        assert!(
            !output.status.success() && err(&output).contains(wanted),
            "{line}: {}",
            err(&output)
        );
    }
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(plugin.here("kubectl-nodens"))
        .arg("status")
        .env("PATH", empty.path())
        .output()
        .unwrap();
    assert!(
        err(&output).contains("cannot run kubectl") && err(&output).contains("install it"),
        "{}",
        err(&output)
    );
    let output = plugin.run("--version");
    assert!(out(&output).starts_with("kubectl-nodens 0."), "{}", out(&output));
}
