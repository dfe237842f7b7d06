//! What a `rewrite` directive means.

use std::ops::RangeInclusive;

use regex::Regex;

use super::edns;
use super::matcher::{Matcher, Replacement};
use crate::config::{Args, ValueError, value};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::pattern;
use crate::wire::{Class, Name, Rcode, RecordType, text};

/// One `rewrite` directive: one rule.
#[derive(Debug)]
pub struct Config {
    /// True where the rules behind it are looked at too.
    pub(super) continues: bool,
    pub(super) rule: Rule,
}

/// What is rewritten.
#[derive(Debug)]
pub(super) enum Rule {
    Name {
        matcher: Matcher,
        to: Replacement,
        auto: bool,
        answers: Vec<AnswerRule>,
    },
    Type {
        from: RecordType,
        to: RecordType,
    },
    Class {
        from: Class,
        to: Class,
    },
    Ttl {
        matcher: Matcher,
        range: RangeInclusive<u32>,
    },
    Rcode {
        matcher: Matcher,
        from: Rcode,
        to: Rcode,
    },
    Cname {
        matcher: Matcher,
        to: Replacement,
    },
    Edns(edns::Rule),
    /// It could not be read; there is an error.
    Broken,
}

/// What is rewritten in the answer to a rewritten name.
#[derive(Debug)]
pub(super) struct AnswerRule {
    /// True: the names in the data; false: the owners.
    pub values: bool,
    pub regex: Regex,
    pub to: Replacement,
}

impl Config {
    /// Reads one directive. A block is read as if its lines were one.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut flat = Directive { block: None, ..directive.clone() };
        for option in directive.options() {
            flat.args.push(option.name.clone());
            flat.args.extend(option.args.iter().cloned());
        }
        let mut args = Args::of(&flat, diagnostics);
        let continues = match args.peek().map(|word| word.as_str()) {
            Some("continue") => true,
            Some("stop") => false,
            _ => return Self { continues: false, rule: rule(args) },
        };
        args.next();
        Self { continues, rule: rule(args) }
    }
}

fn rule(mut args: Args<'_, '_>) -> Rule {
    const FIELDS: &str = "name, type, class, ttl, rcode, cname or edns0";
    let Some(field) = args.required(FIELDS) else { return Rule::Broken };
    let rule = match field.as_str().to_ascii_lowercase().as_str() {
        "name" => name(&mut args),
        "type" => pair(&mut args, "a type as A", qtype).map(|(from, to)| Rule::Type { from, to }),
        "class" => {
            pair(&mut args, "a class as IN", class).map(|(from, to)| Rule::Class { from, to })
        }
        "ttl" => Matcher::parse(&mut args, 1).and_then(|matcher| {
            Some(Rule::Ttl {
                matcher,
                range: args.value("seconds, or FROM-TO, behind the name", ttl)?,
            })
        }),
        "rcode" => Matcher::parse(&mut args, 2).and_then(|matcher| {
            let (from, to) = pair(&mut args, "a response code as NXDOMAIN", rcode)?;
            Some(Rule::Rcode { matcher, from, to })
        }),
        "cname" => Matcher::parse(&mut args, 1).and_then(|matcher| {
            matcher.replacement(&mut args).map(|to| Rule::Cname { matcher, to })
        }),
        "edns0" => edns::Rule::parse(&mut args).map(Rule::Edns),
        other => {
            args.error_at(&field.at, format!("{other:?} cannot be rewritten"), FIELDS);
            args.rest();
            None
        }
    };
    if rule.is_none() {
        // The error has been reported; what follows it would only be called surplus.
        args.rest();
    }
    args.end();
    rule.unwrap_or(Rule::Broken)
}

fn name(args: &mut Args<'_, '_>) -> Option<Rule> {
    // `name FROM TO answer ...` without a kind has more words than `name FROM TO`, so the kind is told by its word.
    let matcher = Matcher::parse(args, 1)?;
    let to = matcher.replacement(args)?;
    let mut auto = matches!(matcher, Matcher::Exact(_));
    let mut answers = Vec::new();
    while let Some(word) = args.next() {
        if !word.as_str().eq_ignore_ascii_case("answer") {
            args.error_at(
                &word.at,
                format!("{:?} follows the names", word.as_str()),
                "answer, or nothing more",
            );
            return None;
        }
        // `answer name A B value C D` is one `answer` with two parts.
        loop {
            let kind = args.required("auto, name or value")?;
            match kind.as_str().to_ascii_lowercase().as_str() {
                "auto" => auto = true,
                part @ ("name" | "value") => {
                    let regex = args.value("a regular expression", pattern::regex)?;
                    let to =
                        args.value("what the name becomes", |text| Replacement::of(text, &regex))?;
                    answers.push(AnswerRule { values: part == "value", regex, to });
                }
                other => {
                    args.error_at(
                        &kind.at,
                        format!("there is no answer rule {other:?}"),
                        "auto, name or value",
                    );
                    return None;
                }
            }
            if args.peek().is_none_or(|word| word.as_str().eq_ignore_ascii_case("answer")) {
                break;
            }
        }
    }
    Some(Rule::Name { matcher, to, auto, answers })
}

fn pair<T>(
    args: &mut Args<'_, '_>,
    wanted: &str,
    parse: fn(&str) -> Result<T, ValueError>,
) -> Option<(T, T)> {
    Some((args.value(wanted, parse)?, args.value(wanted, parse)?))
}

/// `30`, `30-300`, `30-` or `-300`.
fn ttl(word: &str) -> Result<RangeInclusive<u32>, ValueError> {
    // RFC 2181 section 8: 31 bits.
    const MOST: u32 = i32::MAX as u32;
    let number = |text: &str, default| {
        if text.is_empty() { Ok(default) } else { value::integer(text, 0..=MOST) }
    };
    let Some((low, high)) = word.split_once('-') else {
        return value::integer(word, 0..=MOST).map(|ttl| ttl..=ttl);
    };
    let (low, high) = (number(low, 0)?, number(high, MOST)?);
    if low > high || word == "-" {
        return Err(ValueError::new(
            format!("{word:?} is not a range"),
            "the lower number first, as 30-300",
        ));
    }
    Ok(low..=high)
}

fn qtype(word: &str) -> Result<RecordType, ValueError> {
    RecordType::from_name(word)
        .ok_or_else(|| ValueError::new(format!("{word:?} is not a type"), "one as A, SRV or ANY"))
}

fn class(word: &str) -> Result<Class, ValueError> {
    text::class_of(word)
        .ok_or_else(|| ValueError::new(format!("{word:?} is not a class"), "IN, CH or HS"))
}

fn rcode(word: &str) -> Result<Rcode, ValueError> {
    let number = word.parse().ok().filter(|number| *number < 4_096).map(Rcode);
    number.or_else(|| Rcode::from_name(word)).ok_or_else(|| {
        ValueError::new(format!("{word:?} is not a response code"), "one as NXDOMAIN, or a number")
    })
}
