//! Cuts protobuf: the frames of a watch, and the items of a list.

use super::{Broken, Gathered, MAX_OBJECT, Piece};
use crate::cluster::decode::protobuf::{LIST_ITEM, LIST_METADATA, MAGIC, UNKNOWN_RAW};

/// A frame longer than this is no frame: an event above [`MAX_OBJECT`] is skipped, but the server refuses to store one that
/// is not much longer.
const MAX_FRAME: usize = 8 * MAX_OBJECT;

/// Cuts a watch at its frames: a length of four octets, big-endian, and so many octets.
#[derive(Default)]
pub(in crate::cluster) struct Frames {
    head: [u8; 4],
    /// How many octets of `head` have come; 4 while the frame itself is read.
    head_len: usize,
    /// Octets of the frame that have not come yet.
    left: usize,
    gathered: Gathered,
}

impl Frames {
    /// True if a frame has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.head_len > 0
    }

    /// Takes the next octets and gives every complete frame to `take`.
    pub(super) fn push(
        &mut self,
        mut chunk: &[u8],
        mut take: impl FnMut(Piece<'_>),
    ) -> Result<(), Broken> {
        while !chunk.is_empty() {
            if let Some(octet) = self.head.get_mut(self.head_len) {
                let Some((&first, rest)) = chunk.split_first() else { break };
                *octet = first;
                self.head_len += 1;
                chunk = rest;
                if self.head_len < self.head.len() {
                    continue;
                }
                self.left = u32::from_be_bytes(self.head) as usize;
                if self.left > MAX_FRAME {
                    return Err("a frame is too long");
                }
            }
            let (now, rest) = chunk.split_at(self.left.min(chunk.len()));
            self.left -= now.len();
            chunk = rest;
            if self.left > 0 {
                self.gathered.add(now);
                continue;
            }
            self.head_len = 0;
            self.gathered.finish(now, |frame| take(frame.map_or(Piece::TooLong, Piece::Object)));
        }
        Ok(())
    }
}

/// Cuts a list: the envelope `k8s\0 Unknown { raw: List { metadata, item, item, ... } }`, of which metadata and items are
/// given away as they come.
#[derive(Default)]
pub(in crate::cluster) struct Items {
    state: State,
    /// Octets of the list that have not come yet; `None` outside of it.
    list: Option<u64>,
    /// True once the list has begun; an envelope holds one.
    seen: bool,
    gathered: Gathered,
}

#[derive(Default, Clone, Copy)]
enum State {
    /// Before so many octets of the magic have come.
    #[default]
    Start,
    Magic(u8),
    /// Within the key of a field: what has come of it, and by how many bits the next octet is shifted.
    Key(Varint),
    /// Within the length of a field.
    Length(u64, Varint),
    /// Within the number of a field of wire type 0.
    Number(Varint),
    /// Within what is skipped.
    Skip(u64),
    /// Within an item, or the metadata.
    Piece {
        left: u64,
        metadata: bool,
    },
}

#[derive(Default, Clone, Copy)]
struct Varint {
    number: u64,
    shift: u32,
}

impl Varint {
    /// Takes an octet; the number once it is complete.
    fn push(&mut self, octet: u8) -> Result<Option<u64>, Broken> {
        if self.shift >= 64 {
            return Err("a number is too long");
        }
        self.number |= u64::from(octet & 0x7f) << self.shift;
        self.shift += 7;
        Ok((octet < 0x80).then_some(self.number))
    }

    fn is_empty(self) -> bool {
        self.shift == 0
    }
}

impl Items {
    /// True once a whole list has come, and nothing else has begun.
    pub(super) fn is_complete(&self) -> bool {
        self.seen && self.list.is_none() && matches!(self.state, State::Key(key) if key.is_empty())
    }

    /// True if the envelope holds anything.
    pub(super) fn is_list(&self) -> bool {
        self.seen
    }

