//! The cluster whose names the `k1` workloads ask for, as Kubernetes objects in one file.

use std::fmt::Write;

/// Services with an address of their own.
pub const SERVICES: usize = 1_000;
/// Services without, with [`ENDPOINTS`] endpoints each.
pub const HEADLESS: usize = 100;
/// Endpoints of a headless Service.
pub const ENDPOINTS: usize = 10;
/// The cluster's zone: one that no other workload asks for.
pub const ZONE: &str = "k1.local";

const NAMESPACES: usize = 10;

/// The name of Service `number`.
#[must_use]
pub fn service_name(number: usize) -> String {
    format!("svc-{number:04}.ns-{}.svc.{ZONE}", number % NAMESPACES)
}

/// The name of headless Service `number`.
#[must_use]
pub fn headless_name(number: usize) -> String {
    format!("db-{number:03}.ns-{}.svc.{ZONE}", number % NAMESPACES)
}

/// All objects as one `List` in JSON.
#[must_use]
pub fn objects() -> String {
    let mut items = Vec::new();
    for i in 0..NAMESPACES {
        items.push(format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"ns-{i}"}}}}"#
        ));
    }
    for i in 0..SERVICES {
        let ip = format!("10.97.{}.{}", i / 250, i % 250 + 1);
        items.push(service(&format!("svc-{i:04}"), i % NAMESPACES, &ip));
    }
    for i in 0..HEADLESS {
        let name = format!("db-{i:03}");
        items.push(service(&name, i % NAMESPACES, "None"));
        items.push(slice(&name, i));
    }
    format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, items.join(",\n"))
}

fn service(name: &str, namespace: usize, ip: &str) -> String {
    format!(
        concat!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","namespace":"ns-{namespace}"}},"#,
            r#""spec":{{"type":"ClusterIP","clusterIP":"{ip}","clusterIPs":["{ip}"],"ipFamilies":["IPv4"],"#,
            r#""ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}}}"#
        ),
        name = name,
        namespace = namespace,
        ip = ip,
    )
}

fn slice(service: &str, number: usize) -> String {
    let mut endpoints = String::new();
    for i in 0..ENDPOINTS {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            endpoints,
            r#"{comma}{{"addresses":["10.128.{number}.{}"],"conditions":{{"ready":true}}}}"#,
            i + 1
        );
    }
    format!(
        concat!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","#,
            r#""metadata":{{"name":"{service}-1","namespace":"ns-{namespace}","labels":{{"#,
            r#""kubernetes.io/service-name":"{service}","service.kubernetes.io/headless":""}}}},"#,
            r#""ports":[{{"name":"http","port":80,"protocol":"TCP"}}],"endpoints":[{endpoints}]}}"#
        ),
        service = service,
        namespace = number % NAMESPACES,
        endpoints = endpoints,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_json() {
        let list: Result<serde_json::Value, _> = serde_json::from_str(&objects());
        let items = list.as_ref().map(|list| list["items"].as_array().map_or(0, Vec::len));
        assert_eq!(items.unwrap_or(0), NAMESPACES + SERVICES + 2 * HEADLESS);
    }
}
