//! From what the Corefile means to what runs: handlers, chains, and the addresses that they listen on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::join_all;

use crate::admin::Pages;
use crate::chain::{Chain, ErrorLog, QueryLog};
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::cluster::object::Kind;
use crate::config::{ListenAddress, Transport};
use crate::detail::Detail;
use crate::detail::Monitor;
use crate::metrics::{Enabled, Handlers, Source};
use crate::observe::lists::Lists;
use crate::outline::{self, Outline};
use crate::plugin::cache::{self, Cache};
use crate::plugin::directive::{BuildContext, Built};
use crate::plugin::dnstap::Dnstap;
use crate::plugin::forward::Forward;
use crate::plugin::log::Log;
use crate::plugin::settings::Timeouts;
use crate::plugin::{Block, bind, health, reload, tls};
use crate::request::Plugin;
use crate::search_list::SearchList;
use crate::server::Dispatch;
use crate::server::handshake::Encrypted;
use crate::server::tls::Scheme;
use crate::server::tls::certificates::{Certificates, Unserved};
use crate::shared::Shared;
use crate::upstream::OwnAddresses;
use crate::wire::Name;

/// A `forward` and the server block that it is in.
pub struct Placed {
    /// The block's zones and ports.
    pub block: String,
    /// The addresses of the block.
    pub addresses: Vec<SocketAddr>,
    /// The forward.
    pub forward: Arc<Forward>,
}

/// A configuration that can be served.
pub struct Assembled {
    /// Every chain.
    pub chains: Vec<Arc<Chain>>,
    /// What it has to show in /metrics.
    pub sources: Vec<Arc<dyn Source>>,
    /// What is served over HTTP, and where.
    pub pages: Vec<(ListenAddress, Pages)>,
    /// What `/ready?verbose` shows in addition.
    pub details: Vec<Arc<dyn Detail>>,
    /// Its forwards, those of the chain.
    pub forwards: Vec<Placed>,
    /// Its `dnstap` lines.
    pub taps: Vec<Arc<Dnstap>>,
    /// The clusters that its directives watch; each is watched as long as it is held.
    pub stores: Vec<Arc<Store<Index>>>,
    /// The cluster whose domains search lists have, and its store: that whose Pods are watched, else the first one.
    pub cluster: Option<(Name, Arc<Store<Index>>)>,
    /// The cache's store, and the blocks that use it.
    pub cache: (Arc<cache::Store>, Vec<u64>),
    /// For how many seconds answers may be served after they have expired (`serve_stale`).
    pub stale: u32,
    /// For how many seconds what has expired may be a last good answer (`stale_on_denial`).
    pub last_good: u32,
    /// How `/ready` behaves once everything was ready.
    pub monitor: Monitor,
    /// Whether a panic is logged with its stack.
    pub stacktrace: bool,
    /// Who answers on which address.
    pub listeners: BTreeMap<SocketAddr, Arc<Dispatch>>,
    /// Who answers over TLS and HTTPS, and where.
    pub encrypted: BTreeMap<SocketAddr, Encrypted>,
    /// What of it clients and operators would miss.
    pub outline: Outline,
    /// How long the start may wait for what is not ready: the longest `startup_timeout`.
    pub startup_timeout: Duration,
    /// How long to continue to answer after a signal: the longest `lameduck`.
    pub lameduck: Duration,
    /// How often the file is looked at: the first `reload`.
    pub reload: Option<reload::Config>,
}

impl Assembled {
    /// Makes the process show this configuration in its metrics; `hash` is that of the Corefile.
    pub fn show(&self, shared: &Shared, hash: &str) {
        shared.metrics.replace(self.sources.clone());
        shared.metrics.common().set_version("sha512", hash.to_owned());
        let (store, blocks) = &self.cache;
        store.retain_blocks(blocks);
        shared.cache.store(Arc::clone(store));
        let watches_pods = |store: &&Arc<Store<Index>>| store.spec().wanted.node.is_some();
        let pods = self.stores.iter().find(watches_pods);
        shared.clients.follow(pods.map(|store| Arc::clone(store.sink())));
        shared.observed.follow(Lists {
            cluster: self.cluster.as_ref().map(|(zone, of)| (zone.clone(), Arc::clone(of.sink()))),
            clients: Arc::clone(&shared.clients),
            watches_pods: pods.is_some(),
            of_all_nodes: self.stores.iter().map(|store| Arc::clone(store.sink())).collect(),
            of_node: SearchList::of_node(),
        });
        shared.stale.store(self.stale, Relaxed);
        shared.last_good.store(self.last_good, Relaxed);
        shared.stacktrace.store(self.stacktrace, Relaxed);
    }

