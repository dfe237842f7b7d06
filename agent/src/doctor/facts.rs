//! What all checks of a node look at: the running server, its flags, its configuration and the kernel's network. Gathered
//! once, before the checks run.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netsetup::{Kernel, Observed};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::procfs::{self, Process};
use crate::args::{Cli, DEFAULT_SOCKET, Doctor, Serve};
use crate::assemble::own_addresses;
use crate::check;
use crate::cluster::Spec;
use crate::control::{self, Request};
use crate::corefile;
use crate::node::{self, NodeConfig, Origin};
use crate::plan::Plan;
use crate::plugin::forward::targets_of;
use crate::plugin::kubernetes::Exposed;
use crate::plugin::{Block, bind};
use crate::upstream::Target;
use crate::upstream::address::NamedTarget;
use crate::upstream::tls::TlsFiles;
use crate::wire::Name;

/// How long a running server may take to answer, and the kernel. It is this machine, so milliseconds are much.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long reading the configuration may take.
const READING: Duration = Duration::from_millis(350);
/// How long looking for other instances may take: every descriptor of every process is looked at.
const LOOKING: Duration = Duration::from_millis(250);
/// What `-conf` is if it is not given.
const DEFAULT_CONF: &str = "Corefile";
/// Where the Corefile is if neither flags nor a running server name one.
const USUAL_COREFILE: &str = "/etc/nodens/Corefile";

/// A node, as far as it concerns the checks.
#[derive(Debug)]
pub struct Facts {
    /// Where the node's file system is.
    pub root: PathBuf,
    /// A name outside the cluster.
    pub outside_name: Option<String>,
    /// The server's flags: of the one that runs, or those that were given.
    pub serve: Serve,
    /// What the running server says of itself, or why it says nothing.
    pub status: Result<Value, String>,
    /// The processes of Nodens in this network, servers and supervisors, that have to do with this configuration.
    pub instances: Vec<Process>,
    /// What is configured.
    pub setup: Setup,
    /// What the flags want of the network.
    pub wanted: Result<NodeConfig, String>,
    /// What the kernel has.
    pub observed: Result<Observed, String>,
}

/// What the Corefile says, as far as checks look at it.
#[derive(Debug, Default)]
pub struct Setup {
    /// The file.
    pub file: PathBuf,
    /// Mistakes, as `nodens check` prints them.
    pub errors: Vec<String>,
    /// Lines that work and should be looked at.
    pub warnings: Vec<String>,
    /// Where it listens.
    pub listening: Vec<SocketAddr>,
    /// The clusters that it watches.
    pub clusters: Vec<Spec>,
    /// The zones of the `kubernetes` directives that are no reverse zones, with a dot at the end.
    pub domains: Vec<String>,
    /// Where blocks listen that answer for the Service kubernetes in the first of these zones.
    pub serving: Vec<SocketAddr>,
    /// Who is asked for other names.
    pub upstreams: Vec<Asked>,
    /// What was left out of the files that name upstreams, and why.
    pub notes: Vec<String>,
    /// Upstreams by name that are to become those of their addresses.
    named: Vec<(NamedTarget, TlsFiles, String)>,
    /// Those whose addresses are not known.
    pub unresolved: Vec<String>,
}

/// An upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where, and how.
    pub target: Target,
    /// Whom it trusts over TLS.
    pub tls: TlsFiles,
    /// The zone that it is asked for, with a dot at the end.
    pub zone: String,
}

