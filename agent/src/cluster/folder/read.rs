//! One file of Kubernetes objects: YAML with any number of documents, or JSON; Lists are taken apart.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::decode::{Decoded, Encoding, Item};
use super::super::interner::Interner;
use super::super::object::{Kind, Object, ObjectId};

/// Files longer than this are refused: a folder for one node's demonstrations and for small clusters needs no more.
pub(super) const MAX_FILE: u64 = 64 << 20;

/// Something in a file that cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Counted from 1.
    pub line: usize,
    /// The kind, where it is known.
    pub kind: Option<Kind>,
    /// Who it is, where that can be read.
    pub id: Option<ObjectId>,
    /// What is wrong.
    pub text: String,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub objects: Vec<Object>,
    /// Objects that do not read; what they were before still counts.
    pub complaints: Vec<Complaint>,
    /// Objects that read, but have no name in DNS, or none any more; what they were before is over.
    pub unnamed: Vec<Complaint>,
}

/// Reads a file's text. An `Err` is a file that does not even parse; what it held before is kept then.
///
/// A file may hold a whole cluster: of a list, one item at a time is held as a tree.
pub(super) fn read(
    path: &Path,
    text: &str,
    node: Option<&str>,
    interner: &Interner,
) -> Result<Contents, Complaint> {
    let mut contents = Contents::default();
    if path.extension().is_some_and(|extension| extension == "json") {
        json(text, Taker { line: 1, node, interner, contents: &mut contents }).map_err(
            |error| {
                let text = error.to_string();
                Complaint { line: error.line().max(1), kind: None, id: None, text }
            },
        )?;
        return Ok(contents);
    }
    for (line, document) in documents(text) {
        let first = line + blank_lines(document);
        yaml(document, Taker { line: first, node, interner, contents: &mut contents }).map_err(
            |error| Complaint {
                line: line - 1 + error.location().map_or(1, |location| location.line().max(1)),
                kind: None,
                id: None,
                text: without_location(&error.to_string()),
            },
        )?;
    }
    Ok(contents)
}

fn json(text: &str, mut taker: Taker<'_>) -> serde_json::Result<()> {
    match serde_json::from_str(text) {
        Ok(Head { kind }) if is_list(&kind) => {
            let mut json = serde_json::Deserializer::from_str(text);
            List { kind: &kind, taker }.deserialize(&mut json)?;
            json.end()
        }
        _ => serde_json::from_str(text).map(|value| taker.take(&value)),
    }
}

fn yaml(document: &str, mut taker: Taker<'_>) -> Result<(), serde_yaml_ng::Error> {
    // To parse it twice is for lists only.
    let may_be_list = document.contains("items");
    match may_be_list.then(|| serde_yaml_ng::from_str(document)) {
        Some(Ok(Head { kind })) if is_list(&kind) => {
            List { kind: &kind, taker }.deserialize(serde_yaml_ng::Deserializer::from_str(document))
        }
        _ => {
            let value: Value = serde_yaml_ng::from_str(document)?;
            if !value.is_null() {
                taker.take(&value);
            }
            Ok(())
        }
    }
}

/// As `List` of `kubectl get -o yaml`, and `ServiceList` of the API.
fn is_list(kind: &str) -> bool {
    kind.ends_with("List")
}

/// What tells a list from an object.
#[derive(Deserialize)]
struct Head {
    kind: String,
}

/// Reads the members of `items` of a document whose kind is known.
struct List<'a> {
    kind: &'a str,
    taker: Taker<'a>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Items<'a, 'b>(&'a mut List<'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects as `items`")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<Value>()? {
            self.0.taker.take_item(self.0.kind, &item);
        }
        Ok(())
    }
}

