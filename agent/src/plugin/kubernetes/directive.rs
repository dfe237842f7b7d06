//! From a `kubernetes` line to its handler, and to the cluster that it watches.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Config, Kubernetes, StoreHealth};
use crate::cluster::index::Index;
use crate::corefile::Directive;
use crate::detail::Detail;
use crate::metrics::Source;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::forward::directive::start;
use crate::plugin::scope::{Fallthrough, covers};
use crate::wire::Name;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        Config::zones(self).collect()
    }

    fn ends(&self, zone: &Name) -> bool {
        self.fallback.is_empty()
            && self.view.fallthrough == Fallthrough::Never
            && covers(&self.view.zones, zone)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        lines.into_iter().try_for_each(|config| config.build_one(cx))
    }
}

impl Config {
    fn build_one(self, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        let watching =
            cx.shared.watching.handle().context("cannot start the thread that watches")?;
        let store =
            cx.shared.clusters.open(self.spec.clone(), watching, || Index::new(self.settings()))?;
        let mut view = self.view.clone();
        view.own = cx.own.addresses().iter().map(SocketAddr::ip).collect();
        view.rotate = cx.rotates;
        let store_health = Arc::new(StoreHealth::new(
            self.zones().cloned().collect(),
            Arc::clone(store.report()),
            self.max_staleness,
        ));
        cx.built.sources.push(Arc::clone(&store_health) as Arc<dyn Source>);
        cx.built.details.push(Arc::clone(&store_health) as Arc<dyn Detail>);
        let mut kubernetes =
            Kubernetes::new(view, Arc::clone(store.sink())).with_store_health(store_health);
        if let Some(fallback) = self.fallback_forward() {
            kubernetes = kubernetes.with_fallback(start(fallback, cx)?);
        }
        cx.push(kubernetes);
        cx.built.store = Some(store);
        Ok(())
    }
}
