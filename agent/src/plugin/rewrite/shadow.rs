//! Which rules can never apply, because a rule above them ends the evaluation for every query that they are for.

use super::config::{Config, Rule};
use super::matcher::Matcher;

/// Expressions that match every name, without anchors and the parentheses around them.
const MATCH_ALL: [&str; 4] = ["", ".", ".*", ".+"];

impl Config {
    /// Whether no query is left for `later`: it ends here. May be false for a rule that leaves none, never true for one
    /// that does.
    pub fn shadows(&self, later: &Self) -> bool {
        if self.continues {
            return false;
        }
        match (&self.rule, &later.rule) {
            (_, Rule::Broken) => false,
            (Rule::Edns(rule), _) => rule.always_applies(),
            // Rules of this kind end the evaluation by the name that is asked for. Whether a rule for response codes
            // or aliases applies is known with the answer only.
            (Rule::Name { matcher, .. } | Rule::Ttl { matcher, .. }, later) => {
                matcher.matches_all() || later.matcher().is_some_and(|other| matcher.covers(other))
            }
            (Rule::Type { from, .. }, Rule::Type { from: other, .. }) => from == other,
            (Rule::Class { from, .. }, Rule::Class { from: other, .. }) => from == other,
            _ => false,
        }
    }

    /// Whether `later` is for a name that this rule has just replaced by another one.
    pub fn replaces(&self, later: &Self) -> bool {
        let Rule::Name { matcher: Matcher::Exact(name), to, .. } = &self.rule else { return false };
        let same = |matcher: &Matcher| matches!(matcher, Matcher::Exact(other) if other == name);
        self.continues && to.text() != name && later.rule.matcher().is_some_and(same)
    }

    /// Whether rules behind this one may see another name than those above it.
    pub fn renames(&self) -> bool {
        self.continues
            && matches!(self.rule, Rule::Name { .. } | Rule::Type { .. } | Rule::Class { .. })
    }
}

impl Rule {
    /// What the name in the question must match.
    fn matcher(&self) -> Option<&Matcher> {
        match self {
            Self::Name { matcher, .. }
            | Self::Ttl { matcher, .. }
            | Self::Rcode { matcher, .. } => Some(matcher),
            _ => None,
        }
    }
}

impl Matcher {
    fn matches_all(&self) -> bool {
        match self {
            Self::Exact(_) => false,
            Self::Prefix(text) | Self::Substring(text) => text.is_empty(),
            Self::Suffix(text) => text.is_empty() || text == ".",
            Self::Regex(regex) => {
                let text = regex.as_str().trim_start_matches('^').trim_end_matches('$');
                let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
                MATCH_ALL.contains(&inner.unwrap_or(text))
            }
        }
    }

    /// Whether every name that `other` matches matches here, too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.is_match(name),
            (Self::Prefix(short), Self::Prefix(long)) => long.starts_with(short.as_str()),
            (Self::Suffix(short), Self::Suffix(long)) => long.ends_with(short.as_str()),
            (
                Self::Substring(short),
                Self::Substring(long) | Self::Prefix(long) | Self::Suffix(long),
            ) => long.contains(short.as_str()),
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::parsed;

    fn shadows(first: &str, later: &str) -> bool {
        let rule = |text: &str| parsed(&format!("rewrite {text}"), Config::parse);
        rule(first).shadows(&rule(later))
    }

    #[test]
    fn rules_behind_a_wider_one_never_apply() {
        for (first, later) in [
            ("name exact a.b c.d", "name exact A.B. e.f"),
            ("name a.b c.d", "ttl exact a.b 30"),
            ("name suffix .b .c", "name exact a.b c.d"),
            ("name suffix .b .c", "stop name suffix a.b .d"),
            ("name regex (.*) x.org", "type A AAAA"),
            ("ttl regex .* 30", "name exact a b"),
            ("edns0 local set 0xffee 0x61", "name exact a b"),
            ("name substring b c", "name prefix ab c"),
            ("type A AAAA", "continue type A MX"),
        ] {
            assert!(shadows(first, later), "{first} / {later}");
        }
    }

    #[test]
    fn a_name_that_was_replaced_is_gone() {
        let rule = |text: &str| parsed(&format!("rewrite {text}"), Config::parse);
        let first = rule("continue name exact a b");
        assert!(first.replaces(&rule("name exact a c")) && first.replaces(&rule("ttl exact a 5")));
        assert!(!first.replaces(&rule("name exact b c")));
        assert!(!rule("continue name exact a a").replaces(&rule("name exact a c")));
    }

    #[test]
    fn rules_that_leave_queries_shadow_nothing() {
        for (first, later) in [
            ("continue name exact a.b c.d", "name exact a.b e.f"),
            ("name exact a.b c.d", "name suffix b c"),
            ("name suffix a.b c", "name suffix .b c"),
            ("name regex ^(.*)\\.b\\.$ {1}.c", "name suffix .b .c"),
            ("rcode regex .* NXDOMAIN NOERROR", "rcode exact a.b NXDOMAIN NOERROR"),
            ("cname exact a.b c.d", "cname exact a.b e.f"),
            ("edns0 local unset 0xffee", "name exact a b"),
            ("type A AAAA", "type MX A"),
        ] {
            assert!(!shadows(first, later), "{first} / {later}");
        }
    }
}
