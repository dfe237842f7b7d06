//! What the module of a directive implements: [`ReadDirective`] for the configuration of one line, and [`BuildHandler`] if
//! it has a handler. The table of directives (`config::table`) does the rest.

use std::path::Path;
use std::sync::Arc;

use crate::chain::Handler;
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::config::ServerBlock;
use crate::corefile::{Diagnostics, Directive};
use crate::detail::Detail;
use crate::metrics::Source;
use crate::plugin::cache::{self, Cache};
use crate::plugin::dnstap::Dnstap;
use crate::plugin::forward::Forward;
use crate::shared::Shared;
use crate::upstream::OwnAddresses;
use crate::wire::Name;

/// The configuration of one line.
pub trait ReadDirective {
    /// Reads the line. Mistakes go to `cx.diagnostics`; the value returned after one serves only to find more of them.
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self
    where
        Self: Sized;

    /// The zones that the line is for. Empty: it is for every name of its server block.
    fn zones(&self) -> Vec<&Name> {
        Vec::new()
    }

    /// Whether the line lets no query for a name within `zone` pass to the directives behind it. May be false for a line
    /// that does so, never true for one that does not.
    fn ends(&self, zone: &Name) -> bool {
        let _ = zone;
        false
    }
}

/// The configuration of one line of a directive that has a handler.
pub trait BuildHandler: Sized {
    /// Makes the handlers of all lines of one server block; there is at least one. Called on a thread of the control
    /// runtime, and touches nothing that runs.
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()>;
}

/// What a line is read with.
pub struct ReadContext<'a> {
    /// The server block of the line.
    pub block: &'a ServerBlock,
    /// The names of its zones: the default of a directive that takes zones.
    pub zones: &'a [Name],
    /// The folder of relative paths (`root`); empty for the working directory.
    pub root: &'a Path,
    /// Where mistakes are collected.
    pub diagnostics: &'a mut Diagnostics,
}

/// What the handlers of one server block are made of.
pub struct BuildContext<'a> {
    /// What outlives the configuration.
    pub shared: &'a Arc<Shared>,
    /// The addresses that the configuration listens on, which are no upstreams.
    pub own: &'a OwnAddresses,
    /// The store of the cache, of the size that the configuration asks for.
    pub cache: &'a Arc<cache::Store>,
    /// The names of the block's zones.
    pub zones: Vec<Name>,
    /// The identity of the block's cached answers.
    pub block_id: u64,
    /// Whether addresses rotate (`loadbalance`).
    pub rotates: bool,
    /// Whether upstreams are probed for loops (`loop`).
    pub probes_loops: bool,
    /// Where the queries to upstreams are sent as well (`dnstap`).
    pub taps: Arc<[Arc<Dnstap>]>,
    /// What has been made so far.
    pub built: Built,
}

/// What a server block consists of.
#[derive(Default)]
pub struct Built {
    /// The handlers, in the order of the chain.
    pub handlers: Vec<Arc<dyn Handler>>,
    /// The handler of `cache`.
    pub cache: Option<Cache>,
    /// The forwards of the chain.
    pub forwards: Vec<Arc<Forward>>,
    /// The store of `kubernetes`.
    pub store: Option<Arc<Store<Index>>>,
    /// What it has for /metrics, beside the handlers themselves.
    pub sources: Vec<Arc<dyn Source>>,
    /// What it has for `/ready?verbose` and `nodens status`.
    pub details: Vec<Arc<dyn Detail>>,
}

impl BuildContext<'_> {
    /// Adds a handler behind those added before.
    pub fn push(&mut self, handler: impl Handler + 'static) {
        self.built.handlers.push(Arc::new(handler));
    }
}
