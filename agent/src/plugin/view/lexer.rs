//! The words of an expression, with the places where they stand.

use std::fmt;

/// The longest expression, octets.
pub(super) const MAX_LEN: usize = 4_096;

/// A mistake in an expression, or something in it that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// At which character, counted from one.
    pub(super) at: usize,
    pub(super) what: String,
    /// What would be right.
    pub(super) expected: String,
}

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    /// At which character it begins, counted from one.
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name, or an operator that is a word.
    Word(String),
    /// A string without its quotes.
    Text(String),
    Number(i64),
    Sign(&'static str),
    End,
}

/// The longer ones first.
const SIGNS: [&str; 15] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", "-"];

impl Wrong {
    pub(super) fn new(at: usize, what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { at, what: what.into(), expected: expected.into() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Text(text) => write!(f, "the string {text:?}"),
            Self::Number(number) => write!(f, "the number {number}"),
            Self::Sign(sign) => write!(f, "{sign:?}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Cuts an expression into words; the last one is [`Kind::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Token>, Wrong> {
    if text.len() > MAX_LEN {
        let what = format!("the expression has {} octets", text.len());
        return Err(Wrong::new(
            1,
            what,
            format!("at most {MAX_LEN}; several expr lines are ANDed"),
        ));
    }
    let mut cursor = Cursor { rest: text, at: 1 };
    let mut tokens = Vec::new();
    loop {
        while cursor.next_if(char::is_whitespace).is_some() {}
        let at = cursor.at;
        let Some(letter) = cursor.peek() else {
            tokens.push(Token { at, kind: Kind::End });
            return Ok(tokens);
        };
        let kind = match letter {
            '\'' | '"' | '`' => Kind::Text(cursor.string()?),
            '0'..='9' => Kind::Number(cursor.number()?),
            _ if is_of_word(letter) => Kind::Word(cursor.while_is(is_of_word).to_owned()),
            _ => Kind::Sign(cursor.sign()?),
        };
        tokens.push(Token { at, kind });
    }
}

/// What is left to read.
struct Cursor<'t> {
    rest: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let letter = letters.next()?;
        self.rest = letters.as_str();
        self.at += 1;
        Some(letter)
    }

    fn next_if(&mut self, is: impl Fn(char) -> bool) -> Option<char> {
        self.peek().filter(|letter| is(*letter))?;
        self.next()
    }

    fn while_is(&mut self, is: impl Fn(char) -> bool) -> &'t str {
        let all = self.rest;
        while self.next_if(&is).is_some() {}
        all.get(..all.len() - self.rest.len()).unwrap_or_default()
    }

    fn sign(&mut self) -> Result<&'static str, Wrong> {
        if let Some(sign) = SIGNS.into_iter().find(|sign| self.rest.starts_with(sign)) {
            for _ in sign.chars() {
                self.next();
            }
            return Ok(sign);
        }
        let letter = self.peek().unwrap_or_default();
        let expected = match letter {
            '=' => "==",
            '&' => "&&, or and",
            '|' => "||, or or",
            _ => SUPPORTED,
        };
        Err(Wrong::new(self.at, format!("{:?} is not supported", letter.to_string()), expected))
    }

    /// A whole number: decimal, or with 0x, 0o or 0b; `_` may stand between digits.
    fn number(&mut self) -> Result<i64, Wrong> {
        let at = self.at;
        let word = self.while_is(|letter| is_of_word(letter) || letter == '.');
        let digits = word.replace('_', "");
        let read = match digits.get(..2) {
            Some("0x" | "0X") => i64::from_str_radix(digits.get(2..).unwrap_or_default(), 16),
            Some("0o" | "0O") => i64::from_str_radix(digits.get(2..).unwrap_or_default(), 8),
            Some("0b" | "0B") => i64::from_str_radix(digits.get(2..).unwrap_or_default(), 2),
            _ => digits.parse(),
        };
        read.map_err(|_| {
            let expected = "a whole number, or a string in single quotes, as '10.0.0.1'";
            Wrong::new(at, format!("{word:?} is not a whole number"), expected)
        })
    }

    /// A string with its quotes. Between backquotes nothing is an escape.
    fn string(&mut self) -> Result<String, Wrong> {
        let at = self.at;
        let quote = self.next();
        let mut text = String::new();
        loop {
            let begin = self.at;
            match self.next() {
                None => {
                    let quote = quote.unwrap_or_default();
                    return Err(Wrong::new(
                        at,
                        "the string never ends",
                        format!("a closing {quote}"),
                    ));
                }
                letter if letter == quote => return Ok(text),
                Some('\\') if quote != Some('`') => {
                    let letter = self.escape().ok_or_else(|| {
                        Wrong::new(
                            begin,
                            "there is no such escape",
                            "\\\\ for a backslash, as in '\\\\.example\\\\.org\\\\.$'",
                        )
                    })?;
                    text.push(letter);
                }
                Some(letter) => text.push(letter),
            }
        }
    }

    /// What a backslash and the letters behind it stand for.
    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            letter @ ('\\' | '\'' | '"' | '`') => letter,
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            _ => return None,
        })
    }

    /// A character by the digits of its number.
    fn code(&mut self, digits: usize) -> Option<char> {
        let mut number = 0;
        for _ in 0..digits {
            number = number << 4 | self.next()?.to_digit(16)?;
        }
        char::from_u32(number)
    }
}

/// What is said where something else was written.
pub(super) const SUPPORTED: &str = "functions, strings, whole numbers, true, false, lists in [ ], ( ), and the operators == != < <= > >= in matches \
     contains startsWith endsWith and && or || not !";

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
