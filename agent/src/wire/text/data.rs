//! The data of one record, type by type.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{RData, RecordType as HickoryType};
use hickory_proto::serialize::binary::BinEncodable;

use super::error::TextError;
use super::lines::Word;
use crate::wire::{NameBuf, NameRef, RecordType, rdata};

/// The longest data that a record can have.
const MAX_RDATA: usize = 65_535;

/// Reads the data of a record; relative names end in `origin`.
pub(super) fn read(
    origin: NameRef<'_>,
    rtype: RecordType,
    words: &[Word<'_>],
) -> Result<Box<[u8]>, TextError> {
    let mut data = Data { origin, words: words.iter(), out: Vec::new() };
    if words.first().is_some_and(|word| word.text == "\\#" && !word.quoted) {
        data.words.next();
        data.generic(rtype)?;
    } else if !data.common(rtype)? {
        return rare(rtype, words);
    }
    match data.words.next() {
        Some(word) => Err(TextError::Surplus(word.text.to_owned())),
        None if data.out.len() > MAX_RDATA => Err(TextError::Surplus("...".to_owned())),
        None => Ok(data.out.into_boxed_slice()),
    }
}

/// Reads a name in the case in which it is written: names in data are shown to people (RFC 4343, RFC 6763). It is relative
/// to `origin` unless it has a final dot; `@` is the origin.
pub(super) fn name(text: &str, origin: NameRef<'_>) -> Result<NameBuf, TextError> {
    let wrong = |source| TextError::Name { text: text.to_owned(), source };
    if text == "@" {
        return Ok(NameBuf::lower(origin));
    }
    let mut name = NameBuf::new();
    name.push_text(text).map_err(wrong)?;
    if !is_absolute(text) {
        name.push_name(origin).map_err(wrong)?;
    }
    Ok(name)
}

/// Seconds, or numbers with the units w, d, h, m and s.
pub fn parse_ttl(text: &str) -> Option<u32> {
    hickory_proto::serialize::txt::parse_ttl(text).ok()
}

/// The data of one record being read.
struct Data<'w, 'o> {
    origin: NameRef<'o>,
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
    fn generic(&mut self, rtype: RecordType) -> Result<(), TextError> {
        let word = self.word("a length")?;
        let len: usize = word.parse().map_err(|_| wrong(word, "a length"))?;
        if len > 0 {
            self.hex()?;
        }
        if self.out.len() != len {
            return Err(wrong(word, "the length of the data"));
        }
        if !rdata::is_sound(rtype, &self.out) {
            return Err(wrong(word, "the length of data that have the names of their type"));
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
        let name = name(self.word("a name")?, self.origin)?;
        self.out.extend_from_slice(name.as_name().as_bytes());
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
