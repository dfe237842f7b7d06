//! A whole message that came from elsewhere, an upstream's answer above all: where each record begins and ends.

use smallvec::SmallVec;

use super::check::check_names;
use super::layout::{Layout, MessageError, RecordAt};
use super::name::{NameBuf, NameRef};
use super::{Class, HEADER_LEN, Rcode, RecordType, Section, flags, read_u16, write_u16, write_u32};

/// The option that says more about an error (RFC 8914).
pub const OPTION_EDE: u16 = 15;

/// A message that can be answered from and kept: sound, without OPT, its extended errors kept aside.
#[derive(Clone)]
pub struct Message {
    bytes: Vec<u8>,
    layout: Layout,
    options: Vec<u8>,
    rcode: Rcode,
}

impl Message {
    /// Takes a message that was received. Every name in it is known to expand afterwards, and a time to live with its top
    /// bit set is zero (RFC 2181 section 8). The OPT record and what is behind it is cut off (only signatures of the
    /// transaction are there, RFC 8945 and RFC 2931); of its options the extended errors are kept. Octets behind the last
    /// record go as well: a reply that begins with a copy would have its own OPT behind them.
    pub fn from_received(mut bytes: Vec<u8>) -> Result<Self, MessageError> {
        let mut layout = Layout::parse(&bytes)?;
        check_names(&bytes, &layout)?;
        let rcode = layout.rcode();
        let mut options = Vec::new();
        if let Some(edns) = layout.edns.take() {
            let all = bytes.get(usize::from(edns.options)..usize::from(edns.end)).unwrap_or(&[]);
            keep_extended_errors(all, &mut options);
            layout.records.retain(|record| record.start < edns.start);
            bytes.truncate(edns.start.into());
            let additional = layout.section(Section::Additional).count();
            write_u16(&mut bytes, 10, additional as u16);
        } else {
            let end = layout.records.last().map_or(layout.question_end, |last| last.end.into());
            bytes.truncate(end);
        }
        let mut message = Self { bytes, layout, options, rcode };
        message.set_ttls(|record| if record.ttl > i32::MAX as u32 { 0 } else { record.ttl });
        Ok(message)
    }

    /// Gives each record the time to live that `ttl` returns for it.
    pub fn set_ttls(&mut self, ttl: impl Fn(&RecordAt) -> u32) {
        for record in &mut self.layout.records {
            let wanted = ttl(record);
            if wanted != record.ttl {
                record.ttl = wanted;
                write_u32(&mut self.bytes, record.ttl_at.into(), wanted);
            }
        }
    }

    /// Clears header flags ([`flags`]).
    pub fn clear_flags(&mut self, mask: u16) {
        self.layout.flags &= !mask;
        write_u16(&mut self.bytes, 2, self.layout.flags);
    }

    /// True if its sender declares its data authentic (AD, RFC 4035 section 3.2.3).
    pub fn is_authentic(&self) -> bool {
        self.layout.flags & flags::AD != 0
    }

    /// How long a denial may be kept by the SOA in its authority section (RFC 2308 section 5).
    pub fn negative_ttl(&self) -> Option<u32> {
        let mut authority = self.layout.section(Section::Authority);
        let soa = authority.find(|record| record.rtype == RecordType::SOA)?;
        Some(super::rdata::negative_ttl(soa.ttl, soa.rdata(&self.bytes)))
    }

    /// Takes a message that [`super::Reply`] wrote. What we write is sound; should it ever not be, the result is an empty
    /// SERVFAIL rather than a panic.
    pub fn from_written(bytes: Vec<u8>) -> Self {
        Self::from_received(bytes).unwrap_or_else(|_| {
            let mut bytes = vec![0; HEADER_LEN + 5];
            write_u16(&mut bytes, 2, flags::QR | Rcode::SERVFAIL.0);
            write_u16(&mut bytes, 4, 1);
            let layout = Layout {
                flags: flags::QR | Rcode::SERVFAIL.0,
                qtype: RecordType(0),
                qclass: Class(0),
                question_end: HEADER_LEN + 5,
                records: SmallVec::new(),
                edns: None,
            };
            Self { bytes, layout, options: Vec::new(), rcode: Rcode::SERVFAIL }
        })
    }

    /// The message's octets, without OPT.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The question's name, lower-cased.
    pub fn name(&self) -> NameBuf {
        NameBuf::expand(&self.bytes, HEADER_LEN).map_or_else(|_| NameBuf::new(), |(name, _)| name)
    }

