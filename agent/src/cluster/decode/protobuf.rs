//! Objects, watch events and lists in protobuf, as Kubernetes frames it.
//!
//! ```text
//! response, object of an event    "k8s\0" Unknown { 1: type, 2: raw }     raw: the object, or the list
//! list                            { 1: ListMeta, 2: item, 2: item, ... }
//! event of a watch                length: u32  { 1: type, 2: RawExtension { 1: object } }
//! ```
//!
//! Only the fields that are used have numbers here; all others are skipped by their lengths. Strings are borrowed from the
//! input. Messages do not nest in themselves, so that the depth is bounded by construction. An empty string means that the
//! field is absent, since Go writes strings that JSON leaves out.

mod pod;

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::check::excerpt;
use super::lean::Raw;
use super::raw::{self, Str};
use super::{
    ERROR, Item, ListMetadata, Refusal, WatchEvent, bounded, check, event_type, malformed, version,
};
use crate::cluster::interner::Interner;
use crate::cluster::object::Kind;

/// What an object or a response begins with.
pub(in crate::cluster) const MAGIC: &[u8; 4] = b"k8s\0";
/// The field of `Unknown` that holds the object or the list.
pub(in crate::cluster) const UNKNOWN_RAW: u64 = 2;
/// The fields of every list.
pub(in crate::cluster) const LIST_METADATA: u64 = 1;
/// See [`LIST_METADATA`].
pub(in crate::cluster) const LIST_ITEM: u64 = 2;

pub(super) fn object(kind: Kind, bytes: &[u8], interner: &Interner) -> Item {
    match kind {
        Kind::Service => read::<raw::Service<'_>>(bytes, interner),
        Kind::EndpointSlice => read::<raw::EndpointSlice<'_>>(bytes, interner),
        Kind::Namespace => read::<raw::Bare<'_>>(bytes, interner),
        Kind::Pod => read::<raw::Pod<'_>>(bytes, interner),
        Kind::ImportedSlice => read::<raw::ImportedSlice<'_>>(bytes, interner),
        Kind::NodePod => read::<raw::NodePod<'_>>(bytes, interner),
        Kind::Node => read::<raw::Node<'_>>(bytes, interner),
        Kind::ServiceImport => {
            let bare = message::<raw::Bare<'_>>(bytes).unwrap_or_default();
            malformed(&bare, "custom resources have no protobuf form".into(), interner)
        }
    }
}

pub(super) fn event(kind: Kind, frame: &[u8], interner: &Interner) -> WatchEvent {
    let event: Event<'_> = match message(frame) {
        Ok(event) => event,
        Err(error) => return WatchEvent::Garbage(error.to_string()),
    };
    let Some(bytes) = unwrapped(event.object) else {
        return WatchEvent::Garbage("an event without an object".into());
    };
    match (event_type(&event.kind), &*event.kind) {
        (Some(event), _) => WatchEvent::Change(event, object(kind, bytes, interner)),
        (None, ERROR) => match message::<raw::Status<'_>>(bytes) {
            Ok(status) => WatchEvent::Error {
                code: status.code.unwrap_or_default(),
                message: bounded(status.message.as_deref().unwrap_or("no reason given")),
            },
            Err(error) => WatchEvent::Garbage(error.to_string()),
        },
        (None, other) => WatchEvent::Garbage(format!("unknown event type `{}`", excerpt(other))),
    }
}

pub(super) fn list_metadata(bytes: &[u8]) -> ListMetadata {
    let raw: raw::ListMeta<'_> = message(bytes).unwrap_or_default();
    ListMetadata {
        resource_version: raw.resource_version.as_deref().and_then(version),
        next: raw.next.map(|token| token.to_owned()),
    }
}

pub(super) fn refusal(bytes: &[u8]) -> Refusal {
    let status = unwrapped(bytes).and_then(|bytes| message::<raw::Status<'_>>(bytes).ok());
    status.unwrap_or_default().into()
}

fn read<'a, R: Raw<'a> + Message<'a>>(bytes: &'a [u8], interner: &Interner) -> Item {
    match message::<R>(bytes) {
        Ok(raw) => check(&raw, interner),
        Err(error) => {
            // What was read before the fault is kept.
            let mut bare = raw::Bare::default();
            let _ = fill(&mut bare, bytes);
            malformed(&bare, error.to_string(), interner)
        }
    }
}

/// The octets of the message within an envelope; `None` if it is none.
fn unwrapped(bytes: &[u8]) -> Option<&[u8]> {
    let unknown: Unknown<'_> = message(bytes.strip_prefix(MAGIC)?).ok()?;
    Some(unknown.raw)
}

/// Why octets are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("a length or number is cut off")]
    CutOff,
    #[error("a number is too long")]
    Number,
    #[error("unknown wire type {0}")]
    WireType(u8),
    #[error("field {0} has the wrong type")]
    FieldType(u64),
}

type Result<T = ()> = std::result::Result<T, Malformed>;

/// The value of a field. Numbers of fixed width are not used by any field here.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// A message that takes its fields one by one.
trait Message<'a>: Default {
    /// Takes a field. Fields without a meaning here are ignored. One that comes again replaces or extends what came before.
    fn take(&mut self, field: Field<'a>) -> Result;
}

/// A field of a message: its number and its value.
#[derive(Clone, Copy)]
struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

fn message<'a, M: Message<'a>>(bytes: &'a [u8]) -> Result<M> {
    let mut message = M::default();
    fill(&mut message, bytes)?;
    Ok(message)
}

