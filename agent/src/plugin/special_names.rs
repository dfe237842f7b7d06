//! `special_names [on|off]`: names that are not to be forwarded (RFC 6761, 7686, 8375, 9462, 9476), answered here in every server
//! block that forwards.
//!
//! The handler is in front of `cache`, behind everything that the operator serves himself: a name that `hosts`, `template`,
//! `kubernetes` or `file` answers does not come here. A special zone that a server block or a `forward` names is the
//! operator's. `.local`, `test` and private reverse zones are left alone, as resolvers of nodes often serve them.

use crate::chain::{Handler, Local as Worker};
use crate::config::{Args, ValueError, no_block};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::local;
use crate::request::{Outcome, Plugin, Request, Step};
use crate::wire::record::owner_in;
use crate::wire::{Class, Name, NameRef, Rcode, RecordType, Reply, Section, flags};

/// How long a client may keep a denial, seconds: what RFC 6303 section 3 recommends for empty zones.
const TTL: u32 = 10_800;
/// MNAME localhost, RNAME nobody.invalid, and the times of RFC 6303 section 3.
const SOA: &[u8] = b"\x09localhost\0\x06nobody\x07invalid\0\
    \0\0\0\x01\0\0\x0e\x10\0\0\x04\xb0\0\x09\x3a\x80\0\0\x2a\x30";

/// One `special_names` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    on: bool,
    /// Zones that the operator serves, special ones or below such.
    served: Vec<Name>,
}

/// Answers special names.
#[derive(Debug)]
pub struct SpecialNames {
    served: Vec<Name>,
}

/// A zone that is not forwarded.
struct Zone {
    name: &'static [u8],
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Every name is a loopback host's.
    Localhost,
    /// Names of loopback addresses.
    Loopback,
    /// No name at all, not even the zone's own.
    Nothing,
    /// A zone without names. It is a child of a public zone, which alone has its DS (RFC 8375 section 4).
    Empty,
}

const ZONES: [Zone; 8] = [
    Zone { name: b"\x09localhost\0", content: Content::Localhost },
    Zone { name: b"\x07invalid\0", content: Content::Nothing },
    Zone { name: b"\x05onion\0", content: Content::Nothing },
    Zone { name: b"\x03alt\0", content: Content::Nothing },
    Zone { name: b"\x04home\x04arpa\0", content: Content::Empty },
    Zone { name: b"\x08resolver\x04arpa\0", content: Content::Empty },
    Zone { name: b"\x03127\x07in-addr\x04arpa\0", content: Content::Loopback },
    Zone { name: local::LOOPBACK_V6, content: Content::Loopback },
];
/// Where designated resolvers would be found (RFC 9462 section 4): the name exists, without records.
const DESIGNATED: &[u8] = b"\x04_dns\x08resolver\x04arpa\0";

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let on = args.optional(switch).unwrap_or(true);
        args.end();
        no_block(directive, diagnostics);
        Self { on, served: Vec::new() }
    }

    /// What holds without the directive.
    pub fn implied() -> Self {
        Self { on: true, served: Vec::new() }
    }

    /// Leaves those of these zones to others that are special, or below a special zone.
    pub fn leave(&mut self, zones: impl IntoIterator<Item = Name>) {
        self.served.extend(zones.into_iter().filter(|zone| find(zone.as_ref()).is_some()));
    }
}

fn switch(word: &str) -> Result<bool, ValueError> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ValueError::new(format!("{word:?} is neither on nor off"), "on or off")),
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        for config in lines.into_iter().filter(|config| config.on) {
            cx.push(SpecialNames { served: config.served });
        }
        Ok(())
    }
}

