//! `log [NAMES...] [FORMAT] { class CLASS...; minDuration DURATION }`: a line for each query.
//!
//! The first line of the block whose names fit decides, as in CoreDNS. With `--log-format json` a line has fields instead
//! of FORMAT's text.

mod format;

use std::sync::Arc;
use std::time::Duration;

pub use self::format::{Finished, Template, Values};
use crate::chain::QueryLog;
use crate::clients::Clients;
use crate::config::value::duration;
use crate::config::{Args, ServerBlock, ValueError, zone_names};
use crate::corefile::{Diagnostics, Directive, Token};
use crate::logging::Format;
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::plugin::scope::covers;
use crate::request::{Outcome, Request};
use crate::wire::layout::Layout;
use crate::wire::{Name, Rcode, RecordType, Section, read_u16};

/// The target of the lines, by which `--log-level` can separate them from the program's own.
pub const TARGET: &str = "query";

/// One `log` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    names: Vec<Name>,
    template: Template,
    classes: Classes,
    /// Logged whatever their class from this duration on.
    slow: Option<Duration>,
}

/// The kinds of response that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Classes {
    success: bool,
    denial: bool,
    error: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Success,
    /// NXDOMAIN, or no record of the type.
    Denial,
    Error,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.block, cx.diagnostics)
    }
}

impl Config {
    /// Whether its lines name the Pods that ask.
    pub fn names_clients(&self) -> bool {
        self.template.names_clients()
    }

    /// Whether no query is left for `later`: the first line whose names fit decides.
    pub fn shadows(&self, later: &Self) -> bool {
        later.names.iter().all(|name| covers(&self.names, name))
    }

    /// Reads a line of `block`.
    pub fn parse(
        directive: &Directive,
        block: &ServerBlock,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let mut words = args.rest();
        let mut template = Template::common();
        if let Some((last, before)) = words.split_last()
            && last.as_str().contains('{')
        {
            if before.is_empty() {
                args.warning(
                    format!("CoreDNS takes {:?} for a name and logs nothing", last.as_str()),
                    "write a name before the format: log . FORMAT",
                );
            }
            let (read, unknown) = Template::parse(last.as_str());
            for unknown in unknown {
                let (what, help) = unknown.complaint();
                args.warning(what, help);
            }
            (template, words) = (read, before);
        }
        let mut names = Vec::new();
        for word in words {
            names.extend(args.read(word, zone_names).unwrap_or_default());
            if names.last().is_some_and(|name| !reaches(name, block)) {
                args.warning(
                    what_a_stranger_is(word),
                    "write names within the zones of the server block",
                );
            }
        }
        if words.is_empty() {
            names.push(Name::root());
        }
        let mut rule = Self { names, template, classes: Classes::default(), slow: None };
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "class" => rule.read_classes(&mut args),
                "minDuration" => rule.slow = args.value("a duration, as 1s", duration),
                _ => args.unknown_option(&["class", "minDuration"]),
            }
            args.end();
        }
        if rule.classes == Classes::default() {
            rule.classes = Classes::ALL;
        }
        rule
    }

    fn read_classes(&mut self, args: &mut Args<'_, '_>) {
        const WANTED: &str = "success, denial, error or all";
        let classes = &mut self.classes;
        let mut next = args.required(WANTED);
        while let Some(word) = next {
            let _ = args.read(word, |text| {
                match text {
                    "success" => classes.success = true,
                    "denial" => classes.denial = true,
                    "error" => classes.error = true,
                    "all" => *classes = Classes::ALL,
                    _ => {
                        return Err(ValueError::new(format!("there is no class {text:?}"), WANTED));
                    }
                }
                Ok(())
            });
            next = args.next();
        }
    }
}

impl Classes {
    const ALL: Self = Self { success: true, denial: true, error: true };

    fn has(self, class: Class) -> bool {
        match class {
            Class::Success => self.success,
            Class::Denial => self.denial,
            Class::Error => self.error,
        }
    }
}

impl Class {
    fn of(outcome: &Outcome, reply: &[u8]) -> Self {
        match outcome.rcode {
            Rcode::NXDOMAIN => Self::Denial,
            Rcode::NOERROR if has_no_records(reply) => Self::Denial,
            Rcode::NOERROR => Self::Success,
            _ => Self::Error,
        }
    }
}

/// A server block's query log.
#[derive(Debug)]
pub struct Log {
    rules: Box<[Config]>,
    format: Format,
    clients: Arc<Clients>,
    /// The name of the block's view, if it has one.
    view: Option<Box<str>>,
}

impl Log {
    /// The log that these lines describe.
    pub fn new(lines: Vec<Config>, format: Format, clients: Arc<Clients>) -> Self {
        Self { rules: lines.into(), format, clients, view: None }
    }

    /// The same, of a block for this view.
    pub fn of_view(self, view: Option<&str>) -> Self {
        Self { view: view.map(Into::into), ..self }
    }

    fn rule(&self, request: &Request<'_>) -> Option<&Config> {
        let asked = request.query.name();
        self.rules.iter().find(|rule| rule.names.iter().any(|name| asked.is_within(name.as_ref())))
    }
}

impl QueryLog for Log {
    fn wants(&self, request: &Request<'_>, outcome: &Outcome) -> bool {
        self.rule(request).is_some_and(|rule| {
            // A positive response code may still be a denial, which only the message shows.
            let classes = rule.classes;
            rule.slow.is_some()
                || match outcome.rcode {
                    Rcode::NOERROR => classes.success || classes.denial,
                    Rcode::NXDOMAIN => classes.denial,
                    _ => classes.error,
                }
        })
    }

    fn write(&self, request: &Request<'_>, outcome: &Outcome, reply: &[u8], micros: u64) {
        let Some(rule) = self.rule(request) else { return };
        let slow = rule.slow.is_some_and(|slow| Duration::from_micros(micros) >= slow);
        if !slow && !rule.classes.has(Class::of(outcome, reply)) {
            return;
        }
        let finished = Finished { outcome, reply, micros };
        let view = self.view.as_deref();
        let values = Values { view, ..Values::of(request, Some(finished), &self.clients) };
        match self.format {
            Format::Text => tracing::info!(target: TARGET, "{}", rule.template.filled(&values)),
            Format::Json => values.write_fields(),
        }
    }
}

/// Whether queries for `name`, or below it, can come to the block.
fn reaches(name: &Name, block: &ServerBlock) -> bool {
    let zones = block.zone_names();
    // Nothing is known of a block whose zones are wrong.
    zones.is_empty()
        || zones.iter().any(|zone| {
            zone.as_ref().is_within(name.as_ref())
                || name.as_ref().is_within(zone.as_ref()) && !looks_like_a_place(name)
        })
}

/// True for what people write in the hope that the log goes there.
fn looks_like_a_place(name: &Name) -> bool {
    let text = name.to_string();
    matches!(text.as_str(), "stdout." | "stderr." | "syslog.") || text.starts_with('/')
}

fn what_a_stranger_is(word: &Token) -> String {
    format!("{:?} is taken as a name, and only queries within it are logged", word.as_str())
}

/// A NOERROR response without answers that does not refer to other servers either.
fn has_no_records(reply: &[u8]) -> bool {
    if read_u16(reply, 6) != Some(0) {
        return false;
    }
    Layout::parse(reply).is_ok_and(|layout| {
        !layout.section(Section::Authority).any(|record| record.rtype == RecordType::NS)
    })
}

#[cfg(test)]
mod tests;
