//! From a `cache` line to its handler.

use std::sync::Arc;

use super::{Cache, Config};
use crate::corefile::Directive;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::wire::Name;

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.zones.iter().collect()
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        for config in lines {
            let cache = Cache::new(config, Arc::clone(cx.cache), cx.block_id, cx.rotates);
            cx.built.cache = Some(cache.clone());
            cx.push(cache);
        }
        Ok(())
    }
}