impl Facts {
    /// Looks at everything once.
    pub async fn gather(args: &Doctor) -> Self {
        let mut given = args.serve.clone();
        let instances = bounded(PATIENCE, instances).await.unwrap_or_default();
        // A process that is there says where its socket is, unless another one was named.
        if given.socket == Path::new(DEFAULT_SOCKET)
            && !given.socket.exists()
            && let Some(theirs) = instances.first().and_then(arguments)
        {
            given.socket = theirs.socket;
        }
        let socket = given.socket.clone();
        let asked = bounded(PATIENCE, move || control::ask(&socket, &Request::Status));
        let (status, observed) = tokio::join!(asked, observe());
        let status = match status {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => Err(format!(
                "the server at {} does not answer within {} ms",
                given.socket.display(),
                PATIENCE.as_millis()
            )),
        };
        // The one that answers is there, even if there was no time to look at all processes.
        let told = status.as_ref().ok();
        let told = ["pid", "supervisor"].map(|key| told?.get(key)?.as_i64()?.try_into().ok());
        let mut instances = instances;
        for pid in told.into_iter().flatten() {
            if !instances.iter().any(|known| known.pid == pid) {
                instances.extend(Process::read(pid).filter(|found| found.name == "nodens"));
            }
        }
        let (answers, root) = (status.is_ok(), args.root.clone());
        let known = instances.clone();
        let read = move || {
            let serve = effective(given, answers, &known);
            let setup = Setup::read(&serve, &root);
            let environment = corefile::process_environment;
            let wanted = NodeConfig::read(&serve.node, serve.dns_port, environment);
            (serve, setup, wanted.map_err(|error| error.to_string()))
        };
        let (serve, setup, wanted) = match bounded(READING, read).await {
            Some(read) => read,
            None => {
                let error = "the configuration could not be read in time".to_owned();
                let setup = Setup { errors: vec![error.clone()], ..Setup::default() };
                (args.serve.clone(), setup, Err(error))
            }
        };
        let mut setup = setup;
        setup.take_addresses(status.as_ref().ok());
        let listening = setup.listening.clone();
        // Without it those are found that say by their flags that they are this server.
        let holders = bounded(LOOKING, move || holders(&listening)).await.unwrap_or_default();
        let instances = related(instances, &serve, &holders);
        let (root, outside_name) = (args.root.clone(), args.outside_name.clone());
        Self { root, outside_name, serve, status, instances, setup, wanted, observed }
    }

    /// Why no upstream can be asked: `none` if there is none.
    pub fn no_upstream(&self, none: &'static str) -> &'static str {
        match self.setup.unresolved.is_empty() {
            true => none,
            false => "the addresses of upstreams by name are not known",
        }
    }

    /// A path of the node.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether the Corefile that was looked for was named, or is there.
    pub fn is_configured(&self) -> bool {
        self.serve.conf != Path::new(DEFAULT_CONF) || self.serve.conf.exists()
    }

    /// The process of the running server.
    pub fn pid(&self) -> Option<i32> {
        let pid = self.status.as_ref().ok()?.get("pid")?.as_i64()?;
        i32::try_from(pid).ok()
    }

    /// The process that started it.
    pub fn supervisor(&self) -> Option<i32> {
        i32::try_from(self.told("/supervisor")?.as_i64()?).ok()
    }

    /// The addresses at which pods ask Nodens: those of `-localip`, or else those it listens on.
    pub fn addresses(&self) -> Vec<IpAddr> {
        if !self.serve.node.localip.is_empty() {
            return self.serve.node.localip.clone();
        }
        let mut found: Vec<IpAddr> = Vec::new();
        for address in &self.setup.listening {
            if !found.contains(&address.ip()) {
                found.push(address.ip());
            }
        }
        found
    }

    /// Whether a query to this address is Nodens'.
    pub fn is_ours(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses().iter().any(|own| own.to_canonical() == ip)
    }

    /// Where look-ups are tried: where it listens, a loopback address in the place of an unspecified one.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for address in &self.setup.listening {
            let endpoint = endpoint(*address);
            if !found.contains(&endpoint) && found.len() < MAX_ENDPOINTS {
                found.push(endpoint);
            }
        }
        found
    }

    /// Whether the Service kubernetes is to be known there.
    pub fn serves_cluster(&self, at: SocketAddr) -> bool {
        self.setup.serving.iter().any(|address| endpoint(*address) == at)
    }

    /// Something of the running server's status, by JSON pointer.
    pub fn told(&self, pointer: &str) -> Option<&Value> {
        self.status.as_ref().ok()?.pointer(pointer).filter(|value| !value.is_null())
    }
}

/// Where a look-up reaches what listens there.
fn endpoint(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()),
        false => address,
    }
}

/// The most addresses that look-ups are tried at.
const MAX_ENDPOINTS: usize = 8;

/// Runs what may block; `None` if it takes too long.
async fn bounded<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(patience, spawn_blocking(work)).await.ok()?.ok()
}

async fn observe() -> Result<Observed, String> {
    let look = async {
        let kernel = Kernel::connect().map_err(|error| error.to_string())?;
        kernel.observe().await.map_err(|error| error.to_string())
    };
    let late = || Err("the kernel did not answer in time".to_owned());
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| late())
}

/// Supervisors and servers; commands such as this one are left out.
fn instances() -> Vec<Process> {
    let own = std::process::id() as i32;
    let is_nodens = |process: &Process| process.name == "nodens" && process.pid != own;
    let found = procfs::processes().into_iter().filter(is_nodens);
    found.filter(|process| arguments(process).is_some()).collect()
}

