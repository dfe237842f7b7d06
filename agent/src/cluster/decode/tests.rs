use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::check::millis;
use super::*;
use crate::cluster::object::{Protocol, Service, ServiceKind};
use crate::wire::Name;

fn decode(kind: Kind, json: &[u8], interner: &Interner) -> Item {
    Encoding::Json.object(kind, json, interner)
}

/// The cluster of the conformance record, as recorded.
pub(crate) fn conformance_json() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/conformance/cluster.json");
    let list: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The same as lean objects.
pub(crate) fn conformance_cluster(interner: &Interner) -> Vec<Object> {
    conformance_json().iter().filter_map(|item| served(item, interner)).collect()
}

fn kind_of(item: &Value) -> Kind {
    Kind::ALL.into_iter().find(|kind| Some(kind.name()) == item["kind"].as_str()).unwrap()
}

fn served(item: &Value, interner: &Interner) -> Option<Object> {
    match decode(kind_of(item), item.to_string().as_bytes(), interner).decoded {
        Decoded::Object(object) => Some(object),
        Decoded::Ignored => None,
        Decoded::Invalid(bad) => panic!("{bad}: {item}"),
    }
}

fn decoded(kind: Kind, value: &Value) -> Decoded {
    decode(kind, value.to_string().as_bytes(), &Interner::default()).decoded
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

fn served_service(spec: Value) -> Service {
    match decoded(Kind::Service, &service(spec)) {
        Decoded::Object(Object::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

fn skipped(kind: Kind, value: &Value) -> String {
    match decoded(kind, value) {
        Decoded::Invalid(bad) => bad.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_recorded_cluster_decodes() {
    let objects = conformance_cluster(&Interner::default());
    let mut counts = BTreeMap::new();
    for object in &objects {
        *counts.entry(object.kind()).or_insert(0) += 1;
    }
    assert!(
        counts[&Kind::Service] > 15 && counts[&Kind::Namespace] > 5 && counts[&Kind::Pod] > 5,
        "{counts:?}"
    );
    let external = objects.iter().find_map(|object| match object {
        Object::Service(service) => match &service.kind {
            ServiceKind::ExternalName(name) => Some(name.to_string()),
            _ => None,
        },
        _ => None,
    });
    assert!(external.is_some_and(|name| name.ends_with('.')));
    let endpoints = |object: &Object| match object {
        Object::EndpointSlice(slice) => slice.endpoints.len(),
        _ => 0,
    };
    assert!(objects.iter().map(endpoints).sum::<usize>() > 10);
    assert!(
        objects.iter().any(|o| matches!(o, Object::EndpointSlice(s) if s.triggered_at.is_some()))
    );
}

#[test]
fn addresses_of_services_are_read_in_every_spelling() {
    let ips = |spec| match served_service(spec).kind {
        ServiceKind::ClusterIp(ips) => ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ips(json!({"clusterIP": "10.0.0.1"})), ["10.0.0.1"]);
    assert_eq!(
        ips(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]})),
        ["10.0.0.1", "fd00::1"]
    );
    assert_eq!(ips(json!({"clusterIPs": ["fd00::1"], "type": "LoadBalancer"})), ["fd00::1"]);
    for spec in [json!({"clusterIP": "None"}), json!({"clusterIPs": ["None"]})] {
        assert_eq!(served_service(spec).kind, ServiceKind::Headless);
    }
    assert!(matches!(decoded(Kind::Service, &service(json!({"clusterIP": ""}))), Decoded::Ignored));
    assert!(matches!(decoded(Kind::Service, &service(json!({"ports": null}))), Decoded::Ignored));
}

#[test]
fn names_are_lower_cased() {
    let spec = json!({"clusterIP": "None", "ports": [{"name": "HTTP", "port": 80}, {"port": 53, "protocol": "UDP"}]});
    let mut value = service(spec);
    value["metadata"] = json!({"name": "Web", "namespace": "SHOP"});
    let Decoded::Object(Object::Service(service)) = decoded(Kind::Service, &value) else {
        panic!()
    };
    assert_eq!((&*service.id.namespace, &*service.id.name), ("shop", "web"));
    let ports: Vec<_> = service.ports.iter().map(|p| (&*p.name, p.protocol, p.number)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 80), ("", Protocol::Udp, 53)]);
}

#[test]
fn an_external_name_is_a_name() {
    let external = |name: &str| json!({"type": "ExternalName", "externalName": name});
    assert_eq!(
        served_service(external("WWW.Example.COM.")).kind,
        ServiceKind::ExternalName(Name::from_text("www.example.com").unwrap())
    );
    for bad in ["fd00::x", "a..b", "ex ample.com", r"a\.b", &"a.".repeat(200)] {
        assert!(
            skipped(Kind::Service, &service(external(bad))).ends_with("is not a DNS name"),
            "{bad}"
        );
    }
    assert!(matches!(decoded(Kind::Service, &service(external("192.0.2.44"))), Decoded::Ignored));
    assert_eq!(skipped(Kind::Service, &service(external(""))), "spec.externalName is missing");
}

#[test]
fn bad_objects_say_what_is_wrong() {
    let spec = json!({"clusterIP": "None"});
    let named = |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let cases = [
        (named("", "a"), "metadata.name is missing"),
        (named("a", ""), "metadata.namespace is missing"),
        (named("a.b", "a"), "metadata.name `a.b` is not a DNS label"),
        (named("a", "b\u{e9}"), "metadata.namespace `b\\u{e9}` is not a DNS label"),
        (named(&"a".repeat(64), "a"), "metadata.name is longer than 63 characters"),
        (named(&"a".repeat(1 << 20), "a"), "metadata.name is longer than 253 characters"),
        (json!({"metadata": {"name": "a", "namespace": "a"}}), "spec is missing"),
        (
            service(json!({"clusterIP": "10.0.0.256"})),
            "spec.clusterIP `10.0.0.256` is not an IP address",
        ),
        (service(json!({"type": "Sideways"})), "type `Sideways` is unknown"),
        (
            service(json!({"clusterIP": "None", "ports": [{"port": 65536}]})),
            "port 65536 is not between 1 and 65535",
        ),
        (
            service(json!({"clusterIP": "None", "ports": [{"port": 1, "protocol": "ICMP"}]})),
            "protocol `ICMP` is none of TCP, UDP, SCTP",
        ),
        (json!([]), "metadata.name is missing"),
    ];
    for (value, expected) in cases {
        assert_eq!(skipped(Kind::Service, &value), expected);
    }
    let wrong_type = service(json!({"clusterIP": 5}));
    let decoded = decode(Kind::Service, wrong_type.to_string().as_bytes(), &Interner::default());
    assert_eq!(&*decoded.id.unwrap().name, "web");
    assert!(matches!(decoded.decoded, Decoded::Invalid(InvalidObject::Malformed(_))));
}

fn slice(address_type: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": address_type, "endpoints": endpoints, "ports": null,
    })
}

