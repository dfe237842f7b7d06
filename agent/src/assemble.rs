//! From what the Corefile means to what runs: handlers, chains, and who listens where.

use std::collections::BTreeMap;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use crate::admin::{Detail, Pages};
use crate::chain::{Chain, ErrorLog, Handler, QueryLog};
use crate::cluster::index::Index;
use crate::cluster::{Clusters, Store, WatchThread};
use crate::config::ListenAddress;
use crate::logging;
use crate::metrics::{Enabled, Handlers, Metrics, Source};
use crate::plugin::acl::Acl;
use crate::plugin::cache::{self, Cache};
use crate::plugin::dns64::Dns64;
use crate::plugin::file::File;
use crate::plugin::filter_aaaa::FilterAaaa;
use crate::plugin::forward::{self, Forward, ForwardContext, Forwarding};
use crate::plugin::header::Header;
use crate::plugin::kubernetes::{Kubernetes, StoreHealth};
use crate::plugin::loop_::LoopGuard;
use crate::plugin::ready::Monitor;
use crate::plugin::rewrite::Rewrite;
use crate::plugin::template::Template;
use crate::plugin::{self, Block, health, reload};
use crate::request::Plugin;
use crate::server::Dispatch;
use crate::upstream::OwnAddresses;
use crate::upstream::registry::HealthRegistry;

/// What outlives a reload: everything that workers and configurations share, in one place.
pub struct Shared {
    /// Threads that answer.
    pub workers: usize,
    /// What /metrics shows.
    pub metrics: Arc<Metrics>,
    /// How the log is written.
    pub log_format: logging::Format,
    /// Whether a panic is logged with its stack (`errors { stacktrace }`).
    pub stacktrace: Arc<AtomicBool>,
    /// What `cache` keeps, of all server blocks together. Replaced where its budget changes.
    pub cache: ArcSwap<cache::Store>,
    /// For how many seconds it keeps answers that have expired.
    pub stale: AtomicU32,
    /// What is known of upstreams: which are down, which loop, how long each takes.
    pub health_registry: Arc<HealthRegistry>,
    /// Recognises queries of ours that upstreams send back (`loop`).
    pub loops: Arc<LoopGuard>,
    /// The clusters that are watched; directives with equal settings share one.
    pub clusters: Clusters<Index>,
    /// What watches them.
    pub watching: WatchThread,
}

impl Shared {
    /// The cache's store with a budget of `limit` octets; what it holds stays.
    fn cache(&self, limit: u64) -> Arc<cache::Store> {
        let store = self.cache.load_full();
        if store.limit() == limit { store } else { Arc::new(store.resized(limit)) }
    }
}

/// A configuration that can be served.
pub struct Assembled {
    /// Every chain.
    pub chains: Vec<Arc<Chain>>,
    /// What it has to show in /metrics.
    pub sources: Vec<Arc<dyn Source>>,
    /// What is served over HTTP, and where.
    pub pages: Vec<(ListenAddress, Pages)>,
    /// What `/ready?verbose` tells more.
    pub details: Vec<Arc<dyn Detail>>,
    /// The clusters that its directives watch; each is watched as long as somebody holds it.
    pub stores: Vec<Arc<Store<Index>>>,
    /// The cache's store, and the blocks that use it.
    pub cache: (Arc<cache::Store>, Vec<u64>),
    /// For how many seconds answers may be served after they have expired (`serve_stale`).
    pub stale: u32,
    /// How `/ready` goes on once everything was ready.
    pub monitor: Monitor,
    /// Whether a panic is logged with its stack.
    pub stacktrace: bool,
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
    /// Makes the process show this configuration in its metrics; `hash` is that of the Corefile.
    pub fn show(&self, shared: &Shared, hash: &str) {
        shared.metrics.replace(self.sources.clone());
        shared.metrics.common().set_version("sha512", hash.to_owned());
        let (store, blocks) = &self.cache;
        store.retain_blocks(blocks);
        shared.cache.store(Arc::clone(store));
        shared.stale.store(self.stale, Relaxed);
        shared.stacktrace.store(self.stacktrace, Relaxed);
    }

    /// True once every cluster that is watched is known, be it from a snapshot: its names can be answered.
    pub fn is_known(&self) -> bool {
        self.stores.iter().all(|store| store.status().is_known())
    }

