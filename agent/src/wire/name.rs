//! Names in wire form: length octet, label, ..., zero octet (RFC 1035 section 3.1).
//!
//! Lower-cased wire form is the key everywhere. Since a length octet is at most 63, which is below `A`, a whole name can
//! be lower-cased octet by octet without looking at its labels.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest name in wire form, its final zero included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// The longest label (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// The last offset that a compression pointer can lead to.
pub const MAX_POINTER: usize = 0x3fff;
/// Compression pointers that one name may lead through. Servers write chains of two or three; longer ones than this are
/// made to cost time (RFC 9267 section 2).
pub const MAX_POINTERS: usize = 32;

/// Why bytes or text are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bytes end before the name does.
    #[error("the name is cut off")]
    Short,
    /// A label of more than 63 octets, or a reserved label type.
    #[error("a label is longer than 63 octets")]
    Label,
    /// More than 255 octets in wire form.
    #[error("the name is longer than 255 octets")]
    Long,
    /// Two dots in a row, or a dot at the start.
    #[error("a label is empty")]
    Empty,
    /// A backslash that no character or three digits follow.
    #[error("a backslash is followed by neither a character nor three digits up to 255")]
    Escape,
    /// A compression pointer where none may be, one that does not point backwards, or a chain of too many.
    #[error("a compression pointer leads nowhere, or through too many others")]
    Pointer,
}

/// A name in uncompressed wire form, borrowed, in the case in which it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameRef<'a>(&'a [u8]);

impl<'a> NameRef<'a> {
    /// The root, one zero octet.
    pub const ROOT: NameRef<'static> = NameRef(&[0]);

    /// Reads the uncompressed name at the start of `bytes`; what follows it is left alone.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NameError> {
        let mut at = 0;
        loop {
            let len = usize::from(*bytes.get(at).ok_or(NameError::Short)?);
            if len == 0 {
                return match bytes.get(..=at) {
                    Some(name) => Ok(Self(name)),
                    None => Err(NameError::Short),
                };
            }
            if len > MAX_LABEL {
                return Err(if len & 0xc0 == 0xc0 { NameError::Pointer } else { NameError::Label });
            }
            at += len + 1;
            if at >= MAX_NAME {
                return Err(NameError::Long);
            }
        }
    }

    /// The octets, the final zero included.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Octets in wire form, the final zero included: 1 to 255.
    #[allow(clippy::len_without_is_empty, reason = "a name is never empty: the root has one octet")]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// True for `.`.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// The labels from left to right, without the root's.
    pub fn labels(self) -> Labels<'a> {
        Labels { rest: self.0 }
    }

    /// The number of labels without the root's.
    pub fn label_count(self) -> usize {
        self.labels().count()
    }

    /// The leftmost label; `None` for the root.
    pub fn first_label(self) -> Option<&'a [u8]> {
        self.labels().next()
    }

    /// The name without its leftmost label; `None` for the root.
    pub fn parent(self) -> Option<NameRef<'a>> {
        let len = usize::from(*self.0.first()?);
        if len == 0 {
            return None;
        }
        self.0.get(len + 1..).map(NameRef)
    }

    /// True where `self` is `zone` or below it. Octets are compared as they are: lower-case both first.
    pub fn is_within(self, zone: NameRef<'_>) -> bool {
        self.prefix_len(zone).is_some()
    }

    /// How many octets stand before the suffix `zone`, where `self` is within it. Octets are compared as they are.
    pub fn prefix_len(self, zone: NameRef<'_>) -> Option<usize> {
        let cut = self.0.len().checked_sub(zone.0.len())?;
        if self.0.get(cut..)? != zone.0 {
            return None;
        }
        // The octets match; they are a suffix of labels only if a label begins there.
        let mut at = 0;
        while at < cut {
            at += usize::from(*self.0.get(at)?) + 1;
        }
        (at == cut).then_some(cut)
    }

    /// The labels before the suffix `zone`, as octets without a final zero; `None` where `self` is not within it.
    pub fn relative_to(self, zone: NameRef<'_>) -> Option<&'a [u8]> {
        self.0.get(..self.prefix_len(zone)?)
    }

    /// The name with its end `owner` replaced by `target`, as a DNAME does it (RFC 6672 section 2.2). `None` if `self` is not
    /// within `owner`, or the result is too long.
    pub fn substituted(self, owner: NameRef<'_>, target: NameRef<'_>) -> Option<NameBuf> {
        let mut made = NameBuf::new();
        for label in Labels::of_prefix(self.relative_to(owner)?) {
            made.push_label(label).ok()?;
        }
        made.push_name(target).ok()?;
        Some(made)
    }

    /// An owned, lower-cased copy.
    pub fn to_name(self) -> Name {
        let mut bytes: Box<[u8]> = self.0.into();
        bytes.make_ascii_lowercase();
        Name(bytes)
    }
}

impl fmt::Display for NameRef<'_> {
    /// Text with a final dot; dots, backslashes and what does not print are escaped (RFC 1035 section 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' => {
                        write!(f, "\\{}", char::from(octet))?
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The labels of a name from left to right.
#[derive(Clone)]
pub struct Labels<'a> {
    rest: &'a [u8],
}

impl<'a> Labels<'a> {
    /// The labels of octets that a name begins with, such as [`NameRef::relative_to`] returns.
    pub fn of_prefix(prefix: &'a [u8]) -> Self {
        Self { rest: prefix }
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(*self.rest.first()?);
        if len == 0 {
            return None;
        }
        let label = self.rest.get(1..=len)?;
        self.rest = self.rest.get(len + 1..)?;
        Some(label)
    }
}

