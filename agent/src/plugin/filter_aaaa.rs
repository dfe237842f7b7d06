//! `filter_aaaa`: no IPv6 addresses, for nodes that have IPv4 only. A directive of our own.
//!
//! The answer is always NODATA, never NXDOMAIN: that would deny the name with its IPv4 addresses too.

use crate::chain::{Handler, Local};
use crate::config::{Args, no_block};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::scope::Zones;
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::record::owner_in;
use crate::wire::{Class, Name, Rcode, RecordType, Reply, Section};

/// How long a client may keep the answer, seconds: long enough to spare it the question for each connection, short
/// enough to be gone soon after the directive is.
const TTL: u32 = 30;

/// The zones that the directive is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    zones: Zones,
}

/// Answers AAAA queries within the zones.
#[derive(Debug)]
pub struct FilterAaaa {
    zones: Zones,
}

impl Config {
    /// Reads one directive; `zones` are the server block's.
    pub fn parse(directive: &Directive, zones: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let zones = Zones::new(args.zones_or(zones));
        args.end();
        no_block(directive, diagnostics);
        Self { zones }
    }
}

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
        cx.push(FilterAaaa::new(lines));
        Ok(())
    }
}

impl FilterAaaa {
    /// A handler for these directives.
    pub fn new(configs: Vec<Config>) -> Self {
        let zones = configs.iter().flat_map(|config| config.zones.iter().cloned()).collect();
        Self { zones: Zones::new(zones) }
    }
}

impl Handler for FilterAaaa {
    fn plugin(&self) -> Plugin {
        Plugin::FilterAaaa
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        let query = &request.query;
        if query.qtype() != RecordType::AAAA || query.qclass() != Class::IN {
            return Step::Next;
        }
        let Some(zone) = self.zones.find(query.name()) else { return Step::Next };
        // An SOA, so that clients keep the answer (RFC 2308 section 5); its names are the root's, its minimum is `TTL`.
        let mut soa = [0; 22];
        soa[21] = TTL as u8;
        reply.record(
            Section::Authority,
            owner_in(query.name(), zone.as_ref()),
            RecordType::SOA,
            TTL,
            &soa,
        );
        Step::Done(Outcome::new(Plugin::FilterAaaa, Rcode::NOERROR))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, parsed};

    #[test]
    fn only_aaaa_is_filtered() {
        let configs = vec![parsed("filter_aaaa", Config::parse)];
        let behind = Fixed::new("a.example.org. 5 A 1.1.1.1\nb.org. 5 AAAA ::1");
        let client = Client::new(vec![Arc::new(FilterAaaa::new(configs)), behind]);
        assert_eq!(
            client.text("a.example.org", RecordType::AAAA),
            "NOERROR authority example.org. 30 SOA ."
        );
        assert_eq!(
            client.text("no.example.org", RecordType::AAAA),
            "NOERROR authority example.org. 30 SOA ."
        );
        assert_eq!(
            client.text("a.example.org", RecordType::A),
            "NOERROR a.example.org. 5 A 1.1.1.1"
        );
        assert_eq!(client.text("b.org", RecordType::AAAA), "NOERROR b.org. 5 AAAA ::1");
    }
}