    /// Sends what collectors of `dnstap` are to get, and ends their streams.
    pub async fn end_taps(taps: Vec<Arc<Dnstap>>) {
        join_all(taps.iter().map(|tap| tap.sender().end())).await;
    }

    /// Every address that is listened on, however it is reached, and who answers there.
    pub fn dispatches(&self) -> impl Iterator<Item = (SocketAddr, &Arc<Dispatch>)> {
        let encrypted = self.encrypted.iter().map(|(address, of)| (*address, &of.dispatch));
        self.listeners.iter().map(|(address, of)| (*address, of)).chain(encrypted)
    }

    /// Where it listens over TLS and HTTPS, for people.
    pub fn encrypted_addresses(&self) -> impl Iterator<Item = String> {
        self.encrypted.iter().map(|(address, of)| format!("{}://{address}", of.scheme.name()))
    }

    /// True once every cluster that is watched is known, be it from a snapshot: its names can be answered.
    pub fn is_known(&self) -> bool {
        self.stores.iter().all(|store| store.status().is_known())
    }

    /// True once every cluster that is watched was listed.
    pub fn is_listed(&self) -> bool {
        self.stores.iter().all(|store| store.status().is_synced())
    }

    /// Whether the Pods of this node are watched, and were listed.
    pub fn knows_clients(&self) -> bool {
        let mut watching = self.stores.iter().filter(|store| store.spec().wanted.node.is_some());
        watching.any(|store| store.status().kind(Kind::NodePod).is_synced())
    }

    /// Whether the Pods of this node are watched, and were not listed yet.
    pub fn waits_for_clients(&self) -> bool {
        self.stores.iter().any(|store| store.spec().wanted.node.is_some()) && !self.knows_clients()
    }

