//! Records as text (RFC 1035 section 5): lines of a zone file, and the one line of a template.
//!
//! hickory's parser of zone files knows neither `@` in data nor quotes within parentheses, and reads `\DDD` wrongly, so the
//! lines and the common types are read here. The data of rare types are given to it.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{RData, RecordType as HickoryType};
use hickory_proto::serialize::binary::BinEncodable;

use super::record::Record;
use super::{Class, Name, NameBuf, NameError, RecordType};

/// What a record without any TTL gets where nothing says another one; Go's `dns` package has the same.
const DEFAULT_TTL: u32 = 3_600;
/// The longest data that a record can have.
const MAX_RDATA: usize = 65_535;

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

impl Context {
    /// Before the first line.
    pub fn new(origin: Name) -> Self {
        Self { origin, owner: None, default_ttl: None, last_ttl: None }
    }

    /// Reads a name, which is relative where it has no final dot; `@` is the origin.
    pub fn name(&self, text: &str) -> Result<Name, TextError> {
        let wrong = |source| TextError::Name { text: text.to_owned(), source };
        if text == "@" {
            return Ok(self.origin.clone());
        }
        let mut name = NameBuf::new();
        name.push_text(text).map_err(wrong)?;
        if !is_absolute(text) {
            name.push_name(self.origin.as_ref()).map_err(wrong)?;
        }
        Ok(name.as_name().to_name())
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
        let rdata = self.rdata(rtype, &rest)?;
        self.last_ttl = ttl.or(self.last_ttl);
        let ttl = ttl.or(self.default_ttl).or(self.last_ttl).unwrap_or(DEFAULT_TTL);
        Ok(Record { owner, rtype, class: class.unwrap_or(Class::IN), ttl, rdata })
    }

