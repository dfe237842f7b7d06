//! A zone as it is served: nodes by name, look-ups by RFC 1034 section 4.3.2 and RFC 4592.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use smallvec::SmallVec;

use crate::file_watch::{self, FileVersions};
use crate::wire::text::{Context, Lines, TextError, parse_ttl};
use crate::wire::{Class, Name, NameBuf, NameRef, Record, RecordType, read_u32};

/// `$INCLUDE` may lead to another one so often.
const MAX_INCLUDES: usize = 7;
/// The longest zone file that is read, octets.
const MAX_FILE: u64 = 256 << 20;

/// Why a file is not a zone.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: u32,
        /// What is wrong.
        source: LineError,
    },
    /// There is no SOA record at the origin.
    #[error("{} has no SOA record for {zone}", path.display())]
    NoSoa {
        /// The file.
        path: PathBuf,
        /// The zone's name.
        zone: Name,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is no record.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A control entry that is not understood.
    #[error("{0:?} is not supported here, or its arguments are wrong")]
    Control(String),
    /// Includes within includes.
    #[error("files include each other too deeply")]
    Depth,
    /// A second SOA record.
    #[error("there is a second SOA record")]
    SecondSoa,
}

/// All records of one type at one name.
#[derive(Debug)]
pub(super) struct Set {
    pub rtype: RecordType,
    pub ttl: u32,
    pub data: SmallVec<[Box<[u8]>; 1]>,
}

/// A name that exists; without sets where only names below it have records.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub sets: SmallVec<[Set; 2]>,
}

/// A zone that was read.
#[derive(Debug)]
pub struct Zone {
    origin: Name,
    serial: u32,
    nodes: HashMap<Name, Node>,
    /// Records that were left out: of DNSSEC, of other classes, outside the zone.
    pub(super) left_out: usize,
}

/// What a name comes to in a zone.
pub(super) enum Found<'z, 'n> {
    /// The name, or the wildcard that stands for it.
    Node(&'z Node),
    /// A name server elsewhere has what is at this name and below it.
    Delegation(NameRef<'n>, &'z Set),
    /// Names below this one are names below the data's.
    Dname(NameRef<'n>, &'z Set),
    Nothing,
}

impl Node {
    pub(super) fn set(&self, rtype: RecordType) -> Option<&Set> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

impl Zone {
    /// Reads the zone `origin` from a file. The versions of this file and of those that it includes are added to `versions`,
    /// each before it is read.
    pub fn load(
        path: &Path,
        origin: &Name,
        versions: &mut FileVersions,
    ) -> Result<Self, ZoneError> {
        let mut zone =
            Self { origin: origin.clone(), serial: 0, nodes: HashMap::new(), left_out: 0 };
        zone.read(path, &mut Context::new(origin.clone()), 0, versions)?;
        let soa = zone.nodes.get(origin).and_then(|node| node.set(RecordType::SOA));
        let Some(data) = soa.and_then(|set| set.data.first()) else {
            return Err(ZoneError::NoSoa { path: path.to_owned(), zone: origin.clone() });
        };
        zone.serial = data.len().checked_sub(20).and_then(|at| read_u32(data, at)).unwrap_or(0);
        Ok(zone)
    }

    /// The zone's name.
    pub fn origin(&self) -> NameRef<'_> {
        self.origin.as_ref()
    }

    /// The SOA's serial number.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The SOA record.
    pub(super) fn soa(&self) -> Option<&Set> {
        self.nodes.get(&self.origin)?.set(RecordType::SOA)
    }

    /// The records of a name, whatever stands above it.
    pub(super) fn node(&self, name: NameRef<'_>) -> Option<&Node> {
        self.nodes.get(name.as_bytes())
    }

