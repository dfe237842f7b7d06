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
    max_items: Option<usize>,
    minimum: Option<i64>,
    not: Option<Box<Schema>>,
    any_of: Vec<Schema>,
    /// `#/definitions/NAME`.
    #[serde(rename = "$ref")]
    reference: Option<String>,
    /// Only at the top.
    definitions: BTreeMap<String, Schema>,
}

type Definitions = BTreeMap<String, Schema>;

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
        self.look(value, "", &self.definitions, &mut wrong);
        wrong
    }

    fn look(&self, value: &Value, place: &str, known: &Definitions, wrong: &mut Vec<String>) {
        if let Some(reference) = &self.reference {
            let name = reference.strip_prefix("#/definitions/").unwrap_or(reference);
            match known.get(name) {
                Some(schema) => schema.look(value, place, known, wrong),
                None => wrong.push(format!("{place}: the schema refers to {reference}")),
            }
            return;
        }
        let fits = |schema: &Self| {
            let mut found = Vec::new();
            schema.look(value, place, known, &mut found);
            found.is_empty()
        };
        let mut say = |what: &str| wrong.push(format!("{place}: {what}"));
        if !self.one_of.is_empty() && !self.one_of.contains(value) {
            say("none of the values that are allowed");
        }
        if self.not.as_ref().is_some_and(|schema| fits(schema)) {
            say("of a form that is refused");
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(fits) {
            say("of none of the forms that are wanted");
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
                if self.max_items.is_some_and(|most| items.len() > most) {
                    say("too long");
                }
                for (number, item) in items.iter().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.look(item, &format!("{place}/{number}"), known, wrong);
                    }
                }
            }
            Value::Object(fields) => self.look_at_fields(fields, place, known, wrong),
            _ => {}
        }
    }

    fn look_at_fields(
        &self,
        fields: &serde_json::Map<String, Value>,
        place: &str,
        known: &Definitions,
        wrong: &mut Vec<String>,
    ) {
        for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
            wrong.push(format!("{place}/{name}: missing"));
        }
        for (name, field) in fields {
            let place = format!("{place}/{name}");
            match (self.properties.get(name), &self.additional_properties) {
                (Some(schema), _) => schema.look(field, &place, known, wrong),
                (None, Some(Additional::As(schema))) => schema.look(field, &place, known, wrong),
                (None, Some(Additional::Allowed(false))) => wrong.push(format!("{place}: unknown")),
                (None, _) => {}
            }
        }
    }
}