/// The processes that listen at these addresses. Every descriptor of every process is looked at.
fn holders(listening: &[SocketAddr]) -> Vec<i32> {
    let mut ports: Vec<u16> = listening.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let sockets: Vec<_> = ports.into_iter().take(MAX_ENDPOINTS).flat_map(procfs::sockets).collect();
    let shares = |at: &SocketAddr| {
        let mut ours = listening.iter();
        ours.any(|ours| {
            at.port() == ours.port() && (at.ip() == ours.ip() || at.ip().is_unspecified())
        })
    };
    let inodes = sockets.iter().filter(|socket| shares(&socket.local)).map(|socket| socket.inode);
    let owners = procfs::owners(&inodes.collect());
    owners.values().flatten().map(|process| process.pid).collect()
}

/// Those that have this server's socket, Corefile or link, or are among the `holders` of its addresses, with their parents and
/// children.
fn related(mut all: Vec<Process>, serve: &Serve, holders: &[i32]) -> Vec<Process> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = network("self");
    all.retain(|process| network(&process.pid.to_string()) == here);
    let makes_link = serve.node.setupinterface && !serve.node.localip.is_empty();
    let is_related = |process: &Process| {
        let same = arguments(process).is_some_and(|theirs| {
            let same_link = Flags::of(process)
                .is_some_and(|flags| flags.link == serve.node.interfacename.to_string());
            theirs.socket == serve.socket || theirs.conf == serve.conf || makes_link && same_link
        });
        same || holders.contains(&process.pid)
    };
    let related: Vec<i32> = all.iter().filter(|one| is_related(one)).map(|one| one.pid).collect();
    let parents: Vec<i32> =
        all.iter().filter(|one| related.contains(&one.pid)).map(|one| one.parent).collect();
    all.retain(|one| {
        related.contains(&one.pid) || related.contains(&one.parent) || parents.contains(&one.pid)
    });
    all
}

/// The flags that a server was started with; `None` for other commands.
pub fn arguments(process: &Process) -> Option<Serve> {
    let cli = Cli::read(process.words().into_iter().map(Into::into)).ok()?;
    if cli.command.is_some() {
        return None;
    }
    let mut serve = cli.serve;
    if serve.conf.is_relative()
        && let Ok(folder) = std::fs::read_link(format!("/proc/{}/cwd", process.pid))
    {
        serve.conf = folder.join(&serve.conf);
    }
    // Its file system may be another one than ours.
    if !serve.conf.exists() {
        let inside = procfs::within(process.pid, &serve.conf);
        if inside.exists() {
            serve.conf = inside;
        }
    }
    Some(serve)
}

/// What of an instance's flags others may contradict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// The link that it makes.
    pub link: String,
    /// The addresses that it gives it, in order.
    pub addresses: Vec<IpAddr>,
}

impl Flags {
    /// Those of a process that makes a link.
    pub fn of(process: &Process) -> Option<Self> {
        let node = arguments(process)?.node;
        let mut addresses = node.localip;
        addresses.sort_unstable();
        let makes = node.setupinterface && !addresses.is_empty();
        makes.then(|| Self { link: node.interfacename.to_string(), addresses })
    }
}

/// The flags of the server that answers; if none does, those that were given, or those of a process that is there.
fn effective(given: Serve, answers: bool, instances: &[Process]) -> Serve {
    if answers && let Some(running) = check::running(&given) {
        return Serve { socket: given.socket, ..running };
    }
    // One that is not there was named.
    let is_given = given.conf != Path::new(DEFAULT_CONF)
        || given.conf.exists()
        || !given.node.localip.is_empty();
    if is_given {
        return given;
    }
    if let Some(serve) = instances.first().and_then(arguments) {
        return serve;
    }
    let usual = Path::new(USUAL_COREFILE);
    if usual.exists() { Serve { conf: usual.into(), ..given } } else { given }
}

impl Setup {
    fn read(serve: &Serve, root: &Path) -> Self {
        let origin = match Origin::from_flags(serve, Arc::default()) {
            Ok(origin) => origin,
            Err(error) => {
                let errors = vec![error.to_string()];
                return Self { file: serve.conf.clone(), errors, ..Self::default() };
            }
        };
        let (file, diagnostics, _) = origin.read();
        let is_here = root == Path::new("/");
        let machine = node::machine(&serve.node, is_here);
        let mut plan = Plan::new(file, diagnostics, serve.dns_port, &machine);
        if !plan.diagnostics.has_errors() {
            plan.check_upstreams();
        }
        let mut setup = Self { file: origin.path().to_owned(), ..Self::default() };
        for found in plan.diagnostics.iter() {
            let severity = found.severity.to_string();
            let list = if severity == "error" { &mut setup.errors } else { &mut setup.warnings };
            list.push(found.to_string().trim().to_owned());
        }
        setup.read_blocks(&plan);
        setup
    }

