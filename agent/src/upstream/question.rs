//! What is asked of an upstream, and whether an answer is one to it.

use crate::upstream::random;
use crate::wire::query::write_query;
use crate::wire::{
    Class, HEADER_LEN, NameRef, OUR_UDP_PAYLOAD, Query, RecordType, flags, read_u16, write_u16,
};

/// A query in wire form, as upstreams get it: the client's question and its flags RD and CD, our id, our EDNS.
///
/// AD is always set, which asks to be told of the answer's AD (RFC 6840 section 5.7): one answer may be for many clients,
/// those that want to know it among them. Who does not gets it without (section 5.8).
///
/// Of the client's EDNS only DO goes on. Its options do not: a cookie is between two hosts (RFC 7873), a client subnet would
/// tell upstreams which pod asks, and padding means nothing on another transport.
#[derive(Clone, Debug)]
pub struct Question {
    packet: Vec<u8>,
    question_end: usize,
}

/// Why octets that came from an upstream's address are no answer to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// Shorter than a header, or a query.
    #[error("it is no response")]
    NoResponse,
    /// Nobody waits for this id.
    #[error("nobody waits for its id")]
    Id,
    /// Somebody did wait for this id, and no longer does.
    #[error("it comes too late")]
    Late,
    /// Another name, type or class.
    #[error("it answers another question")]
    Question,
    /// The right name with other letter case than was sent.
    #[error("it has not kept the letter case of the question")]
    Case,
}

impl Unexpected {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::NoResponse, Self::Id, Self::Late, Self::Question, Self::Case];

    /// The `reason` label of `nodens_forward_unexpected_answers_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoResponse => "no_response",
            Self::Id => "id",
            Self::Late => "late",
            Self::Question => "question",
            Self::Case => "case",
        }
    }
}

impl Question {
    /// A client's question.
    pub fn of_query(query: &Query<'_>) -> Self {
        let word = query.flags() & (flags::RD | flags::CD) | flags::AD;
        Self::write(
            word,
            query.name_as_asked(),
            query.qtype(),
            query.qclass(),
            Some(query.dnssec_ok()),
        )
    }

    /// A question of our own.
    pub fn new(name: NameRef<'_>, qtype: RecordType, recursion: bool) -> Self {
        Self::write(if recursion { flags::RD } else { 0 }, name, qtype, Class::IN, Some(false))
    }

    fn write(
        word: u16,
        name: NameRef<'_>,
        qtype: RecordType,
        qclass: Class,
        dnssec_ok: Option<bool>,
    ) -> Self {
        let mut packet = Vec::with_capacity(HEADER_LEN + name.len() + 15);
        write_query(
            &mut packet,
            0,
            word,
            name,
            qtype,
            qclass,
            dnssec_ok.map(|on| (OUR_UDP_PAYLOAD, on)),
        );
        Self { packet, question_end: HEADER_LEN + name.len() + 4 }
    }

    /// The same with these EDNS options, given as the data of an OPT record. Ones that are too many for it are left out.
    pub fn with_options(mut self, options: &[u8]) -> Self {
        if self.has_edns()
            && let Some(length_at) = self.packet.len().checked_sub(2)
            && let Ok(len) = u16::try_from(options.len())
        {
            // The OPT record is the last one, and ends with the length of its data, which are none so far.
            write_u16(&mut self.packet, length_at, len);
            self.packet.extend_from_slice(options);
        }
        self
    }

    /// The same without EDNS, for upstreams that answer EDNS with FORMERR (RFC 6891 section 6.2.2).
    pub fn without_edns(&self) -> Self {
        let mut packet = self.packet.clone();
        packet.truncate(self.question_end);
        write_u16(&mut packet, 10, 0);
        Self { packet, question_end: self.question_end }
    }

    /// True where it has an OPT record.
    pub fn has_edns(&self) -> bool {
        self.packet.len() > self.question_end
    }

    /// The whole message; its id is 0.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Name, type and class.
    pub fn octets(&self) -> &[u8] {
        self.packet.get(HEADER_LEN..self.question_end).unwrap_or(&[])
    }

    /// Where the question ends.
    pub fn end(&self) -> usize {
        self.question_end
    }

    /// Writes the message with `id` over `to`; with `random_case`, each letter of the name in a case of its own
    /// (draft-vixie-dnsext-dns0x20).
    pub fn write_to(&self, to: &mut Vec<u8>, id: u16, random_case: bool) {
        to.clear();
        to.extend_from_slice(&self.packet);
        write_u16(to, 0, id);
        if !random_case {
            return;
        }
        let mut bits = [0u8; 32];
        for (n, octet) in
            to.iter_mut().take(self.question_end.saturating_sub(5)).skip(HEADER_LEN).enumerate()
        {
            if n.is_multiple_of(256) {
                bits = random::octets();
            }
            // Length octets are below the letters, so that only letters change.
            let flip = bits.get(n % 256 / 8).is_some_and(|b| b >> (n % 8) & 1 == 1);
            if octet.is_ascii_alphabetic() && flip {
                *octet ^= 0x20;
            }
        }
    }
}

