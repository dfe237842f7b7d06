//! From `forward` lines to handlers that run.

use std::sync::Arc;

use super::{Config, Forward, ForwardContext, Forwarding};
use crate::corefile::Directive;
use crate::detail::Detail;
use crate::metrics::Source;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::scope::{are_related, covers};
use crate::upstream::Upstream;
use crate::wire::Name;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.from.iter().collect()
    }

    fn ends(&self, zone: &Name) -> bool {
        let excepted = |except: &Name| are_related(except, zone);
        self.next.is_empty()
            && !self.next_on_nodata
            && covers(&self.from, zone)
            && !self.except.iter().any(excepted)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        for config in lines {
            let forwarding = start(config, cx)?;
            cx.built.forwards.push(Arc::clone(&forwarding.0));
            cx.built.handlers.push(forwarding);
        }
        Ok(())
    }
}

impl Forward {
    /// Whether there are names that both would forward.
    pub fn shares_zone(&self, other: &Self) -> bool {
        let theirs = &other.config().from;
        self.config().from.iter().any(|own| theirs.iter().any(|zone| are_related(own, zone)))
    }

    /// Whether an upstream is not set aside.
    pub fn is_up(&self) -> bool {
        let is_up =
            |upstream: &Upstream| !upstream.health.is_down() && !upstream.health.is_looping();
        self.upstreams().iter().any(|upstream| is_up(upstream))
    }
}

/// Starts a forward of this server block, or of a directive within it. It is not yet part of the chain.
pub fn start(config: Config, cx: &mut BuildContext<'_>) -> anyhow::Result<Arc<Forwarding>> {
    let context = ForwardContext {
        workers: cx.shared.workers,
        own: cx.own.clone(),
        loops: cx.probes_loops.then(|| Arc::clone(&cx.shared.loops)),
        health_registry: Arc::clone(&cx.shared.health_registry),
        groups: Some(Arc::clone(&cx.shared.upstream_places)),
        zones: cx.zones.clone(),
    };
    let forward = Forward::new(config, context)?;
    // Ends with the forward.
    tokio::spawn(Forward::background(Arc::downgrade(&forward)));
    cx.built.sources.push(Arc::clone(&forward) as Arc<dyn Source>);
    let forwarding = Arc::new(Forwarding(forward));
    cx.built.details.push(Arc::clone(&forwarding) as Arc<dyn Detail>);
    Ok(forwarding)
}