/// The special zone of a lower-cased name. Nearly every name is told by the last letter of its last label.
fn find(name: NameRef<'_>) -> Option<&'static Zone> {
    let bytes = name.as_bytes();
    let last = bytes.len().checked_sub(2).and_then(|at| bytes.get(at))?;
    if !matches!(last, b't' | b'd' | b'n' | b'a') {
        return None;
    }
    ZONES.iter().find(|zone| {
        bytes.ends_with(zone.name)
            && NameRef::parse(zone.name).is_ok_and(|zone| name.is_within(zone))
    })
}

impl Handler for SpecialNames {
    fn plugin(&self) -> Plugin {
        Plugin::SpecialNames
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Worker) -> Step {
        let (query, name) = (&request.query, request.query.name());
        let Some(zone) = find(name).filter(|_| query.qclass() == Class::IN) else {
            return Step::Next;
        };
        if self.served.iter().any(|served| name.is_within(served.as_ref())) {
            return Step::Next;
        }
        let apex = name.as_bytes() == zone.name;
        let rcode = match zone.content {
            Content::Localhost | Content::Loopback => {
                let zone = NameRef::parse(zone.name).unwrap_or(name);
                local::write(query, zone, zone.as_bytes() == ZONES[0].name, reply);
                return Step::Done(Outcome::new(Plugin::SpecialNames, Rcode::NOERROR));
            }
            Content::Empty if apex && query.qtype() == RecordType::DS => return Step::Next,
            Content::Empty if apex || name.as_bytes() == DESIGNATED => Rcode::NOERROR,
            Content::Empty | Content::Nothing => Rcode::NXDOMAIN,
        };
        reply.set_flags(flags::AA, true);
        reply.set_rcode(rcode);
        let owner = owner_in(name, NameRef::parse(zone.name).unwrap_or(name));
        let section = match (zone.content, query.qtype()) {
            (Content::Empty, RecordType::SOA) if apex => Section::Answer,
            _ => Section::Authority,
        };
        reply.record(section, owner, RecordType::SOA, TTL, SOA);
        Step::Done(Outcome::new(Plugin::SpecialNames, rcode))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, read};

    fn client(served: &[&str]) -> Client {
        let mut config = Config::implied();
        config.leave(served.iter().map(|zone| Name::from_text(zone).unwrap()));
        let handler = SpecialNames { served: config.served };
        Client::new(vec![Arc::new(handler), Fixed::new("a.home.arpa. 5 A 192.0.2.1")])
    }

    #[test]
    fn special_names_are_answered_here() {
        let client = client(&[]);
        let v6 = format!("1.{}ip6.arpa", "0.".repeat(31));
        let soa = |zone: &str| format!("authority {zone}. 10800 SOA localhost.");
        for (name, qtype, text) in [
            ("localhost", RecordType::A, "NOERROR localhost. 604800 A 127.0.0.1".to_owned()),
            ("a.b.localhost", RecordType::AAAA, "NOERROR a.b.localhost. 604800 AAAA ::1".into()),
            (
                "localhost",
                RecordType::MX,
                "NOERROR authority localhost. 86400 SOA localhost.".into(),
            ),
            (
                "1.0.0.127.in-addr.arpa",
                RecordType::PTR,
                "NOERROR 1.0.0.127.in-addr.arpa. 604800 PTR localhost.".into(),
            ),
            (&v6, RecordType::PTR, format!("NOERROR {v6}. 604800 PTR localhost.")),
            ("x.invalid", RecordType::A, format!("NXDOMAIN {}", soa("invalid"))),
            ("invalid", RecordType::A, format!("NXDOMAIN {}", soa("invalid"))),
            ("abc.onion", RecordType::A, format!("NXDOMAIN {}", soa("onion"))),
            ("wallet.gns.alt", RecordType::A, format!("NXDOMAIN {}", soa("alt"))),
            ("printer.home.arpa", RecordType::A, format!("NXDOMAIN {}", soa("home.arpa"))),
            ("home.arpa", RecordType::A, format!("NOERROR {}", soa("home.arpa"))),
            ("home.arpa", RecordType::SOA, "NOERROR home.arpa. 10800 SOA localhost.".into()),
            ("_dns.resolver.arpa", RecordType::SVCB, format!("NOERROR {}", soa("resolver.arpa"))),
        ] {
            assert_eq!(client.text(name, qtype), text);
        }
    }

    #[test]
    fn all_others_are_passed_on() {
        let others = client(&[]);
        for name in [
            "notlocalhost",
            "a.local",
            "a.test",
            "xonion",
            "salt",
            "alt.org",
            "arpa",
            "10.in-addr.arpa",
            ".",
        ] {
            assert_eq!(others.text(name, RecordType::A), "NXDOMAIN", "{name}");
        }
        assert_eq!(others.text("home.arpa", RecordType::DS), "NXDOMAIN");
        let served = client(&["home.arpa", "lab.invalid", "example.org"]);
        assert_eq!(served.text("a.home.arpa", RecordType::A), "NOERROR a.home.arpa. 5 A 192.0.2.1");
        assert_eq!(served.text("x.lab.invalid", RecordType::A), "NXDOMAIN");
        assert!(served.text("x.invalid", RecordType::A).contains("SOA"));
    }

    #[test]
    fn on_or_off() {
        for (text, on) in [("special_names", true), ("special_names on", true)] {
            assert_eq!(read(text, Config::parse).0.on, on);
        }
        assert!(!read("special_names off", Config::parse).0.on);
        for text in ["special_names of", "special_names on x", "special_names {\n x\n}"] {
            assert_eq!(read(text, Config::parse).1.lines().count(), 1, "{text}");
        }
    }
}
