//! Objects in protobuf, as Kubernetes writes them: every field that the objects of the tests have, with its number, and the
//! empty strings that Go writes where JSON leaves a field out.

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::resource::Resource;

/// What every response begins with, and every object of a watch.
pub(crate) const MAGIC: &[u8; 4] = b"k8s\0";

/// A message: its fields by their JSON names.
type Message = &'static [Field];

/// One field.
struct Field(&'static str, u8, Type);

/// What a field holds.
enum Type {
    /// A string; `Always` ones are written even if they are empty.
    Text(Presence),
    Bool(Presence),
    Int(Presence),
    Texts,
    Map,
    Time,
    IntOrText,
    /// JSON as it is, in a message of its own: `FieldsV1`.
    Json,
    One(Message, Presence),
    Many(Message),
}

/// Whether a field is written that is absent in JSON.
#[derive(PartialEq, Clone, Copy)]
enum Presence {
    Always,
    Optional,
}

use Presence::{Always, Optional};
use Type::{Bool, Int, IntOrText, Json, Many, One, Text, Texts, Time};

const META: Message = &[
    Field("name", 1, Text(Always)),
    Field("generateName", 2, Text(Always)),
    Field("namespace", 3, Text(Always)),
    Field("selfLink", 4, Text(Always)),
    Field("uid", 5, Text(Always)),
    Field("resourceVersion", 6, Text(Always)),
    Field("generation", 7, Int(Always)),
    Field("creationTimestamp", 8, Time),
    Field("deletionTimestamp", 9, Time),
    Field("labels", 11, Type::Map),
    Field("annotations", 12, Type::Map),
    Field("ownerReferences", 13, Many(OWNER)),
    Field("finalizers", 14, Texts),
    Field("managedFields", 17, Many(MANAGED)),
];
const OWNER: Message = &[
    Field("kind", 1, Text(Always)),
    Field("name", 3, Text(Always)),
    Field("uid", 4, Text(Always)),
    Field("apiVersion", 5, Text(Always)),
    Field("controller", 6, Bool(Optional)),
    Field("blockOwnerDeletion", 7, Bool(Optional)),
];
const MANAGED: Message = &[
    Field("manager", 1, Text(Always)),
    Field("operation", 2, Text(Always)),
    Field("apiVersion", 3, Text(Always)),
    Field("time", 4, Time),
    Field("fieldsType", 6, Text(Always)),
    Field("fieldsV1", 7, Json),
    Field("subresource", 8, Text(Always)),
];
const SERVICE: Message = &[
    Field("metadata", 1, One(META, Always)),
    Field("spec", 2, One(SERVICE_SPEC, Always)),
    Field("status", 3, One(SERVICE_STATUS, Always)),
];
const SERVICE_SPEC: Message = &[
    Field("ports", 1, Many(SERVICE_PORT)),
    Field("selector", 2, Type::Map),
    Field("clusterIP", 3, Text(Always)),
    Field("type", 4, Text(Always)),
    Field("externalIPs", 5, Texts),
    Field("sessionAffinity", 7, Text(Always)),
    Field("loadBalancerIP", 8, Text(Always)),
    Field("externalName", 10, Text(Always)),
    Field("externalTrafficPolicy", 11, Text(Always)),
    Field("healthCheckNodePort", 12, Int(Always)),
    Field("publishNotReadyAddresses", 13, Bool(Always)),
    Field("ipFamilyPolicy", 17, Text(Optional)),
    Field("clusterIPs", 18, Texts),
    Field("ipFamilies", 19, Texts),
    Field("allocateLoadBalancerNodePorts", 20, Bool(Optional)),
    Field("internalTrafficPolicy", 22, Text(Optional)),
    Field("trafficDistribution", 23, Text(Optional)),
];
const SERVICE_PORT: Message = &[
    Field("name", 1, Text(Always)),
    Field("protocol", 2, Text(Always)),
    Field("port", 3, Int(Always)),
    Field("targetPort", 4, IntOrText),
    Field("nodePort", 5, Int(Always)),
    Field("appProtocol", 6, Text(Optional)),
];
const SERVICE_STATUS: Message = &[Field("loadBalancer", 1, One(&[], Always))];
const SLICE: Message = &[
    Field("metadata", 1, One(META, Always)),
    Field("endpoints", 2, Many(ENDPOINT)),
    Field("ports", 3, Many(ENDPOINT_PORT)),
    Field("addressType", 4, Text(Always)),
];
const ENDPOINT: Message = &[
    Field("addresses", 1, Texts),
    Field("conditions", 2, One(CONDITIONS, Always)),
    Field("hostname", 3, Text(Optional)),
    Field("targetRef", 4, One(REFERENCE, Optional)),
    Field("nodeName", 6, Text(Optional)),
    Field("zone", 7, Text(Optional)),
];
const CONDITIONS: Message = &[
    Field("ready", 1, Bool(Optional)),
    Field("serving", 2, Bool(Optional)),
    Field("terminating", 3, Bool(Optional)),
];
const REFERENCE: Message = &[
    Field("kind", 1, Text(Always)),
    Field("namespace", 2, Text(Always)),
    Field("name", 3, Text(Always)),
    Field("uid", 4, Text(Always)),
    Field("apiVersion", 5, Text(Always)),
    Field("resourceVersion", 6, Text(Always)),
    Field("fieldPath", 7, Text(Always)),
];
const ENDPOINT_PORT: Message = &[
    Field("name", 1, Text(Optional)),
    Field("protocol", 2, Text(Optional)),
    Field("port", 3, Int(Optional)),
    Field("appProtocol", 4, Text(Optional)),
];
const NAMESPACE: Message = &[
    Field("metadata", 1, One(META, Always)),
    Field("spec", 2, One(&[Field("finalizers", 1, Texts)], Always)),
    Field("status", 3, One(&[Field("phase", 1, Text(Always))], Always)),
];
const POD: Message = &[
    Field("metadata", 1, One(META, Always)),
    Field("spec", 2, One(POD_SPEC, Always)),
    Field("status", 3, One(POD_STATUS, Always)),
];
const POD_SPEC: Message = &[
    Field("dnsPolicy", 6, Text(Always)),
    Field("nodeName", 10, Text(Always)),
    Field("hostNetwork", 11, Bool(Always)),
    Field("dnsConfig", 26, One(DNS_CONFIG, Optional)),
];
const DNS_CONFIG: Message = &[
    Field("nameservers", 1, Texts),
    Field("searches", 2, Texts),
    Field("options", 3, Many(&[Field("name", 1, Text(Always)), Field("value", 2, Text(Optional))])),
];
const POD_STATUS: Message = &[
    Field("phase", 1, Text(Always)),
    Field("message", 3, Text(Always)),
    Field("reason", 4, Text(Always)),
    Field("hostIP", 5, Text(Always)),
    Field("podIP", 6, Text(Always)),
    Field("startTime", 7, Time),
    Field("qosClass", 9, Text(Always)),
    Field("podIPs", 12, Many(&[Field("ip", 1, Text(Always))])),
];
const META_ONLY: Message = &[Field("metadata", 1, One(META, Always))];
const LIST_META: Message = &[
    Field("selfLink", 1, Text(Always)),
    Field("resourceVersion", 2, Text(Always)),
    Field("continue", 3, Text(Always)),
    Field("remainingItemCount", 4, Int(Optional)),
];
const STATUS: Message = &[
    Field("metadata", 1, One(LIST_META, Always)),
    Field("status", 2, Text(Always)),
    Field("message", 3, Text(Always)),
    Field("reason", 4, Text(Always)),
    Field("details", 5, One(DETAILS, Optional)),
    Field("code", 6, Int(Always)),
];
const DETAILS: Message = &[
    Field("name", 1, Text(Always)),
    Field("group", 2, Text(Always)),
    Field("kind", 3, Text(Always)),
    Field(
        "causes",
        4,
        Many(&[
            Field("reason", 1, Text(Always)),
            Field("message", 2, Text(Always)),
            Field("field", 3, Text(Always)),
        ]),
    ),
    Field("retryAfterSeconds", 5, Int(Always)),
    Field("uid", 6, Text(Always)),
];

/// True if objects of this resource have a protobuf form.
pub(crate) fn knows(resource: &Resource) -> bool {
    !resource.custom
}

/// An object, without an envelope: an item of a list. What is no JSON is written as octets that are no message.
pub(crate) fn object(resource: &Resource, json: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => object_of(resource, &value),
        Err(_) => vec![0xff; 12],
    }
}

