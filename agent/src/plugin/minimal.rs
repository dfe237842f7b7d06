//! `minimal`: answers without what was not asked for.

use crate::chain::{Handler, Local};
use crate::config::{Args, no_block};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::{Plugin, Request, Step};
use crate::wire::{Name, Rcode, RecordType, Reply, Section};

/// The directive has no arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config;

/// Takes the authority and the additional section away where there are answers, and the additional section where there
/// are none, but for referrals, which need it.
#[derive(Clone, Copy, Debug)]
pub struct Minimal;

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        Args::of(directive, diagnostics).end();
        no_block(directive, diagnostics);
        Self
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }
}

impl BuildHandler for Config {
    fn build(_: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Minimal);
        Ok(())
    }
}

impl Handler for Minimal {
    fn plugin(&self) -> Plugin {
        Plugin::Minimal
    }

    fn serve(&self, _: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        Step::Next
    }

    fn amends(&self) -> bool {
        true
    }

    fn amend(&self, _: &Request<'_>, reply: &mut Reply<'_>) {
        let any = |section, rtype| {
            let wanted = |found| rtype == RecordType::ANY || found == rtype;
            let mut written = reply.written().filter_map(Result::ok);
            written.any(|at| at.section == section && wanted(at.rtype))
        };
        let answered = reply.rcode() == Rcode::NOERROR && any(Section::Answer, RecordType::ANY);
        let referral =
            any(Section::Authority, RecordType::NS) && !any(Section::Authority, RecordType::SOA);
        if answered {
            reply.keep_up_to(Section::Answer);
        } else if !referral {
            reply.keep_up_to(Section::Authority);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed};

    #[test]
    fn optional_sections_go() {
        let records =
            "a.org. 5 A 1.1.1.1\nauthority org. 5 NS ns.org.\nadditional ns.org. 5 A 1.1.1.2";
        let client = Client::new(vec![Arc::new(Minimal), Fixed::new(records)]);
        assert_eq!(client.text("a.org", RecordType::A), "NOERROR a.org. 5 A 1.1.1.1");
        let referral = "NOERROR authority org. 5 NS ns.org.; additional ns.org. 5 A 1.1.1.2";
        assert_eq!(client.text("a.org", RecordType::MX), referral);
        let records = "authority org. 5 SOA a. b. 1 1 1 1 1\nadditional ns.org. 5 A 1.1.1.2";
        let client = Client::new(vec![Arc::new(Minimal), Fixed::waiting(records)]);
        assert_eq!(client.text("a.org", RecordType::A), "NXDOMAIN authority org. 5 SOA a.");
    }
}