/// Checks that `answer` is a response to `sent` but for the id: `sent` is a query whose question ends at `question_end`.
/// With `exact`, letter case counts too.
///
/// A response without a question is taken where it can only be an error (FORMERR, SERVFAIL, NOTIMP, REFUSED): servers that
/// cannot read a query answer with the bare header.
pub fn check(
    answer: &[u8],
    sent: &[u8],
    question_end: usize,
    exact: bool,
) -> Result<(), Unexpected> {
    let word = read_u16(answer, 2).ok_or(Unexpected::NoResponse)?;
    if answer.len() < HEADER_LEN || word & (flags::QR | flags::OPCODE) != flags::QR {
        return Err(Unexpected::NoResponse);
    }
    match read_u16(answer, 4) {
        Some(0)
            if matches!(word & flags::RCODE, 1 | 2 | 4 | 5) && answer.len() < HEADER_LEN + 16 =>
        {
            return Ok(());
        }
        Some(1) => {}
        _ => return Err(Unexpected::Question),
    }
    let (Some(asked), Some(answered)) =
        (sent.get(HEADER_LEN..question_end), answer.get(HEADER_LEN..question_end))
    else {
        return Err(Unexpected::Question);
    };
    if asked == answered {
        return Ok(());
    }
    let name = asked.len().saturating_sub(4);
    let same = asked.get(name..) == answered.get(name..)
        && asked
            .iter()
            .zip(answered)
            .take(name)
            .all(|(one, other)| one.eq_ignore_ascii_case(other));
    match (same, exact) {
        (false, _) => Err(Unexpected::Question),
        (true, true) => Err(Unexpected::Case),
        (true, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn question() -> Question {
        let name = Name::from_text("www.example.com").unwrap();
        Question::new(name.as_ref(), RecordType::A, true)
    }

    fn answer(question: &Question) -> Vec<u8> {
        let mut packet = question.packet().to_vec();
        packet[2] |= 0x80;
        packet
    }

    #[test]
    fn only_its_own_answer_is_one() {
        let question = question();
        let good = answer(&question);
        let check = |answer: &[u8], exact| check(answer, question.packet(), question.end(), exact);
        assert_eq!(check(&good, true), Ok(()));
        let mut other = good.clone();
        other[13] = b'W';
        assert_eq!(check(&other, false), Ok(()));
        assert_eq!(check(&other, true), Err(Unexpected::Case));
        other[13] = b'v';
        assert_eq!(check(&other, false), Err(Unexpected::Question));
        // 0x41 and 0x61 are one letter in a name, and two types.
        let mut https = good.clone();
        https[question.end() - 3] = 0x41;
        assert_eq!(check(&https, false), Err(Unexpected::Question));
        assert_eq!(check(question.packet(), false), Err(Unexpected::NoResponse));
        assert_eq!(check(&good[..11], false), Err(Unexpected::NoResponse));
        assert_eq!(check(&good[..question.end() - 1], false), Err(Unexpected::Question));
        // The bare header of an error.
        let mut bare = good[..12].to_vec();
        bare[3] = 1;
        bare[4..12].fill(0);
        assert_eq!(check(&bare, true), Ok(()));
        bare[3] = 3;
        assert_eq!(check(&bare, true), Err(Unexpected::Question));
    }

    #[test]
    fn letter_case_is_random_and_nothing_else_changes() {
        let question = question();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..64 {
            let mut sent = Vec::new();
            question.write_to(&mut sent, 77, true);
            assert_eq!(sent[..2], [0, 77]);
            assert!(sent[2..].eq_ignore_ascii_case(&question.packet()[2..]));
            assert_eq!(sent[question.end() - 5..], question.packet()[question.end() - 5..]);
            seen.insert(sent);
        }
        assert!(seen.len() > 32);
    }

    #[test]
    fn what_the_client_says_goes_on_but_its_options() {
        let mut packet = Vec::new();
        let name = Name::from_text("a.example").unwrap();
        write_query(
            &mut packet,
            9,
            flags::CD | flags::RD,
            name.as_ref(),
            RecordType(4711),
            Class::IN,
            Some((4096, true)),
        );
        let len = packet.len();
        packet[len - 1] = 6;
        packet.extend_from_slice(&[0, 10, 0, 2, 1, 2]);
        let query = Query::parse(&packet).unwrap();
        let question = Question::of_query(&query);
        let sent = Query::parse(question.packet()).unwrap();
        assert_eq!(
            (sent.id(), sent.flags(), sent.qtype()),
            (0, flags::AD | flags::CD | flags::RD, RecordType(4711))
        );
        assert_eq!((sent.udp_limit(), sent.dnssec_ok(), sent.packet().len()), (1232, true, len));
        let with = question.clone().with_options(&[0xff, 0xee, 0, 1, 7]);
        let sent = Query::parse(with.packet()).unwrap();
        assert_eq!(
            (sent.udp_limit(), sent.dnssec_ok(), sent.packet().len()),
            (1232, true, len + 5)
        );
        assert!(with.packet().ends_with(&[0, 5, 0xff, 0xee, 0, 1, 7]));
        let plain = question.without_edns();
        assert!(Query::parse(plain.packet()).unwrap().edns().is_none() && !plain.has_edns());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_checked(answer in proptest::collection::vec(0u8.., 0..64), exact: bool) {
            let question = question();
            let _ = check(&answer, question.packet(), question.end(), exact);
        }
    }
}