    /// True where the question is about this name; the same as comparing [`Message::name`], and cheaper.
    pub fn is_about(&self, name: NameRef<'_>) -> bool {
        let name = name.as_bytes();
        let as_it_stands = self.bytes.get(HEADER_LEN..HEADER_LEN + name.len());
        as_it_stands.is_some_and(|octets| octets.eq_ignore_ascii_case(name))
            || self.name().as_name().as_bytes() == name
    }

    /// The response code with its EDNS extension.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// The extended errors (RFC 8914) as options in wire form.
    pub fn options(&self) -> &[u8] {
        &self.options
    }

    /// True where the message is marked as truncated.
    pub fn truncated(&self) -> bool {
        self.layout.flags & flags::TC != 0
    }

    /// Gives up the octets.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} {} {} ({} records)",
            self.name(),
            self.layout.qtype,
            self.rcode,
            self.layout.records.len()
        )
    }
}

/// Appends an extended error to options in wire form: code and text (RFC 8914 section 2).
pub fn push_extended_error(options: &mut impl Extend<u8>, code: u16, text: &str) {
    let text = text.as_bytes();
    let head = [OPTION_EDE, text.len() as u16 + 2, code].map(u16::to_be_bytes);
    options.extend(head.into_iter().flatten().chain(text.iter().copied()));
}

fn keep_extended_errors(mut options: &[u8], kept: &mut Vec<u8>) {
    /// Enough for a few errors with their texts; an upstream that sends more says nothing more.
    const MAX_KEPT: usize = 512;
    while let (Some(code), Some(len)) = (read_u16(options, 0), read_u16(options, 2)) {
        let Some(option) = options.get(..4 + usize::from(len)) else { return };
        if code == OPTION_EDE && kept.len() + option.len() <= MAX_KEPT {
            kept.extend_from_slice(option);
        }
        options = options.get(option.len()..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Name, query::write_query};

    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        let name = Name::from_text("www.example.com").unwrap();
        write_query(
            &mut bytes,
            1,
            flags::QR | flags::RD | flags::RA,
            name.as_ref(),
            RecordType::A,
            Class::IN,
            None,
        );
        write_u16(&mut bytes, 6, 2);
        for last in [1, 2] {
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
        }
        bytes
    }

    #[test]
    fn records_are_found() {
        let layout = Layout::parse(&answer()).unwrap();
        assert_eq!(layout.records.len(), 2);
        assert_eq!(layout.records[1].rdata(&answer()), [192, 0, 2, 2]);
        assert_eq!(layout.records[0].ttl, 300);
        assert_eq!(
            layout.records[0].owner(&answer()).unwrap().as_name().to_string(),
            "www.example.com."
        );
    }

    #[test]
    fn opt_is_cut_off_and_its_errors_are_kept() {
        let mut bytes = answer();
        bytes[11] = 1;
        let mut options = Vec::new();
        options.extend_from_slice(&[0, 10, 0, 2, 1, 2]); // a cookie, which is nobody else's business
        push_extended_error(&mut options, 22, "no reachable authority");
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0]);
        bytes.extend_from_slice(&(options.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&options);
        let message = Message::from_received(bytes).unwrap();
        assert_eq!(message.rcode(), Rcode(16));
        assert_eq!(message.as_bytes(), answer());
        assert_eq!(message.options(), &options[6..]);
    }

    #[test]
    fn what_stands_behind_the_last_record_is_cut_off() {
        let mut bytes = answer();
        bytes.extend_from_slice(b"more");
        assert_eq!(Message::from_received(bytes).unwrap().as_bytes(), answer());
    }

    #[test]
    fn what_runs_over_the_end_is_refused() {
        let bytes = answer();
        assert_eq!(Layout::parse(&bytes[..bytes.len() - 1]).unwrap_err(), MessageError::Short(2));
        assert_eq!(Layout::parse(&bytes[..8]).unwrap_err(), MessageError::NoHeader);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_a_message_or_an_error(bytes in proptest::collection::vec(0u8.., 0..600)) {
            let _ = Message::from_received(bytes);
        }

        #[test]
        fn a_damaged_answer_is_a_message_or_an_error(at in 0usize..65, octet in 0u8..) {
            let mut bytes = answer();
            if let Some(b) = bytes.get_mut(at) { *b = octet; }
            if let Ok(message) = Message::from_received(bytes) {
                for record in &message.layout().records {
                    let _ = record.owner(message.as_bytes());
                    let _ = record.rdata(message.as_bytes());
                }
            }
        }
    }
}
