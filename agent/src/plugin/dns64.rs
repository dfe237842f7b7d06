//! `dns64`: IPv6 addresses made of IPv4 ones, for clients behind a NAT64 (RFC 6147).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use crate::chain::{Handler, Local, Next};
use crate::config::{Args, ValueError};
use crate::corefile::{Diagnostics, Directive};
use crate::metrics::{Counter, Scrape, names};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::lookup::Parts;
use crate::request::Resolving;
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step};
use crate::wire::{Class, HEADER_LEN, Message, Name, Rcode, RecordType, Reply, Section, write_u16};

/// The well-known prefix (RFC 6052 section 2.1).
const WELL_KNOWN: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
/// The longest time to live of what is made without an SOA that says how long there is nothing (RFC 6147 section 5.1.7).
const MAX_TTL: u32 = 600;

/// One `dns64` directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    prefix: Prefix,
    translate_all: bool,
    allow_ipv4: bool,
}

/// What stands before the IPv4 address, and its length in octets: 4 to 8, or 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    octets: [u8; 16],
    len: u8,
}

/// Makes AAAA records.
#[derive(Debug)]
pub struct Dns64 {
    config: Config,
    translated: Counter,
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut octets = [0; 16];
        octets.iter_mut().zip(WELL_KNOWN).for_each(|(to, from)| *to = from);
        let mut config =
            Self { prefix: Prefix { octets, len: 12 }, translate_all: false, allow_ipv4: false };
        let mut args = Args::of(directive, diagnostics);
        config.prefix = args.optional(Prefix::parse).unwrap_or(config.prefix);
        args.end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "prefix" => {
                    config.prefix = args
                        .value("a prefix as 64:ff9b::/96", Prefix::parse)
                        .unwrap_or(config.prefix)
                }
                "translate_all" => config.translate_all = true,
                "allow_ipv4" => config.allow_ipv4 = true,
                _ => args.unknown_option(&["prefix", "translate_all", "allow_ipv4"]),
            }
            args.end();
        }
        config
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        lines.into_iter().for_each(|config| cx.push(Dns64::new(config)));
        Ok(())
    }
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let wrong = |what| {
            ValueError::new(
                format!("{text:?} {what}"),
                "an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits",
            )
        };
        let net: Ipv6Net = text.parse().map_err(|_| wrong("is not an IPv6 prefix"))?;
        if !matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(wrong("has another length than RFC 6052 knows"));
        }
        let octets = net.network().octets();
        if octets[8] != 0 {
            return Err(wrong("has bits 64 to 71 that are not zero (RFC 6052 section 2.2)"));
        }
        Ok(Self { octets, len: net.prefix_len() / 8 })
    }

    /// The address with `v4` in it: behind the prefix, around octet 8, which stays zero (RFC 6052 section 2.2).
    fn embed(&self, v4: [u8; 4]) -> Ipv6Addr {
        let mut octets = self.octets;
        let places = (usize::from(self.len)..16).filter(|place| *place != 8);
        for (place, octet) in places.zip(v4) {
            if let Some(slot) = octets.get_mut(place) {
                *slot = octet;
            }
        }
        octets.into()
    }
}

impl Dns64 {
    /// A handler for this directive.
    pub fn new(config: Config) -> Self {
        Self { config, translated: Counter::new() }
    }

    fn wants_translation(&self, message: &Message) -> bool {
        // No name, no addresses; any other failure means that there are none (RFC 6147 section 5.1.2).
        if message.rcode() == Rcode::NXDOMAIN {
            return false;
        }
        let has_address = || {
            message.layout().records.iter().any(|at| {
                let mapped =
                    |octets: &[u8]| octets.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                at.section == Section::Answer
                    && at.rtype == RecordType::AAAA
                    && !mapped(at.rdata(message.as_bytes()))
            })
        };
        self.config.translate_all || message.rcode() != Rcode::NOERROR || !has_address()
    }

    /// The answer made of `v4`; `None` if there is nothing to translate in it.
    fn translated(&self, view: &Request<'_>, original: &Message, v4: &Answer) -> Option<Answer> {
        let limit = original.negative_ttl().unwrap_or(MAX_TTL);
        let mut parts = Parts::of(v4).ok()?;
        parts.records.retain(|(section, record)| {
            *section == Section::Answer
                && matches!(record.rtype, RecordType::A | RecordType::CNAME | RecordType::DNAME)
        });
        let mut any = false;
        for (_, record) in parts.records.iter_mut().filter(|(_, at)| at.rtype == RecordType::A) {
            let octets: [u8; 4] = record.rdata.as_ref().try_into().ok()?;
            record.rtype = RecordType::AAAA;
            record.rdata = self.config.prefix.embed(octets).octets().into();
            record.ttl = record.ttl.min(limit);
            any = true;
        }
        parts.outcome.plugin = Plugin::Dns64;
        any.then(|| parts.into_answer(view))
    }
}

