//! Names as text for regular expressions, and the expressions themselves.

use regex::{Regex, RegexBuilder};

use crate::config::ValueError;
use crate::wire::NameRef;

/// The most memory that one compiled expression takes, and the most that its matching keeps, octets.
const MAX_COMPILED: usize = 1 << 20;
/// The longest text of a name: 253 characters, each escaped as `\DDD`, with their dots.
const MAX_TEXT: usize = 1_020;

/// Compiles an expression of Go's syntax, which is nearly this library's; both match in linear time.
pub fn regex(text: &str) -> Result<Regex, ValueError> {
    let compiled =
        RegexBuilder::new(text).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    compiled.map_err(|error| {
        let reason = match &error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The last line says what is wrong, the ones before show where.
            _ => error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .trim_start_matches("error: ")
                .to_owned(),
        };
        ValueError::new(
            format!("{text:?} is not a regular expression: {reason}"),
            "one as ^(.*)\\.example\\.org\\.$",
        )
    })
}

/// A name as text on the stack: with a final dot, escaped as [`NameRef`] displays it.
pub struct NameText {
    len: usize,
    bytes: [u8; MAX_TEXT],
}

impl NameText {
    /// The text of `name`, in its case.
    pub fn of(name: NameRef<'_>) -> Self {
        let mut text = Self { len: 0, bytes: [0; MAX_TEXT] };
        for label in name.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' => {
                        text.push(b'\\');
                        text.push(octet);
                    }
                    0x21..=0x7e => text.push(octet),
                    _ => {
                        text.push(b'\\');
                        text.push(b'0' + octet / 100);
                        text.push(b'0' + octet / 10 % 10);
                        text.push(b'0' + octet % 10);
                    }
                }
            }
            text.push(b'.');
        }
        if text.len == 0 {
            text.push(b'.');
        }
        text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII is pushed.
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or(".")
    }

    fn push(&mut self, octet: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = octet;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Name, NameBuf};

    #[test]
    fn expressions_are_bounded() {
        assert!(regex(r"^(?P<a>[0-9]+)-b[.]example[.]$").is_ok());
        assert!(regex("(a{1000}){1000}").unwrap_err().what.contains("too large"));
        assert!(regex("(").unwrap_err().what.contains("unclosed group"));
    }

    #[test]
    fn the_root_is_a_dot() {
        assert_eq!(NameText::of(Name::root().as_ref()).as_str(), ".");
    }

    proptest::proptest! {
        #[test]
        fn the_text_is_what_names_display(labels in proptest::collection::vec(proptest::collection::vec(0u8.., 1..64), 0..5)) {
            let mut name = NameBuf::new();
            for label in &labels { let _ = name.push_label(label); }
            let text = NameText::of(name.as_name());
            proptest::prop_assert_eq!(text.as_str(), name.as_name().to_string());
        }
    }
}
