//! As much of JSON Schema as the chart's values use, strictly: a word that is not known here is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What a value has to be.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Schema {
    #[serde(rename = "$schema")]
    _schema: String,
    #[serde(rename = "title")]
    _title: String,
    #[serde(rename = "description")]
    _description: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "enum")]
    one_of: Vec<Value>,
    properties: BTreeMap<String, Schema>,
    additional_properties: Option<Additional>,
    required: Vec<String>,
    items: Option<Box<Schema>>,
    pattern: Option<String>,
    min_length: usize,
    min_items: usize,
    minimum: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Additional {
    Allowed(bool),
    As(Box<Schema>),
}

impl Schema {
    /// What is wrong with `value`: a line for each thing, with its place.
    #[must_use]
    pub fn check(&self, value: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        self.look(value, "", &mut wrong);
        wrong
    }

    fn look(&self, value: &Value, place: &str, wrong: &mut Vec<String>) {
        let mut say = |what: &str| wrong.push(format!("{place}: {what}"));
        if !self.one_of.is_empty() && !self.one_of.contains(value) {
            say("none of the values that are allowed");
        }
        let is_kind = match self.kind.as_deref() {
            None => true,
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some(_) => false,
        };
        if !is_kind {
            return say("of another type");
        }
        match value {
            Value::String(text) => {
                let pattern = self.pattern.as_deref().map(regex::Regex::new);
                if text.len() < self.min_length
                    || pattern.is_some_and(|p| !p.is_ok_and(|p| p.is_match(text)))
                {
                    say("not of the form that is wanted");
                }
            }
            Value::Number(number) if number.as_i64() < self.minimum => say("too small"),
            Value::Array(items) => {
                if items.len() < self.min_items {
                    say("too short");
                }
                for (number, item) in items.iter().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.look(item, &format!("{place}/{number}"), wrong);
                    }
                }
            }
            Value::Object(fields) => self.look_at_fields(fields, place, wrong),
            _ => {}
        }
    }

    fn look_at_fields(
        &self,
        fields: &serde_json::Map<String, Value>,
        place: &str,
        wrong: &mut Vec<String>,
    ) {
        for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
            wrong.push(format!("{place}/{name}: missing"));
        }
        for (name, field) in fields {
            let place = format!("{place}/{name}");
            match (self.properties.get(name), &self.additional_properties) {
                (Some(schema), _) => schema.look(field, &place, wrong),
                (None, Some(Additional::As(schema))) => schema.look(field, &place, wrong),
                (None, Some(Additional::Allowed(false))) => wrong.push(format!("{place}: unknown")),
                (None, _) => {}
            }
        }
    }
}
