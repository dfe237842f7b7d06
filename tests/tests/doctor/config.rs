//! The Corefile, flags, and whom it forwards to.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::unistd::Uid;
use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::ports;
use tests::process::{Ready, Setup, binary};

use super::{SOON, resolver};

/// A folder that everybody may look into.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// The categories that look at the Corefile, of one that no server serves.
fn examined(corefile: &str, arguments: &[&str]) -> Findings {
    let folder = folder();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let path = path.to_string_lossy();
    let mut all =
        vec!["config", "network", "--socket", "/nonexistent/nodens.sock", "-conf", &*path];
    all.extend(arguments);
    Findings::of(&all)
}

/// Its mode forbids it; which bit of which file is told. A process of root reads everything, so another user asks.
#[test]
fn a_corefile_that_cannot_be_read() {
    let folder = folder();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, ". {\n    whoami\n}\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let path = path.to_string_lossy().into_owned();
    let arguments = ["config", "--socket", "/nonexistent/nodens.sock", "-conf", &path];
    let found = match Uid::effective().is_root() {
        true => {
            // The binary may be where nobody may look.
            let program = folder.path().join("nodens");
            std::fs::copy(binary(), &program).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            Findings::with(&mut command, &arguments)
        }
        false => Findings::of(&arguments),
    };
    found.demand("corefile", "problem", "has mode 0000");
    let cure = found.check("corefile")["cure"].as_str().unwrap().to_owned();
    assert!(cure.contains("chmod a+r"), "{cure}");
    let found = Findings::of(&[
        "config",
        "--socket",
        "/nonexistent/nodens.sock",
        "-conf",
        "/nonexistent/Corefile",
    ]);
    found.demand("corefile", "problem", "No such file");
}

#[test]
fn mistakes_and_lines_without_effect() {
    let port = ports::one();
    let found =
        examined(&format!(".:{port} {{\n    bind 127.0.0.1\n    forwrad . 192.0.2.1\n}}\n"), &[]);
    found.demand("corefile-valid", "problem", "did you mean \"forward\"?");
    let found = examined(
        &format!(".:{port} {{\n    bind 127.0.0.1\n    forward . 192.0.2.1\n    whoami\n}}\n"),
        &[],
    );
    found.demand("corefile-valid", "warning", "is never asked");
    found.demand("corefile", "ok", "octets");
}

#[test]
fn flags_and_corefile_at_odds() {
    let found =
        examined(".:53 {\n    bind 127.0.0.1\n    whoami\n}\n", &["-localip", "169.254.20.10"]);
    found.demand("flags", "problem", "at which no server block listens");
    let found = examined(".:53 {\n    bind 127.0.0.1\n    whoami\n}\n", &["-localip", "fe80::1"]);
    found.demand("flags", "problem", "means nothing without an interface");
}

/// The kernel has no driver for the link: by the lists of modules that the node has.
#[test]
fn a_kernel_without_the_driver() {
    let node = folder();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let modules = node.path().join("lib/modules").join(release.trim());
    std::fs::create_dir_all(&modules).unwrap();
    std::fs::write(modules.join("modules.dep"), "kernel/drivers/net/ifb.ko.zst:\n").unwrap();
    std::fs::write(modules.join("modules.builtin"), "kernel/net/ipv4/tcp_cubic.ko\n").unwrap();
    let root = node.path().to_string_lossy().into_owned();
    let corefile = ".:53 {\n    bind 169.254.20.10\n    whoami\n}\n";
    let found = examined(corefile, &["-localip", "169.254.20.10", "--root", &root]);
    found.demand("link-driver", "problem", "no driver for dummy links");
    let found = examined(
        corefile,
        &["-localip", "169.254.20.10", "--root", &root, "--link-fallback", "ifb"],
    );
    found.demand("link-driver", "ok", "ifb");
}

#[test]
fn nobody_to_forward_to() {
    let folder = folder();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 0.0.0.0\n").unwrap();
    let port = ports::one();
    let found = examined(
        &format!(".:{port} {{\n    bind 127.0.0.1\n    forward . {}\n}}\n", file.display()),
        &[],
    );
    found.demand("forward-targets", "problem", "is nobody's address");
}

/// An upstream at a loopback address: it answers, from this node.
#[test]
fn an_upstream_is_a_stub_of_this_node() {
    let upstream = resolver();
    let port = ports::one();
    let found = examined(
        &format!(".:{port} {{\n    bind 127.0.0.1\n    forward . {}\n}}\n", upstream.address()),
        &[],
    );
    found.demand("forward-stub", "warning", "is a stub of this node");
    let found =
        examined(&format!(".:{port} {{\n    bind 127.0.0.1\n    forward . 192.0.2.1\n}}\n"), &[]);
    found.demand("forward-stub", "ok", "no upstream is a loopback address");
}

/// systemd-resolved asks us, and we ask it: by its own file, without a query.
#[test]
fn a_loop_through_the_nodes_stub() {
    let node = folder();
    let resolved = node.path().join("run/systemd/resolve");
    std::fs::create_dir_all(&resolved).unwrap();
    std::fs::write(resolved.join("resolv.conf"), "nameserver 169.254.20.10\n").unwrap();
    let root = node.path().to_string_lossy().into_owned();
    let corefile = ".:53 {\n    bind 169.254.20.10\n    forward . 127.0.0.53\n}\n";
    let found = examined(corefile, &["-localip", "169.254.20.10", "--root", &root]);
    found.demand("forward-loop", "problem", "127.0.0.53:53 is forwarded to, and");
}

/// Two servers that forward to each other, found by the probes of the running one.
#[test]
fn a_loop_of_two_servers() {
    let port = ports::one();
    let corefile = ".:@dns@ {\n    bind 127.0.0.1\n    forward . 127.0.0.1:@other@\n    loop\n}\n";
    let first = Setup::new(corefile).word("other", port).ready(Ready::No).start();
    let second = corefile.replace("@dns@", &port.to_string());
    let other = Setup::new(&second).word("other", first.dns().port()).ready(Ready::No).start();
    wait_for("the loop", SOON, || {
        let found =
            [Findings::of_server(&first, &["config"]), Findings::of_server(&other, &["config"])];
        found.iter().any(|found| found.has("forward-loop", "problem", "come back to this server"))
    });
}

#[test]
fn another_program_has_the_port() {
    let port = ports::one();
    let _socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let found = examined(&format!(".:{port} {{\n    bind 127.0.0.1\n    whoami\n}}\n"), &[]);
    let own = format!("(process {}) has 127.0.0.1:{port} over udp", std::process::id());
    found.demand("port", "problem", &own);
    // At another address of the same port it is none of ours.
    let found = examined(&format!(".:{port} {{\n    bind 127.0.0.2\n    whoami\n}}\n"), &[]);
    found.demand("port", "ok", "beside it");
}
