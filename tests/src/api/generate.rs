//! A big cluster, made up: many Services and endpoints, written straight into buffers.

use std::fmt::Write;
use std::net::Ipv4Addr;

use bytes::Bytes;

use super::resource::Resource;
use super::store::{Object, Store};

/// How many endpoints a slice holds, as the EndpointSlice controller fills them.
const SLICE: usize = 100;

/// The size of a made-up cluster.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// All Services.
    pub services: usize,
    /// How many of them are headless; they are spread evenly.
    pub headless: usize,
    /// All endpoints, spread evenly over the Services.
    pub endpoints: usize,
    /// All namespaces.
    pub namespaces: usize,
}

impl Default for Shape {
    /// The cluster of the project's memory target.
    fn default() -> Self {
        Self { services: 10_000, headless: 2_000, endpoints: 150_000, namespaces: 100 }
    }
}

impl Shape {
    /// Puts the cluster into a store, without events.
    pub fn fill(&self, store: &Store) {
        let namespaces = (0..self.namespaces.max(1)).map(|i| {
            move |revision| {
                let name = format!("ns-{i:04}");
                let json = format!(
                    r#"{{"metadata":{{"name":"{name}","uid":"{}","resourceVersion":"{revision}","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"kubernetes.io/metadata.name":"{name}"}}}},"spec":{{"finalizers":["kubernetes"]}},"status":{{"phase":"Active"}}}}"#,
                    uid(1, i)
                );
                Object::raw("", &name, &[("kubernetes.io/metadata.name", &name)], Bytes::from(json), revision)
            }
        });
        store.bulk(Resource::named("namespaces"), namespaces);
        store.bulk(
            Resource::named("services"),
            (0..self.services).map(|i| move |revision| self.service(i, revision)),
        );
        let slices = (0..self.services)
            .flat_map(|i| (0..self.endpoints_of(i).div_ceil(SLICE)).map(move |part| (i, part)));
        store.bulk(
            Resource::named("endpointslices"),
            slices.map(|(i, part)| move |revision| self.slice(i, part, 0, revision)),
        );
    }

    /// Namespace and name of a Service.
    #[must_use]
    pub fn service_name(&self, service: usize) -> (String, String) {
        (format!("ns-{:04}", service % self.namespaces.max(1)), format!("svc-{service:05}"))
    }

    /// Whether a Service is headless.
    #[must_use]
    pub fn is_headless(&self, service: usize) -> bool {
        service * self.headless / self.services.max(1)
            != (service + 1) * self.headless / self.services.max(1)
    }

    /// The ClusterIP that a Service has unless it is headless.
    #[must_use]
    pub fn cluster_ip(&self, service: usize) -> Ipv4Addr {
        address(0x0a60_0000 + 256, service)
    }

    /// How many endpoints a Service has.
    #[must_use]
    pub fn endpoints_of(&self, service: usize) -> usize {
        let services = self.services.max(1);
        (service + 1) * self.endpoints / services - service * self.endpoints / services
    }

    /// The address of a Service's endpoint in a generation; see [`Shape::touch`].
    #[must_use]
    pub fn endpoint(&self, service: usize, endpoint: usize, generation: u32) -> Ipv4Addr {
        if endpoint == 0 && generation > 0 {
            return Ipv4Addr::from_bits(0xac00_0000 + generation % 0x00ff_ffff);
        }
        address(0x0a80_0000, service * self.endpoints / self.services.max(1) + endpoint)
    }

    /// Changes a Service's first endpoint to the address of this generation, by one event; returns that address.
    pub fn touch(&self, store: &Store, service: usize, generation: u32) -> Ipv4Addr {
        let resource = Resource::named("endpointslices");
        store.replace(resource, |revision| self.slice(service, 0, generation, revision));
        self.endpoint(service, 0, generation)
    }

