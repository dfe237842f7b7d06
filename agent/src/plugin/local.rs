//! `local`: names that never leave a host (RFC 6303, RFC 6761 section 6.3).

use crate::chain::{Handler, Local as Worker};
use crate::config::{Args, value};
use crate::corefile::{Diagnostics, Directive};
use crate::metrics::{Counter, Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::record::owner_in;
use crate::wire::{Class, Name, NameRef, Owner, Query, Rcode, RecordType, Reply, Section, flags};

/// A week: what these names are does not change.
const TTL: u32 = 604_800;
/// A day.
const SOA_TTL: u32 = 86_400;
const LOCALHOST: &[u8] = b"\x09localhost\0";
/// The reverse name of ::1.
pub(super) const LOOPBACK_V6: &[u8] = b"\x011\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\
    \x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x03ip6\x04arpa\0";
const LOOPBACK_V4: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\0";

/// What the directive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// `localhost.` before any domain is a loopback host's, too.
    prefix: bool,
}

/// Answers `localhost`, `localhost.` before any domain, and the reverse zones of 0/8, 127/8, 255/8 and ::1.
#[derive(Debug)]
pub struct Local {
    zones: Vec<Name>,
    prefix: bool,
    below_domains: Counter,
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        Args::of(directive, diagnostics).end();
        let mut prefix = true;
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "localhost_prefix" => {
                    prefix = args.value("on or off", value::on_off).unwrap_or(prefix)
                }
                _ => args.unknown_option(&["localhost_prefix"]),
            }
            args.end();
        }
        Self { prefix }
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Local::new(lines.iter().all(|line| line.prefix)));
        Ok(())
    }
}

impl Local {
    /// The handler. `prefix`: `localhost.` before any domain is one of its names.
    pub fn new(prefix: bool) -> Self {
        let name = |text: &str| Name::from_text(text).unwrap_or_else(|_| Name::root());
        let loopback_v6 = NameRef::parse(LOOPBACK_V6).map(NameRef::to_name);
        let mut zones: Vec<Name> =
            ["localhost", "0.in-addr.arpa", "127.in-addr.arpa", "255.in-addr.arpa"]
                .map(name)
                .into();
        zones.extend(loopback_v6);
        Self { zones, prefix, below_domains: Counter::new() }
    }

    /// The zone of a name, and whether the name is a loopback host's.
    fn zone<'n>(&'n self, name: NameRef<'n>, is_dry: bool) -> Option<(NameRef<'n>, bool)> {
        let host = self.prefix && name.first_label() == Some(b"localhost");
        match self.zones.iter().find(|zone| name.is_within(zone.as_ref())) {
            Some(zone) => Some((zone.as_ref(), zone.as_bytes() == LOCALHOST)),
            // What a search domain makes of `localhost`.
            None if host => {
                self.below_domains.add(u64::from(!is_dry));
                Some((name, true))
            }
            None => None,
        }
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Handler for Local {
    fn plugin(&self) -> Plugin {
        Plugin::Local
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Worker) -> Step {
        let query = &request.query;
        let found = self.zone(query.name(), local.is_dry).filter(|_| query.qclass() == Class::IN);
        let Some((zone, host)) = found else { return Step::Next };
        write(query, zone, host, reply);
        Step::Done(Outcome::new(Plugin::Local, Rcode::NOERROR))
    }

    fn collect(&self, _: &str, _: &str, out: &mut Scrape) {
        out.count(&names::LOCAL_LOCALHOST, &[], self.below_domains.value());
    }
}

/// Writes what the name asked for has, in `zone`; `host`: it is a loopback host's. No name is denied.
pub(super) fn write(query: &Query<'_>, zone: NameRef<'_>, host: bool, reply: &mut Reply<'_>) {
    // MNAME localhost, RNAME root.localhost, serial 1, no refreshing, minimum 1 day.
    let mut soa = [0; 11 + 16 + 20];
    let text = b"\x09localhost\0\x04root\x09localhost\0\0\0\0\x01";
    soa.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    soa.iter_mut().rev().zip(SOA_TTL.to_le_bytes()).for_each(|(to, from)| *to = from);
    reply.set_flags(flags::AA, true);
    let (name, qtype) = (query.name(), query.qtype());
    let apex = name == zone;
    let data: Option<&[u8]> = match qtype {
        RecordType::A if host => Some(&[127, 0, 0, 1]),
        RecordType::AAAA if host => Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        RecordType::PTR if [LOOPBACK_V4, LOOPBACK_V6].contains(&name.as_bytes()) => Some(LOCALHOST),
        RecordType::NS if apex => Some(LOCALHOST),
        RecordType::SOA if apex => Some(&soa),
        _ => None,
    };
    match data {
        Some(data) => reply.record(Section::Answer, Owner::Question, qtype, TTL, data),
        None => {
            let owner = owner_in(name, zone);
            reply.record(Section::Authority, owner, RecordType::SOA, SOA_TTL, &soa)
        }
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, complaints, parsed};

    #[test]
    fn names_of_search_lists_may_be_left_alone() {
        let rfc = parsed("local {\n localhost_prefix off\n}", Config::parse);
        assert!(!rfc.prefix && parsed("local", Config::parse).prefix);
        let client = Client::new(vec![
            Arc::new(Local::new(rfc.prefix)),
            Fixed::new("localhost.a.org. 5 A 1.1.1.1"),
        ]);
        let text = client.text("localhost.a.org", RecordType::A);
        assert_eq!(text, "NOERROR localhost.a.org. 5 A 1.1.1.1");
        let text = client.text("x.localhost", RecordType::A);
        assert_eq!(text, "NOERROR x.localhost. 604800 A 127.0.0.1");
        let (_, said) = complaints("local {\n localhost_prefix maybe\n prefix\n}", Config::parse);
        assert_eq!(said.len(), 2, "{said:?}");
    }

    #[test]
    fn local_names_stay_here() {
        let client =
            Client::new(vec![Arc::new(Local::new(true)), Fixed::new("a.org. 5 A 1.1.1.1")]);
        let v6 = format!("1.{}ip6.arpa.", "0.".repeat(31));
        for (name, qtype, text) in [
            ("localhost", RecordType::A, "NOERROR localhost. 604800 A 127.0.0.1".to_owned()),
            ("x.localhost", RecordType::AAAA, "NOERROR x.localhost. 604800 AAAA ::1".to_owned()),
            (
                "localhost.svc.cluster.local",
                RecordType::A,
                "NOERROR localhost.svc.cluster.local. 604800 A 127.0.0.1".to_owned(),
            ),
            (
                "localhost",
                RecordType::MX,
                "NOERROR authority localhost. 86400 SOA localhost.".to_owned(),
            ),
            (
                "1.0.0.127.in-addr.arpa",
                RecordType::PTR,
                "NOERROR 1.0.0.127.in-addr.arpa. 604800 PTR localhost.".to_owned(),
            ),
            (&v6, RecordType::PTR, format!("NOERROR {v6} 604800 PTR localhost.")),
            (
                "9.255.in-addr.arpa",
                RecordType::PTR,
                "NOERROR authority 255.in-addr.arpa. 86400 SOA localhost.".to_owned(),
            ),
            (
                "0.in-addr.arpa",
                RecordType::NS,
                "NOERROR 0.in-addr.arpa. 604800 NS localhost.".to_owned(),
            ),
            ("a.org", RecordType::A, "NOERROR a.org. 5 A 1.1.1.1".to_owned()),
        ] {
            assert_eq!(client.text(name, qtype), text);
        }
    }
}
