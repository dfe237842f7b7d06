//! The pages that one address serves.

use std::fmt;

/// What is served at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages(u8);

impl Pages {
    /// `/metrics`.
    pub const METRICS: Self = Self(1);
    /// `/health`.
    pub const HEALTH: Self = Self(2);
    /// `/ready`.
    pub const READY: Self = Self(4);
    /// `/`, the page for people, with the data that it draws.
    pub const PAGE: Self = Self(8);

    /// These and `more`.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// As a number, which an atomic can hold.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What [`Pages::bits`] was.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// True if all of `other` are among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::METRICS, "/metrics"),
            (Self::HEALTH, "/health"),
            (Self::READY, "/ready"),
            (Self::PAGE, "/"),
        ];
        let served: Vec<&str> =
            names.into_iter().filter(|(page, _)| self.has(*page)).map(|(_, name)| name).collect();
        match served.split_last() {
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} and {last}", others.join(", ")),
            None => f.write_str("nothing"),
        }
    }
}