    fn rdata(&self, rtype: RecordType, words: &[Word<'_>]) -> Result<Box<[u8]>, TextError> {
        let mut data = Data { context: self, words: words.iter(), out: Vec::new() };
        if words.first().is_some_and(|word| word.text == "\\#" && !word.quoted) {
            data.words.next();
            data.generic()?;
        } else if !data.common(rtype)? {
            return rare(rtype, words);
        }
        match data.words.next() {
            Some(word) => Err(TextError::Surplus(word.text.to_owned())),
            None if data.out.len() > MAX_RDATA => Err(TextError::Surplus("...".to_owned())),
            None => Ok(data.out.into_boxed_slice()),
        }
    }
}

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

/// Seconds, or numbers with the units w, d, h, m and s.
pub fn parse_ttl(text: &str) -> Option<u32> {
    hickory_proto::serialize::txt::parse_ttl(text).ok()
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

/// The data of one record being read.
struct Data<'w, 'c> {
    context: &'c Context,
    words: std::slice::Iter<'w, Word<'w>>,
    out: Vec<u8>,
}

impl<'w> Data<'w, '_> {
    /// Reads the data of a type that is known here. False: it is not, and nothing is read.
    fn common(&mut self, rtype: RecordType) -> Result<bool, TextError> {
        match rtype.0 {
            1 => self.parsed("an IPv4 address", |ip: Ipv4Addr| ip.octets().to_vec())?,
            28 => self.parsed("an IPv6 address", |ip: Ipv6Addr| ip.octets().to_vec())?,
            // NS CNAME PTR DNAME
            2 | 5 | 12 | 39 => self.name()?,
            6 => {
                self.name()?;
                self.name()?;
                self.u32("a serial number")?;
                for what in ["refresh", "retry", "expire", "minimum"] {
                    let word = self.word(what)?;
                    let ttl = parse_ttl(word).ok_or_else(|| wrong(word, "a time in seconds"))?;
                    self.out.extend_from_slice(&ttl.to_be_bytes());
                }
            }
            15 => {
                self.u16("a preference")?;
                self.name()?;
            }
            // TXT SPF
            16 | 99 => {
                self.text()?;
                while !self.words.as_slice().is_empty() {
                    self.text()?;
                }
            }
            // HINFO
            13 => {
                self.text()?;
                self.text()?;
            }
            33 => {
                for what in ["a priority", "a weight", "a port"] {
                    self.u16(what)?;
                }
                self.name()?;
            }
            // NAPTR
            35 => {
                self.u16("an order")?;
                self.u16("a preference")?;
                for _ in 0..3 {
                    self.text()?;
                }
                self.name()?;
            }
            // DS, and what is like it
            43 | 32_769 => {
                self.u16("a key tag")?;
                self.u8("an algorithm")?;
                self.u8("a digest type")?;
                self.hex()?;
            }
            257 => {
                self.u8("flags")?;
                self.text()?;
                let value = self.next("a value")?;
                self.out.extend_from_slice(&unescape(value.text)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Data of any type (RFC 3597 section 5): a length and hexadecimal digits.
    fn generic(&mut self) -> Result<(), TextError> {
        let word = self.word("a length")?;
        let len: usize = word.parse().map_err(|_| wrong(word, "a length"))?;
        if len > 0 {
            self.hex()?;
        }
        if self.out.len() != len {
            return Err(wrong(word, "the length of the data"));
        }
        Ok(())
    }

    fn next(&mut self, what: &'static str) -> Result<Word<'w>, TextError> {
        self.words.next().copied().ok_or(TextError::Short(what))
    }

    fn word(&mut self, what: &'static str) -> Result<&'w str, TextError> {
        Ok(self.next(what)?.text)
    }

    fn name(&mut self) -> Result<(), TextError> {
        let name = self.context.name(self.word("a name")?)?;
        self.out.extend_from_slice(name.as_bytes());
        Ok(())
    }

    fn parsed<T: std::str::FromStr>(
        &mut self,
        what: &'static str,
        octets: impl Fn(T) -> Vec<u8>,
    ) -> Result<(), TextError> {
        let word = self.word(what)?;
        let value = word.parse().map_err(|_| wrong(word, what))?;
        self.out.extend_from_slice(&octets(value));
        Ok(())
    }

    fn u8(&mut self, what: &'static str) -> Result<(), TextError> {
        self.parsed(what, |number: u8| vec![number])
    }

    fn u16(&mut self, what: &'static str) -> Result<(), TextError> {
        self.parsed(what, |number: u16| number.to_be_bytes().to_vec())
    }

    fn u32(&mut self, what: &'static str) -> Result<(), TextError> {
        self.parsed(what, |number: u32| number.to_be_bytes().to_vec())
    }

    /// A character-string; one of more than 255 octets becomes several, as TXT records often want it.
    fn text(&mut self) -> Result<(), TextError> {
        let text = unescape(self.next("a text")?.text)?;
        if text.is_empty() {
            self.out.push(0);
        }
        for piece in text.chunks(255) {
            self.out.push(piece.len() as u8);
            self.out.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Hexadecimal digits in all words that are left.
    fn hex(&mut self) -> Result<(), TextError> {
        let first = self.next("hexadecimal digits")?;
        let mut digits = first.text.to_owned();
        digits.extend(self.words.by_ref().map(|word| word.text));
        let error = || wrong(&digits, "an even number of hexadecimal digits");
        if !digits.is_ascii() || digits.len() % 2 != 0 {
            return Err(error());
        }
        for at in (0..digits.len()).step_by(2) {
            let octet = digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
            self.out.push(octet.ok_or_else(error)?);
        }
        Ok(())
    }
}

fn wrong(text: &str, wanted: &'static str) -> TextError {
    TextError::Word { text: text.to_owned(), wanted }
}

/// True where the last dot of a name is its end, not an escaped character.
fn is_absolute(text: &str) -> bool {
    let Some(head) = text.strip_suffix('.') else { return false };
    head.bytes().rev().take_while(|octet| *octet == b'\\').count() % 2 == 0
}

/// The octets of a character-string: `\DDD` and `\X` resolved.
fn unescape(text: &str) -> Result<Vec<u8>, TextError> {
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        let error = || {
            wrong(
                text,
                "a text: a backslash is followed by neither a character nor three digits up to 255",
            )
        };
        let first = octets.next().ok_or_else(error)?;
        if !first.is_ascii_digit() {
            out.push(first);
            continue;
        }
        let mut value = u16::from(first - b'0');
        for _ in 0..2 {
            let digit = octets.next().filter(u8::is_ascii_digit).ok_or_else(error)?;
            value = value * 10 + u16::from(digit - b'0');
        }
        out.push(u8::try_from(value).map_err(|_| error())?);
    }
    Ok(out)
}

/// Data of a type that only hickory knows: HTTPS, SVCB, TLSA, SSHFP and their like.
fn rare(rtype: RecordType, words: &[Word<'_>]) -> Result<Box<[u8]>, TextError> {
    let error = |message: String| TextError::Rare { rtype, message };
    let text: Vec<String> = words
        .iter()
        .map(|w| if w.quoted { format!("\"{}\"", w.text) } else { w.text.to_owned() })
        .collect();
    let data = RData::try_from_str(HickoryType::from(rtype.0), &text.join(" "))
        .map_err(|e| error(e.to_string()))?;
    let data = data.to_bytes().map_err(|e| error(e.to_string()))?;
    Ok(data.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdata(text: &str) -> Vec<u8> {
        record(text).unwrap_or_else(|e| panic!("{text}: {e}")).rdata.into_vec()
    }

    #[test]
    fn one_record_on_its_own() {
        let a = record("A.example 60 IN A 10.0.0.1").unwrap();
        assert_eq!((a.owner.to_string().as_str(), a.ttl, a.class), ("a.example.", 60, Class::IN));
        assert_eq!(record("a. IN 60 A 1.1.1.1").unwrap().ttl, 60);
        assert_eq!(record("a. CH TXT x").unwrap().class, Class::CHAOS);
        assert_eq!(record("a. AAAA ::1").unwrap().ttl, 3_600);
        assert_eq!(rdata("a. MX 10 mail.b."), b"\0\x0a\x04mail\x01b\0");
        assert_eq!(rdata("a. SRV 1 2 3 b."), b"\0\x01\0\x02\0\x03\x01b\0");
        assert_eq!(rdata(r#"a. TXT "a b;c" d\"e \065"#), b"\x05a b;c\x03d\"e\x01A");
        assert_eq!(rdata(r#"a. CAA 0 issue "ca.org""#), b"\0\x05issueca.org");
        assert_eq!(rdata(r"a. TYPE9999 \# 3 ab cdef"), [0xab, 0xcd, 0xef]);
        assert_eq!(rdata(r"a. A \# 4 0a000001"), [10, 0, 0, 1]);
        assert_eq!(
            rdata("a. SOA ns. h. 1 1h 2m 3 4")[7..],
            [0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 0, 120, 0, 0, 0, 3, 0, 0, 0, 4]
        );
        assert_eq!(rdata("a. HTTPS 1 . alpn=h2"), b"\0\x01\0\0\x01\0\x03\x02h2");
        assert_eq!(rdata("a. HTTPS 1 . alpn=\"h2\""), b"\0\x01\0\0\x01\0\x03\x02h2");
        assert_eq!(rdata(&format!("a. TXT {}", "x".repeat(300))).len(), 302);
    }

    #[test]
    fn what_is_no_record_says_why() {
        for (text, message) in [
            ("", "the record has no owner"),
            ("a.", "the record has no type"),
            ("a. 60 IN", "the record has no type"),
            ("a. IN X 1", "\"X\" is not a record type"),
            ("a. A 1.1.1", "\"1.1.1\" is not an IPv4 address"),
            ("a. A 1.1.1.1 x", "the data go on with \"x\""),
            ("a. MX 10", "the data end where a name should stand"),
            ("a..b A 1.1.1.1", "\"a..b\" is not a name: a label is empty"),
            ("a. TXT \"x", "a quote is not closed"),
            ("a. TXT ( x", "a parenthesis is not matched"),
            ("a. TXT x )", "a parenthesis is not matched"),
            (r"a. A \# 4 0a0000", "\"4\" is not the length of the data"),
            ("a. A 1.1.1.1\nb. A 1.1.1.1", "the data go on with \"b.\""),
        ] {
            assert_eq!(record(text).unwrap_err().to_string(), message, "{text}");
        }
        assert!(matches!(record("a. HTTPS x"), Err(TextError::Rare { .. })));
    }

    #[test]
    fn lines_go_on_in_parentheses() {
        let text = "@ IN SOA ns ( host ; a comment )\n 1 2\n 3 4 5 )\n\n; nothing\n\t600 NS ns\r\nns A 1.1.1.1 ; end";
        let mut context = Context::new(Name::from_text("example.org").unwrap());
        let records: Vec<_> =
            Lines::of(text).map(|line| context.record(&line.unwrap()).unwrap()).collect();
        let owners: Vec<_> = records.iter().map(|record| record.owner.to_string()).collect();
        assert_eq!(owners, ["example.org.", "example.org.", "ns.example.org."]);
        assert_eq!(records[1].target().unwrap().to_string(), "ns.example.org.");
        assert_eq!(records[2].ttl, 600);
        let numbers: Vec<_> = Lines::of(text).map(|line| line.unwrap().number).collect();
        assert_eq!(numbers, [1, 6, 7]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_lines_or_an_error(text in "[a-z0-9 \\\\.\"();\n#$@]{0,80}|\\PC{0,40}") {
            let _ = Lines::of(&text).count();
            let _ = record(&text);
        }

        #[test]
        fn any_data_are_a_record_or_an_error(
            rtype in "A|AAAA|MX|TXT|SRV|SOA|CAA|NAPTR|HTTPS|SVCB|TLSA|SSHFP|DS|HINFO|DNSKEY|RRSIG|NSEC|LOC|URI",
            data in "[a-z0-9 \\\\.\"#=,]{0,40}",
        ) {
            let _ = record(&format!("a. {rtype} {data}"));
        }
    }
}