#[test]
fn an_endpoint_without_conditions_is_ready() {
    let endpoints = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "conditions": {}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": null}},
        {"addresses": ["10.0.0.4"], "conditions": {"ready": false}},
        {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]);
    let Decoded::Object(Object::EndpointSlice(slice)) =
        decoded(Kind::EndpointSlice, &slice("IPv4", endpoints))
    else {
        panic!()
    };
    assert_eq!(
        slice.endpoints.iter().map(|e| e.ready).collect::<Vec<_>>(),
        [true, true, true, false, false]
    );
}

#[test]
fn slices_that_have_no_names_are_passed_over() {
    assert!(matches!(
        decoded(Kind::EndpointSlice, &slice("FQDN", json!([{"addresses": ["example.com"]}]))),
        Decoded::Ignored
    ));
    let mut nobodys = slice("IPv4", json!([]));
    nobodys["metadata"]["labels"] = json!({"other": "label"});
    assert!(matches!(decoded(Kind::EndpointSlice, &nobodys), Decoded::Ignored));
    let mixed = slice("IPv4", json!([{"addresses": ["fd00::1"]}]));
    assert!(
        skipped(Kind::EndpointSlice, &mixed)
            .starts_with("endpoints[].addresses of the slice's addressType `fd00::1`")
    );
    let many =
        slice("IPv4", Value::Array(vec![json!({"addresses": ["10.0.0.1"]}); MAX_ENDPOINTS + 1]));
    assert_eq!(skipped(Kind::EndpointSlice, &many), "endpoints has more than 1000 entries");
}

