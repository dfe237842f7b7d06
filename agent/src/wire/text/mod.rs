//! Records as text (RFC 1035 section 5): lines of a zone file, and the one line of a template.
//!
//! hickory's parser of zone files knows neither `@` in data nor quotes within parentheses, and reads `\DDD` wrongly, so the
//! lines and the common types are read here. The data of rare types are given to it.

mod context;
mod data;
mod error;
mod lines;

pub use context::{Context, class_of};
pub use data::parse_ttl;
pub use error::TextError;
pub use lines::{Line, Lines, Word};

use super::{Name, Record};

/// Reads one record that stands on its own, as `NAME [TTL] [CLASS] TYPE DATA`; names without a final dot get one.
pub fn record(text: &str) -> Result<Record, TextError> {
    let mut lines = Lines::of(text.trim_start());
    let line = lines.next().ok_or(TextError::Missing("owner"))?.map_err(|(_, error)| error)?;
    if let Some(more) = lines.next() {
        let word =
            more.map_err(|(_, error)| error)?.words.first().map_or("", |word| word.text).to_owned();
        return Err(TextError::Surplus(word));
    }
    Context::new(Name::root()).record(&line)
}

#[cfg(test)]
mod tests;
