//! From a `dnstap` line to its configuration.

use super::Config;
use crate::corefile::Directive;
use crate::plugin::directive::{ReadContext, ReadDirective};

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}
