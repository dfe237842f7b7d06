//! Records from lines, one after the other.

use super::data;
use super::data::parse_ttl;
use super::error::TextError;
use super::lines::Line;
use crate::wire::RecordType;
use crate::wire::{Class, Name, Record};

/// What a record without any TTL gets where nothing gives another one; Go's `dns` package has the same.
const DEFAULT_TTL: u32 = 3_600;

/// What a record takes from the lines before it.
#[derive(Debug, Clone)]
pub struct Context {
    /// What relative names end in.
    pub origin: Name,
    /// The last owner.
    pub owner: Option<Name>,
    /// What `$TTL` says.
    pub default_ttl: Option<u32>,
    /// The last TTL that was written.
    pub last_ttl: Option<u32>,
}

impl Context {
    /// Before the first line.
    pub fn new(origin: Name) -> Self {
        Self { origin, owner: None, default_ttl: None, last_ttl: None }
    }

    /// Reads a name, which is relative where it has no final dot; `@` is the origin. Lower-cased.
    pub fn name(&self, text: &str) -> Result<Name, TextError> {
        Ok(data::name(text, self.origin.as_ref())?.as_name().to_name())
    }

    /// Reads `[OWNER] [TTL] [CLASS] TYPE DATA...`, TTL and class in any order.
    pub fn record(&mut self, line: &Line<'_>) -> Result<Record, TextError> {
        let mut words = line.words.iter().copied();
        let owner = if line.indented {
            self.owner.clone().ok_or(TextError::Missing("owner"))?
        } else {
            self.name(words.next().ok_or(TextError::Missing("owner"))?.text)?
        };
        self.owner = Some(owner.clone());
        let (mut ttl, mut class) = (None, None);
        let rtype = loop {
            let word = words.next().ok_or(TextError::Missing("type"))?.text;
            if ttl.is_none() && word.starts_with(|c: char| c.is_ascii_digit()) {
                let wrong = || TextError::Word { text: word.to_owned(), wanted: "a TTL" };
                ttl = Some(parse_ttl(word).ok_or_else(wrong)?);
            } else if let (None, Some(found)) = (class, class_of(word)) {
                class = Some(found);
            } else {
                break RecordType::from_name(word)
                    .ok_or_else(|| TextError::Type(word.to_owned()))?;
            }
        };
        let rest: Vec<_> = words.collect();
        let rdata = data::read(self.origin.as_ref(), rtype, &rest)?;
        self.last_ttl = ttl.or(self.last_ttl);
        let ttl = ttl.or(self.default_ttl).or(self.last_ttl).unwrap_or(DEFAULT_TTL);
        Ok(Record { owner, rtype, class: class.unwrap_or(Class::IN), ttl, rdata })
    }
}

/// A class by its name.
pub fn class_of(text: &str) -> Option<Class> {
    let number = match text.to_ascii_uppercase().as_str() {
        "IN" => 1,
        "CH" | "CHAOS" => 3,
        "HS" => 4,
        "NONE" => 254,
        "ANY" => 255,
        other => other.strip_prefix("CLASS")?.parse().ok()?,
    };
    Some(Class(number))
}
