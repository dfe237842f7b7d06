//! What is wrong with a line.

use crate::wire::{NameError, RecordType};

/// Why a line is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A quote that is not closed.
    #[error("a quote is not closed")]
    Quote,
    /// A parenthesis too many or too few.
    #[error("a parenthesis is not matched")]
    Parenthesis,
    /// Nothing where the owner or the type should stand.
    #[error("the record has no {0}")]
    Missing(&'static str),
    /// A word that is no type.
    #[error("{0:?} is not a record type")]
    Type(String),
    /// A name that is none.
    #[error("{text:?} is not a name: {source}")]
    Name {
        /// The word.
        text: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A word in the data that is not what the type wants there.
    #[error("{text:?} is not {wanted}")]
    Word {
        /// The word.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Data that end too early.
    #[error("the data end where {0} should stand")]
    Short(&'static str),
    /// Data that go on.
    #[error("the data go on with {0:?}")]
    Surplus(String),
    /// Data of a rare type that cannot be read.
    #[error("the data of type {rtype} cannot be read: {message}")]
    Rare {
        /// The type.
        rtype: RecordType,
        /// What hickory's parser says.
        message: String,
    },
}
