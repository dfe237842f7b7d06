//! Proof that every name of a message can be expanded, in time linear in the message's length.

use smallvec::SmallVec;

use super::layout::{Layout, RecordAt};
use super::name::{MAX_LABEL, MAX_NAME, MAX_POINTER, MAX_POINTERS};
use super::rdata::{self, Part};
use super::{Class, HEADER_LEN, NameError, RecordType, read_u16};

/// Checks the owners and the names in the data of all records of a message whose question is not compressed.
pub(super) fn check_names(message: &[u8], layout: &Layout) -> Result<(), NameError> {
    let mut names = Names { message, known: Vec::new() };
    layout.records.iter().try_for_each(|record| names.check_record(record))
}

struct Names<'m> {
    message: &'m [u8],
    /// What is known of the name that begins at an offset, so that no octet is walked twice. Empty until a name needs it.
    known: Vec<Option<Size>>,
}

/// Octets of a name when it is expanded, and the pointers that it leads through.
#[derive(Clone, Copy)]
struct Size {
    octets: u8,
    pointers: u8,
}

/// One label, or one pointer, on the way through a name.
struct Step {
    at: usize,
    /// Octets of the label with its length; zero for a pointer.
    octets: usize,
}

impl Names<'_> {
    fn check_record(&mut self, record: &RecordAt) -> Result<(), NameError> {
        self.check(record.start.into())?;
        let mut at = usize::from(record.ttl_at) + 6;
        let data = self.message.get(..record.end.into()).ok_or(NameError::Short)?;
        for part in rdata::parts(record.rtype) {
            let octets = rdata::length(*part, data, at)?;
            if let Part::Name = part {
                self.check(at)?;
            }
            at += octets;
            if at > data.len() {
                return Err(NameError::Short);
            }
        }
        let rest = data.len().saturating_sub(at);
        let is_sound = match record.rtype {
            RecordType::A if record.class == Class::IN => rest == 4,
            RecordType::AAAA if record.class == Class::IN => rest == 16,
            RecordType::SOA => rest == 20,
            RecordType::CNAME | RecordType::NS | RecordType::PTR | RecordType::MX => rest == 0,
            _ => true,
        };
        if is_sound { Ok(()) } else { Err(NameError::Short) }
    }

    fn check(&mut self, start: usize) -> Result<(), NameError> {
        // Nearly all owners are a pointer to the question, which is known to be sound.
        if read_u16(self.message, start) == Some(0xc000 | HEADER_LEN as u16) {
            return Ok(());
        }
        if self.known.is_empty() {
            self.known.resize(self.message.len().min(MAX_POINTER + 1), None);
        }
        let mut steps: SmallVec<[Step; 32]> = SmallVec::new();
        let mut at = start;
        let mut size = loop {
            if let Some(known) = self.known.get(at).copied().flatten() {
                break known;
            }
            let len = usize::from(*self.message.get(at).ok_or(NameError::Short)?);
            match len {
                0 => break Size { octets: 1, pointers: 0 },
                1..=MAX_LABEL => {
                    steps.push(Step { at, octets: len + 1 });
                    at += len + 1;
                }
                _ if len & 0xc0 == 0xc0 => {
                    let word = read_u16(self.message, at).ok_or(NameError::Short)?;
                    steps.push(Step { at, octets: 0 });
                    // Strictly backwards: so the walk ends.
                    let target = usize::from(word & 0x3fff);
                    if target >= at {
                        return Err(NameError::Pointer);
                    }
                    at = target;
                }
                _ => return Err(NameError::Label),
            }
            if steps.len() > MAX_NAME / 2 + MAX_POINTERS {
                return Err(NameError::Pointer);
            }
        };
        for step in steps.into_iter().rev() {
            size = size.after(&step)?;
            if let Some(known) = self.known.get_mut(step.at) {
                *known = Some(size);
            }
        }
        Ok(())
    }
}

impl Size {
    fn after(self, step: &Step) -> Result<Self, NameError> {
        let octets = usize::from(self.octets) + step.octets;
        let pointers = usize::from(self.pointers) + usize::from(step.octets == 0);
        if pointers > MAX_POINTERS {
            return Err(NameError::Pointer);
        }
        u8::try_from(octets)
            .map(|octets| Self { octets, pointers: pointers as u8 })
            .map_err(|_| NameError::Long)
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::write_query;
    use super::*;
    use crate::wire::{Class, Name, RecordType, flags};

    /// A response with one TXT record that holds `data`, and an A record whose owner is a pointer to the data's last two
    /// octets.
    fn message(data: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let name = Name::from_text("a.test").unwrap();
        write_query(&mut bytes, 1, flags::QR, name.as_ref(), RecordType::A, Class::IN, None);
        bytes[7] = 2;
        let data = data(bytes.len() + 12);
        bytes.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&data);
        let last = 0xc000 | (bytes.len() - 2) as u16;
        bytes.extend_from_slice(&last.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
        bytes
    }

    fn check(bytes: &[u8]) -> Result<(), NameError> {
        check_names(bytes, &Layout::parse(bytes).unwrap())
    }

    /// So many pointers, each to the one before, the first to the question.
    fn chain(count: usize) -> impl Fn(usize) -> Vec<u8> {
        move |at| {
            let pointers = (0..count).map(|n| if n == 0 { 12 } else { at + 2 * (n - 1) });
            pointers.flat_map(|to| (0xc000 | to as u16).to_be_bytes()).collect()
        }
    }

    #[test]
    fn chains_of_pointers_are_bounded() {
        // The owner's own pointer is one more.
        assert_eq!(check(&message(chain(MAX_POINTERS - 1))), Ok(()));
        assert_eq!(check(&message(chain(MAX_POINTERS))), Err(NameError::Pointer));
        assert_eq!(check(&message(chain(7_000))), Err(NameError::Pointer));
        assert_eq!(
            check(&message(|at| (0xc000 | at as u16).to_be_bytes().into())),
            Err(NameError::Pointer)
        );
        assert_eq!(check(&message(|_| vec![0x80, 0])), Err(NameError::Label));
    }

    #[test]
    fn a_name_is_measured_over_its_pointers() {
        // 127 labels of one octet are the longest name; one more before a pointer to it is too long.
        let long = |labels: usize| {
            move |at: usize| {
                let mut data = b"\x01x".repeat(labels);
                data.push(0);
                data.extend_from_slice(&[1, b'y']);
                data.extend_from_slice(&(0xc000 | at as u16).to_be_bytes());
                // The record behind points to the name before the last pointer.
                data.extend_from_slice(&(0xc000 | (at + 2 * labels + 1) as u16).to_be_bytes());
                data
            }
        };
        assert_eq!(check(&message(long(126))), Ok(()));
        assert_eq!(check(&message(long(127))), Err(NameError::Long));
    }

    #[test]
    fn no_octet_is_walked_twice() {
        let bytes = message(|at| {
            let mut data = b"\x01x".repeat(120);
            data.push(0);
            data.extend_from_slice(&(0xc000 | at as u16).to_be_bytes());
            data
        });
        let layout = Layout::parse(&bytes).unwrap();
        let mut names = Names { message: &bytes, known: Vec::new() };
        names.check_record(&layout.records[1]).unwrap();
        let known = names.known.iter().flatten().count();
        assert_eq!(known, 122, "every label, and two pointers in front of them");
        assert!(names.known.iter().flatten().all(|size| size.pointers <= 2));
    }
}
