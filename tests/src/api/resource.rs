//! The resources that the server knows: paths, kinds, and what each kind's fields can be selected by.

use serde_json::Value;

/// One resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name in paths, such as `endpointslices`.
    pub plural: &'static str,
    /// Name in objects, such as `EndpointSlice`.
    pub kind: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Served from a CustomResourceDefinition: list items then carry `kind` and `apiVersion`, and the group may be absent.
    pub custom: bool,
    /// JSON pointers beyond `metadata` that field selectors may name, with their selector names.
    pub fields: &'static [(&'static str, &'static str)],
    /// What a bookmark's otherwise empty object holds besides `metadata`, as Go's encoder writes it.
    pub empty: &'static str,
}

/// Every resource that the server serves.
pub static RESOURCES: &[Resource] = &[
    Resource {
        plural: "services",
        kind: "Service",
        group: "",
        version: "v1",
        namespaced: true,
        custom: false,
        fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        empty: r#","spec":{},"status":{"loadBalancer":{}}"#,
    },
    Resource {
        plural: "pods",
        kind: "Pod",
        group: "",
        version: "v1",
        namespaced: true,
        custom: false,
        fields: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
        ],
        empty: r#","spec":{"containers":null},"status":{}"#,
    },
    Resource {
        plural: "namespaces",
        kind: "Namespace",
        group: "",
        version: "v1",
        namespaced: false,
        custom: false,
        fields: &[("status.phase", "/status/phase")],
        empty: r#","spec":{},"status":{}"#,
    },
    Resource {
        plural: "nodes",
        kind: "Node",
        group: "",
        version: "v1",
        namespaced: false,
        custom: false,
        fields: &[("spec.unschedulable", "/spec/unschedulable")],
        empty: r#","spec":{},"status":{}"#,
    },
    Resource {
        plural: "configmaps",
        kind: "ConfigMap",
        group: "",
        version: "v1",
        namespaced: true,
        custom: false,
        fields: &[],
        empty: "",
    },
    Resource {
        plural: "endpointslices",
        kind: "EndpointSlice",
        group: "discovery.k8s.io",
        version: "v1",
        namespaced: true,
        custom: false,
        fields: &[],
        empty: r#","addressType":"","endpoints":null,"ports":null"#,
    },
    Resource {
        plural: "networkpolicies",
        kind: "NetworkPolicy",
        group: "networking.k8s.io",
        version: "v1",
        namespaced: true,
        custom: false,
        fields: &[],
        empty: r#","spec":{"podSelector":{}}"#,
    },
    Resource {
        plural: "ciliumlocalredirectpolicies",
        kind: "CiliumLocalRedirectPolicy",
        group: "cilium.io",
        version: "v2",
        namespaced: true,
        custom: true,
        fields: &[],
        empty: "",
    },
    Resource {
        plural: "serviceimports",
        kind: "ServiceImport",
        group: "multicluster.x-k8s.io",
        version: "v1alpha1",
        namespaced: true,
        custom: true,
        fields: &[],
        empty: "",
    },
];

impl Resource {
    /// The resource with this plural name.
    ///
    /// # Panics
    /// When there is none: a slip in the test.
    #[must_use]
    pub fn named(plural: &str) -> &'static Self {
        Self::find(|r| r.plural == plural).unwrap_or_else(|| panic!("no resource {plural}"))
    }

    /// The resource at a path's group, version and plural name.
    #[must_use]
    pub fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        Self::find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// The resource that an object belongs to, by its `apiVersion` and `kind`.
    #[must_use]
    pub fn of(object: &Value) -> Option<&'static Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        Self::find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// `v1`, or group and version.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The place of this resource in [`RESOURCES`].
    #[must_use]
    pub(crate) fn index(&self) -> usize {
        RESOURCES.iter().position(|r| r == self).unwrap_or(0)
    }

    fn find(test: impl Fn(&Self) -> bool) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| test(r))
    }
}
