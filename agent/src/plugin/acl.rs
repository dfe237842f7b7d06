//! `acl`: who may ask what.

use std::net::IpAddr;

use crate::chain::{Handler, Local};
use crate::config::{Args, ValueError, value};
use crate::corefile::{Diagnostic, Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::plugin::networks::Networks;
use crate::plugin::scope::Zones;
use crate::request::{Outcome, Plugin, Request, Step, ede};
use crate::wire::{Name, Rcode, RecordType, Reply};

/// One `acl` directive.
#[derive(Debug)]
pub struct Config {
    zones: Zones,
    policies: Vec<Policy>,
}

/// One line of a directive: what is done with the queries that it is for.
#[derive(Debug)]
struct Policy {
    action: Action,
    /// Empty: every type.
    types: Vec<RecordType>,
    networks: Networks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Block,
    Filter,
    Drop,
}

/// What the words of a line belong to.
#[derive(Clone, Copy)]
enum Reading {
    Types,
    Networks,
}

/// All `acl` directives of a server block, in the order in which they were written.
#[derive(Debug)]
pub struct Acl {
    rules: Vec<Config>,
}

impl Config {
    /// Whether no query is left for `later`: each is decided here.
    pub fn shadows(&self, later: &Self) -> bool {
        let decides_all = self.policies.iter().any(Policy::is_for_all);
        decides_all && later.zones.iter().all(|zone| self.zones.find(zone.as_ref()).is_some())
    }

    /// Reads one directive; `zones` are the server block's.
    pub fn parse(directive: &Directive, zones: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let zones = Zones::new(args.zones_or(zones));
        args.end();
        let mut policies: Vec<Policy> = Vec::new();
        let mut decided = false;
        for option in directive.options() {
            if decided {
                let what = format!(
                    "{}: has no effect: the rule above is for every query",
                    option.name.as_str()
                );
                let warning = Diagnostic::warning(option.at().clone(), what).directive("acl");
                diagnostics.push(warning.help("write the general rule last"));
                break;
            }
            let errors = diagnostics.errors();
            let args = Args::of_option(directive, option, diagnostics);
            policies.extend(Policy::parse(args, option.name.as_str()));
            // What is left of a line with a mistake may seem to be for every query.
            let is_sound = diagnostics.errors() == errors;
            decided = is_sound && policies.last().is_some_and(Policy::is_for_all);
        }
        if directive.options().is_empty() {
            Args::of(directive, diagnostics)
                .warning("it has no rules", "add one, as in: block net 10.0.0.0/8");
        }
        Self { zones, policies }
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.zones, cx.diagnostics)
    }

    fn zones(&self) -> Vec<&Name> {
        self.zones.iter().collect()
    }

    fn ends(&self, zone: &Name) -> bool {
        let first = self.policies.first().filter(|policy| policy.is_for_all());
        first.is_some_and(|policy| policy.action != Action::Allow)
            && self.zones.find(zone.as_ref()).is_some()
    }
}

impl BuildHandler for Config {
    fn build(lines: Vec<Self>, cx: &mut BuildContext<'_>) -> anyhow::Result<()> {
        cx.push(Acl::new(lines));
        Ok(())
    }
}

impl Policy {
    fn parse(mut args: Args<'_, '_>, action: &str) -> Option<Self> {
        let action = match action {
            "allow" => Action::Allow,
            "block" => Action::Block,
            "filter" => Action::Filter,
            "drop" => Action::Drop,
            _ => {
                args.unknown_option(&["allow", "block", "filter", "drop"]);
                return None;
            }
        };
        let (mut types, mut networks) = (None, None);
        let mut reading = None;
        for word in args.rest() {
            match word.as_str() {
                "type" => {
                    types.get_or_insert_with(Vec::new);
                    reading = Some(Reading::Types);
                }
                "net" => {
                    networks.get_or_insert_with(Vec::new);
                    reading = Some(Reading::Networks);
                }
                text => match reading {
                    Some(Reading::Types) => types.get_or_insert_with(Vec::new).push(word),
                    Some(Reading::Networks) => networks.get_or_insert_with(Vec::new).push(word),
                    None => {
                        let wanted = "ACTION [type TYPE...] [net NETWORK...]";
                        args.error_at(
                            &word.at,
                            format!("{text:?} is neither type nor net"),
                            wanted,
                        );
                    }
                },
            }
        }
        if types.as_ref().is_some_and(Vec::is_empty) || networks.as_ref().is_some_and(Vec::is_empty)
        {
            args.error("nothing follows type or net", "type A AAAA, net 10.0.0.0/8 or *");
        }
        let types =
            types.filter(|words| words.iter().all(|word| word.as_str() != "*")).unwrap_or_default();
        let networks = networks.filter(|words| words.iter().all(|word| word.as_str() != "*"));
        let types = types.into_iter().filter_map(|word| args.read(word, qtype)).collect();
        let networks = match networks {
            None => Networks::all(),
            Some(words) => {
                Networks::new(words.into_iter().filter_map(|word| args.read(word, value::network)))
            }
        };
        Some(Self { action, types, networks })
    }