#[test]
fn imports_and_their_slices_are_read() {
    let import = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "ClusterSetIP", "ips": ["10.9.0.1"], "ports": [{"name": "http", "port": 80}]}});
    let Decoded::Object(Object::ServiceImport(service)) = decoded(Kind::ServiceImport, &import)
    else {
        panic!()
    };
    assert!(matches!(&service.kind, ServiceKind::ClusterIp(ips) if ips.len() == 1));
    let headless =
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"type": "Headless"}});
    assert!(matches!(decoded(Kind::ServiceImport, &headless), Decoded::Object(_)));
    let mut value = slice("IPv4", json!([{"addresses": ["10.0.0.1"]}]));
    value["metadata"]["labels"] = json!({"kubernetes.io/service-name": "derived-web",
        "multicluster.kubernetes.io/service-name": "web", "multicluster.kubernetes.io/source-cluster": "East"});
    let lean = |kind, value: &Value| match decoded(kind, value) {
        Decoded::Object(Object::EndpointSlice(slice)) => slice,
        other => panic!("{other:?}"),
    };
    // It is a Service's and an import's: one object of each kind.
    let own = lean(Kind::EndpointSlice, &value);
    assert_eq!((&*own.service, own.imported, own.cluster), ("derived-web", false, None));
    let slice = lean(Kind::ImportedSlice, &value);
    assert_eq!((&*slice.service, slice.imported), ("web", true));
    assert_eq!(slice.cluster.as_deref(), Some("east"));
    assert_eq!(Object::EndpointSlice(slice).kind(), Kind::ImportedSlice);
    value["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] = json!("a.b");
    assert_eq!(
        skipped(Kind::ImportedSlice, &value),
        "label multicluster.kubernetes.io/source-cluster `a.b` is not a DNS label"
    );
    value["metadata"]["labels"] = json!({"multicluster.kubernetes.io/service-name": "web"});
    assert!(matches!(decoded(Kind::EndpointSlice, &value), Decoded::Ignored));
    assert_eq!(lean(Kind::ImportedSlice, &value).cluster, None);
}

#[test]
fn pods_on_their_way_out_have_no_name() {
    let pod = |status: Value, meta: Value| {
        let mut value =
            json!({"metadata": {"name": "web-0", "namespace": "shop"}, "status": status});
        value["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        decoded(Kind::Pod, &value)
    };
    let ips = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    let Decoded::Object(Object::Pod(served)) = pod(ips.clone(), json!({})) else { panic!() };
    assert_eq!(served.addresses.len(), 2);
    assert!(matches!(pod(json!({"podIP": "10.0.0.1"}), json!({})), Decoded::Object(_)));
    assert!(matches!(pod(json!({"podIP": ""}), json!({})), Decoded::Ignored));
    assert!(matches!(
        pod(json!({"podIP": "10.0.0.1", "phase": "Failed"}), json!({})),
        Decoded::Ignored
    ));
    assert!(matches!(
        pod(ips, json!({"deletionTimestamp": "2026-11-21T01:15:21Z"})),
        Decoded::Ignored
    ));
}

#[test]
fn a_client_has_its_owner_and_its_labels() {
    let interner = Interner::default();
    let pod = |owners: Value, labels: Value| {
        let json = json!({"metadata": {"name": "web-0", "namespace": "shop", "labels": labels,
            "ownerReferences": owners}, "status": {"podIP": "10.0.0.1"}});
        match decode(Kind::NodePod, json.to_string().as_bytes(), &interner).decoded {
            Decoded::Object(Object::NodePod(pod)) => pod,
            other => panic!("{other:?}"),
        }
    };
    let owner = |owners: Value, labels: Value| {
        pod(owners, labels).owner.map_or(String::new(), |owner| owner.to_string())
    };
    let of = |kind: &str, name: &str| json!([{"kind": "Node", "name": "no"}, {"kind": kind, "name": name, "controller": true}]);
    let hash =
        json!({"pod-template-hash": "5f7c9", "app": "web", "example.com/x": null, "other": "x"});
    assert_eq!(owner(of("ReplicaSet", "web-5f7c9"), hash.clone()), "Deployment web");
    assert_eq!(owner(of("ReplicaSet", "-5f7c9"), hash.clone()), "");
    assert_eq!(owner(of("ReplicaSet", "web-1"), hash.clone()), "ReplicaSet web-1");
    assert_eq!(owner(of("ReplicaSet", "web-5f7c9"), json!(null)), "ReplicaSet web-5f7c9");
    assert_eq!(owner(of("StatefulSet", "db-5f7c9"), hash.clone()), "StatefulSet db-5f7c9");
    for bad in [
        of("Set of\nthem", "web"),
        of("Job", "We b"),
        of(&"J".repeat(64), "web"),
        of("Job", ""),
        json!(null),
    ] {
        assert_eq!(owner(bad, hash.clone()), "");
    }
    let labels = |labels: Value| -> Vec<String> {
        let pod = pod(json!(null), labels);
        pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
    };
    let all = ["app=web", "example.com/x=", "other=x", "pod-template-hash=5f7c9"];
    assert_eq!(labels(hash), all);
    // As people write them in files.
    assert_eq!(
        labels(json!({"version": 1, "on": true, "half": 0.5, "app": "web"})),
        ["app=web", "half=", "on=", "version="]
    );
    let many: serde_json::Map<_, _> = (0..3_000).map(|n| (format!("l{n}"), json!("x"))).collect();
    assert_eq!(labels(many.into()).len(), MAX_POD_LABELS);
    assert!(labels(json!({"app": "x".repeat(64)})).is_empty());
    let twice = br#"{"metadata": {"name": "a", "namespace": "b", "labels": {"app": "x", "b": "", "app": "y"}}, "status": {}}"#;
    let Decoded::Object(Object::NodePod(twice)) = decode(Kind::NodePod, twice, &interner).decoded
    else {
        panic!()
    };
    assert_eq!((twice.labels.len(), &*twice.labels[0].1), (2, "y"));
}

#[test]
fn lines_of_a_watch_are_told_apart() {
    let line = |json: &str| Encoding::Json.event(Kind::Pod, json.as_bytes(), &Interner::default());
    let WatchEvent::Change(EventType::Bookmark, bookmark) =
        line(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#)
    else {
        panic!()
    };
    assert_eq!(bookmark.resource_version, Some(12));
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"message":"too old"}}"#;
    assert!(matches!(line(gone), WatchEvent::Error { code: 410, message } if message == "too old"));
    let bad = r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"b","resourceVersion":"13"},"status":7}}"#;
    let WatchEvent::Change(EventType::Added, bad) = line(bad) else { panic!() };
    assert_eq!(bad.resource_version, Some(13));
    assert!(matches!(bad.decoded, Decoded::Invalid(_)));
    for garbage in [
        "",
        "null",
        "{}",
        r#"{"type":"SUDDEN","object":{}}"#,
        "<html>",
        r#"{"type":"ADDED","object":{"meta"#,
    ] {
        assert!(matches!(line(garbage), WatchEvent::Garbage(_)), "{garbage}");
    }
}