    /// What is still missing before cluster names can be answered, each listed once. What other handlers wait for (such as
    /// upstreams that are away) does not delay the start.
    pub fn waiting_for(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .chains
            .iter()
            .flat_map(|chain| chain.handlers())
            .filter(|handler| handler.plugin() == Plugin::Kubernetes)
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
pub fn assemble(blocks: Vec<Block>, shared: &Arc<Shared>) -> anyhow::Result<Assembled> {
    let own = own_addresses(&blocks)?;
    let cache = shared.cache_of(cache::Config::budget(blocks.iter().flat_map(|b| &b.cache)));
    let mut assembly = Assembly::new(&blocks, cache);
    for block in blocks {
        assembly.add(block, shared, &own)?;
    }
    Ok(assembly.finish())
}

/// A configuration of which some blocks are built.
struct Assembly {
    done: Assembled,
    by_address: BTreeMap<SocketAddr, Vec<Arc<Chain>>>,
    /// How those are reached that are encrypted. No address is reached in two ways.
    encryption: BTreeMap<SocketAddr, (Scheme, Arc<Certificates>)>,
    transports: BTreeMap<SocketAddr, Transport>,
    /// Those that are encrypted and have no certificate.
    unserved: BTreeSet<SocketAddr>,
    certificates: Vec<Arc<Certificates>>,
    timeouts: BTreeMap<SocketAddr, Timeouts>,
    /// The labels `server` and `view` of each chain with a cache, for the cache's metrics.
    caches: Vec<([Arc<str>; 2], Cache)>,
}

impl Assembly {
    /// An empty one, with what all blocks decide together.
    fn new(blocks: &[Block], cache: Arc<cache::Store>) -> Self {
        let kubernetes = blocks.iter().flat_map(|block| &block.kubernetes);
        // With a fallback there are answers at once.
        let patient = kubernetes.filter(|kubernetes| kubernetes.fallback.is_empty());
        let stale = blocks.iter().flat_map(|block| &block.cache).filter_map(|c| c.stale.as_ref());
        let denials = blocks.iter().flat_map(|block| &block.cache);
        let denials = denials.filter_map(|c| c.last_good.as_ref());
        let denials = denials.map(|last_good| last_good.seconds.saturating_mul(2));
        let ready = blocks.iter().flat_map(|block| &block.ready).next();
        let done = Assembled {
            chains: Vec::new(),
            sources: Vec::new(),
            forwards: Vec::new(),
            taps: Vec::new(),
            stores: Vec::new(),
            cluster: None,
            pages: blocks.iter().flat_map(pages).collect(),
            details: Vec::new(),
            cache: (cache, Vec::new()),
            stale: stale.map(|stale| stale.seconds).max().unwrap_or(0),
            // From its end an answer waits for a denial, and from that for the time that it is given on.
            last_good: denials.max().unwrap_or(0),
            monitor: ready.map(|ready| ready.monitor).unwrap_or_default(),
            stacktrace: blocks.iter().flat_map(|b| &b.errors).any(|errors| errors.stacktrace),
            listeners: BTreeMap::new(),
            encrypted: BTreeMap::new(),
            outline: Outline::default(),
            startup_timeout: patient.map(|k| k.startup_timeout).max().unwrap_or_default(),
            lameduck: health::lameduck(blocks.iter().flat_map(|block| &block.health)),
            reload: blocks.iter().flat_map(|block| &block.reload).next().copied(),
        };
        Self {
            done,
            by_address: BTreeMap::new(),
            encryption: BTreeMap::new(),
            transports: BTreeMap::new(),
            unserved: BTreeSet::new(),
            certificates: Vec::new(),
            timeouts: BTreeMap::new(),
            caches: Vec::new(),
        }
    }

    /// Builds a block: its handlers, and a chain for each of its zones and addresses.
    fn add(
        &mut self,
        mut block: Block,
        shared: &Arc<Shared>,
        own: &OwnAddresses,
    ) -> anyhow::Result<()> {
        let taps = taps(&block, shared)?;
        let mut cx = BuildContext {
            taps: Arc::clone(&taps),
            shared,
            own,
            cache: &Arc::clone(&self.done.cache.0),
            zones: block.written.zone_names(),
            block_id: cache::block_id(&block.written),
            rotates: !block.loadbalance.is_empty(),
            probes_loops: !block.loop_.is_empty(),
            built: Built::default(),
        };
        let addresses = listen_addresses(&block)?;
        self.done.outline.add(&block, &addresses);
        let zone_of_cluster =
            block.kubernetes.first().and_then(|line| line.view.zones.first()).cloned();
        block.build(&mut cx)?;
        let Built { handlers, cache, store, forwards, sources, details } = cx.built;
        let view = block.view.last().map(|line| Arc::new(line.build(&shared.clients)));
        if let (Some(cache), Some(name)) = (&cache, block.written.view()) {
            // Known by the same name since before the reload, if it was there: the name is a part of the block's identity.
            let _ = cache.stats().view.set(name.into());
        }
        let view_label: Arc<str> = view.as_ref().map_or("", |view| view.name()).into();
        self.add_forwards(forwards, &block, &addresses);
        self.done.sources.extend(sources);
        self.done.taps.extend(taps.iter().map(Arc::clone));
        let senders = taps.iter().map(|tap| Arc::clone(tap.sender()) as Arc<dyn Source>);
        self.done.sources.extend(senders);
        self.done.details.extend(details);
        self.done.cache.1.extend(cache.as_ref().map(|_| cx.block_id));
        self.add_store(zone_of_cluster.clone(), store);
        if let (Some(zone), Some(&ip)) = (block.written.zones.first(), addresses.first()) {
            let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port)).into();
            let (view, handlers) = (Arc::clone(&view_label), handlers.clone());
            self.done.sources.push(Arc::new(Handlers { server, view, handlers }));
        }
        let logs = Logs::of(&block, shared);
        for zone in &block.written.zones {
            for &ip in &addresses {
                let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port));
                let name = zone.name.clone();
                let mut chain = Chain::new(name, server.into(), handlers.clone(), shared.workers);
                chain.view = view.clone();
                chain.nsid = block.nsid.last().map(|nsid| nsid.0.clone());
                chain.max_udp = block.bufsize.last().map(|size| size.0);
                chain.identity = block.chaos.last().map(|c| c.0.clone()).unwrap_or_default();
                chain.taps = Some(Arc::clone(shared.observed.taps()));
                chain.log = logs.queries.clone();
                chain.dnstap =
                    taps.iter().map(|tap| Arc::clone(tap) as Arc<dyn QueryLog>).collect();
                chain.errors = logs.errors.clone();
                if let Some(line) = block.autopath.last() {
                    let autopath = line.build(zone_of_cluster.clone(), &shared.clients)?;
                    chain.autopath = Some(Arc::new(autopath));
                }
                let chain = Arc::new(chain);
                if let Some(cache) = &cache {
                    let labels = [&chain.server_label, &view_label].map(Arc::clone);
                    self.caches.push((labels, cache.clone()));
                }
                self.done.sources.push(Arc::clone(&chain) as Arc<dyn Source>);
                self.done.sources.push(Arc::new(enabled(&block, &chain)));
                self.done.chains.push(Arc::clone(&chain));
                let address = SocketAddr::new(ip, zone.port);
                self.add_encryption(address, zone.transport, block.tls.last(), shared)?;
                self.by_address.entry(address).or_default().push(chain);
                self.timeouts.extend(block.timeouts.last().map(|&found| (address, found)));
            }
        }
        Ok(())
    }

    /// Notes how an address is reached. Blocks that share it have the same certificate. Words that differ (an interface, and its
    /// address) may mean one address, so that this is the last place to see that it is to be reached in two ways.
    fn add_encryption(
        &mut self,
        address: SocketAddr,
        transport: Transport,
        line: Option<&tls::Config>,
        shared: &Shared,
    ) -> anyhow::Result<()> {
        let first = *self.transports.entry(address).or_insert(transport);
        if first != transport {
            let (one, other) = (first.scheme(), transport.scheme());
            bail!(
                "{address} is to be reached over {one}:// and {other}://: give one of them another port"
            );
        }
        let scheme = match transport {
            Transport::Tls => Scheme::Tls,
            Transport::Https => Scheme::Https,
            Transport::Dns | Transport::Quic => return Ok(()),
        };
        let Some(line) = line.filter(|_| !self.encryption.contains_key(&address)) else {
            return Ok(());
        };
        let certificates = match shared.certificates.of(line, scheme) {
            Ok(certificates) => certificates,
            // A plan refuses this, but that of a configuration that has run here: its other listeners are to be served.
            Err(error) => {
                let at = format!("{}://{address}", scheme.name());
                tracing::error!(%error, "{at} is not served");
                self.done.details.push(Unserved::new(&at, &error));
                self.unserved.insert(address);
                return Ok(());
            }
        };
        if !self.certificates.iter().any(|known| Arc::ptr_eq(known, &certificates)) {
            self.done.details.push(Arc::clone(&certificates) as _);
            self.certificates.push(Arc::clone(&certificates));
        }
        self.encryption.insert(address, (scheme, certificates));
        Ok(())
    }

    fn add_forwards(&mut self, forwards: Vec<Arc<Forward>>, block: &Block, at: &[IpAddr]) {
        let written = &block.written;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for zone in &written.zones {
            addresses.extend(at.iter().map(|&ip| SocketAddr::new(ip, zone.port)));
        }
        addresses.sort_unstable();
        addresses.dedup();
        for forward in forwards {
            let (block, addresses) = (outline::title(written), addresses.clone());
            self.done.forwards.push(Placed { block, addresses, forward });
        }
    }

    /// Blocks with equal settings share a store, which counts once.
    fn add_store(&mut self, zone: Option<Name>, store: Option<Arc<Store<Index>>>) {
        let Some(store) = store else { return };
        let watches_pods = |store: &Store<Index>| store.spec().wanted.node.is_some();
        let is_better = match &self.done.cluster {
            Some((_, before)) => watches_pods(&store) && !watches_pods(before),
            None => true,
        };
        if let (Some(zone), true) = (zone, is_better) {
            self.done.cluster = Some((zone, Arc::clone(&store)));
        }
        if !self.done.stores.iter().any(|known| Arc::ptr_eq(known, &store)) {
            self.done.sources.push(Arc::clone(store.report()) as Arc<dyn Source>);
            self.done.stores.push(store);
        }
    }

    fn finish(mut self) -> Assembled {
        self.caches.dedup_by_key(|(labels, cache)| (labels.clone(), cache.stats().block));
        let store = Arc::clone(&self.done.cache.0);
        self.done.sources.push(Arc::new(cache::CacheMetrics::new(store, self.caches)));
        self.by_address.retain(|address, _| !self.unserved.contains(address));
        for (address, chains) in self.by_address {
            let timeouts = self.timeouts.get(&address).copied().unwrap_or_default();
            let dispatch = Dispatch::new(chains).with_timeouts(timeouts);
            self.done.sources.push(Arc::clone(dispatch.outside()) as Arc<dyn Source>);
            let dispatch = Arc::new(dispatch);
            match self.encryption.remove(&address) {
                Some((scheme, certificates)) => {
                    let encrypted = Encrypted { scheme, certificates, dispatch };
                    self.done.encrypted.insert(address, encrypted);
                }
                None => drop(self.done.listeners.insert(address, dispatch)),
            }
        }
        self.done
    }
}

