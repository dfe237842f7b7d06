//! The part of Go's templates that Corefiles use: text with `{{ ... }}` in it.

use crate::config::ValueError;

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub(super) Vec<Piece>);

/// Text as it stands, or something to put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Box<str>),
    Value(Value),
}

/// What stands between `{{` and `}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The name asked for, lower-cased, with a final dot.
    Name,
    /// The zone of the template that the name is within.
    Zone,
    Class,
    Type,
    /// The type and the class as numbers.
    TypeNumber,
    ClassNumber,
    /// The client's address.
    Remote,
    /// The query's id.
    Id,
    /// A group of the expression by its number.
    Match(usize),
    /// A group of the expression by its name.
    Group(Box<str>),
    Constant(Box<str>),
    /// A number written in another base, which must fit into so many bits.
    ParsedInteger {
        of: Box<Value>,
        base: u32,
        bits: u32,
    },
}

/// What values are taken from.
pub(super) struct Data<'a> {
    pub name: &'a str,
    pub zone: &'a dyn std::fmt::Display,
    pub class: crate::wire::Class,
    pub qtype: crate::wire::RecordType,
    pub remote: std::net::IpAddr,
    pub id: u16,
    /// The groups of the expression that matched; without `match` the whole name is group 0.
    pub groups: Option<&'a regex::Captures<'a>>,
}

/// Why a template cannot be put in for one query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The expression that matched has fewer groups.
    #[error("the expression that matched has no group {0}")]
    NoGroup(usize),
    /// Digits that are no number of the base, or too many.
    #[error("{text:?} is not a number of base {base} in {bits} bits")]
    Number {
        /// The digits.
        text: String,
        /// The base.
        base: u32,
        /// The bits.
        bits: u32,
    },
}

impl Text {
    /// Reads a template. What is not supported is an error that says so.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let (literal, after) =
                (rest.get(..start).unwrap_or_default(), rest.get(start + 2..).unwrap_or_default());
            let end = action_end(after).ok_or_else(|| {
                ValueError::new(
                    format!("{{{{ is not closed in {text:?}"),
                    "}}, and quotes around the whole record",
                )
            })?;
            let (action, after) =
                (after.get(..end).unwrap_or_default(), after.get(end + 2..).unwrap_or_default());
            // `{{- ` and ` -}}` take the space around them away.
            let (action, trim_left) = match action.strip_prefix("- ") {
                Some(action) => (action, true),
                None => (action, false),
            };
            let (action, trim_right) = match action.strip_suffix(" -") {
                Some(action) => (action, true),
                None => (action, false),
            };
            let literal = if trim_left { literal.trim_end() } else { literal };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.into()));
            }
            let action = action.trim();
            if !(action.starts_with("/*") && action.ends_with("*/")) {
                pieces.push(Piece::Value(value(action)?));
            }
            rest = if trim_right { after.trim_start() } else { after };
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.into()));
        }
        Ok(Self(pieces))
    }

    /// The numbers and names of the groups that it uses.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Value> {
        fn inner(value: &Value) -> &Value {
            match value {
                Value::ParsedInteger { of, .. } => inner(of),
                other => other,
            }
        }
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(value) => Some(inner(value)),
            Piece::Literal(_) => None,
        })
    }

    /// Puts the values in.
    pub(super) fn expand(&self, data: &Data<'_>) -> Result<String, ExpandError> {
        let mut out = String::with_capacity(128);
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Value(value) => value.push(data, &mut out)?,
            }
        }
        Ok(out)
    }
}

impl Value {
    fn push(&self, data: &Data<'_>, out: &mut String) -> Result<(), ExpandError> {
        use std::fmt::Write as _;
        // Writing into a `String` does not fail.
        let _ = match self {
            Self::Name => out.write_str(data.name),
            Self::Zone => write!(out, "{}", data.zone),
            Self::Class => write!(out, "{}", data.class),
            Self::Type => write!(out, "{}", data.qtype),
            Self::TypeNumber => write!(out, "{}", data.qtype.0),
            Self::ClassNumber => write!(out, "{}", data.class.0),
            Self::Remote => write!(out, "{}", data.remote.to_canonical()),
            Self::Id => write!(out, "{}", data.id),
            Self::Match(number) => match data.groups {
                Some(groups) if *number < groups.len() => {
                    out.write_str(groups.get(*number).map_or("", |group| group.as_str()))
                }
                None if *number == 0 => out.write_str(data.name),
                _ => return Err(ExpandError::NoGroup(*number)),
            },
            Self::Group(name) => {
                let group = data.groups.and_then(|groups| groups.name(name));
                out.write_str(group.map_or("", |group| group.as_str()))
            }
            Self::Constant(text) => out.write_str(text),
            Self::ParsedInteger { of, base, bits } => {
                let mut text = String::new();
                of.push(data, &mut text)?;
                let number = u64::from_str_radix(&text, *base)
                    .ok()
                    .filter(|number| *bits >= 64 || number >> bits == 0)
                    .ok_or(ExpandError::Number { text, base: *base, bits: *bits })?;
                write!(out, "{number}")
            }
        };
        Ok(())
    }
}