/// An owned name in lower-cased wire form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads text, with or without a final dot; `\.` and `\DDD` as in RFC 1035 section 5.1; lower-cases.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        let mut buf = NameBuf::new();
        buf.push_text(text)?;
        Ok(buf.as_name().to_name())
    }

    /// The same name, borrowed.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }

    /// The octets, the final zero included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// Equal to the hash of the octets, so that a map keyed by `Name` can be asked with `&[u8]`.
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::from_text(text)
    }
}

/// Room for one name on the stack.
#[derive(Clone, Copy)]
pub struct NameBuf {
    len: u8,
    bytes: [u8; MAX_NAME],
}

impl NameBuf {
    /// The root.
    pub fn new() -> Self {
        Self { len: 1, bytes: [0; MAX_NAME] }
    }

    /// A lower-cased copy.
    pub fn lower(name: NameRef<'_>) -> Self {
        let mut buf = Self::new();
        // A `NameRef` holds at most 255 octets by construction.
        for (to, from) in buf.bytes.iter_mut().zip(name.0) {
            *to = from.to_ascii_lowercase();
        }
        buf.len = name.0.len().min(MAX_NAME) as u8;
        buf
    }

    /// The name as it stands.
    pub fn as_name(&self) -> NameRef<'_> {
        NameRef(self.bytes.get(..usize::from(self.len)).unwrap_or(&[0]))
    }

    /// Appends one label before the root's.
    pub fn push_label(&mut self, label: &[u8]) -> Result<(), NameError> {
        if label.is_empty() {
            return Err(NameError::Empty);
        }
        if label.len() > MAX_LABEL {
            return Err(NameError::Label);
        }
        let at = usize::from(self.len) - 1;
        let end = at + 1 + label.len();
        if end >= MAX_NAME {
            return Err(NameError::Long);
        }
        if let Some([len, text @ .., root]) = self.bytes.get_mut(at..=end) {
            *len = label.len() as u8;
            text.copy_from_slice(label);
            *root = 0;
        }
        self.len = (end + 1) as u8;
        Ok(())
    }

    /// Appends all labels of `name`.
    pub fn push_name(&mut self, name: NameRef<'_>) -> Result<(), NameError> {
        name.labels().try_for_each(|label| self.push_label(label))
    }

    /// Appends the labels of `text`, as [`Name::from_text`] reads them, in their case.
    pub fn push_text(&mut self, text: &str) -> Result<(), NameError> {
        if text == "." {
            return Ok(());
        }
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let mut label = [0u8; MAX_LABEL];
        let mut len = 0;
        let mut octets = text.bytes();
        let mut ended = false;
        while let Some(octet) = octets.next() {
            ended = false;
            let octet = match octet {
                b'.' => {
                    self.push_label(label.get(..len).unwrap_or(&[]))?;
                    len = 0;
                    ended = true;
                    continue;
                }
                b'\\' => match octets.next().ok_or(NameError::Escape)? {
                    first @ b'0'..=b'9' => {
                        let mut value = u16::from(first - b'0');
                        for _ in 0..2 {
                            match octets.next() {
                                Some(digit @ b'0'..=b'9') => {
                                    value = value * 10 + u16::from(digit - b'0')
                                }
                                _ => return Err(NameError::Escape),
                            }
                        }
                        u8::try_from(value).map_err(|_| NameError::Escape)?
                    }
                    other => other,
                },
                plain => plain,
            };
            *label.get_mut(len).ok_or(NameError::Label)? = octet;
            len += 1;
        }
        if !ended {
            self.push_label(label.get(..len).unwrap_or(&[]))?;
        }
        Ok(())
    }

    /// Reads the name at `at` of a whole `message`, following compression pointers, which may only lead backwards
    /// (RFC 1035 section 4.1.4). Returns it lower-cased, and where the record continues.
    pub fn expand(message: &[u8], at: usize) -> Result<(Self, usize), NameError> {
        let (mut name, after) = Self::expand_as_written(message, at)?;
        name.bytes.make_ascii_lowercase();
        Ok((name, after))
    }

    /// As [`NameBuf::expand`], in the case in which the name is written.
    pub fn expand_as_written(message: &[u8], at: usize) -> Result<(Self, usize), NameError> {
        let mut buf = Self::new();
        let mut at = at;
        let mut after = None;
        let mut pointers = 0;
        loop {
            let len = usize::from(*message.get(at).ok_or(NameError::Short)?);
            match len {
                0 => return Ok((buf, after.unwrap_or(at + 1))),
                1..=MAX_LABEL => {
                    buf.push_label(message.get(at + 1..at + 1 + len).ok_or(NameError::Short)?)?;
                    at += len + 1;
                }
                _ if len & 0xc0 == 0xc0 => {
                    let low = usize::from(*message.get(at + 1).ok_or(NameError::Short)?);
                    let target = (len & 0x3f) << 8 | low;
                    after.get_or_insert(at + 2);
                    pointers += 1;
                    // Strictly backwards: so the walk ends, however the pointers were laid.
                    if target >= at || pointers > MAX_POINTERS {
                        return Err(NameError::Pointer);
                    }
                    at = target;
                }
                _ => return Err(NameError::Label),
            }
        }
    }
}

/// Steps over the name at `at`, compressed or not; returns where the record continues.
pub(super) fn skip_name(message: &[u8], at: usize) -> Result<usize, NameError> {
    let mut at = at;
    loop {
        let len = usize::from(*message.get(at).ok_or(NameError::Short)?);
        match len {
            0 => return Ok(at + 1),
            1..=MAX_LABEL => at += len + 1,
            _ if len & 0xc0 == 0xc0 => return Ok(at + 2),
            _ => return Err(NameError::Label),
        }
    }
}

impl Default for NameBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

#[cfg(test)]
mod tests;