fn fill<'a>(message: &mut impl Message<'a>, mut rest: &'a [u8]) -> Result {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match (key & 7) as u8 {
            0 => Value::Number(varint(&mut rest)?),
            1 => take(&mut rest, 8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed::CutOff)?;
                Value::Bytes(take(&mut rest, len)?)
            }
            5 => take(&mut rest, 4).map(|_| Value::Fixed)?,
            other => return Err(Malformed::WireType(other)),
        };
        message.take(Field { number: key >> 3, value })?;
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len).ok_or(Malformed::CutOff)?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&octet, after) = rest.split_first().ok_or(Malformed::CutOff)?;
        *rest = after;
        number |= u64::from(octet & 0x7f) << shift;
        if octet < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed::Number)
}

impl<'a> Field<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Fixed => Err(Malformed::FieldType(self.number)),
        }
    }

    /// A string of a list; others are read by [`Field::text`].
    fn string(self) -> Result<Str<'a>> {
        Ok(Str::new(String::from_utf8_lossy(self.bytes()?)))
    }

    fn text(self) -> Result<Option<Str<'a>>> {
        self.string().map(|text| Some(text).filter(|text| !text.is_empty()))
    }

    fn number(self) -> Result<u64> {
        match self.value {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) | Value::Fixed => Err(Malformed::FieldType(self.number)),
        }
    }

    /// Extends a message that may have begun.
    fn into<M: Message<'a>>(self, message: &mut Option<M>) -> Result {
        fill(message.get_or_insert_default(), self.bytes()?)
    }

    fn message<M: Message<'a>>(self) -> Result<M> {
        message(self.bytes()?)
    }

    /// An entry of a map of strings.
    fn entry(self) -> Result<(Cow<'a, str>, Str<'a>)> {
        let entry: Entry<'a> = self.message()?;
        Ok((String::from_utf8_lossy(entry.key), Str::new(String::from_utf8_lossy(entry.value))))
    }
}

#[derive(Default)]
struct Entry<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Message<'a> for Entry<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.key = field.bytes()?,
            2 => self.value = field.bytes()?,
            _ => {}
        }
        Ok(())
    }
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Unknown<'a> {
    raw: &'a [u8],
}

impl<'a> Message<'a> for Unknown<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == UNKNOWN_RAW {
            self.raw = field.bytes()?;
        }
        Ok(())
    }
}

/// `meta/v1.WatchEvent`, and the `runtime.RawExtension` in it.
#[derive(Default)]
struct Event<'a> {
    kind: Cow<'a, str>,
    object: &'a [u8],
}

#[derive(Default)]
struct Extension<'a>(&'a [u8]);

impl<'a> Message<'a> for Event<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.kind = String::from_utf8_lossy(field.bytes()?),
            2 => self.object = field.message::<Extension<'a>>()?.0,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for Extension<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 1 {
            self.0 = field.bytes()?;
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::ListMeta<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            2 => self.resource_version = field.text()?,
            3 => self.next = field.text()?,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Status<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            3 => self.message = field.text()?,
            4 => self.reason = field.text()?,
            5 => field.into(&mut self.details)?,
            6 => self.code = u16::try_from(field.number()?).ok(),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::StatusDetails {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 5 {
            self.retry_after_seconds = Some(field.number()?);
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Meta<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.name = field.text()?,
            3 => self.namespace = field.text()?,
            6 => self.resource_version = field.text()?,
            8 => field.into(&mut self.creation_timestamp)?,
            9 => self.deletion_timestamp = Some(IgnoredAny),
            11 => {
                let (key, value) = field.entry()?;
                self.labels.get_or_insert_default().take(&key, value);
            }
            12 => {
                let (key, value) = field.entry()?;
                self.annotations.get_or_insert_default().take(&key, value);
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Bare<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 1 { field.into(&mut self.metadata) } else { Ok(()) }
    }
}

impl<'a> Message<'a> for raw::Node<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        self.0.take(field)
    }
}

impl<'a> Message<'a> for raw::Service<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => field.into(&mut self.metadata),
            2 => field.into(&mut self.spec),
            _ => Ok(()),
        }
    }
}

impl<'a> Message<'a> for raw::ServiceSpec<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.ports.get_or_insert_default().push(field.message()?),
            3 => self.cluster_ip = field.text()?,
            4 => self.kind = field.text()?,
            10 => self.external_name = field.text()?,
            13 => self.publish_not_ready_addresses = Some(field.number()? != 0),
            18 => self.cluster_ips.get_or_insert_default().push(field.string()?),
            23 => self.traffic_distribution = field.text()?,
            _ => {}
        }
        Ok(())
    }
}

/// `ServicePort` and `EndpointPort` agree in what is used.
impl<'a> Message<'a> for raw::Port<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.name = field.text()?,
            2 => self.protocol = field.text()?,
            // An int32; negative ones are written as 64 bits.
            3 => self.port = Some(field.number()? as i64),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::EndpointSlice<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => field.into(&mut self.metadata)?,
            2 => self.endpoints.get_or_insert_default().push(field.message()?),
            3 => self.ports.get_or_insert_default().push(field.message()?),
            4 => self.address_type = field.text()?,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::ImportedSlice<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        self.0.take(field)
    }
}

impl<'a> Message<'a> for raw::Endpoint<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.addresses.get_or_insert_default().push(field.string()?),
            2 => field.into(&mut self.conditions)?,
            3 => self.hostname = field.text()?,
            4 => field.into(&mut self.target_ref)?,
            6 => self.node_name = field.text()?,
            7 => self.zone = field.text()?,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Conditions {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 1 {
            self.ready = Some(field.number()? != 0);
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::TargetRef<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.kind = field.text()?,
            3 => self.name = field.text()?,
            _ => {}
        }
        Ok(())
    }
}