    /// Takes the next octets and gives what is complete to `take`.
    pub(super) fn push(
        &mut self,
        mut chunk: &[u8],
        mut take: impl FnMut(Piece<'_>),
    ) -> Result<(), Broken> {
        while !chunk.is_empty() {
            let used = match self.state {
                State::Skip(left) => {
                    let used = within(left, chunk);
                    self.state = match left - used as u64 {
                        0 => State::Key(Varint::default()),
                        left => State::Skip(left),
                    };
                    used
                }
                State::Piece { left, metadata } => {
                    let used = within(left, chunk);
                    let (now, left) = (chunk.get(..used).unwrap_or_default(), left - used as u64);
                    self.piece(now, left, metadata, &mut take);
                    used
                }
                _ => {
                    self.octet(chunk.first().copied().unwrap_or_default(), &mut take)?;
                    1
                }
            };
            chunk = chunk.get(used..).unwrap_or_default();
            self.leave(used as u64)?;
        }
        Ok(())
    }

    /// Takes one octet outside of values.
    fn octet(&mut self, octet: u8, take: &mut impl FnMut(Piece<'_>)) -> Result<(), Broken> {
        self.state = match self.state {
            State::Start => return self.magic(0, octet),
            State::Magic(seen) => return self.magic(seen, octet),
            State::Key(mut key) => match key.push(octet)? {
                None => State::Key(key),
                Some(key) => match key & 7 {
                    0 => State::Number(Varint::default()),
                    1 => State::Skip(8),
                    2 => State::Length(key >> 3, Varint::default()),
                    5 => State::Skip(4),
                    _ => return Err("a field has an unknown type"),
                },
            },
            State::Number(mut number) => match number.push(octet)? {
                None => State::Number(number),
                Some(_) => State::Key(Varint::default()),
            },
            State::Length(field, mut length) => match length.push(octet)? {
                None => State::Length(field, length),
                Some(length) => return self.begin(field, length, take),
            },
            state => state,
        };
        Ok(())
    }

    fn magic(&mut self, seen: u8, octet: u8) -> Result<(), Broken> {
        if MAGIC.get(usize::from(seen)) != Some(&octet) {
            return Err("it does not begin as protobuf of Kubernetes");
        }
        let seen = seen + 1;
        let whole = usize::from(seen) == MAGIC.len();
        self.state = if whole { State::Key(Varint::default()) } else { State::Magic(seen) };
        Ok(())
    }

    /// Begins the value of a field with a length.
    fn begin(
        &mut self,
        field: u64,
        length: u64,
        take: &mut impl FnMut(Piece<'_>),
    ) -> Result<(), Broken> {
        self.state = State::Skip(length);
        match self.list {
            // The octet that ends the length is still counted.
            Some(left) if length > left.saturating_sub(1) => {
                return Err("a field is longer than the list");
            }
            Some(_) if field == LIST_METADATA || field == LIST_ITEM => {
                self.state = State::Piece { left: length, metadata: field == LIST_METADATA };
            }
            Some(_) => {}
            None if field == UNKNOWN_RAW && !self.seen => {
                self.seen = true;
                // That octet is not the list's.
                self.list = Some(length.saturating_add(1));
                self.state = State::Key(Varint::default());
            }
            None => {}
        }
        match self.state {
            State::Skip(0) => self.state = State::Key(Varint::default()),
            State::Piece { left: 0, metadata } => self.piece(&[], 0, metadata, take),
            _ => {}
        }
        Ok(())
    }

    fn piece(&mut self, now: &[u8], left: u64, metadata: bool, take: &mut impl FnMut(Piece<'_>)) {
        if left > 0 {
            self.state = State::Piece { left, metadata };
            return self.gathered.add(now);
        }
        self.state = State::Key(Varint::default());
        self.gathered.finish(now, |piece| {
            take(match piece {
                Some(piece) if metadata => Piece::Metadata(piece),
                Some(piece) => Piece::Object(piece),
                None => Piece::TooLong,
            });
        });
    }

    /// Counts octets of the list, and leaves it at its end.
    fn leave(&mut self, used: u64) -> Result<(), Broken> {
        let Some(left) = self.list else { return Ok(()) };
        let left = left.checked_sub(used).ok_or("a field is longer than the list")?;
        self.list = (left > 0).then_some(left);
        if left == 0 && !matches!(self.state, State::Key(key) if key.is_empty()) {
            return Err("the list ends within a field");
        }
        Ok(())
    }
}

/// How many octets of `chunk` belong to a value of which so many are missing.
fn within(left: u64, chunk: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = bytes.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(bytes);
        out
    }

    fn list() -> Vec<u8> {
        let long = vec![7; 300];
        let mut inner = field(1, b"meta");
        for item in [&b"one"[..], b"", &long] {
            inner.extend(field(2, item));
        }
        inner.extend([3 << 3, 0x96, 0x01]);
        inner.extend(field(9, b"unknown"));
        let mut out = MAGIC.to_vec();
        out.extend(field(1, b"type"));
        out.extend(field(2, &inner));
        out.extend(field(3, b""));
        out
    }

    type Cut = (Vec<Vec<u8>>, Vec<Vec<u8>>, Result<(), Broken>, bool);

    fn cut(input: &[u8], cuts: &[usize]) -> Cut {
        let (mut items, mut metadata) = (Vec::new(), Vec::new());
        let (mut splitter, mut result, mut from) = (Items::default(), Ok(()), 0);
        for to in cuts.iter().copied().chain([input.len()]) {
            let to = to.min(input.len()).max(from);
            result = result.and_then(|()| {
                splitter.push(&input[from..to], |piece| match piece {
                    Piece::Object(object) => items.push(object.to_vec()),
                    Piece::Metadata(object) => metadata.push(object.to_vec()),
                    Piece::TooLong => items.push(b"too long".to_vec()),
                })
            });
            from = to;
        }
        (items, metadata, result, splitter.is_complete())
    }

    #[test]
    fn items_and_metadata_are_cut_out() {
        let (items, metadata, result, complete) = cut(&list(), &[]);
        assert_eq!(items, [b"one".to_vec(), vec![], vec![7; 300]]);
        assert_eq!(metadata, [b"meta".to_vec()]);
        assert!(result.is_ok() && complete);
        let mut empty = MAGIC.to_vec();
        empty.extend(field(2, b""));
        assert!(cut(&empty, &[]).3);
    }

    #[test]
    fn a_list_that_is_cut_off_is_not_complete() {
        let list = list();
        // The last field is outside of the list; without it the list is whole.
        for len in (0..list.len() - 1).filter(|&len| len != list.len() - 2) {
            assert!(!cut(&list[..len], &[]).3, "{len} octets");
        }
        assert!(cut(b"<html>", &[]).2.is_err());
        let mut lies = MAGIC.to_vec();
        lies.extend(field(2, &[2 << 3 | 2, 200]));
        assert!(cut(&lies, &[]).2.is_err());
    }

    #[test]
    fn a_huge_item_is_skipped() {
        let mut inner = field(2, &vec![1; MAX_OBJECT + 1]);
        inner.extend(field(2, b"small"));
        let mut list = MAGIC.to_vec();
        list.extend(field(2, &inner));
        let cuts: Vec<usize> = (0..list.len()).step_by(64 << 10).collect();
        let (items, _, _, complete) = cut(&list, &cuts);
        assert_eq!(items, [b"too long".to_vec(), b"small".to_vec()]);
        assert!(complete);
    }

    #[test]
    fn frames_are_cut_wherever_the_chunks_end() {
        let input = b"\0\0\0\x03one\0\0\0\0\0\0\0\x01x\0\0\0\x05cut";
        for size in 1..input.len() {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            for chunk in input.chunks(size) {
                let pushed = frames.push(chunk, |piece| match piece {
                    Piece::Object(frame) => out.push(frame.to_vec()),
                    other => panic!("{other:?}"),
                });
                assert_eq!(pushed, Ok(()));
            }
            assert_eq!(out, [b"one".to_vec(), vec![], b"x".to_vec()], "chunks of {size}");
            assert!(frames.is_open());
        }
        assert!(Frames::default().push(b"<html>", |_| ()).is_err());
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(mut cuts in proptest::collection::vec(0..400usize, 0..20)) {
            cuts.sort_unstable();
            prop_assert_eq!(cut(&list(), &cuts), cut(&list(), &[]));
        }

        #[test]
        fn any_octets_are_survived(input in proptest::collection::vec(any::<u8>(), 0..300), at in 0..300usize) {
            let _ = cut(&input, &[at]);
            let mut magic = MAGIC.to_vec();
            magic.extend(&input);
            let _ = cut(&magic, &[at]);
            let _ = Frames::default().push(&input, |_| ());
        }
    }
}
