//! What a string of an object has to be before it is kept.

use std::net::IpAddr;

use crate::wire::name::MAX_LABEL;

use super::InvalidObject;

/// The longest object name (RFC 1123 subdomain, as Kubernetes limits it).
const MAX_OBJECT_NAME: usize = 253;

/// A DNS label in lower case, or what is wrong with it. Underscores are let through: the API server refuses them in most
/// places, but they are harmless in DNS.
pub(super) fn label<'a>(
    field: &'static str,
    text: &'a str,
    lower: &'a mut String,
) -> Result<&'a str, InvalidObject> {
    let octets = text.as_bytes();
    if octets.is_empty() {
        return Err(InvalidObject::Missing(field));
    }
    if octets.len() > MAX_LABEL {
        return Err(InvalidObject::Long { field, max: MAX_LABEL });
    }
    if !octets.iter().all(|&o| o.is_ascii_alphanumeric() || o == b'-' || o == b'_') {
        return Err(InvalidObject::NotALabel { field, text: excerpt(text) });
    }
    Ok(lowered(text, lower))
}

/// An object name: labels with dots between them, in lower case.
pub(super) fn object_name<'a>(
    field: &'static str,
    text: &'a str,
    lower: &'a mut String,
) -> Result<&'a str, InvalidObject> {
    let octets = text.as_bytes();
    if octets.is_empty() {
        return Err(InvalidObject::Missing(field));
    }
    if octets.len() > MAX_OBJECT_NAME {
        return Err(InvalidObject::Long { field, max: MAX_OBJECT_NAME });
    }
    if !octets.iter().all(|&o| o.is_ascii_alphanumeric() || matches!(o, b'-' | b'_' | b'.')) {
        return Err(InvalidObject::NotALabel { field, text: excerpt(text) });
    }
    Ok(lowered(text, lower))
}

/// An IP address.
pub(super) fn address(field: &'static str, text: &str) -> Result<IpAddr, InvalidObject> {
    text.parse().map_err(|_| InvalidObject::NotAnAddress { field, text: excerpt(text) })
}

/// Milliseconds since 1970 of an RFC 3339 time.
pub(super) fn millis(text: &str) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// The beginning of a text from outside, for a message.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = text.chars().take(MOST).flat_map(char::escape_default).collect();
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    short
}

fn lowered<'a>(text: &'a str, lower: &'a mut String) -> &'a str {
    if !text.bytes().any(|octet| octet.is_ascii_uppercase()) {
        return text;
    }
    text.clone_into(lower);
    lower.make_ascii_lowercase();
    lower
}