/// The same of a value.
pub(crate) fn object_of(resource: &Resource, value: &Value) -> Vec<u8> {
    let message = match resource.plural {
        "services" => SERVICE,
        "endpointslices" => SLICE,
        "namespaces" => NAMESPACE,
        "pods" => POD,
        _ => META_ONLY,
    };
    encode(message, value)
}

/// The `metadata` of a list.
pub(crate) fn list_metadata(value: &Value) -> Vec<u8> {
    encode(LIST_META, value)
}

/// A `Status`, in its envelope.
pub(crate) fn status(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = encode(STATUS, value);
    envelope(&mut out, "v1", "Status", bytes.len());
    out.extend_from_slice(&bytes);
    end_envelope(&mut out);
    out
}

/// An object in its envelope.
pub(crate) fn typed(resource: &Resource, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 64);
    envelope(&mut out, &resource.api_version(), resource.kind, object.len());
    out.extend_from_slice(object);
    end_envelope(&mut out);
    out
}

/// The frame of a watch's event; `object` is in its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Vec::with_capacity(object.len() + 8);
    bytes(&mut extension, 1, object);
    let mut event = Vec::with_capacity(extension.len() + 24);
    bytes(&mut event, 1, kind.as_bytes());
    bytes(&mut event, 2, &extension);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

