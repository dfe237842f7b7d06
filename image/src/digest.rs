//! Digests as OCI writes them, and JSON whose octets do not depend on how it was made.

use anyhow::Context;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

/// The SHA-256 of these octets, in hexadecimal.
#[must_use]
pub fn sha256(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// JSON with sorted keys. Whether `serde_json` sorts by itself depends on a feature that any other crate may turn on.
///
/// # Errors
/// None that a `Value` can cause.
pub fn canonical(value: Value) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(&sorted(value)).context("cannot write JSON")
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn digests_and_json_are_the_known_ones() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
        let value = json!({"b": [{"d": 1, "c": 2}], "a": null});
        assert_eq!(canonical(value).unwrap(), br#"{"a":null,"b":[{"c":2,"d":1}]}"#);
    }
}
