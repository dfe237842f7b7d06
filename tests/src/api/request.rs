//! A request read: its path taken apart, its query decoded.

use std::collections::BTreeMap;

use http::request::Parts;

use super::resource::Resource;
use super::select::Selector;
use super::status::Status;

/// What a request is about.
#[derive(Debug)]
pub(crate) enum Target {
    /// A resource, perhaps within a namespace, perhaps one object.
    Resource { resource: &'static Resource, namespace: Option<String>, name: Option<String> },
    /// Anything else: discovery, health, or nothing that is served.
    Path(String),
}

/// A request, as far as the server cares.
#[derive(Debug)]
pub(crate) struct ApiRequest {
    pub(crate) target: Target,
    pub(crate) verb: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) user_agent: String,
    pub(crate) bearer: Option<String>,
    /// The client asked for metadata only.
    pub(crate) metadata_only: bool,
    /// The `Accept` header.
    pub(crate) accept: String,
    /// The client accepts gzip.
    pub(crate) gzip: bool,
}

impl ApiRequest {
    pub(crate) fn read(parts: &Parts) -> Self {
        let target = target(parts.uri.path());
        let query = parse_query(parts.uri.query().unwrap_or(""));
        let header =
            |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let watching = query.get("watch").is_some_and(|w| matches!(w.as_str(), "true" | "1" | ""));
        let verb = match (&target, parts.method.as_str()) {
            (Target::Resource { .. }, "GET") if watching => "watch".to_owned(),
            (Target::Resource { name: Some(_), .. }, "GET") => "get".to_owned(),
            (Target::Resource { .. }, "GET") => "list".to_owned(),
            (_, method) => method.to_ascii_lowercase(),
        };
        Self {
            target,
            verb,
            query,
            user_agent: header("user-agent").to_owned(),
            bearer: header("authorization").strip_prefix("Bearer ").map(str::to_owned),
            metadata_only: header("accept").contains("as=PartialObjectMetadata"),
            accept: header("accept").to_owned(),
            gzip: header("accept-encoding").contains("gzip"),
        }
    }

    /// True if protobuf is what the client would rather have.
    pub(crate) fn prefers_protobuf(&self) -> bool {
        self.accept.starts_with("application/vnd.kubernetes.protobuf")
    }

    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.parameter(name), "true" | "1")
    }

    /// A revision parameter: absent and `0` are told apart.
    pub(crate) fn revision(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.parameter(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::new(400, format!("invalid resource version: \"{text}\""))),
        }
    }

    /// The selector; one object's name in the path of a watch selects by that name.
    pub(crate) fn selector(&self) -> Result<Selector, Status> {
        let Target::Resource { resource, namespace, name } = &self.target else {
            return Ok(Selector::default());
        };
        let mut fields = self.parameter("fieldSelector").to_owned();
        if let Some(name) = name {
            fields = format!("metadata.name={name},{fields}");
        }
        Selector::parse(resource, namespace.as_deref(), self.parameter("labelSelector"), &fields)
            .map_err(|why| Status::new(400, why))
    }

    /// How the log and fault scopes call what is asked for.
    pub(crate) fn resource_name(&self) -> &str {
        match &self.target {
            Target::Resource { resource, .. } => resource.plural,
            Target::Path(path) => path,
        }
    }
}

fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Target::Path(path.to_owned()),
    };
    let (namespace, plural, name) = match rest {
        ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
        ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
        [plural] => (None, *plural, None),
        [plural, name] => (None, *plural, Some(*name)),
        _ => return Target::Path(path.to_owned()),
    };
    match Resource::at(group, version, plural) {
        Some(resource) => Target::Resource {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        },
        None => Target::Path(path.to_owned()),
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let hex: Vec<u8> = bytes.by_ref().take(2).collect();
                let value =
                    std::str::from_utf8(&hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(value.unwrap_or(b'?'));
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let read = |path: &str| {
            let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
            ApiRequest::read(&parts)
        };
        let r = read(
            "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?watch=true&labelSelector=a%20in%20(b%2Cc)",
        );
        assert_eq!((r.verb.as_str(), r.resource_name()), ("watch", "endpointslices"));
        assert_eq!(r.parameter("labelSelector"), "a in (b,c)");
        assert_eq!(read("/api/v1/namespaces/a").verb, "get");
        assert_eq!(read("/api/v1/namespaces").verb, "list");
        assert_eq!(read("/version").resource_name(), "/version");
    }
}