/// Where `}}` stands, outside of quotes.
fn action_end(text: &str) -> Option<usize> {
    let mut quoted = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quoted {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(quote) if c == quote => quoted = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quoted = Some(c),
            None if text.get(at..).is_some_and(|rest| rest.starts_with("}}")) => return Some(at),
            None => {}
        }
    }
    None
}

fn value(action: &str) -> Result<Value, ValueError> {
    const WANTED: &str = "one of .Name, .Zone, .Class, .Type, .Remote, index .Match N, .Group.NAME, index .Group \"NAME\", \
                          .Question.Name, .Message.Id, parseInt VALUE BASE BITS";
    let wrong = |what: String| ValueError::new(what, WANTED);
    let words = words(action)
        .ok_or_else(|| wrong(format!("a quote or a parenthesis is not closed in {action:?}")))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => return Err(wrong("there is nothing between {{ and }}".into())),
        [".Name" | ".Question.Name"] => Value::Name,
        [".Zone"] => Value::Zone,
        [".Class"] => Value::Class,
        [".Type"] => Value::Type,
        [".Question.Qtype"] => Value::TypeNumber,
        [".Question.Qclass"] => Value::ClassNumber,
        [".Remote"] => Value::Remote,
        [".Message.Id" | ".Message.MsgHdr.Id"] => Value::Id,
        ["index", ".Match", number] => match number.parse() {
            Ok(number) => Value::Match(number),
            Err(_) => return Err(wrong(format!("{number:?} is not the number of a group"))),
        },
        ["index", ".Group", name] => match unquote(name) {
            Some(name) => group(&name),
            None => return Err(wrong(format!("{name:?} is not the name of a group in quotes"))),
        },
        ["parseInt", of, base, bits] => {
            let (base, bits) = match (base.parse(), bits.parse()) {
                (Ok(base @ 2..=36), Ok(bits @ 1..=64)) => (base, bits),
                _ => {
                    return Err(wrong(format!(
                        "{base:?} and {bits:?} are not a base and a number of bits"
                    )));
                }
            };
            Value::ParsedInteger { of: Box::new(value(of)?), base, bits }
        }
        [one] => single(one).ok_or_else(|| {
            wrong(match one.strip_prefix('.') {
                Some(_) => format!("there is no field {one:?}"),
                None => format!("function {one:?} is not defined"),
            })
        })?,
        [".Meta", ..] => return Err(wrong("there is no metadata: .Meta has no meaning".into())),
        words if words.contains(&"|") => {
            return Err(wrong(format!("pipelines are not supported: {action:?}")));
        }
        ["if" | "else" | "end" | "range" | "with" | "define" | "template" | "block", ..] => {
            return Err(wrong(format!("control structures are not supported: {action:?}")));
        }
        [first, ..] => return Err(wrong(format!("function {first:?} is not defined"))),
    })
}

/// A value of one word: a group's name, a constant, something in parentheses.
fn single(word: &str) -> Option<Value> {
    if let Some(name) = word.strip_prefix(".Group.") {
        let good = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        return good.then(|| group(name));
    }
    if let Some(inner) = word.strip_prefix('(').and_then(|word| word.strip_suffix(')')) {
        return value(inner).ok();
    }
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.parse::<u64>().ok().map(|number| Value::Constant(number.to_string().into()));
    }
    unquote(word).map(|text| Value::Constant(text.into()))
}

/// A group by its name, which may be its number.
fn group(name: &str) -> Value {
    match name.parse() {
        Ok(number) => Value::Match(number),
        Err(_) => Value::Group(name.into()),
    }
}

