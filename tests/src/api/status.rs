//! `Status` objects: the body of every error, worded as a real server words it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::protobuf;
use super::resource::Resource;

/// An error of the API.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) retry_after: Option<u64>,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Status {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason(code),
            message: message.into(),
            details: Value::Null,
            retry_after: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized")
    }

    /// An `Accept` header that names nothing the server has.
    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            406,
            "only the following media types are accepted: application/json, application/yaml",
        )
    }

    pub(crate) fn forbidden(
        verb: &str,
        resource: &Resource,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Self {
        let quoted = name.map(|n| format!(" \"{n}\"")).unwrap_or_default();
        let place = match namespace {
            Some(ns) => format!("in the namespace \"{ns}\""),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{}{quoted} is forbidden: User \"system:serviceaccount:kube-system:nodens\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            qualified(resource),
            resource.plural,
            resource.group,
        );
        let mut details = json!({"group": resource.group, "kind": resource.plural});
        if let Some(name) = name {
            details["name"] = json!(name);
        }
        Self { details, ..Self::new(403, message) }
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(resource));
        Self {
            details: json!({"group": resource.group, "kind": resource.plural, "name": name}),
            ..Self::new(404, message)
        }
    }

    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self {
            reason: "Expired",
            ..Self::new(410, format!("too old resource version: {asked} ({oldest})"))
        }
    }

    pub(crate) fn continue_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";
        Self { reason: "Expired", ..Self::new(410, message) }
    }

    /// A revision from the future, as after a restore from backup or from a lagging replica.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self { details, retry_after: Some(1), reason: "Timeout", ..Self::new(504, message) }
    }

    pub(crate) fn invalid_option(field: &str, message: &str) -> Self {
        let details = json!({
            "group": "meta.k8s.io", "kind": "ListOptions",
            "causes": [{"reason": "FieldValueForbidden", "message": message, "field": field}],
        });
        let text = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
        Self { details, ..Self::new(422, text) }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { details: json!({"retryAfterSeconds": seconds}), retry_after: Some(seconds), ..self }
    }

    pub(crate) fn to_json(&self) -> Bytes {
        Bytes::from(self.to_value().to_string())
    }

    pub(crate) fn to_protobuf(&self) -> Bytes {
        Bytes::from(protobuf::status(&self.to_value()))
    }

    fn to_value(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        body
    }

    /// As the last event of a watch.
    pub(crate) fn to_event(&self, in_protobuf: bool) -> Bytes {
        if in_protobuf {
            return Bytes::from(protobuf::event("ERROR", &self.to_protobuf()));
        }
        let mut line = br#"{"type":"ERROR","object":"#.to_vec();
        line.extend_from_slice(&self.to_json());
        line.extend_from_slice(b"}\n");
        Bytes::from(line)
    }
}

fn qualified(resource: &Resource) -> String {
    if resource.group.is_empty() {
        resource.plural.to_owned()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Gone",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
