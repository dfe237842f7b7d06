//! From a `hosts` line to its handler.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Config;
use crate::corefile::Directive;
use crate::metrics::Source;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::wire::Name;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.block, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.zones.iter().collect()
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        for config in lines {
            let hosts = config.build(cx.rotates, &Handle::current());
            cx.built.sources.push(Arc::clone(&hosts) as Arc<dyn Source>);
            cx.built.handlers.push(hosts);
        }
        Ok(())
    }
}
