//! Words and braces out of text.
//!
//! As in CoreDNS: any Unicode space separates; `#` begins a comment anywhere outside of quotes, also inside
//! of a word; `"` quotes only at the beginning of a word, and only `\"` is an escape in there; quotes may span lines; a
//! carriage return is dropped rather than taken as a space. Different from CoreDNS: a quoted brace is text.

use super::{Diagnostic, Diagnostics, Location};

/// One word or brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lexeme {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// The line it begins on.
    pub(super) line: u32,
    /// The line it ends on, later than `line` for a quoted word with line breaks.
    pub(super) last_line: u32,
}

/// What a lexeme is for the structure of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    /// A word in quotes, which is text whatever it holds.
    Quoted,
    Open,
    Close,
}

/// Cuts `text` into lexemes; `file` is what the diagnostics point at.
pub(super) fn lex(text: &str, file: &Location, diagnostics: &mut Diagnostics) -> Vec<Lexeme> {
    let mut lexer = Lexer { file, diagnostics, lexemes: Vec::new(), line: 1 };
    let mut letters = text.chars().peekable();
    let mut word = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => {
                lexer.word(&mut word);
                lexer.line += 1;
            }
            '\r' => {
                if !matches!(letters.peek(), None | Some('\n' | '\r')) {
                    lexer.lone_carriage_return();
                }
            }
            '#' => {
                lexer.word(&mut word);
                while letters.next_if(|letter| *letter != '\n').is_some() {}
            }
            // At the beginning, and between files that were put together.
            '\u{feff}' if word.is_empty() => {}
            '"' if word.is_empty() => lexer.quoted(&mut letters),
            _ if letter.is_whitespace() => lexer.word(&mut word),
            _ => word.push(letter),
        }
    }
    lexer.word(&mut word);
    lexer.lexemes
}

struct Lexer<'a> {
    file: &'a Location,
    diagnostics: &'a mut Diagnostics,
    lexemes: Vec<Lexeme>,
    line: u32,
}

impl Lexer<'_> {
    /// Ends an unquoted word, if there is one.
    fn word(&mut self, word: &mut String) {
        if word.is_empty() {
            return;
        }
        let text = std::mem::take(word);
        let kind = match text.as_str() {
            "{" => Kind::Open,
            "}" => Kind::Close,
            _ => Kind::Word,
        };
        self.lexemes.push(Lexeme { kind, text, line: self.line, last_line: self.line });
    }

    /// Reads on to the closing quote.
    fn quoted(&mut self, letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
        let begin = self.line;
        let mut text = String::new();
        loop {
            match letters.next() {
                Some('"') => break,
                Some('\\') => match letters.next() {
                    Some('"') => text.push('"'),
                    Some(letter) => {
                        self.line += u32::from(letter == '\n');
                        text.extend(['\\', letter]);
                    }
                    None => text.push('\\'),
                },
                Some(letter) => {
                    self.line += u32::from(letter == '\n');
                    text.push(letter);
                }
                None => {
                    self.diagnostics.push_malformed(
                        Diagnostic::error(
                            self.at(begin),
                            "the quote that begins here is never closed",
                        )
                        .help("add the closing \""),
                    );
                    break;
                }
            }
        }
        self.lexemes.push(Lexeme { kind: Kind::Quoted, text, line: begin, last_line: self.line });
    }

    fn lone_carriage_return(&mut self) {
        let at = self.at(self.line);
        self.diagnostics.push(
            Diagnostic::error(at, "there is a carriage return without a line feed")
                .help("write line ends of Unix (LF) or Windows (CR LF)"),
        );
    }

    fn at(&self, line: u32) -> Location {
        Location { file: self.file.file.clone(), line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> (Vec<(String, u32)>, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let file = Location::new(std::path::Path::new("Corefile"), 1);
        let lexemes = lex(text, &file, &mut diagnostics);
        (lexemes.into_iter().map(|lexeme| (lexeme.text, lexeme.line)).collect(), diagnostics)
    }

    #[track_caller]
    fn check(text: &str, wanted: &[(&str, u32)]) {
        let (found, diagnostics) = words(text);
        let found: Vec<_> = found.iter().map(|(word, line)| (word.as_str(), *line)).collect();
        assert_eq!(found, wanted);
        assert!(diagnostics.is_empty(), "{diagnostics}");
    }

    #[test]
    fn comments_begin_anywhere_outside_of_quotes() {
        check("exam#ple.org {\nb", &[("exam", 1), ("b", 2)]);
        check(
            "\"a # b\" c # d\n// e ; '",
            &[("a # b", 1), ("c", 1), ("//", 2), ("e", 2), (";", 2), ("'", 2)],
        );
    }

    #[test]
    fn quotes_begin_a_word_and_know_one_escape() {
        check(
            r#""^a\.b$" "say \"hi\"" a"b" "" "x"y"#,
            &[(r"^a\.b$", 1), (r#"say "hi""#, 1), (r#"a"b""#, 1), ("", 1), ("x", 1), ("y", 1)],
        );
        check("\"a\nb\" c\nd", &[("a\nb", 1), ("c", 2), ("d", 3)]);
        check(r#""a\\" b"#, &[(r"a\\", 1), ("b", 1)]);
    }

    #[test]
    fn any_unicode_space_separates_and_a_bom_is_dropped() {
        check("\u{feff}a\u{a0}b\u{2028}c\u{3000}d", &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    }

    #[test]
    fn windows_line_ends_are_fine_and_old_mac_ones_are_not() {
        check("a\r\nb {\r\n}\r\n", &[("a", 1), ("b", 2), ("{", 2), ("}", 3)]);
        let (_, diagnostics) = words("a {\rlog\r}");
        assert!(diagnostics.to_string().contains("carriage return"));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_an_error_where_it_begins() {
        let (found, diagnostics) = words("a\n\"b\nc");
        assert_eq!(found, [("a".to_owned(), 1), ("b\nc".to_owned(), 2)]);
        assert!(diagnostics.to_string().starts_with("Corefile:2: the quote"));
    }

    #[test]
    fn quoted_braces_are_text() {
        let mut diagnostics = Diagnostics::default();
        let file = Location::new(std::path::Path::new("Corefile"), 1);
        let kinds: Vec<_> =
            lex("{ \"{\" } {}", &file, &mut diagnostics).into_iter().map(|l| l.kind).collect();
        assert_eq!(kinds, [Kind::Open, Kind::Quoted, Kind::Close, Kind::Word]);
    }
}