/// Begins an envelope around so many octets.
pub(crate) fn envelope(out: &mut Vec<u8>, api_version: &str, kind: &str, len: usize) {
    out.extend_from_slice(MAGIC);
    let mut meta = Vec::new();
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    bytes(out, 1, &meta);
    key(out, 2, 2);
    varint(out, len as u64);
}

/// Ends it.
pub(crate) fn end_envelope(out: &mut Vec<u8>) {
    bytes(out, 3, b"");
    bytes(out, 4, b"");
}

/// A field of octets.
pub(crate) fn bytes(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    key(out, number, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// How long such a field is.
pub(crate) fn bytes_len(value: usize) -> usize {
    let mut head = Vec::new();
    varint(&mut head, value as u64);
    1 + head.len() + value
}

fn key(out: &mut Vec<u8>, number: u8, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn int(out: &mut Vec<u8>, number: u8, value: i64) {
    key(out, number, 0);
    varint(out, value as u64);
}

fn encode(message: Message, value: &Value) -> Vec<u8> {
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let mut out = Vec::new();
    for Field(name, number, kind) in message {
        let value = object.get(*name).filter(|value| !value.is_null());
        field(&mut out, *number, kind, value);
    }
    out
}

fn field(out: &mut Vec<u8>, number: u8, kind: &Type, value: Option<&Value>) {
    match (kind, value) {
        (Text(_), Some(Value::String(text))) => bytes(out, number, text.as_bytes()),
        (Text(Always), None) => bytes(out, number, b""),
        (Bool(_), Some(Value::Bool(value))) => int(out, number, i64::from(*value)),
        (Bool(Always) | Int(Always), None) => int(out, number, 0),
        (Int(_), Some(Value::Number(value))) => {
            int(out, number, value.as_i64().unwrap_or_default());
        }
        (Texts, Some(Value::Array(values))) => {
            values.iter().filter_map(Value::as_str).for_each(|text| {
                bytes(out, number, text.as_bytes());
            });
        }
        (Type::Map, Some(Value::Object(map))) => {
            for (name, value) in map {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, name.as_bytes());
                bytes(&mut entry, 2, value.as_str().unwrap_or_default().as_bytes());
                bytes(out, number, &entry);
            }
        }
        (Time, Some(Value::String(text))) => {
            let mut time = Vec::new();
            let at = text.parse::<Timestamp>().unwrap_or_default();
            int(&mut time, 1, at.as_second());
            int(&mut time, 2, 0);
            bytes(out, number, &time);
        }
        (IntOrText, Some(value)) => {
            let mut either = Vec::new();
            let text = value.as_str().map_or(Cow::Borrowed(""), Cow::Borrowed);
            int(&mut either, 1, i64::from(value.is_string()));
            int(&mut either, 2, value.as_i64().unwrap_or_default());
            bytes(&mut either, 3, text.as_bytes());
            bytes(out, number, &either);
        }
        (Json, Some(value)) => {
            let mut raw = Vec::new();
            bytes(&mut raw, 1, value.to_string().as_bytes());
            bytes(out, number, &raw);
        }
        (One(message, _), Some(value @ Value::Object(_))) => {
            bytes(out, number, &encode(message, value));
        }
        (One(message, Always), None) => bytes(out, number, &encode(message, &Value::Null)),
        (Many(message), Some(Value::Array(values))) => {
            values.iter().for_each(|value| bytes(out, number, &encode(message, value)));
        }
        (_, None) => {}
        // A value of another type than the schema has: no server could write it, and no client read it.
        (Int(_) | Bool(_), Some(_)) => bytes(out, number, b"of another type"),
        (_, Some(_)) => int(out, number, 7),
    }
}
