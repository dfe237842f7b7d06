//! What several directives have in common: the zones that they are for, and for which of them they fall through.

use crate::config::Args;
use crate::wire::{Name, NameRef};

/// Whether `zone` is within one of `zones`.
pub fn covers(zones: &[Name], zone: &Name) -> bool {
    zones.iter().any(|wide| zone.as_ref().is_within(wide.as_ref()))
}

/// Whether there are names that are within both zones: one of the two is within the other.
pub fn are_related(one: &Name, other: &Name) -> bool {
    one.as_ref().is_within(other.as_ref()) || other.as_ref().is_within(one.as_ref())
}

/// The zones that a directive is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones(
    // Longest first, so that the first match is the most specific one.
    Box<[Name]>,
);

/// Whether a name that a directive does not answer goes on to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallthrough {
    /// Never: there is no such option.
    #[default]
    Never,
    /// For every name.
    All,
    /// For names within these zones.
    Within(Zones),
}

impl Zones {
    /// Zones in any order.
    pub fn new(mut zones: Vec<Name>) -> Self {
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.as_ref().label_count()));
        Self(zones.into())
    }

    /// The most specific zone that `name`, lower-cased, is within.
    pub fn find(&self, name: NameRef<'_>) -> Option<&Name> {
        self.0.iter().find(|zone| name.is_within(zone.as_ref()))
    }

    /// Every zone, longest first.
    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        self.0.iter()
    }
}

impl Fallthrough {
    /// Reads the arguments of the option `fallthrough`.
    pub fn parse(args: &mut Args<'_, '_>) -> Self {
        if args.is_empty() { Self::All } else { Self::Within(Zones::new(args.zones_or(&[]))) }
    }

    /// Whether `name`, lower-cased, goes on.
    pub fn passes(&self, name: NameRef<'_>) -> bool {
        match self {
            Self::Never => false,
            Self::All => true,
            Self::Within(zones) => zones.find(name).is_some(),
        }
    }
}
