//! How each peer is configured and started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use super::ask::{Ask, Asker};
use super::content::Content;
use super::{Peer, find, zone};
use crate::api::certificates::{Authority, Pair};
use crate::ports;

/// The name in the certificates of encrypted peers.
pub const SERVER_NAME: &str = "dns.peers.test";

/// How often a start is tried again with other ports when one was taken meanwhile.
const TRIES: usize = 3;

/// A peer with its further addresses.
#[derive(Debug)]
pub struct Encrypted {
    /// The server; its address is that of UDP and TCP.
    pub peer: Peer,
    /// DNS over TLS.
    pub tls: SocketAddr,
    /// DNS over HTTPS, at `/dns-query`.
    pub https: SocketAddr,
}

/// A certificate of a new authority for [`SERVER_NAME`].
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The server's certificate and key.
    pub server: Pair,
}

impl Certificates {
    /// Makes new ones.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let made = Authority::new("peers").and_then(|authority| {
            let server = authority.server(&[SERVER_NAME])?;
            Ok(Self { authority: authority.pem().to_owned(), server })
        });
        made.unwrap_or_else(|error| panic!("no certificates: {error:#}"))
    }

    fn write(&self, folder: &Path) {
        write(folder, "cert.pem", &self.server.certificate);
        write(folder, "key.pem", &self.server.key);
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

/// Knot DNS with the zones of [`zone`]; two of them it signs.
#[must_use]
pub fn knot() -> Peer {
    with_ports(|[address], folder| {
        let (path, port) = (folder.display(), address.port());
        let zones: String = zone::zones()
            .into_iter()
            .map(|(name, text)| {
                write(folder, &format!("{name}zone"), &text);
                let signed = if name.starts_with("plain") { "off" } else { "on" };
                format!("  - domain: {name}\n    file: {name}zone\n    dnssec-signing: {signed}\n")
            })
            .collect();
        let conf = format!(
            "server:\n  rundir: {path}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\nlog:\n  - target: stderr\n    any: warning\ndatabase:\n  storage: {path}\n\
             policy:\n  - id: one\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
             template:\n  - id: default\n    storage: {path}\n    dnssec-policy: one\n    zonefile-sync: -1\n    \
             journal-content: none\n    semantic-checks: off\nzone:\n{zones}"
        );
        let mut command = command("knotd");
        command.arg("-c").arg(write(folder, "knot.conf", &conf));
        ("knotd", command)
    })
}

/// Unbound as a validating resolver of Knot's zones, with DNS over TLS and HTTPS.
///
/// # Panics
/// When `knot` does not print its key.
#[must_use]
pub fn unbound(knot: SocketAddr, certificates: &Certificates) -> Encrypted {
    let anchor = anchor(knot);
    let mut all = None;
    let peer = with_ports(|addresses, folder| {
        certificates.write(folder);
        let [address, tls, https] = addresses;
        all = Some((tls, https));
        let listen: String =
            addresses.iter().map(|a| format!("  interface: 127.0.0.1@{}\n", a.port())).collect();
        let stubs: String = zone::zones()
            .iter()
            .map(|(name, _)| {
                format!("stub-zone:\n  name: {name}\n  stub-addr: 127.0.0.1@{}\n", knot.port())
            })
            .collect();
        let conf = format!(
            "server:\n  directory: {path}\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  do-daemonize: no\n  \
             use-syslog: no\n  logfile: \"\"\n  num-threads: 1\n{listen}  port: {port}\n  tls-port: {tls}\n  \
             https-port: {https}\n  tls-service-key: key.pem\n  tls-service-pem: cert.pem\n  do-ip6: no\n  \
             do-not-query-localhost: no\n  rrset-roundrobin: no\n  local-zone: \"test.\" nodefault\n  ede: yes\n  \
             module-config: \"validator iterator\"\n  qname-minimisation: no\n  target-fetch-policy: \"0 0 0 0 0\"\n  \
             max-udp-size: 1232\n  tcp-idle-timeout: 60000\n  trust-anchor: \"{anchor}\"\n  \
             trust-anchor: \"bogus.test. DS 1 13 2 {wrong}\"\n{stubs}remote-control:\n  control-enable: no\n",
            path = folder.display(),
            port = address.port(),
            tls = tls.port(),
            https = https.port(),
            wrong = "00".repeat(32),
        );
        let mut command = command("unbound");
        command.arg("-d").arg("-c").arg(write(folder, "unbound.conf", &conf));
        ("unbound", command)
    });
    let (tls, https) = all.unwrap_or((peer.address(), peer.address()));
    Encrypted { peer, tls, https }
}

/// dnsdist in front of Knot, with DNS over TLS and HTTPS.
#[must_use]
pub fn dnsdist(knot: SocketAddr, certificates: &Certificates) -> Encrypted {
    let mut all = None;
    let peer = with_ports(|[address, tls, https], folder| {
        certificates.write(folder);
        all = Some((tls, https));
        let conf = format!(
            "setLocal('{address}')\naddTLSLocal('{tls}', 'cert.pem', 'key.pem')\n\
             addDOHLocal('{https}', 'cert.pem', 'key.pem', '/dns-query')\n\
             newServer({{address='{knot}', checkName='a1.peers.test.'}})\nsetSecurityPollSuffix('')\n"
        );
        let mut command = command("dnsdist");
        command.args(["--supervised", "--disable-syslog", "-C"]);
        command.arg(write(folder, "dnsdist.conf", &conf));
        ("dnsdist", command)
    });
    let (tls, https) = all.unwrap_or((peer.address(), peer.address()));
    Encrypted { peer, tls, https }
}

/// dnsmasq in front of another server, without a cache of its own.
#[must_use]
pub fn dnsmasq(server: SocketAddr) -> Peer {
    with_ports(|[address], folder| {
        let user = if Uid::effective().is_root() { "user=root\n" } else { "" };
        let conf = format!(
            "port={}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\ncache-size=0\n\
             servers-file={folder}/servers\npid-file={folder}/pid\nlog-facility=-\nproxy-dnssec\n\
             edns-packet-max=1232\n{user}",
            address.port(),
            folder = folder.display()
        );
        write(folder, "servers", &format!("server=127.0.0.1#{}\n", server.port()));
        let mut command = command("dnsmasq");
        command.arg("-k").arg("-C").arg(write(folder, "dnsmasq.conf", &conf));
        ("dnsmasq", command)
    })
}

/// Turns a dnsmasq to another server.
///
/// # Panics
/// When it is gone.
pub fn point_dnsmasq(dnsmasq: &Peer, server: SocketAddr) {
    write(dnsmasq.folder(), "servers", &format!("server=127.0.0.1#{}\n", server.port()));
    dnsmasq.signal(Signal::SIGHUP);
}

/// What a peer calls itself, for the log of a test: the first line that `arguments` print.
#[must_use]
pub fn version(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = command(program).args(arguments).output() else { return "unknown".into() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// The key of `peers.test.`, as a trust anchor.
fn anchor(knot: SocketAddr) -> String {
    let answer = Asker::new(knot).and_then(|mut a| a.ask(&Ask::new("peers.test.", zone::DNSKEY)));
    let content = answer.map_err(|e| e.to_string()).and_then(|answer| Content::of(&answer));
    let content = content.unwrap_or_else(|error| panic!("no key of peers.test.: {error}"));
    match content.sections[0].first().map(|record| record.data.split_at(4)) {
        Some(([high, low, protocol, algorithm], key)) => {
            let flags = u16::from_be_bytes([*high, *low]);
            format!("peers.test. DNSKEY {flags} {protocol} {algorithm} {}", STANDARD.encode(key))
        }
        _ => panic!("no key of peers.test.: {content:?}"),
    }
}

/// Starts the server of `configure` on new ports, and again on others if that fails.
fn with_ports<const N: usize>(
    mut configure: impl FnMut([SocketAddr; N], &Path) -> (&'static str, Command),
) -> Peer {
    for _ in 0..TRIES {
        let folder = tempfile::Builder::new().prefix("nodens-peer-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no folder for a peer: {error}"));
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
        addresses.iter_mut().for_each(|address| address.set_port(ports::one()));
        let (name, mut command) = configure(addresses, folder.path());
        if let Some(peer) = Peer::start(name, folder, &mut command, addresses[0]) {
            return peer;
        }
    }
    panic!("a peer did not start in {TRIES} tries; see above");
}

fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// Writes a file and returns its path.
fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
