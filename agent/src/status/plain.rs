//! Any JSON as text for people: one thing a line, nested things indented.

use std::fmt::Write as _;

use serde_json::Value;

/// One thing a line, nested things indented.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    lines(value, 0, &mut out);
    out
}

fn lines(value: &Value, depth: usize, out: &mut String) {
    let Value::Object(fields) = value else { return };
    for (name, value) in in_order(fields) {
        let name = format!("{}{}", "  ".repeat(depth), name.replace('_', " "));
        if let Some(plain) = plain(value) {
            // Written to a string: cannot fail.
            let _ = writeln!(out, "{name:<WIDTH$} {plain}");
            continue;
        }
        out.push_str(&name);
        out.push('\n');
        match value {
            Value::Array(items) => items.iter().for_each(|item| listed(item, depth + 1, out)),
            other => lines(other, depth + 1, out),
        }
    }
}

/// One of several things of a kind, marked by a dash.
fn listed(item: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    if let Some(plain) = plain(item) {
        let _ = writeln!(out, "{indent}- {plain}");
        return;
    }
    let mut text = String::new();
    lines(item, depth + 1, &mut text);
    // The dash takes the place of the first line's last indentation.
    let rest = text.strip_prefix(&format!("{indent}  ")).unwrap_or(&text);
    out.push_str(&format!("{indent}- {rest}"));
}

/// Something that fits one line: a value, several, or named ones.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some("-".to_owned()),
        Value::Bool(true) => Some("yes".to_owned()),
        Value::Bool(false) => Some("no".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) => {
            let flat = items.iter().all(|item| !item.is_object() && !item.is_array());
            let items: Vec<String> = items.iter().filter_map(plain).collect();
            flat.then(|| items.join(", "))
        }
        Value::Object(fields) => {
            let flat = fields.values().all(|value| !value.is_object() && !value.is_array());
            let fields: Vec<String> = in_order(fields)
                .into_iter()
                .filter_map(|(name, value)| {
                    Some(format!("{} {}", name.replace('_', " "), plain(value)?))
                })
                .collect();
            flat.then(|| fields.join(", "))
        }
    }
}

/// The fields as people want to read them: what it is, how it is, and then the rest.
fn in_order(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    const FIRST: [&str; 6] = ["version", "zones", "from", "to", "state", "objects"];
    let mut fields: Vec<_> = fields.iter().collect();
    // Stable: what is not named stays in the order of its letters.
    fields.sort_by_key(|(name, _)| {
        FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len())
    });
    fields
}

/// Of the names' column.
const WIDTH: usize = 28;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_things_are_readable() {
        let value = json!({
            "workers": 2,
            "waiting": [],
            "cache": { "bytes": 1, "limit_bytes": null },
            "details": { "forward": [{
                "from": ["."],
                "upstreams": [{ "to": "192.0.2.1:53", "up": true }, { "to": "192.0.2.2:53", "up": false }],
            }] },
        });
        let wanted = "\
cache                        bytes 1, limit bytes -
details
  forward
    - from                   .
      upstreams
        - to 192.0.2.1:53, up yes
        - to 192.0.2.2:53, up no
waiting                      none
workers                      2
";
        assert_eq!(text(&value), wanted);
    }
}
