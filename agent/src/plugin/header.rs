//! `header`: flags of the query before it is answered, and of the answer before it is sent.

use crate::chain::{Handler, Local, Next};
use crate::config::Args;
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{BuildContext, BuildHandler, ReadContext, ReadDirective};
use crate::request::Resolving;
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step};
use crate::wire::{Name, Reply, flags, write_u16};

/// One `header` directive: flags to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    query: Change,
    response: Change,
}

/// Flags to set and flags to clear, as masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    set: u16,
    clear: u16,
}

/// Changes flags.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    config: Config,
}

impl Config {
    /// Reads one directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        Args::of(directive, diagnostics).end();
        let mut config = Self::default();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            let (query, action) = match option.name.as_str() {
                selector @ ("query" | "response") => match args.required("set or clear") {
                    Some(action) => (selector == "query", action.as_str()),
                    None => continue,
                },
                // The form before CoreDNS 1.8, which is for answers.
                action @ ("set" | "clear") => (false, action),
                _ => {
                    args.unknown_option(&["query", "response"]);
                    continue;
                }
            };
            let change = if query { &mut config.query } else { &mut config.response };
            change.read(&mut args, action, query);
            args.end();
        }
        if config == Self::default() && directive.options().is_empty() {
            Args::of(directive, diagnostics).error("it has no rules", "a line as: response set aa");
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
        cx.push(Header::new(&lines));
        Ok(())
    }
}

impl Change {
    fn read(&mut self, args: &mut Args<'_, '_>, action: &str, query: bool) {
        if args.is_empty() {
            args.error("a flag is missing", "aa, ra or rd");
        }
        while let Some(word) = args.next() {
            let flag = match word.as_str().to_ascii_lowercase().as_str() {
                "aa" => flags::AA,
                "ra" => flags::RA,
                "rd" if query => flags::RD,
                "rd" => {
                    args.error_at(&word.at, "an answer's RD is always the client's", "aa or ra");
                    continue;
                }
                other => {
                    args.error_at(&word.at, format!("there is no flag {other:?}"), "aa, ra or rd");
                    continue;
                }
            };
            match action {
                "set" => (self.set, self.clear) = (self.set | flag, self.clear & !flag),
                "clear" => (self.set, self.clear) = (self.set & !flag, self.clear | flag),
                other => {
                    args.error_at(
                        &word.at,
                        format!("there is no action {other:?}"),
                        "set or clear",
                    );
                    return;
                }
            }
        }
    }

    fn is_in(self, word: u16) -> bool {
        word & !self.clear | self.set == word
    }

    fn apply_to(self, reply: &mut Reply<'_>) {
        reply.set_flags(self.clear, false);
        reply.set_flags(self.set, true);
    }

    fn apply(self, packet: &mut [u8]) {
        let word = crate::wire::read_u16(packet, 2).unwrap_or(0);
        write_u16(packet, 2, word & !self.clear | self.set);
    }
}

impl Header {
    /// A handler for these directives; of two that say different things of a flag the last one holds.
    pub fn new(configs: &[Config]) -> Self {
        let mut config = Config::default();
        for other in configs {
            for (all, one) in
                [(&mut config.query, other.query), (&mut config.response, other.response)]
            {
                *all = Change {
                    set: all.set & !one.clear | one.set,
                    clear: all.clear & !one.set | one.clear,
                };
            }
        }
        Self { config }
    }
}

impl Handler for Header {
    fn plugin(&self) -> Plugin {
        Plugin::Header
    }

    fn serve(&self, request: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        // Only another question needs a packet of its own.
        if self.config.query.is_in(request.query.flags()) { Step::Next } else { Step::Wait }
    }

    fn amends(&self) -> bool {
        true
    }

    fn amend(&self, _: &Request<'_>, reply: &mut Reply<'_>) {
        self.config.response.apply_to(reply);
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            let mut packet = view.query.packet().to_vec();
            self.config.query.apply(&mut packet);
            let inner = request.with_packet(packet);
            let answer = next.resolve(&inner).await;
            answer.edited(&view, |reply| self.config.response.apply_to(reply))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::testing::{Client, Fixed, complaints, parsed};
    use crate::wire::RecordType;

    #[test]
    fn flags_are_set_and_cleared() {
        for (text, expected) in [
            ("header {\n response set ra\n response clear aa\n}", flags::RA),
            ("header {\n set aa ra\n query clear rd\n}", flags::AA | flags::RA),
        ] {
            let config = parsed(text, Config::parse);
            let client = Client::new(vec![
                Arc::new(Header::new(&[config])),
                Fixed::waiting("a.org. 5 A 1.1.1.1"),
            ]);
            let got = client.ask("a.org", RecordType::A).unwrap();
            assert_eq!(got.text(), "NOERROR a.org. 5 A 1.1.1.1");
            assert_eq!(got.flags() & (flags::AA | flags::RA | flags::RD), expected | flags::RD);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (_, said) = complaints(
            "header {\n response set rd xx\n query flip rd\n other\n response\n}",
            Config::parse,
        );
        assert_eq!(said.len(), 5, "{said:?}");
        assert_eq!(complaints("header", Config::parse).1.len(), 1);
    }
}