    fn service(&self, i: usize, revision: u64) -> Object {
        let (namespace, name) = self.service_name(i);
        let ip =
            if self.is_headless(i) { "None".to_owned() } else { self.cluster_ip(i).to_string() };
        let json = format!(
            concat!(
                r#"{{"metadata":{{"name":"{name}","namespace":"{ns}","uid":"{uid}","resourceVersion":"{rv}","creationTimestamp":"2026-01-01T00:00:00Z","#,
                r#""labels":{{"app.kubernetes.io/name":"{name}","app.kubernetes.io/managed-by":"Helm"}},"#,
                r#""annotations":{{"meta.helm.sh/release-name":"{name}","meta.helm.sh/release-namespace":"{ns}"}},"#,
                r#""managedFields":[{{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}},"f:meta.helm.sh/release-name":{{}}}},"f:labels":{{".":{{}},"f:app.kubernetes.io/name":{{}}}}}},"#,
                r#""f:spec":{{"f:internalTrafficPolicy":{{}},"f:ports":{{".":{{}},"k:{{\"port\":80,\"protocol\":\"TCP\"}}":{{".":{{}},"f:name":{{}},"f:port":{{}},"f:protocol":{{}},"f:targetPort":{{}}}}}},"f:selector":{{}},"f:sessionAffinity":{{}},"f:type":{{}}}}}},"#,
                r#""manager":"helm","operation":"Update","time":"2026-01-01T00:00:00Z"}}]}},"#,
                r#""spec":{{"clusterIP":"{ip}","clusterIPs":["{ip}"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","#,
                r#""ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":8080}},{{"name":"metrics","port":9090,"protocol":"TCP","targetPort":9090}}],"#,
                r#""selector":{{"app.kubernetes.io/name":"{name}"}},"sessionAffinity":"None","type":"ClusterIP"}},"status":{{"loadBalancer":{{}}}}}}"#
            ),
            name = name,
            ns = namespace,
            uid = uid(2, i),
            rv = revision,
            ip = ip,
        );
        Object::raw(
            &namespace,
            &name,
            &[("app.kubernetes.io/name", &name)],
            Bytes::from(json),
            revision,
        )
    }

    fn slice(&self, i: usize, part: usize, generation: u32, revision: u64) -> Object {
        let (namespace, service) = self.service_name(i);
        let name = format!("{service}-{:05x}", part * 7919 + 0xabc);
        let headless = self.is_headless(i);
        let mut json = String::with_capacity(1024);
        let first = part * SLICE;
        let last = self.endpoints_of(i).min(first + SLICE);
        let marker = if headless { r#","service.kubernetes.io/headless":"""# } else { "" };
        let _ = write!(
            json,
            concat!(
                r#"{{"metadata":{{"name":"{name}","generateName":"{svc}-","namespace":"{ns}","uid":"{uid}","resourceVersion":"{rv}","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z","#,
                r#""labels":{{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"{svc}"{marker}}},"#,
                r#""annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"#,
                r#""ownerReferences":[{{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"{svc}","uid":"{owner}"}}]}},"#,
                r#""addressType":"IPv4","ports":[{{"name":"http","port":8080,"protocol":"TCP"}},{{"name":"metrics","port":9090,"protocol":"TCP"}}],"endpoints":["#
            ),
            name = name,
            svc = service,
            ns = namespace,
            uid = uid(3, i * 64 + part),
            owner = uid(2, i),
            rv = revision,
            marker = marker,
        );
        for endpoint in first..last {
            let comma = if endpoint == first { "" } else { "," };
            let _ = write!(
                json,
                r#"{comma}{{"addresses":["{}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"node-{:04}","targetRef":{{"kind":"Pod","name":"{service}-7d4b9c6f5-{endpoint:05}","namespace":"{namespace}","uid":"{}"}},"zone":"zone-{}"}}"#,
                self.endpoint(i, endpoint, generation),
                (i + endpoint) % 1000,
                uid(4, i * 5000 + endpoint),
                endpoint % 3,
            );
        }
        json.push_str("]}");
        let labels = [
            ("kubernetes.io/service-name", service.as_str()),
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
            ("service.kubernetes.io/headless", ""),
        ];
        let labels = if headless { &labels[..] } else { &labels[..2] };
        Object::raw(&namespace, &name, labels, Bytes::from(json), revision)
    }
}

fn address(base: u32, offset: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(base.wrapping_add(u32::try_from(offset).unwrap_or(0)))
}

fn uid(kind: u32, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}
