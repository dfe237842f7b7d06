//! From `forward` lines to handlers that run.

use std::sync::Arc;

use super::{Config, Forward, ForwardContext, Forwarding};
use crate::clock::CoarseInstant;
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
    /// The zones whose names it forwards: those that are both its own and within its server block's.
    pub fn zones(&self) -> Vec<Name> {
        let (from, zones) = (&self.config.from, &self.context.zones);
        if zones.is_empty() {
            return from.clone();
        }
        let within = |own: &Name, zone: &Name| own.as_ref().is_within(zone.as_ref());
        let mut both: Vec<Name> = Vec::new();
        for own in from {
            for zone in zones {
                let narrower = if within(own, zone) { own } else { zone };
                if are_related(own, zone) && !both.contains(narrower) {
                    both.push(narrower.clone());
                }
            }
        }
        both
    }

    /// Whether this one asks all upstreams of `other`, in the same way.
    pub fn keeps(&self, other: &Self) -> bool {
        let (own, theirs) = (self.upstreams(), other.upstreams());
        let same = |one: &Upstream| own.iter().any(|own| own.target() == one.target());
        self.config.transport == other.config.transport
            && self.config.tls == other.config.tls
            && theirs.iter().all(|upstream| same(upstream))
    }

    /// Whether an upstream has answered within the last `millis`, and not failed since.
    pub fn has_answered_within(&self, millis: u64) -> bool {
        let (now, never) = (CoarseInstant::now(), CoarseInstant::from_millis(0));
        self.upstreams().iter().any(|upstream| {
            let last = upstream.health.last_answer();
            last > never
                && now.millis_since(last) < millis
                && upstream.health.failures() == 0
                && upstream.health.is_available()
        })
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
        places: Some(Arc::clone(&cx.shared.upstream_places)),
        taps: Arc::clone(&cx.taps),
        names: cx.shared.names.clone(),
        zones: cx.zones.clone(),
    };
    let forward = Forward::new(config, context)?;
    // Both end with the forward.
    tokio::spawn(Forward::background(Arc::downgrade(&forward)));
    if forward.config.named().next().is_some() {
        tokio::spawn(Forward::follow_names(Arc::downgrade(&forward)));
    }
    cx.built.sources.push(Arc::clone(&forward) as Arc<dyn Source>);
    let forwarding = Arc::new(Forwarding(forward));
    cx.built.details.push(Arc::clone(&forwarding) as Arc<dyn Detail>);
    Ok(forwarding)
}
