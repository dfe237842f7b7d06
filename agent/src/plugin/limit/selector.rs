//! Label selectors, in the form that `kubectl -l` takes: `app=web,tier!=test,zone in (a, b),!canary`.
//!
//! The API server understands those of `kubernetes`; these are about Pods that are known already, and are matched for every
//! query, without an allocation.

use crate::cluster::object::Text;
use crate::config::ValueError;

/// Requirements of a selector.
const MAX_REQUIREMENTS: usize = 16;
/// Values of `in` and `notin`.
const MAX_VALUES: usize = 64;
/// Octets of a label's name behind its prefix, and of its value, as the API server has it.
const MAX_PART: usize = 63;
/// Octets of the prefix of a label's key.
const MAX_PREFIX: usize = 253;

const EXPECTED: &str = "a label selector, as app=web or \"tier in (a, b),!canary\"";

/// All of these have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Box<[Requirement]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Text,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// It has one of these values.
    In(Box<[Text]>),
    /// It has none of these values, or is not there.
    NotIn(Box<[Text]>),
}

impl Selector {
    /// Reads a selector. An empty one, which would match every Pod, is an error.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let mut rest = Rest { text, at: text };
        let mut all = Vec::new();
        loop {
            if all.len() == MAX_REQUIREMENTS {
                return Err(rest.error(format!("more than {MAX_REQUIREMENTS} requirements")));
            }
            all.push(rest.requirement()?);
            if rest.is_at_end() {
                return Ok(Self(all.into()));
            }
            if !rest.skip(",") {
                let next = rest.next();
                return Err(rest.error(format!("{next:?} is not a comma")));
            }
        }
    }

    /// Whether labels, sorted by their names, fit. Called for a query on a worker: without an allocation.
    pub fn matches(&self, labels: &[(Text, Text)]) -> bool {
        self.0.iter().all(|Requirement { key, test }| {
            let at = labels.binary_search_by(|(name, _)| name.cmp(key)).ok();
            let value = at.and_then(|at| labels.get(at)).map(|(_, value)| value);
            match (test, value) {
                (Test::Exists, value) => value.is_some(),
                (Test::Absent, value) => value.is_none(),
                (Test::In(values), value) => value.is_some_and(|value| values.contains(value)),
                (Test::NotIn(values), value) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// What is not read yet.
struct Rest<'a> {
    text: &'a str,
    at: &'a str,
}

impl<'a> Rest<'a> {
    fn requirement(&mut self) -> Result<Requirement, ValueError> {
        if self.skip("!") {
            return Ok(Requirement { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        let test = if self.skip("!=") {
            Test::NotIn([self.value()?].into())
        } else if self.skip("==") || self.skip("=") {
            Test::In([self.value()?].into())
        } else {
            match self.next() {
                "" | "," => Test::Exists,
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                other => {
                    return Err(self.error(format!("{other:?} is none of =, !=, in and notin")));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<Text, ValueError> {
        let word = self.word();
        let (prefix, name) = word.rsplit_once('/').map_or((None, word), |(p, n)| (Some(p), n));
        let is_good = prefix.is_none_or(is_prefix) && !name.is_empty() && is_part(name);
        if is_good { Ok(word.into()) } else { Err(self.error(format!("{word:?} is no label"))) }
    }

    /// A value, which may be empty.
    fn value(&mut self) -> Result<Text, ValueError> {
        let word = self.word();
        let is_good = is_part(word);
        if is_good { Ok(word.into()) } else { Err(self.error(format!("{word:?} is no value"))) }
    }

    fn values(&mut self) -> Result<Box<[Text]>, ValueError> {
        // The operator.
        self.word();
        if !self.skip("(") {
            return Err(self.error("the values are not in parentheses".to_owned()));
        }
        let mut values = Vec::new();
        loop {
            if values.len() == MAX_VALUES {
                return Err(self.error(format!("more than {MAX_VALUES} values")));
            }
            values.push(self.value()?);
            if self.skip(")") {
                return Ok(values.into());
            }
            if !self.skip(",") {
                return Err(self.error("the parenthesis is not closed".to_owned()));
            }
        }
    }

    /// What comes next, up to a mark that has a meaning; not taken.
    fn next(&mut self) -> &'a str {
        self.at = self.at.trim_start();
        let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')');
        let len = self.at.find(is_end).unwrap_or(self.at.len());
        // A mark stands for itself.
        let len = if len == 0 { self.at.chars().next().map_or(0, char::len_utf8) } else { len };
        self.at.get(..len).unwrap_or_default()
    }

    /// The word that comes next; empty before a mark.
    fn word(&mut self) -> &'a str {
        let word = self.next();
        if word.starts_with([',', '=', '!', '(', ')']) {
            return "";
        }
        self.at = self.at.get(word.len()..).unwrap_or_default();
        word
    }

    fn skip(&mut self, mark: &str) -> bool {
        let rest = self.at.trim_start().strip_prefix(mark);
        rest.inspect(|rest| self.at = rest).is_some()
    }

    fn is_at_end(&self) -> bool {
        self.at.trim_start().is_empty()
    }

    fn error(&self, what: String) -> ValueError {
        ValueError::new(format!("in {:?} {what}", self.text), EXPECTED)
    }
}

/// The name of a label, or its value: letters and digits, within them dashes, dots and underscores.
fn is_part(text: &str) -> bool {
    let inner = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    let is_edge = |octet: Option<&u8>| octet.is_none_or(u8::is_ascii_alphanumeric);
    let octets = text.as_bytes();
    text.len() <= MAX_PART
        && text.bytes().all(inner)
        && is_edge(octets.first())
        && is_edge(octets.last())
}

/// The domain before the name of a label.
fn is_prefix(text: &str) -> bool {
    let good = |label: &str| {
        let inner =
            |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        !label.is_empty() && label.bytes().all(inner) && is_part(label)
    };
    text.len() <= MAX_PREFIX && text.split('.').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let mut labels: Vec<(Text, Text)> =
            labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        labels.sort();
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn labels_are_selected_as_kubectl_does() {
        let web: &[(&str, &str)] = &[("app", "web"), ("tier", "front"), ("example.com/x", "")];
        for (selector, fits) in [
            ("app=web", true),
            ("app==web", true),
            (" app = web ", true),
            ("app=api", false),
            ("app!=api", true),
            ("app!=web", false),
            ("none!=web", true),
            ("app", true),
            ("none", false),
            ("!app", false),
            ("!none", true),
            ("app in (api,web)", true),
            ("app in(api , web),tier=front", true),
            ("app in (api)", false),
            ("app notin (api)", true),
            ("app notin (web, api)", false),
            ("none notin (web)", true),
            ("none in (web)", false),
            ("app=web,tier=back", false),
            ("example.com/x=", true),
            ("example.com/x", true),
            ("example.com/x in ()", true),
            ("tier in (,back)", false),
            ("example.com/x in (,back)", true),
            // Words that are operators elsewhere.
            ("in", false),
            ("notin=x", false),
        ] {
            assert_eq!(matches(selector, web), fits, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_said() {
        let (many, long) = ("a,".repeat(17), "x".repeat(64));
        let values = format!("a in ({})", "b,".repeat(70));
        for (selector, wanted) in [
            ("", "\"\" is no label"),
            (",", "\"\" is no label"),
            ("a,", "\"\" is no label"),
            ("=web", "\"\" is no label"),
            ("-a=web", "\"-a\" is no label"),
            ("Ex.com/a=web", "\"Ex.com/a\" is no label"),
            ("/a=web", "\"/a\" is no label"),
            ("a/=web", "\"a/\" is no label"),
            ("a=we b", "\"b\" is not a comma"),
            ("a=b=c", "\"=\" is not a comma"),
            ("a=ä", "\"ä\" is no value"),
            ("a>1", "\"a>1\" is no label"),
            ("a is b", "\"is\" is none of =, !=, in and notin"),
            ("a in b", "the values are not in parentheses"),
            ("a in (b", "the parenthesis is not closed"),
            ("a in (b c)", "the parenthesis is not closed"),
            (&many, "more than 16 requirements"),
            (&values, "more than 64 values"),
            (&long, "is no label"),
        ] {
            let error = Selector::parse(selector).unwrap_err().what;
            assert!(error.contains(wanted), "{selector}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_selector_or_an_error(text in "[a-c=!,() /.é-]{0,40}|\\PC{0,40}") {
            if let Ok(selector) = Selector::parse(&text) {
                selector.matches(&[("a".into(), "b".into())]);
            }
        }
    }
}