    /// What is still missing before cluster names can be answered, each said once. What other handlers wait for (upstreams
    /// that are away, say) keeps nobody from serving.
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
pub fn assemble(mut blocks: Vec<Block>, shared: &Arc<Shared>) -> anyhow::Result<Assembled> {
    let mut by_address: BTreeMap<SocketAddr, Vec<Arc<Chain>>> = BTreeMap::new();
    let mut chains = Vec::new();
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    let own = own_addresses(&blocks)?;
    let store = shared.cache(cache::Config::budget(blocks.iter().filter_map(|b| b.cache.as_ref())));
    let mut caches = Vec::new();
    let mut stores: Vec<Arc<Store<Index>>> = Vec::new();
    let mut details = Vec::new();
    let mut patience = BTreeMap::new();
    for block in &mut blocks {
        let built = build(block, &store, shared, &own)?;
        sources.extend(built.sources);
        details.extend(built.details);
        // Blocks with equal settings share a store, which counts once.
        if let Some(store) = built.store
            && !stores.iter().any(|known| Arc::ptr_eq(known, &store))
        {
            sources.push(Arc::clone(store.report()) as Arc<dyn Source>);
            stores.push(store);
        }
        let addresses = listen_addresses(block)?;
        if let (Some(zone), Some(&ip)) = (block.written.zones.first(), addresses.first()) {
            let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port)).into();
            sources.push(Arc::new(Handlers { server, handlers: built.handlers.clone() }));
        }
        let log = block.log.clone().map(|log| Arc::new(log.build(shared.log_format)));
        let errors = block.errors.clone().map(|errors| Arc::new(errors.build()));
        for zone in &block.written.zones {
            for &ip in &addresses {
                let server = format!("{}://{}", zone.transport.scheme(), label(ip, zone.port));
                let name = zone.name.clone();
                let mut chain =
                    Chain::new(name, server.into(), built.handlers.clone(), shared.workers);
                chain.nsid = block.nsid.clone();
                chain.max_udp = block.bufsize;
                chain.identity = block.chaos.clone().unwrap_or_default();
                chain.log = log.clone().map(|log| log as Arc<dyn QueryLog>);
                chain.errors = errors.clone().map(|errors| errors as Arc<dyn ErrorLog>);
                let chain = Arc::new(chain);
                if let Some(cache) = &built.cache {
                    caches.push((Arc::clone(&chain.server_label), cache.clone()));
                }
                sources.push(Arc::clone(&chain) as Arc<dyn Source>);
                sources.push(Arc::new(enabled(block, &chain)));
                chains.push(Arc::clone(&chain));
                let address = SocketAddr::new(ip, zone.port);
                by_address.entry(address).or_default().push(chain);
                if let Some(timeouts) = block.timeouts {
                    patience.insert(address, timeouts);
                }
            }
        }
    }
    let cached = blocks.iter().filter(|b| b.cache.is_some()).map(|b| cache::block_id(&b.written));
    let cached = cached.collect();
    caches.dedup_by_key(|(server, cache)| (Arc::clone(server), cache.stats().block));
    sources.push(Arc::new(cache::CacheMetrics::new(Arc::clone(&store), caches)));
    let startup_timeout = blocks
        .iter()
        .filter_map(|block| block.kubernetes.as_ref())
        // Whoever has a fallback answers at once.
        .filter(|kubernetes| kubernetes.fallback.is_empty())
        .map(|kubernetes| kubernetes.startup_timeout)
        .max()
        .unwrap_or(Duration::ZERO);
    let health: Vec<_> = blocks.iter().filter_map(|block| block.health).collect();
    Ok(Assembled {
        chains,
        sources,
        stores,
        pages: blocks.iter().flat_map(pages).collect(),
        details,
        cache: (store, cached),
        stale: blocks
            .iter()
            .filter_map(|b| b.cache.as_ref()?.stale.as_ref())
            .map(|s| s.seconds)
            .max()
            .unwrap_or(0),
        monitor: blocks.iter().find_map(|b| b.ready).map(|ready| ready.monitor).unwrap_or_default(),
        stacktrace: blocks.iter().filter_map(|block| block.errors.as_ref()).any(|e| e.stacktrace),
        listeners: by_address
            .into_iter()
            .map(|(address, chains)| {
                let timeouts = patience.get(&address).copied().unwrap_or_default();
                (address, Arc::new(Dispatch::new(chains).with_timeouts(timeouts)))
            })
            .collect(),
        startup_timeout,
        lameduck: health::lameduck(&health),
        reload: blocks.iter().find_map(|block| block.reload),
    })
}

/// What a block is made of.
#[derive(Default)]
struct Built {
    /// In the order in which they are asked.
    handlers: Vec<Arc<dyn Handler>>,
    cache: Option<Cache>,
    store: Option<Arc<Store<Index>>>,
    sources: Vec<Arc<dyn Source>>,
    details: Vec<Arc<dyn Detail>>,
}

impl Built {
    /// Starts a forward, of this block or of a directive within it.
    fn forward(
        &mut self,
        config: forward::Config,
        forward_context: &ForwardContext,
    ) -> anyhow::Result<Arc<Forwarding>> {
        let forward = Forward::new(config, forward_context.clone())?;
        // Ends with the forward.
        tokio::spawn(Forward::background(Arc::downgrade(&forward)));
        self.sources.push(Arc::clone(&forward) as Arc<dyn Source>);
        let forwarding = Arc::new(Forwarding(forward));
        self.details.push(Arc::clone(&forwarding) as Arc<dyn Detail>);
        Ok(forwarding)
    }
}