impl Handler for Dns64 {
    fn plugin(&self) -> Plugin {
        Plugin::Dns64
    }

    fn serve(&self, request: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        let query = &request.query;
        let over_ipv6 = matches!(request.origin.client.ip().to_canonical(), IpAddr::V6(_));
        // Whoever checks signatures himself must see what is signed (RFC 6147 section 5.5).
        let checks = query.dnssec_ok() && query.checking_disabled();
        let wanted = query.qtype() == RecordType::AAAA
            && query.qclass() == Class::IN
            && (over_ipv6 || self.config.allow_ipv4)
            && !checks;
        if wanted { Step::Wait } else { Step::Next }
    }

    fn collect(&self, server: &str, _: &str, out: &mut Scrape) {
        out.count(&names::DNS64_TRANSLATED, &[server], self.translated.value());
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let original = next.resolve(request).await;
            let Ok(view) = request.view() else { return original };
            if original.message.truncated() || !self.wants_translation(&original.message) {
                return original;
            }
            let mut packet = view.query.packet().to_vec();
            write_u16(&mut packet, HEADER_LEN + view.query.name().len(), RecordType::A.0);
            let inner = request.with_packet(packet);
            let v4 = next.resolve(&inner).await;
            if v4.message.truncated() {
                return v4.as_failure(&view);
            }
            match v4.message.rcode() {
                Rcode::NOERROR => {}
                Rcode::NXDOMAIN => return original,
                // A failure is no denial.
                _ => {
                    let error =
                        v4.error.as_deref().unwrap_or("the addresses to translate are not known");
                    let (rcode, code) =
                        (Rcode::SERVFAIL, crate::request::ede::NO_REACHABLE_AUTHORITY);
                    let answer = Answer::failure(&view, Plugin::Dns64, rcode, code, error);
                    return Answer { is_passing: v4.is_passing, ..answer };
                }
            }
            match self.translated(&view, &original.message, &v4) {
                Some(answer) => {
                    self.translated.add(u64::from(request.trace.is_none()));
                    answer
                }
                None => original,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, complaints, parsed};
    use crate::wire::flags;

    const RECORDS: &str = "v4.org. 5000 A 192.0.2.33
        alias.org. 50 CNAME v4.org.
        both.org. 5 A 192.0.2.1
        both.org. 5 AAAA 2001:db8::1
        mx.org. 5 MX 1 a.
        authority org. 900 SOA a. b. 1 1 1 1 300";

    fn client(text: &str) -> Client {
        let dns64 = Arc::new(Dns64::new(parsed(text, Config::parse)));
        let mut client = Client::new(vec![dns64, Fixed::waiting(RECORDS)]);
        client.from = "[2001:db8::9]:53".parse().unwrap();
        client
    }

    #[test]
    fn addresses_are_made_where_there_are_none() {
        let mut c = client("dns64");
        assert_eq!(
            c.text("v4.org", RecordType::AAAA),
            "NOERROR v4.org. 300 AAAA 64:ff9b::c000:221"
        );
        assert!(c.text("both.org", RecordType::AAAA).contains("both.org. 5 AAAA 2001:db8::1"));
        assert!(c.text("mx.org", RecordType::AAAA).starts_with("NOERROR authority"));
        assert!(c.text("none.org", RecordType::AAAA).starts_with("NXDOMAIN"));
        assert!(c.text("v4.org", RecordType::A).contains("192.0.2.33"));
        c.edns = Some((1232, true));
        c.flags = flags::RD | flags::CD;
        assert!(c.text("v4.org", RecordType::AAAA).starts_with("NOERROR authority"));
        let mut c = client("dns64");
        c.from = "[::ffff:10.0.0.1]:53".parse().unwrap();
        assert!(c.text("v4.org", RecordType::AAAA).starts_with("NOERROR authority"));
    }

    #[test]
    fn options() {
        let c = client("dns64 {\n translate_all\n prefix 64:1337::/96\n}");
        assert_eq!(
            c.text("both.org", RecordType::AAAA),
            "NOERROR both.org. 5 AAAA 64:1337::c000:201"
        );
        let mut c = client("dns64 64:1337::/96 {\n allow_ipv4\n}");
        c.from = "10.0.0.1:53".parse().unwrap();
        assert_eq!(
            c.text("v4.org", RecordType::AAAA),
            "NOERROR v4.org. 300 AAAA 64:1337::c000:221"
        );
        for (text, count) in [
            ("dns64 10.0.0.0/8", 1),
            ("dns64 64::/95", 1),
            ("dns64 a::/97 b", 2),
            ("dns64 {\n x\n}", 1),
        ] {
            assert_eq!(complaints(text, Config::parse).1.len(), count, "{text}");
        }
    }

    #[test]
    fn addresses_are_embedded_as_rfc_6052_shows() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
        ] {
            let made = Prefix::parse(prefix).unwrap().embed([192, 0, 2, 33]);
            assert_eq!(made, address.parse::<Ipv6Addr>().unwrap(), "{prefix}");
        }
    }
}