/// The documents of a stream, each with the number of its first line. `---` at the start of a line can be nothing else: the
/// lines of a block scalar are indented.
fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut cuts = vec![(1, 0)];
    let mut at = 0;
    let mut ends = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim_end();
        if marker == "---" || marker.starts_with("--- ") || marker == "..." {
            ends.push(at);
            // What follows on the marker's own line belongs to the document; a comment does no harm there.
            cuts.push((number + 1, at + 3));
        }
        at += line.len();
    }
    ends.push(text.len());
    cuts.into_iter()
        .zip(ends)
        .filter_map(move |((line, from), to)| Some((line, text.get(from..to)?)))
}

fn blank_lines(document: &str) -> usize {
    document
        .lines()
        .take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        .count()
}

/// The library ends its messages with a line that counts from the document's start.
fn without_location(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// Adds what it is given to the contents of a file.
struct Taker<'a> {
    /// The first line of the document.
    line: usize,
    /// The node whose Pods are clients.
    node: Option<&'a str>,
    interner: &'a Interner,
    contents: &'a mut Contents,
}

impl Taker<'_> {
    fn take(&mut self, value: &Value) {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
        if is_list(kind)
            && let Some(items) = value.get("items").and_then(Value::as_array)
        {
            for item in items {
                self.take_item(kind, item);
            }
            return;
        }
        self.take_one(kind, value);
    }

    /// `kubectl get -o yaml` repeats the kind in each item; lists of the API itself do not.
    fn take_item(&mut self, kind: &str, item: &Value) {
        match item.get("kind") {
            Some(_) => self.take(item),
            None => self.take_one(kind.trim_end_matches("List"), item),
        }
    }

    fn take_one(&mut self, kind: &str, value: &Value) {
        let Self { line, node, interner, ref mut contents } = *self;
        // There is no such kind in YAML: it is a Pod's, of this node.
        let is_it = |known: &Kind| known.name() == kind && *known != Kind::NodePod;
        let Some(kind) = Kind::ALL.into_iter().find(is_it) else {
            // Deployments and the like stand beside Services in most people's files.
            if kind.is_empty() {
                let text = "no object: it has no kind".to_owned();
                contents.complaints.push(Complaint { line, kind: None, id: None, text });
            }
            return;
        };
        // Through JSON text, so that there is one way to read an object; a folder is small.
        let json = with_default_namespace(kind, value).to_string();
        let read = |kind| Encoding::Json.object(kind, json.as_bytes(), interner);
        let Item { id, decoded, .. } = read(kind);
        if kind == Kind::EndpointSlice
            && let Decoded::Object(import) = read(Kind::ImportedSlice).decoded
        {
            contents.objects.push(import);
            if matches!(decoded, Decoded::Ignored) {
                return;
            }
        }
        let is_of_node = || value.pointer("/spec/nodeName").and_then(Value::as_str) == node;
        if kind == Kind::Pod
            && node.is_some()
            && is_of_node()
            && let Decoded::Object(client) = read(Kind::NodePod).decoded
        {
            contents.objects.push(client);
        }
        match decoded {
            Decoded::Object(object) => contents.objects.push(object),
            Decoded::Ignored => {
                let text = format!("{}: it has no name", why_unnamed(kind, value));
                contents.unnamed.push(Complaint { line, kind: Some(kind), id, text });
            }
            Decoded::Invalid(bad) => contents.complaints.push(Complaint {
                line,
                kind: Some(kind),
                id,
                text: bad.to_string(),
            }),
        }
    }
}

/// Why an object of this kind that reads has no name.
fn why_unnamed(kind: Kind, value: &Value) -> String {
    let at = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    match kind {
        Kind::Service if at("/spec/type") == "ExternalName" => {
            let text = at("/spec/externalName");
            format!("spec.externalName `{text}` is an address, and a CNAME can only lead to a name")
        }
        Kind::Service => "spec.clusterIP is empty".into(),
        Kind::Pod if value.pointer("/metadata/deletionTimestamp").is_some() => {
            "it is being deleted".into()
        }
        Kind::Pod if matches!(at("/status/phase"), "Succeeded" | "Failed" | "Unknown") => {
            format!("its phase is {}", at("/status/phase"))
        }
        Kind::Pod | Kind::NodePod => "status.podIP is empty".into(),
        Kind::EndpointSlice | Kind::ImportedSlice if at("/addressType") == "FQDN" => {
            "its addressType is FQDN".into()
        }
        Kind::EndpointSlice | Kind::ImportedSlice => {
            "it has no label kubernetes.io/service-name".into()
        }
        Kind::ServiceImport => "spec.ips is empty".into(),
        Kind::Namespace | Kind::Node => "it is empty".into(),
    }
}