    /// Takes over the addresses of upstreams by name, which the running server knows.
    fn take_addresses(&mut self, status: Option<&Value>) {
        let forwards = status.and_then(|status| status.get("forwards")?.as_array());
        let all: Vec<&Value> = forwards
            .into_iter()
            .flatten()
            .filter_map(|forward| forward.get("names")?.as_array())
            .flatten()
            .collect();
        for (named, tls, zone) in std::mem::take(&mut self.named) {
            let name = named.to_string();
            let told =
                all.iter().find(|told| told.get("name").and_then(Value::as_str) == Some(&name));
            let addresses = told.and_then(|told| told.get("addresses")?.as_array());
            let texts = addresses.into_iter().flatten().filter_map(Value::as_str);
            let known: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
            if known.is_empty() {
                self.unresolved.push(name);
            }
            for ip in known {
                let asked = Asked { target: named.at(ip), tls: tls.clone(), zone: zone.clone() };
                if !self.upstreams.contains(&asked) {
                    self.upstreams.push(asked);
                }
            }
        }
    }

    fn read_blocks(&mut self, plan: &Plan) {
        let own = plan.own_addresses().unwrap_or_default();
        self.listening = own.addresses().to_vec();
        for block in &plan.blocks {
            self.read_cluster(block);
            for forward in &block.forward {
                let zone = zone_of(block, &forward.from);
                let (targets, reading) = targets_of(forward, &own, None);
                for target in targets {
                    let asked = Asked { target, tls: forward.tls.clone(), zone: zone.clone() };
                    if !self.upstreams.contains(&asked) {
                        self.upstreams.push(asked);
                    }
                }
                self.notes.extend(reading.notes);
                let named = forward.named();
                self.named
                    .extend(named.map(|named| (named.clone(), forward.tls.clone(), zone.clone())));
            }
        }
        // A block that binds an interface which is not there yet has no addresses; those of the others count.
        if self.listening.is_empty() {
            self.listening = plan.blocks.iter().flat_map(addresses).collect();
        }
        self.notes.sort();
        self.notes.dedup();
    }

    fn read_cluster(&mut self, block: &Block) {
        self.read_kubernetes(block);
        let first = self.domains.first();
        let serves = block.kubernetes.iter().any(|kubernetes| {
            let view = &kubernetes.view;
            let has_default = match &view.exposed {
                Exposed::All => true,
                Exposed::Listed(names) => names.iter().any(|name| name.as_bytes() == b"default"),
                Exposed::Known => false,
            };
            has_default && view.zones.iter().any(|zone| Some(&zone.to_string()) == first)
        });
        let own = own_addresses(std::slice::from_ref(block)).ok().filter(|_| serves);
        self.serving.extend(own.iter().flat_map(|own| own.addresses().to_vec()));
    }

    fn read_kubernetes(&mut self, block: &Block) {
        for kubernetes in &block.kubernetes {
            if !self.clusters.contains(&kubernetes.spec) {
                self.clusters.push(kubernetes.spec.clone());
            }
            for zone in &kubernetes.view.zones {
                let zone = zone.to_string();
                let is_reverse = zone.ends_with("in-addr.arpa.") || zone.ends_with("ip6.arpa.");
                if !is_reverse && !self.domains.contains(&zone) {
                    self.domains.push(zone);
                }
            }
        }
    }
}

/// The zone for which a forward is there; the root if it is for any name.
fn zone_of(block: &Block, from: &[Name]) -> String {
    let block = block.written.zone_names();
    let narrow =
        [from, &block].into_iter().find(|zones| !zones.iter().any(|zone| zone.as_ref().is_root()));
    narrow.and_then(|zones| Some(zones.first()?.to_string())).unwrap_or_else(|| ".".to_owned())
}

/// Where a block listens for plain DNS, as far as that can be told without its interfaces.
fn addresses(block: &Block) -> Vec<SocketAddr> {
    let ips = bind::resolve(&block.bind).unwrap_or_default();
    let zones = block.written.zones.iter().filter(|zone| !zone.transport.is_encrypted());
    let ports: Vec<u16> = zones.map(|zone| zone.port).collect();
    ips.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect()
}
