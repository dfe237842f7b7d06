//! The README's commands, run as a reader runs them: `scripts/run`, its dig lines, and an edit of an object.
//!
//! The tree is copied aside, with other ports, and `cargo` is one that does nothing: the binary is built already.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::ports::Ports;
use tests::process;
use tests::{http, poll, ports};

const SOON: Duration = Duration::from_secs(20);

const README: &str = include_str!("../../README.md");
const LOOKUPS: &str = include_str!("../../docs/lookups.md");

/// `scripts/run`, running in a copy of the tree.
struct Demo {
    child: Child,
    tree: TempDir,
    ports: Ports,
}

impl Demo {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = tempfile::Builder::new().prefix("nodens-readme-").tempdir().unwrap();
        let (here, ports) = (tree.path(), ports::several());
        copy(&root.join("scripts/run"), &here.join("scripts/run"));
        for entry in std::fs::read_dir(root.join("manifests/demo/objects")).unwrap() {
            let from = entry.unwrap().path();
            copy(&from, &here.join("manifests/demo/objects").join(from.file_name().unwrap()));
        }
        let corefile = here.join("manifests/demo/Corefile");
        copy(&root.join("manifests/demo/Corefile"), &corefile);
        let mut text = std::fs::read_to_string(&corefile).unwrap();
        let as_written =
            [(5353, ports.dns), (8080, ports.health), (8181, ports.ready), (9153, ports.metrics)];
        for (port, other) in as_written {
            let (old, new) = (format!(":{port}"), format!(":{other}"));
            assert!(text.contains(&old), "the demo's Corefile has no {old}");
            text = text.replace(&old, &new);
        }
        std::fs::write(&corefile, text).unwrap();
        let cargo = here.join("bin/cargo");
        write(&cargo, "#!/bin/sh\n");
        std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(here.join("target/debug")).unwrap();
        symlink(process::binary().canonicalize().unwrap(), here.join("target/debug/nodens"))
            .unwrap();

        let path = format!("{}:{}", here.join("bin").display(), std::env::var("PATH").unwrap());
        let mut child = Command::new("sh")
            .arg(here.join("scripts/run"))
            .env("PATH", path)
            .env_remove("CARGO_TARGET_DIR")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = collect(child.stdout.take().unwrap());
        let demo = Self { child, tree, ports };
        let ready = poll::until(SOON, || {
            http::get(([127, 0, 0, 1], ports.ready).into(), "/ready", SOON)
                .is_ok_and(|r| r.status == 200)
        });
        let said: Vec<String> = lines.try_iter().collect();
        assert!(ready, "not ready; it said:\n{}", said.join("\n"));
        // The dig lines that the script says are for the demo's own port, as the README's.
        assert!(
            said.iter().filter(|line| line.contains("dig @127.0.0.1 -p 5353")).count() > 3,
            "{said:?}"
        );
        demo
    }

    /// Runs a dig line of the README at our port.
    fn dig(&self, line: &str) -> String {
        let line = line.replace("-p 5353", &format!("-p {} +tries=3 +time=2", self.ports.dns));
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output();
        let output =
            output.unwrap_or_else(|error| panic!("{line}: {error}; install bind9-dnsutils"));
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs commands, each of which has to print what its page says.
    fn compare(&self, commands: &[(String, Vec<String>)]) {
        for (command, expected) in commands {
            let printed = self.dig(command);
            let printed: Vec<String> = printed.lines().map(words).collect();
            assert_eq!(&printed, expected, "{command}");
            println!("{command}\n    {}", printed.join("\n    "));
        }
    }

    fn object(&self, name: &str) -> PathBuf {
        self.tree.path().join("manifests/demo/objects").join(name)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

fn collect(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody listens once the demo runs; it is read all the same, so that it never blocks.
            let _ = send.send(line);
        }
    });
    lines
}

/// The commands of a page's console blocks, and what it says that they print.
fn shown(page: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((_, output))) => output.push(words(line)),
            (None, None) => panic!("output before any command: {line}"),
        }
    }
    commands
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_on_look_ups_prints_what_it_says() {
    let commands = shown(LOOKUPS);
    assert!(commands.len() >= 8, "{commands:?}");
    Demo::start().compare(&commands);
}

#[test]
fn the_readmes_commands_print_what_it_says() {
    let commands = shown(README);
    assert!(commands.len() >= 4, "{commands:?}");
    for name in ["scripts/run", "scripts/test"] {
        assert!(README.contains(name));
    }
    let mut demo = Demo::start();
    demo.compare(&commands);

    // "Edit a file in manifests/demo/objects and ask again: the answer changes within a second."
    let web = demo.object("web.yaml");
    let question = "dig @127.0.0.1 -p 5353 +short web.shop.svc.cluster.local";
    let mut address = "10.96.12.34".to_owned();
    let mut times = Vec::new();
    for n in 1..=3 {
        let next = format!("10.96.99.{n}");
        let text = std::fs::read_to_string(&web).unwrap().replace(&address, &next);
        // As editors save: once in place, else aside and renamed over the old one.
        if n == 2 {
            std::fs::write(&web, text).unwrap();
        } else {
            std::fs::write(web.with_extension("swp"), text).unwrap();
            std::fs::rename(web.with_extension("swp"), &web).unwrap();
        }
        let begun = Instant::now();
        poll::wait_for("the edited object's answer", SOON, || demo.dig(question).trim() == next);
        times.push(begun.elapsed());
        address = next;
    }
    println!("an edit is answered after {times:?}");
    assert!(times.iter().min().is_some_and(|time| *time < Duration::from_secs(1)), "{times:?}");
    let gone = demo.object("db.yaml");
    std::fs::remove_file(gone).unwrap();
    let db = "dig @127.0.0.1 -p 5353 +short db-0.db.shop.svc.cluster.local";
    poll::wait_for("the removed object's name to go", SOON, || demo.dig(db).trim().is_empty());

    // Ctrl-C ends it, and well.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut status = None;
    poll::wait_for("the end after Ctrl-C", SOON, || {
        status = demo.child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

/// The lines that ask the demo what it knows, as README has them.
#[test]
fn the_demo_tells_what_it_knows() {
    let demo = Demo::start();
    let is_asked = |line: &&str| line.contains("--socket target/demo.sock");
    let lines: Vec<&str> = README.lines().filter(is_asked).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, wanted) in lines.iter().zip([
        "OK: nothing is wrong",
        "there is no Service `wbe` in namespace `shop`; similar ones there: `web`",
        "checks in ",
    ]) {
        let run = || {
            let mut command = Command::new("sh");
            let output = command.args(["-c", line]).current_dir(demo.tree.path()).output();
            String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
        };
        // The socket is there a moment after the first answer.
        poll::wait_for(line, SOON, || run().contains(wanted));
    }
}