#[test]
fn a_list_says_where_it_stands() {
    let metadata = Encoding::Json
        .list_metadata(br#"{"resourceVersion":"7","continue":"abc","remainingItemCount":5}"#);
    assert_eq!(metadata, ListMetadata { resource_version: Some(7), next: Some("abc".into()) });
    assert_eq!(Encoding::Json.list_metadata(br#"{"continue":""}"#), ListMetadata::default());
}

#[test]
fn times_are_milliseconds() {
    assert_eq!(millis("1970-01-01T00:00:01.5Z"), Some(1_500));
    assert_eq!(millis("1969-01-01T00:00:00Z"), None);
    assert_eq!(millis("yesterday"), None);
}

/// Values that are nearly objects.
fn nearly() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(None|10\\.0\\.0\\.1|fd00::1|IPv4|IPv6|FQDN|ExternalName|ClusterIP|[a-zA-Z.-]{0,70})"
            .prop_map(Value::from),
    ];
    let key = "(metadata|spec|status|name|namespace|labels|clusterIPs?|type|ports|port|protocol|endpoints|addresses|addressType\
               |conditions|ready|hostname|externalName|podIPs?|ip|ips|targetRef|kind|kubernetes\\.io/service-name)";
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_survived_and_kept_ones_are_checked(value in nearly(), meta in any::<bool>()) {
        let mut value = value;
        if let (true, Some(object)) = (meta, value.as_object_mut()) {
            object.insert("metadata".into(), json!({"name": "a", "namespace": "b"}));
        }
        let json = value.to_string();
        let line = format!(r#"{{"type":"ADDED","object":{json}}}"#);
        for kind in Kind::ALL {
            let interner = Interner::default();
            Encoding::Json.event(kind, line.as_bytes(), &interner);
            if let Decoded::Object(object) = decode(kind, json.as_bytes(), &interner).decoded {
                prop_assert!(is_object_name(&object.id().name), "{object:?}");
            }
        }
    }

    #[test]
    fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in Kind::ALL {
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                encoding.object(kind, &octets, &Interner::default());
                encoding.event(kind, &octets, &Interner::default());
                encoding.list_metadata(&octets);
                encoding.refusal(&octets);
            }
        }
    }
}
