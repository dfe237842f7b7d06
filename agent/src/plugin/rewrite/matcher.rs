//! Which names a rule is for, and what becomes of them. Names are text here, lower-cased and with a final dot.

use std::borrow::Cow;

use regex::Regex;

use crate::config::{Args, ValueError, nearest_of};
use crate::plugin::pattern;

/// Which names a rule is for.
#[derive(Debug)]
pub(super) enum Matcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// What a matching name becomes: text, with groups of the expression in it.
#[derive(Debug)]
pub(super) struct Replacement(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Literal(String),
    Group(usize),
}

/// How names in an answer are changed.
#[derive(Debug)]
pub(super) enum Change<'r> {
    /// The name, or the end of it from a dot on.
    Remap { from: String, to: String },
    /// The end of the name.
    Suffix { from: &'r str, to: &'r str },
    /// The whole name, where the expression matches.
    Regex { regex: &'r Regex, to: &'r Replacement },
}

impl Matcher {
    /// Reads `[exact|prefix|suffix|substring|regex] STRING`, where `behind` words follow.
    pub(super) fn parse(args: &mut Args<'_, '_>, behind: usize) -> Option<Self> {
        const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];
        let has_kind = args.len() >= behind + 2;
        let kind = match args.peek().filter(|_| has_kind) {
            Some(word) if KINDS.iter().any(|kind| word.as_str().eq_ignore_ascii_case(kind)) => {
                args.next();
                word.as_str().to_ascii_lowercase()
            }
            // A name and what follows it, unless the word is nearly one of those.
            Some(word) if !args.follows("answer", behind + 1) => {
                if let Some(kind) = nearest_of(word.as_str(), KINDS.into_iter()) {
                    let what = format!("there is no kind of match {:?}", word.as_str());
                    args.error_at(&word.at, what, kind);
                    return None;
                }
                "exact".to_owned()
            }
            _ => "exact".to_owned(),
        };
        let wanted = "[exact|prefix|suffix|substring|regex] and a name";
        Some(match kind.as_str() {
            "regex" => Self::Regex(args.value(wanted, pattern::regex)?),
            "prefix" => Self::Prefix(args.required(wanted)?.as_str().to_ascii_lowercase()),
            "substring" => Self::Substring(args.required(wanted)?.as_str().to_ascii_lowercase()),
            "suffix" => Self::Suffix(with_dot(args.required(wanted)?.as_str())),
            _ => Self::Exact(with_dot(args.required(wanted)?.as_str())),
        })
    }

    pub(super) fn is_match(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text.as_str()),
            Self::Suffix(text) => name.ends_with(text.as_str()),
            Self::Substring(text) => name.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(name),
        }
    }

    /// What `name` becomes; `None` where it does not match.
    pub(super) fn replace(&self, name: &str, to: &Replacement) -> Option<String> {
        match self {
            Self::Exact(text) => (name == text).then(|| to.text().to_owned()),
            Self::Prefix(text) => {
                name.strip_prefix(text.as_str()).map(|rest| format!("{}{rest}", to.text()))
            }
            Self::Suffix(text) => {
                name.strip_suffix(text.as_str()).map(|rest| format!("{rest}{}", to.text()))
            }
            Self::Substring(text) => {
                name.contains(text.as_str()).then(|| name.replace(text.as_str(), to.text()))
            }
            Self::Regex(regex) => to.expand(regex, name, name),
        }
    }

    /// Reads what a matching name becomes.
    pub(super) fn replacement(&self, args: &mut Args<'_, '_>) -> Option<Replacement> {
        let wanted = "what the name becomes";
        match self {
            Self::Regex(regex) => args.value(wanted, |text| Replacement::of(text, regex)),
            Self::Exact(_) | Self::Suffix(_) => {
                Some(Replacement::literal(with_dot(args.required(wanted)?.as_str())))
            }
            Self::Prefix(_) | Self::Substring(_) => {
                Some(Replacement::literal(args.required(wanted)?.as_str().to_ascii_lowercase()))
            }
        }
    }
}

impl Replacement {
    fn literal(text: String) -> Self {
        Self(vec![Piece::Literal(text)])
    }

    /// Text in which `{1}` is the first group of `regex`.
    pub(super) fn of(text: &str, regex: &Regex) -> Result<Self, ValueError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let group = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).and_then(
                |(number, after)| number.parse::<usize>().ok().map(|number| (number, after)),
            );
            match group {
                Some((number, after)) => {
                    if number >= regex.captures_len() {
                        let what = format!("the expression has no group {number} for {text:?}");
                        return Err(ValueError::new(
                            what,
                            format!("{{0}} to {{{}}}", regex.captures_len() - 1),
                        ));
                    }
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    pieces.push(Piece::Group(number));
                    rest = after;
                }
                None => {
                    literal.push(c.to_ascii_lowercase());
                    rest = rest.get(c.len_utf8()..).unwrap_or_default();
                }
            }
        }
        pieces.push(Piece::Literal(literal));
        Ok(Self(pieces))
    }

    /// The text where there are no groups in it.
    pub(super) fn text(&self) -> &str {
        match self.0.as_slice() {
            [Piece::Literal(text)] => text,
            _ => "",
        }
    }

    /// The text with the groups of `regex`, which is tried on `lower`, taken out of `name`: the same in its case.
    fn expand(&self, regex: &Regex, lower: &str, name: &str) -> Option<String> {
        let groups = regex.captures(lower)?;
        let piece = |piece| match piece {
            &Piece::Group(number) => {
                groups.get(number).and_then(|group| name.get(group.range())).unwrap_or_default()
            }
            Piece::Literal(text) => text.as_str(),
        };
        let mut out: String = self.0.iter().map(piece).collect();
        if !out.ends_with('.') {
            out.push('.');
        }
        Some(out)
    }
}

impl Change<'_> {
    /// What a name of an answer becomes; itself where the change is not for it. What stays of it keeps its case.
    pub(super) fn apply<'n>(&self, name: Cow<'n, str>) -> Cow<'n, str> {
        // Of the same length: only ASCII letters change.
        let lower = name.to_ascii_lowercase();
        let head = |from: &str| {
            let octets = lower.strip_suffix(from)?.len();
            name.get(..octets)
        };
        let changed = match self {
            Self::Remap { from, to } => head(from)
                .filter(|head| head.is_empty() || head.ends_with('.'))
                .map(|head| format!("{head}{to}")),
            Self::Suffix { from, to } => head(from).map(|head| format!("{head}{to}")),
            Self::Regex { regex, to } => to.expand(regex, &lower, &name),
        };
        changed.map_or(name, Cow::Owned)
    }
}

/// Lower-cased, with a final dot.
pub(super) fn with_dot(text: &str) -> String {
    let mut text = text.to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}
