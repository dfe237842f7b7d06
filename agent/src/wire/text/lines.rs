//! Logical lines and their words.

use super::error::TextError;

/// One word as it was written, escapes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word<'a> {
    /// Without its quotes.
    pub text: &'a str,
    /// True where it stood in quotes.
    pub quoted: bool,
}

/// One logical line: parentheses are resolved, comments are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line on which it begins, counted from one.
    pub number: u32,
    /// True where it begins with space: the owner is the last one.
    pub indented: bool,
    /// At least one.
    pub words: Vec<Word<'a>>,
}

/// The lines of a text that are not empty.
pub struct Lines<'a> {
    rest: &'a str,
    number: u32,
}

impl<'a> Lines<'a> {
    /// Begins at the first line of `text`.
    pub fn of(text: &'a str) -> Self {
        Self { rest: text, number: 1 }
    }

    fn line(&mut self) -> Result<Option<Line<'a>>, TextError> {
        let mut line = Line {
            number: self.number,
            indented: self.rest.starts_with([' ', '\t']),
            words: Vec::new(),
        };
        let mut depth = 0usize;
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\n' => {
                    self.skip(1);
                    self.number += 1;
                    if depth == 0 {
                        break;
                    }
                }
                ';' => self.skip(self.rest.find('\n').unwrap_or(self.rest.len())),
                '(' => {
                    depth += 1;
                    self.skip(1);
                }
                ')' => {
                    depth = depth.checked_sub(1).ok_or(TextError::Parenthesis)?;
                    self.skip(1);
                }
                '"' => {
                    self.skip(1);
                    let end = self.until(|c| c == '"').ok_or(TextError::Quote)?;
                    let text = self.take(end);
                    self.number += text.matches('\n').count() as u32;
                    line.words.push(Word { text, quoted: true });
                    self.skip(1);
                }
                space if space.is_whitespace() => self.skip(space.len_utf8()),
                _ => {
                    // A quote within a word belongs to it, as in `alpn="h2,h3"`, with any spaces up to the next one.
                    let mut inside = false;
                    let end = self.until(|c| {
                        inside ^= c == '"';
                        c == '\n' || !inside && (c.is_whitespace() || matches!(c, ';' | '(' | ')'))
                    });
                    let text = self.take(end.unwrap_or(self.rest.len()));
                    line.words.push(Word { text, quoted: false });
                }
            }
        }
        if depth > 0 {
            return Err(TextError::Parenthesis);
        }
        Ok((!line.words.is_empty()).then_some(line))
    }

    /// Where the first character is that `is_end` wants and no backslash stands before.
    fn until(&self, mut is_end: impl FnMut(char) -> bool) -> Option<usize> {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices() {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if is_end(c) {
                return Some(at);
            }
        }
        None
    }

    fn take(&mut self, octets: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(octets).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn skip(&mut self, octets: usize) {
        self.take(octets);
    }
}

impl<'a> Iterator for Lines<'a> {
    /// A line, or the number of the line where it begins and what is wrong; after an error nothing comes.
    type Item = Result<Line<'a>, (u32, TextError)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let number = self.number;
            match self.line() {
                Ok(None) => {}
                Ok(Some(line)) => return Some(Ok(line)),
                Err(error) => {
                    self.rest = "";
                    return Some(Err((number, error)));
                }
            }
        }
        None
    }
}
