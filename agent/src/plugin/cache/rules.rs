//! Which answers are kept, and how long.
//!
//! RFC 2308 sections 2 and 5 for denials, RFC 9520 for failures, CoreDNS for the bounds. The lifetime is the least time
//! to live of all records of the message, since a message is kept and given out as a whole, raised to the floor and
//! lowered to the cap.
//!
//! An answer section that holds anything but the name asked for and what CNAMEs and DNAMEs lead to from there is not
//! kept at all, though the client gets it: such records come of a broken or hostile upstream, later names may be
//! compressed against them, and nothing is lost by asking again. Records of the other sections are given out with the
//! same question only and are never looked up, so that nobody can slip an address in there.

use smallvec::SmallVec;

use super::config::{Config, FLOOR};
use super::entry::{Key, Kind, Lifetime};
use crate::wire::rdata::negative_ttl;
use crate::wire::{Layout, Message, NameBuf, NameRef, Rcode, RecordAt, RecordType, Section, flags};

/// The longest chain of CNAMEs that is followed.
const MAX_CHAIN: usize = 16;
/// CNAME and DNAME records of an answer that are looked at: a DNAME comes with the CNAME that is made of it.
const MAX_LINKS: usize = 2 * MAX_CHAIN;

/// Why an answer is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The question was another one, or the answer holds records that do not belong to it. Counted as dropped.
    NotOurs,
    /// It is truncated: TCP would have said more.
    Truncated,
    /// A response code that says nothing about the name.
    Rcode,
    /// A referral to other name servers: it is no answer to the question.
    Referral,
    /// The configuration does not want what it says to be kept.
    Unwanted(Kind),
}

/// Decides about an answer to `key`.
pub fn judge(
    config: &Config,
    message: &Message,
    key: &Key<'_>,
) -> Result<(Kind, Lifetime), Refusal> {
    let layout = message.layout();
    if !message.is_about(key.name) || layout.qtype != key.qtype || layout.flags & flags::QR == 0 {
        return Err(Refusal::NotOurs);
    }
    if message.truncated() {
        return Err(Refusal::Truncated);
    }
    if layout.flags & flags::OPCODE != 0 {
        return Err(Refusal::Rcode);
    }
    let kind = match message.rcode() {
        Rcode::SERVFAIL => return failure(config, key),
        Rcode::NXDOMAIN => Kind::NxDomain,
        Rcode::NOERROR => found(layout).ok_or(Refusal::Referral)?,
        _ => return Err(Refusal::Rcode),
    };
    if !belongs_together(message) {
        return Err(Refusal::NotOurs);
    }
    let side = if kind.is_denial() { &config.denial } else { &config.success };
    if side.is_disabled(key.name) {
        return Err(Refusal::Unwanted(kind));
    }
    let least = layout.records.iter().map(|record| lives(message, record, kind)).min();
    // RFC 2308 section 5 would not keep a denial without an SOA, whatever else is in it, as nothing says how long it
    // holds. Kept for 5 s, as CoreDNS does, it spares the upstream the retries.
    let unbounded = kind.is_denial() && message.negative_ttl().is_none();
    let least = if unbounded { least.unwrap_or(FLOOR).min(FLOOR) } else { least.unwrap_or(FLOOR) };
    let seconds = least.max(side.floor).min(side.cap);
    if seconds == 0 {
        return Err(Refusal::Unwanted(kind));
    }
    Ok((kind, Lifetime { seconds, floor: side.floor.min(side.cap), cap: side.cap }))
}

fn failure(config: &Config, key: &Key<'_>) -> Result<(Kind, Lifetime), Refusal> {
    if config.servfail.is_zero() || config.denial.is_disabled(key.name) {
        return Err(Refusal::Unwanted(Kind::Failure));
    }
    let seconds = (config.servfail.as_millis().div_ceil(1_000) as u32).max(1);
    Ok((Kind::Failure, Lifetime { seconds, floor: 0, cap: seconds }))
}

/// How long a record lets its message live: for a denial's SOA, the lesser of its time to live and its last field (RFC
/// 2308 section 5).
fn lives(message: &Message, record: &RecordAt, kind: Kind) -> u32 {
    if kind.is_denial() && record.section == Section::Authority && record.rtype == RecordType::SOA {
        return negative_ttl(record.ttl, record.rdata(message.as_bytes()));
    }
    record.ttl
}