    /// Whether it is for every query.
    fn is_for_all(&self) -> bool {
        self.types.is_empty() && self.networks.is_all()
    }

    fn is_for(&self, qtype: RecordType, client: IpAddr) -> bool {
        (self.types.is_empty() || self.types.contains(&qtype)) && self.networks.contain(client)
    }
}

impl Acl {
    /// A handler for these directives.
    pub fn new(rules: Vec<Config>) -> Self {
        Self { rules }
    }

    fn action(&self, request: &Request<'_>) -> Action {
        let (query, client) = (&request.query, request.origin.client.ip());
        self.rules
            .iter()
            .filter(|rule| rule.zones.find(query.name()).is_some())
            .find_map(|rule| {
                rule.policies.iter().find(|policy| policy.is_for(query.qtype(), client))
            })
            .map_or(Action::Allow, |policy| policy.action)
    }
}

impl Handler for Acl {
    fn plugin(&self) -> Plugin {
        Plugin::Acl
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        let (rcode, code) = match self.action(request) {
            Action::Allow => return Step::Next,
            Action::Drop => return Step::Done(Outcome::silence(Plugin::Acl)),
            Action::Block => (Rcode::REFUSED, ede::BLOCKED),
            Action::Filter => (Rcode::NOERROR, ede::FILTERED),
        };
        reply.set_rcode(rcode);
        // Built here, since `Reply::extended_error` allocates.
        let [high, low] = code.to_be_bytes();
        reply.push_options(&[0, 15, 0, 2, high, low]);
        Step::Done(Outcome::new(Plugin::Acl, rcode))
    }
}

fn qtype(word: &str) -> Result<RecordType, ValueError> {
    RecordType::from_name(word).ok_or_else(|| {
        ValueError::new(format!("{word:?} is not a type"), "one as A, SRV or ANY, or *")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, complaints, parsed};

    fn client(directives: &[&str]) -> Client {
        let rules = directives.iter().map(|text| parsed(text, Config::parse)).collect();
        let behind = Fixed::new("a.example.org. 5 A 1.1.1.1\nb. 5 A 2.2.2.2");
        let mut client = Client::new(vec![Arc::new(Acl::new(rules)), behind]);
        client.edns = Some((1232, false));
        client
    }

    #[test]
    fn the_first_line_that_fits_decides() {
        let mut client = client(&["acl {
            allow type A net 10.0.0.9
            block type A AAAA net 10.0.0.0/8 fd00::/8
            filter type MX
            drop net 192.0.2.0/24
        }"]);
        assert_eq!(
            client.text("a.example.org", RecordType::A),
            "NOERROR a.example.org. 5 A 1.1.1.1"
        );
        let got = client.ask("a.example.org", RecordType::AAAA).unwrap();
        assert_eq!(
            (got.text().as_str(), got.message.options()),
            ("REFUSED", &b"\0\x0f\0\x02\0\x0f"[..])
        );
        let got = client.ask("a.example.org", RecordType::MX).unwrap();
        assert_eq!(
            (got.text().as_str(), got.message.options()),
            ("NOERROR", &b"\0\x0f\0\x02\0\x11"[..])
        );
        assert_eq!(client.text("b", RecordType::A), "NOERROR b. 5 A 2.2.2.2");
        for (from, text) in [
            ("[fd00::9]:53", "REFUSED"),
            ("[::ffff:10.1.2.3]:53", "REFUSED"),
            ("[::ffff:10.0.0.9]:53", "NOERROR a.example.org. 5 A 1.1.1.1"),
            ("192.0.2.255:53", "silence"),
            ("192.0.3.0:53", "NOERROR a.example.org. 5 A 1.1.1.1"),
        ] {
            client.from = from.parse().unwrap();
            assert_eq!(client.text("a.example.org", RecordType::A), text, "{from}");
        }
    }

    #[test]
    fn several_directives_are_asked_in_order() {
        let client = client(&[
            "acl b {\n block\n}",
            "acl a.example.org . {\n allow net *\n}",
            "acl . {\n drop type *\n}",
        ]);
        assert_eq!(client.text("b", RecordType::A), "REFUSED");
        assert_eq!(
            client.text("a.example.org", RecordType::A),
            "NOERROR a.example.org. 5 A 1.1.1.1"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (_, said) = complaints(
            "acl {\n deny\n block net 10.0.0.0/99\n block A\n allow type\n}",
            Config::parse,
        );
        let said: Vec<&str> =
            said.iter().map(|line| line.split(", expected").next().unwrap()).collect();
        assert_eq!(
            said,
            [
                "Corefile:3: acl: there is no option \"deny\"",
                "Corefile:4: acl: block: \"10.0.0.0/99\" is not a network",
                "Corefile:5: acl: block: \"A\" is neither type nor net",
                "Corefile:6: acl: allow: nothing follows type or net",
            ]
        );
        assert_eq!(complaints("acl", Config::parse).1.len(), 1);
    }
}
