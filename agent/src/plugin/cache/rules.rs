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
use crate::wire::{
    Layout, Message, NameBuf, NameRef, Rcode, RecordAt, RecordType, Section, flags, read_u32,
};

/// The longest chain of CNAMEs that is followed.
const MAX_CHAIN: usize = 16;

/// Why an answer is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The question was another one, or the answer holds records that do not belong to it. Counted as dropped.
    NotOurs,
    /// It is truncated: TCP would have said more.
    Truncated,
    /// A response code that says nothing about the name.
    Rcode,
    /// The configuration does not want it.
    Unwanted,
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
        Rcode::NOERROR if is_no_data(layout) => Kind::NoData,
        Rcode::NOERROR => Kind::Success,
        _ => return Err(Refusal::Rcode),
    };
    if !belongs_together(message) {
        return Err(Refusal::NotOurs);
    }
    let side = if kind.is_denial() { &config.denial } else { &config.success };
    if side.is_disabled(key.name) {
        return Err(Refusal::Unwanted);
    }
    let least = layout.records.iter().map(|record| lives(message, record, kind)).min();
    // Without any record there is nothing that says how long; RFC 2308 section 5 would not keep it, CoreDNS does so
    // for 5 s, which spares the upstream the retries.
    let least = least.unwrap_or(FLOOR);
    let seconds = least.max(side.floor).min(side.cap);
    if seconds == 0 {
        return Err(Refusal::Unwanted);
    }
    Ok((kind, Lifetime { seconds, floor: side.floor.min(side.cap), cap: side.cap }))
}

fn failure(config: &Config, key: &Key<'_>) -> Result<(Kind, Lifetime), Refusal> {
    if config.servfail.is_zero() || config.denial.is_disabled(key.name) {
        return Err(Refusal::Unwanted);
    }
    let seconds = (config.servfail.as_millis().div_ceil(1_000) as u32).max(1);
    Ok((Kind::Failure, Lifetime { seconds, floor: 0, cap: seconds }))
}

/// How long a record lets its message live: for a denial's SOA, the lesser of its time to live and its last field (RFC
/// 2308 section 5).
fn lives(message: &Message, record: &RecordAt, kind: Kind) -> u32 {
    // A set top bit means zero (RFC 2181 section 8).
    let ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
    if kind.is_denial() && record.section == Section::Authority && record.rtype == RecordType::SOA {
        let rdata = record.rdata(message.as_bytes());
        let minimum = rdata.len().checked_sub(4).and_then(|at| read_u32(rdata, at));
        return minimum.map_or(ttl, |minimum| minimum.min(ttl));
    }
    ttl
}

/// NOERROR without what was asked for, at the end of CNAMEs or at once (RFC 2308 section 2.2): there is an SOA, or nothing
/// at all. Name servers without an SOA are a referral, which is kept as CoreDNS keeps it: as a positive answer.
fn is_no_data(layout: &Layout) -> bool {
    let mut answers = 0;
    for record in layout.section(Section::Answer) {
        if record.rtype == layout.qtype {
            return false;
        }
        answers += 1;
    }
    let mut authority = layout.section(Section::Authority);
    match authority.next() {
        None => answers == 0,
        Some(first) => {
            first.rtype == RecordType::SOA
                || authority.any(|record| record.rtype == RecordType::SOA)
        }
    }
}

/// True where each record of the answer section is about the name asked for or one that CNAMEs and DNAMEs lead to.
fn belongs_together(message: &Message) -> bool {
    let (bytes, layout) = (message.as_bytes(), message.layout());
    // Nearly every answer spells its owners as a pointer to the question.
    let direct = |record: &RecordAt| {
        bytes.get(record.start.into()..record.ttl_at.into()).is_some_and(is_direct)
    };
    if layout.section(Section::Answer).all(direct) {
        return true;
    }
    let mut names: SmallVec<[NameBuf; 2]> = SmallVec::new();
    names.push(message.name());
    let mut reached = 0;
    while let Some(name) = names.get(reached).copied() {
        reached += 1;
        for record in layout.section(Section::Answer) {
            let Some(target) = target(message, record, name.as_name()) else { continue };
            if !names.iter().any(|known| known.as_name() == target.as_name()) {
                if names.len() == MAX_CHAIN {
                    return false;
                }
                names.push(target);
            }
        }
    }
    layout.section(Section::Answer).all(|record| {
        let Ok(owner) = record.owner(bytes) else { return false };
        let owner = owner.as_name();
        let led = |name: &NameBuf| name.as_name() == owner;
        // A DNAME and its signature stand above the names that it leads from (RFC 6672).
        let above = |name: &NameBuf| name.as_name().is_within(owner);
        match record.rtype {
            RecordType::DNAME => names.iter().any(above),
            RecordType::RRSIG => names.iter().any(above),
            _ => names.iter().any(led),
        }
    })
}

/// True for an owner, type and class whose owner is a pointer to the question.
fn is_direct(head: &[u8]) -> bool {
    head.starts_with(&[0xc0, 12])
}

/// Where `record` leads from `name`.
fn target(message: &Message, record: &RecordAt, name: NameRef<'_>) -> Option<NameBuf> {
    if !matches!(record.rtype, RecordType::CNAME | RecordType::DNAME) {
        return None;
    }
    let owner = record.owner(message.as_bytes()).ok()?;
    let rdata_at = usize::from(record.ttl_at) + 6;
    let (to, _) = NameBuf::expand(message.as_bytes(), rdata_at).ok()?;
    if record.rtype == RecordType::CNAME {
        return (owner.as_name() == name).then_some(to);
    }
    let prefix = name.relative_to(owner.as_name())?;
    if prefix.is_empty() {
        return None;
    }
    let mut target = NameBuf::new();
    for label in crate::wire::name::Labels::of_prefix(prefix) {
        target.push_label(label).ok()?;
    }
    target.push_name(to.as_name()).ok()?;
    Some(target)
}
