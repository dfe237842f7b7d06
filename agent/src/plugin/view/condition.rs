//! What an expression means: a tree of conditions whose types are checked. It is evaluated for each query, in time that is
//! bounded by the length of the expression and of the name, without an allocation but the scratch space that
//! `matches` takes from a pool.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;
use regex::Regex;

use super::facts::{End, Facts, Number, Text};

/// A condition of a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    Fixed(bool),
    /// The DO bit is set.
    DnssecOk,
    Not(Box<Condition>),
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    /// Both hold, or neither.
    Same(Box<[Condition; 2]>),
    Texts(Text, Comparison, Text),
    Numbers(Number, Comparison, Number),
    /// The text is one of these, which are sorted.
    TextIn(Text, Box<[Box<str>]>),
    /// The number is one of these, which are sorted.
    NumberIn(Number, Box<[i64]>),
    /// The address is one of these, which are sorted.
    AddressIn(End, Box<[IpAddr]>),
    InNetwork(End, IpNet),
    Matches(Text, Pattern),
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Only of texts.
    Contains,
    /// Only of texts.
    StartsWith,
    /// Only of texts.
    EndsWith,
}

/// A regular expression; two are equal that are written alike.
#[derive(Clone, Debug)]
pub(super) struct Pattern(pub(super) Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Comparison {
    /// Whether it holds of two values in this order.
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Contains | Self::StartsWith | Self::EndsWith => false,
        }
    }

    fn holds_of(self, one: &str, other: &str) -> bool {
        match self {
            Self::Contains => one.contains(other),
            Self::StartsWith => one.starts_with(other),
            Self::EndsWith => one.ends_with(other),
            _ => self.holds(one.cmp(other)),
        }
    }
}

impl Condition {
    /// Whether it holds.
    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Fixed(holds) => *holds,
            Self::DnssecOk => facts.dnssec_ok(),
            Self::Not(inner) => !inner.holds(facts),
            Self::All(all) => all.iter().all(|condition| condition.holds(facts)),
            Self::Any(any) => any.iter().any(|condition| condition.holds(facts)),
            Self::Same(sides) => {
                let [one, other] = &**sides;
                one.holds(facts) == other.holds(facts)
            }
            Self::Texts(one, comparison, other) => {
                comparison.holds_of(facts.text(one), facts.text(other))
            }
            Self::Numbers(one, comparison, other) => {
                comparison.holds(facts.number(*one).cmp(&facts.number(*other)))
            }
            Self::TextIn(text, texts) => {
                let text = facts.text(text);
                texts.binary_search_by(|known| (**known).cmp(text)).is_ok()
            }
            Self::NumberIn(number, numbers) => {
                numbers.binary_search(&facts.number(*number)).is_ok()
            }
            Self::AddressIn(end, addresses) => {
                addresses.binary_search(&facts.address(*end)).is_ok()
            }
            Self::InNetwork(end, network) => network.contains(&facts.address(*end)),
            Self::Matches(text, pattern) => pattern.0.is_match(facts.text(text)),
        }
    }

    /// The same with what no query decides decided.
    pub(super) fn folded(self) -> Self {
        match self {
            Self::Not(inner) => match *inner {
                Self::Fixed(holds) => Self::Fixed(!holds),
                Self::Not(inner) => *inner,
                inner => Self::Not(Box::new(inner)),
            },
            Self::All(all) => Self::row(all, true, Self::All),
            Self::Any(any) => Self::row(any, false, Self::Any),
            Self::Same(sides) => match *sides {
                [Self::Fixed(true), other] | [other, Self::Fixed(true)] => other,
                [Self::Fixed(false), other] | [other, Self::Fixed(false)] => {
                    Self::Not(Box::new(other)).folded()
                }
                sides => Self::Same(Box::new(sides)),
            },
            Self::Texts(Text::Fixed(one), comparison, Text::Fixed(other)) => {
                Self::Fixed(comparison.holds_of(&one, &other))
            }
            Self::Numbers(Number::Fixed(one), comparison, Number::Fixed(other)) => {
                Self::Fixed(comparison.holds(one.cmp(&other)))
            }
            Self::TextIn(Text::Fixed(text), texts) => Self::Fixed(texts.contains(&text)),
            Self::NumberIn(Number::Fixed(number), numbers) => {
                Self::Fixed(numbers.contains(&number))
            }
            Self::Matches(Text::Fixed(text), pattern) => Self::Fixed(pattern.0.is_match(&text)),
            other => other,
        }
    }

    /// A row of conditions without those that are `neutral`; one that is the opposite decides.
    fn row(row: Box<[Self]>, neutral: bool, make: fn(Box<[Self]>) -> Self) -> Self {
        if row.contains(&Self::Fixed(!neutral)) {
            return Self::Fixed(!neutral);
        }
        let mut left: Vec<Self> =
            row.into_iter().filter(|condition| *condition != Self::Fixed(neutral)).collect();
        match left.len() {
            0 => Self::Fixed(neutral),
            1 => left.remove(0),
            _ => make(left.into()),
        }
    }

    /// Whether it depends on which Pod asks.
    pub(super) fn names_clients(&self) -> bool {
        let is_of_pod = |text: &Text| matches!(text, Text::Namespace | Text::PodName);
        match self {
            Self::Not(inner) => inner.names_clients(),
            Self::All(row) | Self::Any(row) => row.iter().any(Self::names_clients),
            Self::Same(sides) => sides.iter().any(Self::names_clients),
            Self::Texts(one, _, other) => is_of_pod(one) || is_of_pod(other),
            Self::TextIn(text, _) | Self::Matches(text, _) => is_of_pod(text),
            Self::Fixed(_)
            | Self::DnssecOk
            | Self::Numbers(..)
            | Self::NumberIn(..)
            | Self::AddressIn(..)
            | Self::InNetwork(..) => false,
        }
    }
}