/// What NOERROR means. There are no records of the type asked for, at the end of CNAMEs or at once: NODATA, with an SOA or
/// without any authority (RFC 2308 section 2.2); `None` if other name servers are named instead, for that is a referral.
fn found(layout: &Layout) -> Option<Kind> {
    let is_data =
        |record: &RecordAt| record.rtype == layout.qtype || layout.qtype == RecordType::ANY;
    if layout.section(Section::Answer).any(is_data) {
        return Some(Kind::Success);
    }
    let has = |rtype| layout.section(Section::Authority).any(|record| record.rtype == rtype);
    let is_referral = has(RecordType::NS) && !has(RecordType::SOA);
    (!is_referral).then_some(Kind::NoData)
}

/// True where each record of the answer section is about the name asked for or one that CNAMEs and DNAMEs lead to. Each
/// name is expanded once.
fn belongs_together(message: &Message) -> bool {
    let (bytes, layout) = (message.as_bytes(), message.layout());
    // Nearly every answer spells its owners as a pointer to the question.
    let others = || layout.section(Section::Answer).filter(|record| !is_direct(bytes, record));
    if others().next().is_none() {
        return true;
    }
    let Some(names) = names_of(message) else { return false };
    let mut last: Option<(&[u8], NameBuf)> = None;
    others().all(|record| {
        let written = bytes.get(record.start.into()..usize::from(record.ttl_at) - 4).unwrap_or(&[]);
        // A set of records mostly spells its owner by the same pointer.
        let owner = match last {
            Some((same, owner)) if same == written && written.len() == 2 => owner,
            _ => match record.owner(bytes) {
                Ok(owner) => owner,
                Err(_) => return false,
            },
        };
        last = Some((written, owner));
        let owner = owner.as_name();
        match record.rtype {
            // A DNAME and its signature stand above the names that it leads from (RFC 6672).
            RecordType::DNAME | RecordType::RRSIG => {
                names.iter().any(|name| name.as_name().is_within(owner))
            }
            _ => names.iter().any(|name| name.as_name() == owner),
        }
    })
}

/// The name asked for and all that CNAMEs and DNAMEs lead to from there; `None` if they are too many.
fn names_of(message: &Message) -> Option<SmallVec<[NameBuf; 2]>> {
    let bytes = message.as_bytes();
    let mut links: SmallVec<[Link; 2]> = SmallVec::new();
    for record in message.layout().section(Section::Answer) {
        if !matches!(record.rtype, RecordType::CNAME | RecordType::DNAME) {
            continue;
        }
        if links.len() == MAX_LINKS {
            return None;
        }
        let owner = record.owner(bytes).ok()?;
        let (to, _) = NameBuf::expand(bytes, usize::from(record.ttl_at) + 6).ok()?;
        links.push(Link { is_cname: record.rtype == RecordType::CNAME, owner, to });
    }
    let mut names: SmallVec<[NameBuf; 2]> = SmallVec::new();
    names.push(message.name());
    let mut reached = 0;
    while let Some(name) = names.get(reached).copied() {
        reached += 1;
        for target in links.iter().filter_map(|link| link.target(name.as_name())) {
            if !names.iter().any(|known| known.as_name() == target.as_name()) {
                if names.len() == MAX_CHAIN {
                    return None;
                }
                names.push(target);
            }
        }
    }
    Some(names)
}

/// True if the owner is a pointer to the question.
fn is_direct(bytes: &[u8], record: &RecordAt) -> bool {
    bytes.get(record.start.into()..).is_some_and(|at| at.starts_with(&[0xc0, 12]))
}

/// A CNAME or DNAME record, lower-cased.
struct Link {
    is_cname: bool,
    owner: NameBuf,
    to: NameBuf,
}

impl Link {
    /// Where it leads from `name`.
    fn target(&self, name: NameRef<'_>) -> Option<NameBuf> {
        let owner = self.owner.as_name();
        if self.is_cname {
            return (owner == name).then_some(self.to);
        }
        name.relative_to(owner).filter(|prefix| !prefix.is_empty())?;
        name.substituted(owner, self.to.as_name())
    }
}
