//! Cuts what the API server sends into objects while it arrives, so that no list is ever held whole: a list of 150,000
//! endpoints is some 60 MB of JSON.
//!
//! In JSON, a watch is one event a line ([`Lines`]); a list is one document, of which the members of `items` and the member
//! `metadata` are cut out ([`ListItems`]). [`protobuf`] does the same for frames and messages. [`EventSplitter`] and
//! [`ListSplitter`] are one of both.

mod protobuf;

use memchr::{memchr, memchr2};

use super::decode::Encoding;

/// Why octets are not what was expected; nothing after them can be made out.
pub(super) type Broken = &'static str;

/// Cuts a watch.
pub(super) enum EventSplitter {
    Json(Lines),
    Protobuf(protobuf::Frames),
}

impl EventSplitter {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json(Lines::default()),
            Encoding::Protobuf => Self::Protobuf(protobuf::Frames::default()),
        }
    }

    /// True if an event has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Json(lines) => lines.is_open(),
            Self::Protobuf(frames) => frames.is_open(),
        }
    }

    /// Takes the next octets and gives every complete event to `take`.
    pub(super) fn push(&mut self, chunk: &[u8], take: impl FnMut(Piece<'_>)) -> Result<(), Broken> {
        match self {
            Self::Json(lines) => lines.push(chunk, take),
            Self::Protobuf(frames) => return frames.push(chunk, take),
        }
        Ok(())
    }
}

/// Cuts a list.
pub(super) enum ListSplitter {
    Json(Box<ListItems>),
    Protobuf(protobuf::Items),
}

impl ListSplitter {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json(Box::default()),
            Encoding::Protobuf => Self::Protobuf(protobuf::Items::default()),
        }
    }

    /// True once the whole list has come; false before that means that it was cut off.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Json(items) => items.is_complete(),
            Self::Protobuf(items) => items.is_complete(),
        }
    }

    /// True if it is a list at all, as far as it has come.
    pub(super) fn is_list(&self) -> bool {
        match self {
            Self::Json(items) => items.is_list(),
            Self::Protobuf(items) => items.is_list(),
        }
    }

    /// Takes the next octets and gives what is complete to `take`.
    pub(super) fn push(&mut self, chunk: &[u8], take: impl FnMut(Piece<'_>)) -> Result<(), Broken> {
        match self {
            Self::Json(items) => items.push(chunk, take),
            Self::Protobuf(items) => return items.push(chunk, take),
        }
        Ok(())
    }
}

/// The longest object or event that is looked at. etcd holds at most 1.5 MB for an object; JSON takes more room than its
/// protobuf.
pub(super) const MAX_OBJECT: usize = 8 << 20;

