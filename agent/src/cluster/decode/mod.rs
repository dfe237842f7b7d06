//! From an object as the API writes it, in JSON or protobuf, to the lean [`Object`], checked.
//!
//! ```text
//! json ------+
//!            +-> raw (borrowed fields) -> lean (checks) -> Item
//! protobuf --+
//! ```
//!
//! The encodings have a front end each, which fills the structures of [`raw`]; everything behind is shared, so that an object
//! is accepted, ignored or refused alike, with the same words. A string that is kept is a DNS label or an object name, in
//! lower case; an address parses; a list has a bounded length. What breaks a rule is one invalid object: it is skipped, and
//! the others are not touched. What is in order but has no name in DNS (a Pod without an address, a slice of address type
//! FQDN) is ignored.

mod check;
mod json;
mod lean;
pub(super) mod protobuf;
mod raw;

use self::check::{label, object_name};
use self::lean::{Raw, identity};
use super::interner::Interner;
use super::object::{Kind, Object, ObjectId};
use super::status::EventType;

/// Endpoints of a slice that are read, as the API server's own validation limits them.
pub const MAX_ENDPOINTS: usize = 1_000;
/// Addresses of an endpoint, likewise.
pub const MAX_ADDRESSES: usize = 100;
/// Ports of a Service or slice. The API server allows 20,000 to a slice; 1,024 SRV records do not fit into any message.
pub const MAX_PORTS: usize = 1_024;

/// Domains of a Pod's `dnsConfig.searches` that are read, as the API server's own validation limits them.
pub const MAX_SEARCHES: usize = 32;
/// Labels of a Pod of this node that are kept.
pub const MAX_POD_LABELS: usize = 128;
/// Octets of the value of a label, and of its name behind the prefix.
pub const MAX_LABEL_PART: usize = 63;
/// Octets of the name of a label with its prefix.
pub const MAX_LABEL_KEY: usize = 253 + 1 + MAX_LABEL_PART;
/// Octets of the name of a zone or a node: a Node is named like a host, and a zone is the value of a label, of 63.
pub const MAX_PLACE: usize = 253;

/// Why an object cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObject {
    /// Not JSON or protobuf, or a field has the wrong type.
    #[error("does not read: {0}")]
    Malformed(String),
    /// A field that must be there is missing or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A string is too long.
    #[error("{field} is longer than {max} characters")]
    Long {
        /// The field.
        field: &'static str,
        /// The longest that is taken.
        max: usize,
    },
    /// A list is too long.
    #[error("{field} has more than {max} entries")]
    Many {
        /// The field.
        field: &'static str,
        /// The most that are taken.
        max: usize,
    },
    /// A string holds characters that no DNS label has.
    #[error("{field} `{text}` is not a DNS label")]
    NotALabel {
        /// The field.
        field: &'static str,
        /// Its beginning.
        text: String,
    },
    /// A string is not an IP address.
    #[error("{field} `{text}` is not an IP address")]
    NotAnAddress {
        /// The field.
        field: &'static str,
        /// Its beginning.
        text: String,
    },
    /// A target that is not a DNS name.
    #[error("spec.externalName `{0}` is not a DNS name")]
    NotAName(String),
    /// A port outside of 1 to 65535.
    #[error("port {0} is not between 1 and 65535")]
    Port(i64),
    /// A protocol that has no name in DNS.
    #[error("protocol `{0}` is none of TCP, UDP, SCTP")]
    Protocol(String),
    /// An unknown type.
    #[error("type `{0}` is unknown")]
    Type(String),
}

/// What an object is to the index.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It is served.
    Object(Object),
    /// It is in order, but has no name in DNS.
    Ignored,
    /// It is skipped.
    Invalid(InvalidObject),
}

/// An object that was read, and what the watch needs to know of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// Its namespace and name; `None` if not even they can be read.
    pub id: Option<ObjectId>,
    /// Its version, from which a watch can continue.
    pub resource_version: Option<u64>,
    /// True for an EndpointSlice with the label of headless Services.
    pub headless: bool,
    /// The object itself.
    pub decoded: Decoded,
}

/// One message of a watch.
#[derive(Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "one lives at a time, on the stack, and is a change as a rule"
)]
pub enum WatchEvent {
    /// An object, or a bookmark.
    Change(EventType, Item),
    /// The server ends the watch.
    Error {
        /// As of HTTP; 410 means that the version to continue from is gone.
        code: u16,
        /// The server's message.
        message: String,
    },
    /// No event at all.
    Garbage(String),
}

