//! `any`: a short answer to queries of type ANY (RFC 8482 section 4.2), which are of use to nobody but attackers.

use crate::chain::{Handler, Local};
use crate::config::{Args, no_block};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::{Class, Name, Owner, Rcode, RecordType, Reply, Section};

/// What CoreDNS gives the record, which makes it easy to recognise.
const TTL: u32 = 8_482;

/// The directive has no arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config;

/// Answers queries of type ANY.
#[derive(Clone, Copy, Debug)]
pub struct Any;

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
        cx.push(Any);
        Ok(())
    }
}

impl Handler for Any {
    fn plugin(&self) -> Plugin {
        Plugin::Any
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        if request.query.qtype() != RecordType::ANY || request.query.qclass() != Class::IN {
            return Step::Next;
        }
        let data = b"\x03ANY\x09obsoleted";
        reply.record(Section::Answer, Owner::Question, RecordType::HINFO, TTL, data);
        Step::Done(Outcome::new(Plugin::Any, Rcode::NOERROR))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, complaints};

    #[test]
    fn any_is_answered_and_nothing_else() {
        let client = Client::new(vec![Arc::new(Any), Fixed::new("a.org. 5 A 1.1.1.1")]);
        assert_eq!(
            client.text("a.org", RecordType::ANY),
            "NOERROR a.org. 8482 HINFO \x03ANY\x09obsoleted"
        );
        assert_eq!(client.text("a.org", RecordType::A), "NOERROR a.org. 5 A 1.1.1.1");
        assert_eq!(complaints("any x", Config::parse).1.len(), 1);
    }
}
