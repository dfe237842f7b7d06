//! Label and field selectors, as `labelSelector` and `fieldSelector` write them.

use super::resource::Resource;
use super::store::Object;

/// Why a selector was refused; the text goes into the Status of a 400.
pub type Refusal = String;

/// What a list or watch asks for: a namespace, labels and fields.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// Only this namespace.
    pub namespace: Option<String>,
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads both selectors for `resource`; the texts are already percent-decoded.
    ///
    /// # Errors
    /// A sentence for the client: bad syntax, or a field that this resource cannot be selected by.
    pub fn parse(
        resource: &Resource,
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Refusal> {
        let labels = split_outside_parentheses(labels)
            .into_iter()
            .map(parse_label)
            .collect::<Result<Vec<_>, _>>()?;
        let fields = fields
            .split(',')
            .filter(|f| !f.trim().is_empty())
            .map(|f| parse_field(resource, f.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { namespace: namespace.map(str::to_owned), labels, fields })
    }

    /// Whether the object is asked for.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        self.namespace.as_deref().is_none_or(|ns| ns == object.namespace())
            && self.labels.iter().all(|l| l.matches(object))
            && self.fields.iter().all(|f| f.matches(object))
    }
}

impl Label {
    fn matches(&self, object: &Object) -> bool {
        match self {
            Self::In(key, values) => {
                object.label(key).is_some_and(|have| values.iter().any(|v| v == have))
            }
            // As in Kubernetes, an object without the label satisfies "not equal" and "not in".
            Self::NotIn(key, values) => {
                object.label(key).is_none_or(|have| values.iter().all(|v| v != have))
            }
            Self::Exists(key) => object.label(key).is_some(),
            Self::Missing(key) => object.label(key).is_none(),
        }
    }
}

impl Field {
    fn matches(&self, object: &Object) -> bool {
        (object.field(&self.name).unwrap_or("") == self.value) == self.equal
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect()
}

fn parse_label(text: &str) -> Result<Label, Refusal> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let key = |key: &str| key.trim().to_owned();
    if let Some((k, v)) = text.split_once("!=") {
        return Ok(Label::NotIn(key(k), one(v)));
    }
    if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Label::In(key(k), one(v)));
    }
    if let Some((head, set)) = text.split_once('(') {
        let values: Vec<String> =
            set.trim_end_matches(')').split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(k), Some("in"), None) => Ok(Label::In(key(k), values)),
            (Some(k), Some("notin"), None) => Ok(Label::NotIn(key(k), values)),
            _ => Err(format!("unable to parse requirement: found '{head}', expected: in, notin")),
        };
    }
    if text.contains(char::is_whitespace) {
        return Err(format!("unable to parse requirement: {text}"));
    }
    Ok(match text.strip_prefix('!') {
        Some(k) => Label::Missing(key(k)),
        None => Label::Exists(key(text)),
    })
}

fn parse_field(resource: &Resource, text: &str) -> Result<Field, Refusal> {
    let (name, value, equal) = if let Some((k, v)) = text.split_once("!=") {
        (k, v, false)
    } else if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (k, v, true)
    } else {
        return Err(format!("invalid selector: '{text}'; can't understand '{text}'"));
    };
    let known = matches!(name, "metadata.name" | "metadata.namespace")
        || resource.fields.iter().any(|(field, _)| *field == name);
    if !known {
        return Err(format!("field label not supported: {name}"));
    }
    Ok(Field { name: name.to_owned(), value: value.to_owned(), equal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(labels: &serde_json::Value, node: &str) -> Object {
        Object::new(
            Resource::named("pods"),
            json!({"metadata": {"name": "p", "namespace": "n", "labels": labels}, "spec": {"nodeName": node}}),
            1,
        )
    }

    fn matches(labels: &str, fields: &str, object: &Object) -> bool {
        Selector::parse(Resource::named("pods"), None, labels, fields).unwrap().matches(object)
    }

    #[test]
    fn label_requirements_follow_kubernetes() {
        let a = pod(&json!({"app": "web", "tier": ""}), "node-1");
        for yes in [
            "app",
            "app=web",
            "app==web",
            "app in (db, web)",
            "tier",
            "!zone",
            "zone!=a",
            "zone notin (a),app",
            "tier=",
        ] {
            assert!(matches(yes, "", &a), "{yes}");
        }
        for no in ["!app", "app!=web", "app in (db)", "zone", "zone=a", "app,zone"] {
            assert!(!matches(no, "", &a), "{no}");
        }
        assert!(Selector::parse(Resource::named("pods"), None, "a between (b)", "").is_err());
    }

    #[test]
    fn field_requirements_know_their_resource() {
        let a = pod(&json!({}), "node-1");
        assert!(matches("", "spec.nodeName=node-1,metadata.namespace=n", &a));
        assert!(!matches("", "spec.nodeName!=node-1", &a));
        assert!(!matches("", "metadata.name=q", &a));
        let refused = Selector::parse(Resource::named("services"), None, "", "spec.nodeName=x");
        assert_eq!(refused.unwrap_err(), "field label not supported: spec.nodeName");
    }
}