fn build(
    block: &mut Block,
    cache_store: &Arc<cache::Store>,
    shared: &Arc<Shared>,
    own: &OwnAddresses,
) -> anyhow::Result<Built> {
    let mut built = Built::default();
    let forward_context = ForwardContext {
        workers: shared.workers,
        own: own.clone(),
        loops: block.loops.then(|| Arc::clone(&shared.loops)),
        health_registry: Arc::clone(&shared.health_registry),
        zones: block.written.zone_names(),
    };
    if block.local {
        built.handlers.push(Arc::new(plugin::local::Local::new()));
    }
    if !block.acl.is_empty() {
        built.handlers.push(Arc::new(Acl::new(mem::take(&mut block.acl))));
    }
    if block.any {
        built.handlers.push(Arc::new(plugin::any::Any));
    }
    if !block.filter_aaaa.is_empty() {
        built.handlers.push(Arc::new(FilterAaaa::new(mem::take(&mut block.filter_aaaa))));
    }
    for config in mem::take(&mut block.dns64) {
        built.handlers.push(Arc::new(Dns64::new(config)));
    }
    if !block.rewrite.is_empty() {
        built.handlers.push(Arc::new(Rewrite::new(mem::take(&mut block.rewrite))));
    }
    if !block.header.is_empty() {
        built.handlers.push(Arc::new(Header::new(&block.header)));
    }
    if block.minimal {
        built.handlers.push(Arc::new(plugin::minimal::Minimal));
    }
    if !block.template.is_empty() {
        built.handlers.push(Arc::new(Template::new(mem::take(&mut block.template))));
    }
    if let Some(config) = block.hosts.clone() {
        let hosts = config.build(block.loadbalance, &Handle::current());
        built.sources.push(Arc::clone(&hosts) as Arc<dyn Source>);
        built.handlers.push(hosts);
    }
    if let Some(config) = &block.kubernetes {
        let watching = shared.watching.handle().context("cannot start the thread that watches")?;
        let store = shared
            .clusters
            .open(config.spec.clone(), watching, || Index::new(config.settings()))?;
        let mut view = config.view.clone();
        view.own = own.addresses().iter().map(SocketAddr::ip).collect();
        view.rotate = block.loadbalance;
        let store_health = Arc::new(StoreHealth::new(
            config.zones().cloned().collect(),
            Arc::clone(store.report()),
            config.max_staleness,
        ));
        built.sources.push(Arc::clone(&store_health) as Arc<dyn Source>);
        built.details.push(Arc::clone(&store_health) as Arc<dyn Detail>);
        let mut kubernetes =
            Kubernetes::new(view, Arc::clone(store.sink())).with_store_health(store_health);
        if let Some(fallback) = config.fallback_forward() {
            kubernetes = kubernetes.with_fallback(built.forward(fallback, &forward_context)?);
        }
        built.handlers.push(Arc::new(kubernetes));
        built.store = Some(store);
    }
    if !block.file.is_empty() {
        let file = Arc::new(File::new(&block.file));
        // Ends with the handler.
        tokio::spawn(File::follow(Arc::downgrade(&file)));
        built.handlers.push(file);
    }
    built.cache = block.cache.clone().map(|config| {
        Cache::new(
            config,
            Arc::clone(cache_store),
            cache::block_id(&block.written),
            block.loadbalance,
        )
    });
    if let Some(cache) = &built.cache {
        built.handlers.push(Arc::new(cache.clone()));
    }
    if block.loops {
        built.handlers.push(Arc::new(plugin::loop_::Loop(Arc::clone(&shared.loops))));
    }
    for config in &block.forward {
        let forwarding = built.forward(config.clone(), &forward_context)?;
        built.handlers.push(forwarding);
    }
    if block.whoami {
        built.handlers.push(Arc::new(plugin::whoami::Whoami));
    }
    Ok(built)
}

/// What a block serves over HTTP.
fn pages(block: &Block) -> Vec<(ListenAddress, Pages)> {
    let metrics = block.prometheus.map(|config| (config.address, Pages::METRICS));
    let health = block.health.map(|config| (config.address, Pages::HEALTH));
    let ready = block.ready.map(|config| (config.address, Pages::READY));
    [metrics, health, ready].into_iter().flatten().collect()
}

/// The addresses that a block listens on.
fn listen_addresses(block: &Block) -> anyhow::Result<Vec<IpAddr>> {
    let mut addresses = block.bind.resolve()?;
    if addresses.is_empty() {
        addresses.push(unspecified());
    }
    Ok(addresses)
}

/// All that this configuration listens on, which therefore is nobody's upstream.
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