/// What was cut out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A line, or a member of `items`.
    Object(&'a [u8]),
    /// The list's own `metadata`.
    Metadata(&'a [u8]),
    /// An object longer than [`MAX_OBJECT`], which was passed over.
    TooLong,
}

/// Octets of one piece, gathered over the chunks that it is spread over.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Gathered {
    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MAX_OBJECT {
            self.too_long = true;
            self.bytes = Vec::new();
        }
        if !self.too_long {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Gives the whole piece, of which `last` is the end, to `take`, and begins anew.
    fn finish(&mut self, last: &[u8], take: impl FnOnce(Option<&[u8]>)) {
        if self.bytes.is_empty() && !self.too_long && last.len() <= MAX_OBJECT {
            take(Some(last));
            return;
        }
        self.add(last);
        take((!self.too_long).then_some(&self.bytes));
        self.too_long = false;
        // A single huge object should not keep its room for ever.
        if self.bytes.capacity() > KEPT_ROOM { self.bytes = Vec::new() } else { self.bytes.clear() }
    }
}

const KEPT_ROOM: usize = 256 << 10;

/// Cuts at line ends.
#[derive(Default)]
pub(super) struct Lines(Gathered);

impl Lines {
    /// True if a line has begun and not ended: what was sent is cut off here.
    pub(super) fn is_open(&self) -> bool {
        self.0.too_long || !self.0.bytes.is_empty()
    }

    /// Takes the next octets and gives every line that is complete to `take`.
    pub(super) fn push(&mut self, mut chunk: &[u8], mut take: impl FnMut(Piece<'_>)) {
        while let Some(at) = memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(at);
            chunk = rest.get(1..).unwrap_or_default();
            self.0.finish(line, |line| match line {
                Some(line) if line.trim_ascii().is_empty() => {}
                Some(line) => take(Piece::Object(line)),
                None => take(Piece::TooLong),
            });
        }
        self.0.add(chunk);
    }
}

/// Cuts a list document.
#[derive(Default)]
pub(super) struct ListItems {
    /// Open braces and brackets.
    depth: usize,
    string: Option<StringState>,
    /// The string that was read last at depth 1, up to [`KEY_ROOM`] octets: a key if a colon follows.
    key: Vec<u8>,
    /// Whose value is being read at depth 1.
    member: Member,
    /// True between the braces of an object that is cut out.
    inside: bool,
    gathered: Gathered,
    seen_items: bool,
    done: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum StringState {
    Plain,
    /// After a backslash.
    Escaped,
}

#[derive(Clone, Copy, PartialEq, Default)]
enum Member {
    #[default]
    Other,
    Items,
    Metadata,
}

const KEY_ROOM: usize = 16;

impl ListItems {
    /// True once the document has ended; false before that means that it was cut off.
    pub(super) fn is_complete(&self) -> bool {
        self.done
    }

    /// True if the document has a member `items`: anything else is not a list.
    pub(super) fn is_list(&self) -> bool {
        self.seen_items
    }

    /// Takes the next octets and gives what is complete to `take`. What is no JSON at all ends up as pieces that do not
    /// decode, or as no piece.
    pub(super) fn push(&mut self, chunk: &[u8], mut take: impl FnMut(Piece<'_>)) {
        let mut at = 0;
        // Where in this chunk the piece that is open began.
        let mut start = 0;
        while let Some(&octet) = chunk.get(at) {
            if let Some(state) = self.string {
                at = self.in_string(state, chunk, at);
                continue;
            }
            match octet {
                b'"' => {
                    self.string = Some(StringState::Plain);
                    self.key.clear();
                }
                b':' if self.depth == 1 => {
                    self.member = match self.key.as_slice() {
                        b"items" => Member::Items,
                        b"metadata" => Member::Metadata,
                        _ => Member::Other,
                    };
                    self.seen_items |= self.member == Member::Items;
                }
                b'{' | b'[' => {
                    let opens = octet == b'{'
                        && matches!(
                            (self.depth, self.member),
                            (1, Member::Metadata) | (2, Member::Items)
                        );
                    if opens && !self.inside {
                        self.inside = true;
                        start = at;
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.inside && self.depth == if self.member == Member::Items { 2 } else { 1 }
                    {
                        self.inside = false;
                        let metadata = self.member == Member::Metadata;
                        self.gathered.finish(chunk.get(start..=at).unwrap_or_default(), |piece| {
                            match piece {
                                Some(piece) if metadata => take(Piece::Metadata(piece)),
                                Some(piece) => take(Piece::Object(piece)),
                                None => take(Piece::TooLong),
                            }
                        });
                    }
                    self.done |= self.depth == 0;
                }
                _ => {}
            }
            at += 1;
        }
        if self.inside {
            self.gathered.add(chunk.get(start..).unwrap_or_default());
        }
    }

    /// Goes on within a string, and returns where to go on from.
    fn in_string(&mut self, state: StringState, chunk: &[u8], at: usize) -> usize {
        if state == StringState::Escaped {
            self.string = Some(StringState::Plain);
            return at + 1;
        }
        let rest = chunk.get(at..).unwrap_or_default();
        let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        if self.depth == 1 {
            let room = KEY_ROOM.saturating_sub(self.key.len()).min(end);
            self.key.extend_from_slice(rest.get(..room).unwrap_or_default());
        }
        match rest.get(end) {
            Some(b'"') => self.string = None,
            Some(_) => self.string = Some(StringState::Escaped),
            None => return chunk.len(),
        }
        at + end + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of `input` when it arrives in chunks that end at `cuts`.
    fn list(input: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<String>, bool) {
        let (mut items, mut metadata) = (Vec::new(), Vec::new());
        let mut splitter = ListItems::default();
        let mut from = 0;
        for to in cuts.iter().copied().chain([input.len()]) {
            let to = to.min(input.len()).max(from);
            splitter.push(&input[from..to], |piece| match piece {
                Piece::Object(object) => items.push(String::from_utf8_lossy(object).into_owned()),
                Piece::Metadata(object) => {
                    metadata.push(String::from_utf8_lossy(object).into_owned())
                }
                Piece::TooLong => items.push("too long".into()),
            });
            from = to;
        }
        (items, metadata, splitter.is_complete() && splitter.is_list())
    }

    const LIST: &str = r#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","x":{"items":[{}]}},
        "items" : [ {"a":"}\"]{","metadata":{"b":[1,{}]}}, {"items":[{"deep":1}]} ,{}], "tail":[{"no":1}]}"#;

    #[test]
    fn items_and_metadata_are_cut_out() {
        let (items, metadata, complete) = list(LIST.as_bytes(), &[]);
        assert_eq!(
            items,
            [r#"{"a":"}\"]{","metadata":{"b":[1,{}]}}"#, r#"{"items":[{"deep":1}]}"#, "{}"]
        );
        assert_eq!(metadata, [r#"{"resourceVersion":"7","x":{"items":[{}]}}"#]);
        assert!(complete);
    }

    #[test]
    fn an_empty_list_may_be_null() {
        assert_eq!(
            list(br#"{"metadata":{},"items":null}"#, &[]),
            (vec![], vec!["{}".into()], true)
        );
    }

    #[test]
    fn what_is_cut_off_or_no_list_is_not_complete() {
        assert!(!list(&LIST.as_bytes()[..LIST.len() - 1], &[]).2);
        assert!(!list(br#"{"kind":"Status","metadata":{},"code":500}"#, &[]).2);
    }

    #[test]
    fn a_huge_object_is_passed_over() {
        let huge = format!(r#"{{"items":[{{"a":"{}"}},{{"b":1}}]}}"#, "x".repeat(MAX_OBJECT));
        let cuts: Vec<usize> = (0..huge.len()).step_by(64 << 10).collect();
        let (items, _, complete) = list(huge.as_bytes(), &cuts);
        assert_eq!(items, ["too long", r#"{"b":1}"#]);
        assert!(complete);
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for chunk in [&b"{\"a\":1}\n{\"b\""[..], b":2}", b"\n\n \n{\"c\":3}\n{\"cut off"] {
            lines.push(chunk, |piece| match piece {
                Piece::Object(line) => out.push(String::from_utf8_lossy(line).into_owned()),
                _ => panic!("{piece:?}"),
            });
        }
        assert_eq!(out, [r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(mut cuts in proptest::collection::vec(0..LIST.len(), 0..20)) {
            cuts.sort_unstable();
            prop_assert_eq!(list(LIST.as_bytes(), &cuts), list(LIST.as_bytes(), &[]));
        }

        #[test]
        fn any_octets_are_survived(input in proptest::collection::vec(any::<u8>(), 0..300),
                                   json in r#"[\{\}\[\]":,a\\ ]{0,60}"#, cut in 0..300usize) {
            list(&input, &[cut]);
            list(json.as_bytes(), &[cut]);
            list(format!(r#"{{"items":[{json}"#).as_bytes(), &[cut]);
        }
    }
}