/// What the `log` and `errors` lines of a block mean.
struct Logs {
    queries: Option<Arc<dyn QueryLog>>,
    errors: Option<Arc<dyn ErrorLog>>,
}

impl Logs {
    fn of(block: &Block, shared: &Shared) -> Self {
        let lines = (!block.log.is_empty()).then(|| block.log.clone());
        let errors = block.errors.last().cloned();
        Self {
            queries: lines.map(|lines| {
                let clients = Arc::clone(&shared.clients);
                let log = Log::new(lines, shared.log_format, clients);
                Arc::new(log.of_view(block.written.view())) as _
            }),
            errors: errors.map(|errors| Arc::new(errors.build()) as _),
        }
    }
}

/// Starts what the `dnstap` lines of a block say.
fn taps(block: &Block, shared: &Shared) -> anyhow::Result<Arc<[Arc<Dnstap>]>> {
    let view = block.written.view();
    let start = |line| Dnstap::start(line, &shared.clients, view).context("dnstap");
    block.dnstap.iter().cloned().map(start).collect()
}

/// What a block serves over HTTP.
fn pages(block: &Block) -> Vec<(ListenAddress, Pages)> {
    let metrics = block.prometheus.last().map(|config| (config.address, Pages::METRICS));
    let health = block.health.last().map(|config| (config.address, Pages::HEALTH));
    let ready = block.ready.last().map(|config| (config.address, Pages::READY));
    [metrics, health, ready].into_iter().flatten().collect()
}

/// The addresses that a block listens on.
fn listen_addresses(block: &Block) -> anyhow::Result<Vec<IpAddr>> {
    let mut addresses = bind::resolve(&block.bind).context("bind")?;
    if addresses.is_empty() {
        addresses.push(unspecified());
    }
    Ok(addresses)
}

/// All that this configuration listens on, which therefore cannot be an upstream.
pub(crate) fn own_addresses(blocks: &[Block]) -> anyhow::Result<OwnAddresses> {
    let mut all = Vec::new();
    for block in blocks {
        let addresses = listen_addresses(block)?;
        for zone in &block.written.zones {
            all.extend(addresses.iter().map(|&ip| SocketAddr::new(ip, zone.port)));
        }
    }
    let own = OwnAddresses::new();
    own.set(all);
    Ok(own)
}

fn enabled(block: &Block, chain: &Chain) -> Enabled {
    let directives = block.written.directives.iter();
    Enabled {
        server: Arc::clone(&chain.server_label),
        zone: Arc::clone(&chain.zone_label),
        view: chain.view_label().into(),
        names: directives.map(|directive| Arc::clone(&directive.name.text)).collect(),
    }
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

#[cfg(test)]
mod tests;
