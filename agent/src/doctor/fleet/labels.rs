//! Label selectors (the `matchLabels` and `matchExpressions` of the API), and why they do not match.

use serde_json::{Map, Value};

/// Whether a LabelSelector matches labels. One without anything matches all.
pub fn selects(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector else { return true };
    let label = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let equal = equal.into_iter().flatten().all(|(key, value)| label(key) == value.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal
        && expressions.into_iter().flatten().all(|expression| {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
            let values = expression.get("values").and_then(Value::as_array);
            let mut values = values.into_iter().flatten().filter_map(Value::as_str);
            match (expression.get("operator").and_then(Value::as_str), label(key)) {
                (Some("In"), Some(found)) => values.any(|value| value == found),
                (Some("NotIn"), Some(found)) => values.all(|value| value != found),
                (Some("Exists"), found) => found.is_some(),
                (Some("DoesNotExist"), found) => found.is_none(),
                (Some("NotIn"), None) => true,
                _ => false,
            }
        })
}

/// How a Service's selector differs from a pod's labels: `app is wbe, not web`. Empty if it matches.
pub fn difference(selector: &Map<String, Value>, labels: Option<&Value>) -> Vec<String> {
    let mut differ = Vec::new();
    for (key, wanted) in selector {
        let wanted = wanted.as_str().unwrap_or_default();
        match labels.and_then(|labels| labels.get(key)?.as_str()) {
            Some(found) if found == wanted => {}
            Some(found) => differ.push(format!("label {key} is {found}, not {wanted}")),
            None => differ.push(format!("label {key}={wanted} is missing")),
        }
    }
    differ
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_understood() {
        let labels = json!({"app": "web", "tier": "front"});
        let has = |selector: Value| selects(Some(&selector), Some(&labels));
        assert!(has(json!({})) && selects(None, None));
        assert!(
            has(json!({"matchLabels": {"app": "web"}}))
                && !has(json!({"matchLabels": {"app": "x"}}))
        );
        let expression = |key: &str, operator: &str, values: &[&str]| {
            has(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(expression("app", "In", &["x", "web"]) && !expression("app", "NotIn", &["web"]));
        assert!(expression("no", "DoesNotExist", &[]) && !expression("no", "Exists", &[]));
        assert!(expression("no", "NotIn", &["a"]) && !expression("no", "In", &["a"]));
        let selector = json!({"app": "wbe", "zone": "a"});
        let differ = difference(selector.as_object().unwrap(), Some(&labels));
        assert_eq!(differ, ["label app is web, not wbe", "label zone=a is missing"]);
    }
}
