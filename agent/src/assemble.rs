//! From what the Corefile means to what runs: handlers, chains, and who listens where.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::chain::{Chain, Handler};
use crate::plugin::{self, Block};
use crate::server::Dispatch;

/// What outlives a reload: everything that workers and configurations share, in one place.
pub struct Shared {
    /// Threads that answer.
    pub workers: usize,
}

/// A configuration that can be served.
pub struct Assembled {
    /// Every chain.
    pub chains: Vec<Arc<Chain>>,
    /// Who answers on which address.
    pub listeners: BTreeMap<SocketAddr, Arc<Dispatch>>,
}

/// Builds what `blocks` mean.
pub fn assemble(blocks: &[Block], shared: &Arc<Shared>) -> anyhow::Result<Assembled> {
    let mut by_address: BTreeMap<SocketAddr, Vec<Arc<Chain>>> = BTreeMap::new();
    let mut chains = Vec::new();
    for block in blocks {
        let handlers = handlers(block, shared)?;
        for zone in &block.written.zones {
            for ip in bind_addresses(block) {
                let address = SocketAddr::new(ip, zone.port);
                let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port));
                let chain = Chain::new(zone.name.clone(), server.into(), handlers.clone(), shared.workers);
                let chain = Arc::new(chain);
                chains.push(Arc::clone(&chain));
                by_address.entry(address).or_default().push(chain);
            }
        }
    }
    let listeners =
        by_address.into_iter().map(|(address, chains)| (address, Arc::new(Dispatch::new(chains)))).collect();
    Ok(Assembled { chains, listeners })
}

/// The handlers of a block, in the order in which they are asked.
fn handlers(block: &Block, _shared: &Arc<Shared>) -> anyhow::Result<Vec<Arc<dyn Handler>>> {
    let mut handlers: Vec<Arc<dyn Handler>> = Vec::new();
    if block.whoami {
        handlers.push(Arc::new(plugin::whoami::Whoami));
    }
    Ok(handlers)
}

fn bind_addresses(_block: &Block) -> Vec<IpAddr> {
    vec![unspecified()]
}

/// Every address: the IPv6 one, which takes both families, or the IPv4 one where the kernel has no IPv6.
fn unspecified() -> IpAddr {
    let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None);
    if v6.is_ok() { Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() }
}

/// An address as CoreDNS's `server` label has it: without the unspecified one.
fn label(ip: IpAddr, port: u16) -> String {
    if ip.is_unspecified() { format!(":{port}") } else { SocketAddr::new(ip, port).to_string() }
}
