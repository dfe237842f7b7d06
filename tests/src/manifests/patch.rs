//! JSON Patch (RFC 6902): add, replace and remove.

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// One change.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Operation {
    Add { path: String, value: Value },
    Replace { path: String, value: Value },
    Remove { path: String },
}

/// Changes `document`.
pub(super) fn apply(document: &mut Value, operation: &Operation) -> anyhow::Result<()> {
    let path = match operation {
        Operation::Add { path, .. }
        | Operation::Replace { path, .. }
        | Operation::Remove { path } => path,
    };
    let (parent, key) = path.rsplit_once('/').context("a path begins with a slash")?;
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = document.pointer_mut(parent).with_context(|| format!("there is no {parent}"))?;
    match (parent, operation) {
        (Value::Object(fields), Operation::Add { value, .. }) => {
            fields.insert(key, value.clone());
        }
        (Value::Object(fields), Operation::Replace { value, .. }) => {
            *fields.get_mut(&key).with_context(|| format!("there is no {path}"))? = value.clone();
        }
        (Value::Object(fields), Operation::Remove { .. }) => {
            fields.remove(&key).with_context(|| format!("there is no {path}"))?;
        }
        (Value::Array(items), Operation::Add { value, .. }) if key == "-" => {
            items.push(value.clone())
        }
        _ => bail!("{path}: not known here"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut document = json!({ "a": { "b": [1] } });
        let mut change = |text: &str| {
            let operation: Operation = serde_json::from_str(text).unwrap();
            apply(&mut document, &operation).map(|()| document.to_string()).map_err(drop)
        };
        assert_eq!(
            change(r#"{"op":"add","path":"/a/b/-","value":2}"#).unwrap(),
            r#"{"a":{"b":[1,2]}}"#
        );
        assert_eq!(
            change(r#"{"op":"replace","path":"/a/b","value":[]}"#).unwrap(),
            r#"{"a":{"b":[]}}"#
        );
        assert!(change(r#"{"op":"replace","path":"/a/c","value":3}"#).is_err());
        assert!(change(r#"{"op":"remove","path":"/x/y"}"#).is_err());
        assert_eq!(change(r#"{"op":"remove","path":"/a/b"}"#).unwrap(), r#"{"a":{}}"#);
    }
}
