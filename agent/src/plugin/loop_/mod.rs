//! `loop`: finds upstreams that lead back here, and has them set aside. [`guard`] has the probes, `forward` sends them;
//! this handler ends those that come back.

pub mod guard;

use std::sync::Arc;

use crate::chain::{Handler, Local};
use crate::config::{Args, no_block};
use crate::corefile::Directive;
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::{Rcode, RecordType, Reply};

use guard::LoopGuard;

/// The directive, which has neither arguments nor options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config;

/// Answers probes that come back. Its place is before `forward`.
pub struct Loop(pub Arc<LoopGuard>);

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Args::of(directive, cx.diagnostics).end();
        no_block(directive, cx.diagnostics);
        Self
    }
}

impl BuildHandler for Config {
    fn build(_: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Loop(Arc::clone(&cx.shared.loops)));
        Ok(())
    }
}

impl Handler for Loop {
    fn plugin(&self) -> Plugin {
        Plugin::Loop
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        if request.query.qtype() != RecordType::HINFO {
            return Step::Next;
        }
        let Some(number) = self.0.recognise(request.query.name()) else { return Step::Next };
        if !local.is_dry {
            self.0.arrived(&number, request.origin.client.ip().to_canonical());
        }
        // Whether it was waited for or not, the answer is the same.
        reply.set_rcode(Rcode::NXDOMAIN);
        Step::Done(Outcome::new(Plugin::Loop, Rcode::NXDOMAIN))
    }

    fn bypasses(&self, request: &Request<'_>) -> bool {
        request.query.qtype() != RecordType::HINFO
    }
}
