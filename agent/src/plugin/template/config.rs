//! What a `template` directive means.

use regex::Regex;

use super::expand::{Piece, Text, Value};
use crate::config::{Args, ValueError, value};
use crate::corefile::{Diagnostics, Directive, Location};
use crate::metrics::Counter;
use crate::plugin::pattern;
use crate::plugin::scope::{Fallthrough, Zones};
use crate::wire::{Class, Name, Rcode, RecordType, text};

/// One `template` directive.
#[derive(Debug)]
pub struct Config {
    pub(super) class: Class,
    pub(super) qtype: RecordType,
    pub(super) zones: Zones,
    /// None: every name matches.
    pub(super) matches: Vec<Regex>,
    pub(super) answer: Vec<Entry>,
    pub(super) authority: Vec<Entry>,
    pub(super) additional: Vec<Entry>,
    pub(super) rcode: Rcode,
    pub(super) error: Option<(u16, Box<str>)>,
    pub(super) fallthrough: Fallthrough,
    pub(super) at: Location,
    /// Queries that it was for.
    pub(super) matched: Counter,
}

/// One record of a template.
#[derive(Debug)]
pub(super) struct Entry {
    pub text: Text,
    /// As it was written: a label of metrics.
    pub source: Box<str>,
    /// Times that it could not be filled in.
    pub failures: Counter,
    /// Times that what came of it was no record.
    pub rr_failures: Counter,
    /// The record, where only its owner depends on the query, and is what was asked for.
    pub prepared: Option<Prepared>,
    /// True where the record's text has the word CNAME, or could have it.
    pub may_be_alias: bool,
}

/// A record of the name that was asked for.
#[derive(Debug)]
pub(super) struct Prepared {
    pub rtype: RecordType,
    pub class: Class,
    pub ttl: u32,
    pub rdata: Box<[u8]>,
}

const OPTIONS: &[&str] =
    &["match", "answer", "additional", "authority", "rcode", "ederror", "fallthrough", "upstream"];

impl Config {
    /// Whether it is for queries of every type in class IN.
    pub(super) fn is_for_every_type(&self) -> bool {
        matches!(self.class, Class::ANY | Class::IN) && self.qtype == RecordType::ANY
    }

    /// Whether all queries within `zone` that it is for end here.
    pub(super) fn passes_nothing(&self, zone: &Name) -> bool {
        self.zones.find(zone.as_ref()).is_some()
            && (self.matches.is_empty() || self.fallthrough == Fallthrough::Never)
    }

    /// Whether no query is left for `later`.
    pub fn shadows(&self, later: &Self) -> bool {
        let class = self.class == Class::ANY || self.class == later.class;
        let qtype = self.qtype == RecordType::ANY || self.qtype == later.qtype;
        class && qtype && later.zones.iter().all(|zone| self.passes_nothing(zone))
    }

    /// Reads one directive; `zones` are the server block's.
    pub fn parse(directive: &Directive, zones: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let class = args.value("a class as IN", class).unwrap_or(Class::IN);
        let qtype = args.value("a type as A", qtype).unwrap_or(RecordType::ANY);
        let zones = Zones::new(args.zones_or(zones));
        args.end();
        let mut config = Self {
            class,
            qtype,
            zones,
            matches: Vec::new(),
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            rcode: Rcode::NOERROR,
            error: None,
            fallthrough: Fallthrough::Never,
            at: directive.at().clone(),
            matched: Counter::new(),
        };
        // The expressions first: the records use their groups.
        for option in directive.options().iter().filter(|option| option.name.as_str() == "match") {
            let mut args = Args::of_option(directive, option, diagnostics);
            config.matches.extend(args.value("a regular expression", pattern::regex));
            while let Some(word) = args.next() {
                config.matches.extend(args.read(word, pattern::regex));
            }
        }
        for option in directive.options() {
            config.option(Args::of_option(directive, option, diagnostics), option.name.as_str());
        }
        config
    }

