//! From what the Corefile means to what runs: handlers, chains, and who listens where.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::chain::{Chain, Handler};
use crate::plugin::{self, Block, health, reload};
use crate::server::Dispatch;

/// What outlives a reload: everything that workers and configurations share, in one place.
pub struct Shared {
    /// Threads that answer.
    pub workers: usize,
}

impl Shared {
    /// For `workers` threads.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers })
    }
}

/// A configuration that can be served.
pub struct Assembled {
    /// Every chain.
    pub chains: Vec<Arc<Chain>>,
    /// Who answers on which address.
    pub listeners: BTreeMap<SocketAddr, Arc<Dispatch>>,
    /// How long the start may wait for what is not ready: the longest `startup_timeout`.
    pub startup_timeout: Duration,
    /// How long to go on answering after a signal: the longest `lameduck`.
    pub lameduck: Duration,
    /// How often the file is looked at: the first `reload`.
    pub reload: Option<reload::Config>,
}

impl Assembled {
    /// What the handlers still wait for, each said once.
    pub fn waiting_for(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .chains
            .iter()
            .flat_map(|chain| chain.handlers())
            .filter_map(|handler| {
                Some(format!("{}: {}", handler.plugin().name(), handler.not_ready()?))
            })
            .collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }
}

/// Builds what `blocks` mean. Nothing that runs is touched.
pub fn assemble(blocks: &[Block], shared: &Arc<Shared>) -> anyhow::Result<Assembled> {
    let mut by_address: BTreeMap<SocketAddr, Vec<Arc<Chain>>> = BTreeMap::new();
    let mut chains = Vec::new();
    for block in blocks {
        let handlers = handlers(block, shared)?;
        let mut addresses = block.bind.resolve()?;
        if addresses.is_empty() {
            addresses.push(unspecified());
        }
        for zone in &block.written.zones {
            for &ip in &addresses {
                let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port));
                let name = zone.name.clone();
                let chain =
                    Arc::new(Chain::new(name, server.into(), handlers.clone(), shared.workers));
                chains.push(Arc::clone(&chain));
                by_address.entry(SocketAddr::new(ip, zone.port)).or_default().push(chain);
            }
        }
    }
    let health: Vec<_> = blocks.iter().filter_map(|block| block.health).collect();
    Ok(Assembled {
        chains,
        listeners: by_address
            .into_iter()
            .map(|(address, chains)| (address, Arc::new(Dispatch::new(chains))))
            .collect(),
        startup_timeout: Duration::ZERO,
        lameduck: health::lameduck(&health),
        reload: blocks.iter().find_map(|block| block.reload),
    })
}

/// The handlers of a block, in the order in which they are asked.
fn handlers(block: &Block, _shared: &Arc<Shared>) -> anyhow::Result<Vec<Arc<dyn Handler>>> {
    let mut handlers: Vec<Arc<dyn Handler>> = Vec::new();
    if block.whoami {
        handlers.push(Arc::new(plugin::whoami::Whoami));
    }
    Ok(handlers)
}

/// Every address: the IPv6 one, which takes both families, or the IPv4 one where the kernel has no IPv6.
fn unspecified() -> IpAddr {
    let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None);
    if v6.is_ok() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// An address as CoreDNS's `server` label has it: without the unspecified one.
fn label(ip: IpAddr, port: u16) -> String {
    if ip.is_unspecified() { format!(":{port}") } else { SocketAddr::new(ip, port).to_string() }
}