/// Objects without a namespace are in `default`, as they are to kubectl.
fn with_default_namespace(kind: Kind, value: &Value) -> Value {
    let mut value = value.clone();
    if !matches!(kind, Kind::Namespace | Kind::Node)
        && let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut)
        && meta.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        meta.insert("namespace".into(), "default".into());
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn yaml(text: &str) -> Result<Contents, Complaint> {
        read(Path::new("objects.yaml"), text, None, &Interner::default())
    }

    const TWO: &str = "# two objects\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1}\n\
        --- # the next\n\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: Shop}\nspec:\n  clusterIP: None\n---\n";

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let contents = yaml(TWO).unwrap();
        let ids: Vec<_> = contents
            .objects
            .iter()
            .map(|o| format!("{}/{}", o.id().namespace, o.id().name))
            .collect();
        assert_eq!(ids, ["default/web", "shop/db"]);
        assert_eq!(contents.complaints, []);
        let list = "kind: List\nitems:\n- {kind: Namespace, metadata: {name: a}}\n- {kind: Namespace, metadata: {name: b}}\n";
        assert_eq!(yaml(list).unwrap().objects.len(), 2);
        let json =
            |text: &str| read(Path::new("a.json"), text, None, &Interner::default()).unwrap();
        let list =
            r#"{"items": [{"kind": "Namespace", "metadata": {"name": "a"}}], "kind": "List"}"#;
        assert_eq!(json(list).objects.len(), 1);
        assert_eq!(json(r#"{"kind": "ServiceList", "items": null}"#), Contents::default());
        let nested = format!(r#"{{"kind": "List", "items": [{list}, {list}]}}"#);
        assert_eq!(json(&nested).objects.len(), 2);
        let list = r#"{"kind": "NamespaceList", "items": [{"metadata": {"name": "a"}}]}"#;
        assert_eq!(json(list).objects.len(), 1);
    }

    #[test]
    fn a_bad_object_is_named_with_its_line() {
        let contents = yaml(&TWO.replace("10.0.0.1", "10.0.0.x")).unwrap();
        assert_eq!(contents.objects.len(), 1);
        let [complaint] = contents.complaints.as_slice() else { panic!("{contents:?}") };
        assert_eq!((complaint.line, complaint.kind), (2, Some(Kind::Service)));
        assert_eq!(complaint.text, "spec.clusterIP `10.0.0.x` is not an IP address");
        let contents = yaml(&TWO.replace("clusterIP: None", "clusterIP: nine")).unwrap();
        assert_eq!(contents.complaints[0].line, 8);
    }

    #[test]
    fn a_broken_file_is_an_error_with_its_line() {
        let complaint =
            yaml("kind: Service\n---\nkind: Service\nmetadata: {name: [}\n").unwrap_err();
        assert_eq!(complaint.line, 4, "{complaint:?}");
        let broken = "{\n\"a\": }";
        let complaint = read(Path::new("a.json"), broken, None, &Interner::default()).unwrap_err();
        assert_eq!(complaint.line, 2);
    }

    #[test]
    fn other_kinds_are_passed_over() {
        let contents =
            yaml("kind: Deployment\nmetadata: {name: web}\n---\nmetadata: {}\n").unwrap();
        assert_eq!(contents.objects, []);
        assert_eq!(contents.complaints.len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>(), lines in proptest::collection::vec("(---|[a-z]{1,3}: ?[\\[{&*!]?[a-z]?|- a)", 0..8)) {
            let _ = yaml(&text);
            let _ = yaml(&lines.join("\n"));
        }
    }
}