    fn option(&mut self, mut args: Args<'_, '_>, name: &str) {
        match name {
            "match" => {
                args.rest();
            }
            "answer" => entries(&mut args, &self.matches, &mut self.answer),
            "additional" => entries(&mut args, &self.matches, &mut self.additional),
            "authority" => entries(&mut args, &self.matches, &mut self.authority),
            "rcode" => {
                self.rcode = args.value("a response code as NXDOMAIN", rcode).unwrap_or(self.rcode)
            }
            "ederror" => {
                let code = args.value("an extended error code (RFC 8914)", |text| {
                    value::integer(text, 0..=u16::MAX)
                });
                let text = args.next().map_or("", |word| word.as_str());
                self.error = code.map(|code| (code, text.into()));
            }
            "fallthrough" => self.fallthrough = Fallthrough::parse(&mut args),
            // Without effect in CoreDNS since 1.7: names are always looked up.
            "upstream" => {
                args.rest();
            }
            _ => args.unknown_option(OPTIONS),
        }
        args.end();
    }
}

impl Entry {
    fn parse(source: &str) -> Result<(Self, Option<String>), ValueError> {
        let text = Text::parse(source)?;
        let mut warning = None;
        let mut prepared = None;
        if let Some(constant) = constant(&text) {
            match text::record(&constant) {
                Ok(record) if matches!(text.0.first(), Some(Piece::Value(Value::Name))) => {
                    let crate::wire::Record { rtype, class, ttl, rdata, .. } = record;
                    prepared = Some(Prepared { rtype, class, ttl, rdata });
                }
                Ok(_) => {}
                Err(error) => warning = Some(format!("{source:?} is not a record: {error}")),
            }
        }
        let may_be_alias = match &prepared {
            Some(prepared) => prepared.rtype == RecordType::CNAME,
            None => source.to_ascii_uppercase().contains("CNAME") || source.contains(".Type"),
        };
        let entry = Self {
            text,
            source: source.into(),
            failures: Counter::new(),
            rr_failures: Counter::new(),
            prepared,
            may_be_alias,
        };
        Ok((entry, warning))
    }
}

/// The text with `x.` for an owner that is `.Name`, where nothing else in it depends on the query.
fn constant(text: &Text) -> Option<String> {
    let mut out = String::new();
    for (number, piece) in text.0.iter().enumerate() {
        match piece {
            Piece::Literal(literal)
                if number != 1 || literal.starts_with([' ', '\t']) || out != "x." =>
            {
                out.push_str(literal);
            }
            Piece::Value(Value::Name) if number == 0 => out.push_str("x."),
            Piece::Value(Value::Constant(constant)) => out.push_str(constant),
            _ => return None,
        }
    }
    Some(out)
}

fn entries(args: &mut Args<'_, '_>, matches: &[Regex], into: &mut Vec<Entry>) {
    let mut words = args.required("a record in quotes").into_iter().collect::<Vec<_>>();
    words.extend(args.rest());
    for word in words {
        if let Some((entry, warning)) = args.read(word, Entry::parse) {
            if let Some(warning) = warning {
                args.warning(warning, "write NAME TTL CLASS TYPE DATA, all in one pair of quotes");
            }
            check_groups(args, matches, &entry);
            into.push(entry);
        }
    }
}

/// Warns of groups that no expression has: the record that uses them can never be made.
fn check_groups(args: &mut Args<'_, '_>, matches: &[Regex], entry: &Entry) {
    let most = matches.iter().map(Regex::captures_len).max().unwrap_or(1);
    for value in entry.text.groups() {
        match value {
            Value::Match(number) if *number >= most => {
                args.warning(
                    format!("no expression has a group {number}"),
                    "use a group of `match`, from 0 on",
                );
            }
            Value::Group(group)
                if !matches
                    .iter()
                    .flat_map(|regex| regex.capture_names().flatten())
                    .any(|name| *name == **group) =>
            {
                let what = format!("no expression has a group named {group:?}");
                args.warning(what, "name a group of `match`, as in (?P<name>...)");
            }
            _ => {}
        }
    }
}

fn class(word: &str) -> Result<Class, ValueError> {
    text::class_of(word)
        .ok_or_else(|| ValueError::new(format!("{word:?} is not a class"), "IN, CH, HS or ANY"))
}

fn qtype(word: &str) -> Result<RecordType, ValueError> {
    RecordType::from_name(word)
        .ok_or_else(|| ValueError::new(format!("{word:?} is not a type"), "one as A, SRV or ANY"))
}

pub(crate) fn rcode(word: &str) -> Result<Rcode, ValueError> {
    Rcode::from_name(word).ok_or_else(|| {
        ValueError::new(format!("{word:?} is not a response code"), "one as NXDOMAIN or REFUSED")
    })
}