/// The `metadata` of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListMetadata {
    /// The version that the list shows.
    pub resource_version: Option<u64>,
    /// The token of the next page, if one follows.
    pub next: Option<String>,
}

/// The `Status` object of a response that is an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// As of HTTP.
    pub code: Option<u16>,
    /// One word, as `Forbidden`.
    pub reason: Option<String>,
    /// A sentence, cut to a bounded length.
    pub message: Option<String>,
    /// When to try again.
    pub retry_after_seconds: Option<u64>,
}

/// How the API server writes objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`, which every kind has.
    Json,
    /// `application/vnd.kubernetes.protobuf`, which the built-in kinds have.
    Protobuf,
}

impl Encoding {
    /// Reads one object of a known kind. Total: any octets give an answer.
    pub fn object(self, kind: Kind, bytes: &[u8], interner: &Interner) -> Item {
        match self {
            Self::Json => json::object(kind, bytes, interner),
            Self::Protobuf => protobuf::object(kind, bytes, interner),
        }
    }

    /// Reads one message of a watch. Total: any octets give an answer.
    pub fn event(self, kind: Kind, bytes: &[u8], interner: &Interner) -> WatchEvent {
        match self {
            Self::Json => json::event(kind, bytes, interner),
            Self::Protobuf => protobuf::event(kind, bytes, interner),
        }
    }

    /// Reads the `metadata` of a list; what cannot be read is absent.
    pub fn list_metadata(self, bytes: &[u8]) -> ListMetadata {
        match self {
            Self::Json => json::list_metadata(bytes),
            Self::Protobuf => protobuf::list_metadata(bytes),
        }
    }

    /// Reads a `Status`; what cannot be read is absent.
    pub fn refusal(self, bytes: &[u8]) -> Refusal {
        match self {
            Self::Json => json::refusal(bytes),
            Self::Protobuf => protobuf::refusal(bytes),
        }
    }
}

/// True for a DNS label in lower case: what decoded Services, namespaces, hostnames and ports are named by.
pub fn is_label(text: &str) -> bool {
    label("", text, &mut String::new()).is_ok_and(|lower| lower == text)
}

/// True for an object name in lower case.
pub fn is_object_name(text: &str) -> bool {
    object_name("", text, &mut String::new()).is_ok_and(|lower| lower == text)
}

/// Checks what a front end has read.
fn check<'a>(raw: &impl Raw<'a>, interner: &Interner) -> Item {
    let head = raw.head();
    let mut item = Item {
        id: None,
        resource_version: head.resource_version.and_then(version),
        headless: head.is_headless,
        decoded: Decoded::Ignored,
    };
    let id = match identity(&head, interner) {
        Ok(id) => id,
        Err(invalid) => {
            item.decoded = Decoded::Invalid(invalid);
            return item;
        }
    };
    item.decoded = match raw.lean(id.clone(), interner) {
        Ok(Some(object)) => Decoded::Object(object.of_version(item.resource_version.unwrap_or(0))),
        Ok(None) => Decoded::Ignored,
        Err(invalid) => Decoded::Invalid(invalid),
    };
    item.id = Some(id);
    item
}

/// An object that does not read as its kind: its name may still be read.
fn malformed(bare: &raw::Bare<'_>, error: String, interner: &Interner) -> Item {
    let decoded = Decoded::Invalid(InvalidObject::Malformed(error));
    Item { decoded, ..check(bare, interner) }
}

/// A resource version. They are opaque to most clients, but numbers in etcd's order, and guaranteed to be (KEP-5504).
fn version(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&version| version > 0)
}

/// The type of a watch's event by its name; `None` for an error or for what is unknown.
fn event_type(name: &str) -> Option<EventType> {
    match name {
        "ADDED" => Some(EventType::Added),
        "MODIFIED" => Some(EventType::Modified),
        "DELETED" => Some(EventType::Deleted),
        "BOOKMARK" => Some(EventType::Bookmark),
        _ => None,
    }
}

/// The event type of errors.
const ERROR: &str = "ERROR";

/// A server's message, cut to a bounded length.
fn bounded(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

/// Characters of a server's message that are kept.
const MAX_MESSAGE: usize = 500;

#[cfg(test)]
pub(crate) mod tests;