/// The words of an action; what is in quotes or parentheses is one. `None` where those are not closed.
fn words(action: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped, mut depth) = (None, false, 0usize);
    for c in action.chars() {
        match quoted {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(quote) if c == quote => quoted = None,
            Some(_) => {}
            None => match c {
                '"' | '`' => quoted = Some(c),
                '(' => depth += 1,
                ')' => depth = depth.checked_sub(1)?,
                '|' if depth == 0 => {
                    words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                    words.push("|".to_owned());
                    continue;
                }
                c if c.is_whitespace() && depth == 0 => {
                    words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                    continue;
                }
                _ => {}
            },
        }
        word.push(c);
    }
    words.extend((!word.is_empty()).then_some(word));
    (quoted.is_none() && depth == 0).then_some(words)
}

/// The text of a Go string, `"..."` with the plain escapes or `` `...` ``.
fn unquote(word: &str) -> Option<String> {
    if let Some(raw) = word.strip_prefix('`') {
        return raw.strip_suffix('`').map(str::to_owned);
    }
    let inner = word.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                't' => '\t',
                c @ ('\\' | '"' | '\'') => c,
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, RecordType};

    fn expand(template: &str) -> Result<String, ExpandError> {
        let regex = regex::Regex::new(r"^ip-(?P<a>[0-9a-f]+)-(b)?(\d+)\.(?P<rest>.*)$").unwrap();
        let name = "ip-ff-10.example.org.";
        let groups = regex.captures(name).unwrap();
        let data = Data {
            name,
            zone: &"org.",
            class: Class::IN,
            qtype: RecordType::AAAA,
            remote: "::ffff:10.0.0.9".parse().unwrap(),
            id: 77,
            groups: Some(&groups),
        };
        Text::parse(template).unwrap_or_else(|e| panic!("{e}")).expand(&data)
    }

    #[test]
    fn values_are_put_in() {
        for (template, text) in [
            ("plain { } text", "plain { } text"),
            ("{{ .Name }} 60 {{.Class}} {{ .Type }}", "ip-ff-10.example.org. 60 IN AAAA"),
            ("{{ .Zone }}{{ .Remote }}{{ .Message.Id }}", "org.10.0.0.977"),
            ("{{ .Question.Qtype }} {{ .Question.Qclass }}", "28 1"),
            (
                "{{ index .Match 3 }}/{{ .Group.a }}/{{ index .Group \"rest\" }}",
                "10/ff/example.org.",
            ),
            ("{{ index .Match 2 }}{{ .Group.nothing }}", ""),
            ("{{ parseInt .Group.a 16 8 }} {{ parseInt (index .Match 1) 16 64 }}", "255 255"),
            ("a {{- \"b }}\" -}} c {{/* no */}}{{ `x` }}{{ 5 }}", "ab }}c x5"),
        ] {
            assert_eq!(expand(template).as_deref(), Ok(text), "{template}");
        }
        assert_eq!(expand("{{ index .Match 9 }}"), Err(ExpandError::NoGroup(9)));
        assert!(expand("{{ parseInt .Group.a 16 7 }}").is_err());
        assert!(expand("{{ parseInt .Group.rest 16 8 }}").is_err());
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (template, what) in [
            ("{{ randInt 1 5 }}", "function \"randInt\" is not defined"),
            ("{{ now }}", "function \"now\" is not defined"),
            ("{{ .Nmae }}", "there is no field \".Nmae\""),
            ("{{ .Name", "{{ is not closed in \"{{ .Name\""),
            ("{{ }}", "there is nothing between {{ and }}"),
            ("{{ .Meta \"x\" }}", "there is no metadata: .Meta has no meaning"),
            ("{{ .Name | len }}", "pipelines are not supported: \".Name | len\""),
            (
                "{{ if eq .Type \"A\" }}",
                "control structures are not supported: \"if eq .Type \\\"A\\\"\"",
            ),
            ("{{ index .Match x }}", "\"x\" is not the number of a group"),
            ("{{ parseInt .Name 99 8 }}", "\"99\" and \"8\" are not a base and a number of bits"),
            ("{{ (.Name }}", "a quote or a parenthesis is not closed in \"(.Name\""),
        ] {
            assert_eq!(Text::parse(template).unwrap_err().what, what);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_template_or_an_error(text in "[{}a-zA-Z.()\"`|\\\\ 0-9-]{0,60}|\\PC{0,40}") {
            let _ = Text::parse(&text);
        }
    }
}