    /// Finds `name`, which must be within the zone. A DS record belongs to the side above a cut (RFC 4035 section 3.1.4.1).
    pub(super) fn find<'n>(&self, name: NameRef<'n>, qtype: RecordType) -> Found<'_, 'n> {
        let mut names: SmallVec<[NameRef<'n>; 8]> = SmallVec::new();
        let mut at = Some(name);
        while let Some(current) = at.filter(|current| current.len() >= self.origin.as_ref().len()) {
            names.push(current);
            at = current.parent();
        }
        let mut encloser = self.origin.as_ref();
        for &current in names.iter().rev() {
            let Some(node) = self.node(current) else { break };
            encloser = current;
            let cut =
                current != self.origin.as_ref() && !(current == name && qtype == RecordType::DS);
            if let Some(set) = node.set(RecordType::NS).filter(|_| cut) {
                return Found::Delegation(current, set);
            }
            if let Some(set) = node.set(RecordType::DNAME).filter(|_| current != name) {
                return Found::Dname(current, set);
            }
        }
        if let Some(node) = self.node(name) {
            return Found::Node(node);
        }
        let mut wildcard = NameBuf::new();
        let made = wildcard.push_label(b"*").and_then(|()| wildcard.push_name(encloser));
        match made.ok().and_then(|()| self.node(wildcard.as_name())) {
            Some(node) => Found::Node(node),
            None => Found::Nothing,
        }
    }

    fn read(
        &mut self,
        path: &Path,
        context: &mut Context,
        depth: usize,
        versions: &mut FileVersions,
    ) -> Result<(), ZoneError> {
        versions.add(path);
        let unreadable = |source| ZoneError::Read { path: path.to_owned(), source };
        let bytes = file_watch::read(path, MAX_FILE).map_err(unreadable)?;
        let text = String::from_utf8_lossy(&bytes);
        for line in Lines::of(&text) {
            let wrong = |line, source| ZoneError::Line { path: path.to_owned(), line, source };
            let line = line.map_err(|(number, error)| wrong(number, error.into()))?;
            let words: SmallVec<[&str; 4]> = line.words.iter().map(|word| word.text).collect();
            let control = |source| wrong(line.number, source);
            match words.as_slice() {
                ["$ORIGIN" | "$origin", name] => {
                    context.origin = context.name(name).map_err(|error| control(error.into()))?;
                }
                ["$TTL" | "$ttl", ttl] => {
                    let ttl =
                        parse_ttl(ttl).ok_or_else(|| control(LineError::Control("$TTL".into())))?;
                    context.default_ttl = Some(ttl);
                }
                ["$INCLUDE" | "$include", file, origin @ ..] => {
                    if depth >= MAX_INCLUDES {
                        return Err(control(LineError::Depth));
                    }
                    let mut inner = context.clone();
                    if let Some(origin) = origin.first() {
                        inner.origin =
                            context.name(origin).map_err(|error| control(error.into()))?;
                    }
                    let file = path.parent().unwrap_or(Path::new("")).join(file);
                    self.read(&file, &mut inner, depth + 1, versions)?;
                }
                [first, ..] if first.starts_with('$') => {
                    return Err(control(LineError::Control((*first).to_owned())));
                }
                _ => match context.record(&line) {
                    Ok(record) => self.insert(record).map_err(control)?,
                    Err(error) if is_of_dnssec(&error) => self.left_out += 1,
                    Err(error) => return Err(control(error.into())),
                },
            }
        }
        Ok(())
    }

    fn insert(&mut self, record: Record) -> Result<(), LineError> {
        let Record { owner, rtype, class, ttl, rdata } = record;
        if class != Class::IN || !owner.as_ref().is_within(self.origin.as_ref()) {
            self.left_out += 1;
            return Ok(());
        }
        // Names between a record and the origin exist, though they have no records (RFC 8020 section 1).
        let mut above = owner.as_ref().parent();
        while let Some(name) = above.filter(|name| name.len() >= self.origin.as_ref().len()) {
            if self.nodes.contains_key(name.as_bytes()) {
                break;
            }
            self.nodes.insert(name.to_name(), Node::default());
            above = name.parent();
        }
        let node = self.nodes.entry(owner).or_default();
        match node.sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(_) if rtype == RecordType::SOA => return Err(LineError::SecondSoa),
            // One set has one TTL, the lowest (RFC 2181 section 5.2), and each record once (section 5).
            Some(set) => {
                set.ttl = set.ttl.min(ttl);
                if !set.data.contains(&rdata) {
                    set.data.push(rdata);
                }
            }
            None => node.sets.push(Set { rtype, ttl, data: smallvec::smallvec![rdata] }),
        }
        Ok(())
    }
}

/// True for records that a signer writes: signatures are not served, so neither are their keys and chains.
fn is_of_dnssec(error: &TextError) -> bool {
    match error {
        TextError::Rare { rtype, .. } => matches!(rtype.0, 46..=48 | 50),
        TextError::Type(name) => {
            ["NSEC3PARAM", "CDS", "CDNSKEY", "ZONEMD"].contains(&name.to_ascii_uppercase().as_str())
        }
        _ => false,
    }
}
