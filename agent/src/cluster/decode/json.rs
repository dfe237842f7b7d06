//! Objects, watch events and lists in JSON.

use std::borrow::Cow;

use serde::Deserialize;

use super::check::excerpt;
use super::lean::Raw;
use super::{
    ERROR, Item, ListMetadata, Refusal, WatchEvent, bounded, check, event_type, malformed, raw,
    version,
};
use crate::cluster::interner::Interner;
use crate::cluster::object::Kind;

pub(super) fn object(kind: Kind, json: &[u8], interner: &Interner) -> Item {
    let json = &*text(json);
    match kind {
        Kind::Service => read::<raw::Service<'_>>(json, interner),
        Kind::EndpointSlice => read::<raw::EndpointSlice<'_>>(json, interner),
        Kind::Namespace => read::<raw::Bare<'_>>(json, interner),
        Kind::Pod => read::<raw::Pod<'_>>(json, interner),
        Kind::ServiceImport => read::<raw::ServiceImport<'_>>(json, interner),
        Kind::ImportedSlice => read::<raw::ImportedSlice<'_>>(json, interner),
        Kind::NodePod => read::<raw::NodePod<'_>>(json, interner),
        Kind::Node => read::<raw::Node<'_>>(json, interner),
    }
}

pub(super) fn event(kind: Kind, json: &[u8], interner: &Interner) -> WatchEvent {
    let json = &*text(json);
    match kind {
        Kind::Service => read_event::<raw::Service<'_>>(json, interner),
        Kind::EndpointSlice => read_event::<raw::EndpointSlice<'_>>(json, interner),
        Kind::Namespace => read_event::<raw::Bare<'_>>(json, interner),
        Kind::Pod => read_event::<raw::Pod<'_>>(json, interner),
        Kind::ServiceImport => read_event::<raw::ServiceImport<'_>>(json, interner),
        Kind::ImportedSlice => read_event::<raw::ImportedSlice<'_>>(json, interner),
        Kind::NodePod => read_event::<raw::NodePod<'_>>(json, interner),
        Kind::Node => read_event::<raw::Node<'_>>(json, interner),
    }
}

pub(super) fn list_metadata(json: &[u8]) -> ListMetadata {
    let json = text(json);
    let raw: raw::ListMeta<'_> = serde_json::from_str(&json).unwrap_or_default();
    ListMetadata {
        resource_version: raw.resource_version.as_deref().and_then(version),
        next: raw.next.filter(|token| !token.is_empty()).map(|token| token.to_owned()),
    }
}

pub(super) fn refusal(json: &[u8]) -> Refusal {
    let json = text(json);
    let raw: raw::Status<'_> = serde_json::from_str(&json).unwrap_or_default();
    raw.into()
}

/// Octets as text, checked at once, so that strings need not be checked one by one. What is no UTF-8 is replaced, as in Go.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn read<'a, R: Raw<'a> + Deserialize<'a>>(json: &'a str, interner: &Interner) -> Item {
    match serde_json::from_str::<R>(json) {
        Ok(raw) => check(&raw, interner),
        Err(error) => {
            let bare = serde_json::from_str::<raw::Bare<'_>>(json).unwrap_or_default();
            malformed(&bare, error.to_string(), interner)
        }
    }
}

fn read_event<'a, R: Raw<'a> + Deserialize<'a>>(json: &'a str, interner: &Interner) -> WatchEvent {
    let (event, item) = match serde_json::from_str::<raw::Line<'_, R>>(json) {
        Ok(line) => (line.event, check(&line.object, interner)),
        Err(error) => match serde_json::from_str::<raw::Line<'_, raw::Bare<'_>>>(json) {
            Err(_) => return WatchEvent::Garbage(error.to_string()),
            Ok(line) => (line.event, malformed(&line.object, error.to_string(), interner)),
        },
    };
    match (event_type(&event), &*event) {
        (Some(event), _) => WatchEvent::Change(event, item),
        (None, ERROR) => match serde_json::from_str::<raw::Line<'_, raw::Status<'_>>>(json) {
            Ok(line) => WatchEvent::Error {
                code: line.object.code.unwrap_or_default(),
                message: bounded(line.object.message.as_deref().unwrap_or("no reason given")),
            },
            Err(error) => WatchEvent::Garbage(error.to_string()),
        },
        (None, other) => WatchEvent::Garbage(format!("unknown event type `{}`", excerpt(other))),
    }
}
