//! Kubernetes objects as the API writes them, reduced to the fields that are used. Strings are borrowed from the input;
//! fields without a name here are skipped. [`super::json`] fills these structures by serde, [`super::protobuf`] by the
//! numbers of fields.
//!
//! Every field may be missing or null: Go leaves out empty ones and writes empty lists as null.

mod pod;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

use super::check::millis;
use super::{MAX_PORTS, Refusal, bounded};

pub(super) use self::pod::{
    DnsOption, NodePod, Owner, Pod, PodDnsConfig, PodIp, PodMeta, PodSpec, PodStatus,
};

/// A string of the input, copied only where it has escapes. (serde would copy every `Option<Cow<str>>`.)
#[derive(Default)]
pub(super) struct Str<'a>(Cow<'a, str>);

impl<'a> Str<'a> {
    pub(super) fn new(text: Cow<'a, str>) -> Self {
        Self(text)
    }
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// A list, of which `INLINE` elements need no memory of their own, and which allocates for `STEP` at once, since neither
/// format says beforehand how many there are. It keeps at most [`MOST`] elements.
pub(super) struct List<T, const INLINE: usize, const STEP: usize>(SmallVec<[T; INLINE]>);

/// More than any list may have: one above its own limit is enough to be refused for it, and a list of millions of empty
/// elements takes no memory.
const MOST: usize = MAX_PORTS + 1;

impl<T, const INLINE: usize, const STEP: usize> List<T, INLINE, STEP> {
    /// Adds an element, unless the list is longer than any may be.
    pub(super) fn push(&mut self, element: T) {
        if self.0.len() >= MOST {
            return;
        }
        if self.0.len() == self.0.capacity() {
            self.0.reserve(STEP.max(self.0.len()));
        }
        self.0.push(element);
    }
}

impl<T, const INLINE: usize, const STEP: usize> Default for List<T, INLINE, STEP> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<T, const INLINE: usize, const STEP: usize> Deref for List<T, INLINE, STEP> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const INLINE: usize, const STEP: usize> Deserialize<'de>
    for List<T, INLINE, STEP>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T, const INLINE: usize, const STEP: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const INLINE: usize, const STEP: usize> Visitor<'de>
            for Each<T, INLINE, STEP>
        {
            type Value = List<T, INLINE, STEP>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = List::default();
                while let Some(element) = seq.next_element()? {
                    list.push(element);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_seq(Each(PhantomData))
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta<'a> {
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
    #[serde(borrow)]
    pub namespace: Option<Str<'a>>,
    #[serde(borrow)]
    pub resource_version: Option<Str<'a>>,
    pub creation_timestamp: Option<Seconds>,
    pub deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow)]
    pub labels: Option<Labels<'a>>,
    #[serde(borrow)]
    pub annotations: Option<Annotations<'a>>,
}

/// Who an object is, and what the watch needs to know of it.
#[derive(Default)]
pub(super) struct Head<'r> {
    pub name: Option<&'r str>,
    pub namespace: Option<&'r str>,
    pub resource_version: Option<&'r str>,
    pub is_headless: bool,
}

impl Meta<'_> {
    pub(super) fn head(&self) -> Head<'_> {
        Head {
            name: self.name.as_deref(),
            namespace: self.namespace.as_deref(),
            resource_version: self.resource_version.as_deref(),
            is_headless: self.labels.as_ref().is_some_and(|labels| labels.headless.is_some()),
        }
    }
}

/// A time, in seconds since 1970. One that does not read is 0: nothing depends on it but who came later.
#[derive(Default)]
pub(super) struct Seconds(pub u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Str::deserialize(deserializer)?;
        Ok(Self(millis(&text).unwrap_or(0) / 1_000))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Labels<'a> {
    #[serde(borrow, rename = "kubernetes.io/service-name")]
    pub service: Option<Str<'a>>,
    #[serde(borrow, rename = "multicluster.kubernetes.io/service-name")]
    pub import: Option<Str<'a>>,
    #[serde(borrow, rename = "multicluster.kubernetes.io/source-cluster")]
    pub cluster: Option<Str<'a>>,
    #[serde(rename = "service.kubernetes.io/headless")]
    pub headless: Option<IgnoredAny>,
    #[serde(borrow, rename = "topology.kubernetes.io/zone")]
    pub zone: Option<Str<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Annotations<'a> {
    #[serde(borrow, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub triggered: Option<Str<'a>>,
}

impl<'a> Labels<'a> {
    /// Takes a label whose name is known here.
    pub(super) fn take(&mut self, name: &str, value: Str<'a>) {
        match name {
            "kubernetes.io/service-name" => self.service = Some(value),
            "multicluster.kubernetes.io/service-name" => self.import = Some(value),
            "multicluster.kubernetes.io/source-cluster" => self.cluster = Some(value),
            "service.kubernetes.io/headless" => self.headless = Some(IgnoredAny),
            "topology.kubernetes.io/zone" => self.zone = Some(value),
            _ => {}
        }
    }
}

impl<'a> Annotations<'a> {
    /// Takes an annotation whose name is known here.
    pub(super) fn take(&mut self, name: &str, value: Str<'a>) {
        if name == "endpoints.kubernetes.io/last-change-trigger-time" {
            self.triggered = Some(value);
        }
    }
}

/// One line of a watch.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct Line<'a, T> {
    #[serde(borrow, rename = "type")]
    pub event: Str<'a>,
    pub object: T,
}

/// `v1.Status`: the body of an error, and the object of an ERROR event.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Status<'a> {
    pub code: Option<u16>,
    #[serde(borrow)]
    pub reason: Option<Str<'a>>,
    #[serde(borrow)]
    pub message: Option<Str<'a>>,
    pub details: Option<StatusDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct StatusDetails {
    #[serde(rename = "retryAfterSeconds")]
    pub retry_after_seconds: Option<u64>,
}

impl From<Status<'_>> for Refusal {
    fn from(status: Status<'_>) -> Self {
        Self {
            code: status.code,
            reason: status.reason.as_deref().map(bounded),
            message: status.message.as_deref().map(bounded),
            retry_after_seconds: status.details.and_then(|details| details.retry_after_seconds),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta<'a> {
    #[serde(borrow)]
    pub resource_version: Option<Str<'a>>,
    #[serde(borrow, rename = "continue")]
    pub next: Option<Str<'a>>,
}

/// Any object, for who it is.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Bare<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    pub spec: Option<ServiceSpec<'a>>,
}

// `rename_all` would make `clusterIp` of `cluster_ip`; the API says `clusterIP`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Option<Str<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub cluster_ip: Option<Str<'a>>,
    #[serde(borrow, rename = "clusterIPs")]
    pub cluster_ips: Option<List<Str<'a>, 1, 1>>,
    #[serde(borrow)]
    pub external_name: Option<Str<'a>>,
    #[serde(borrow)]
    pub ports: Option<List<Port<'a>, 2, 2>>,
    pub publish_not_ready_addresses: Option<bool>,
    #[serde(borrow)]
    pub traffic_distribution: Option<Str<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Port<'a> {
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
    #[serde(borrow)]
    pub protocol: Option<Str<'a>>,
    pub port: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EndpointSlice<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    pub address_type: Option<Str<'a>>,
    #[serde(borrow)]
    pub ports: Option<List<Port<'a>, 2, 2>>,
    #[serde(borrow)]
    pub endpoints: Option<List<Endpoint<'a>, 0, 16>>,
}

/// An EndpointSlice that is read as one of a ServiceImport.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct ImportedSlice<'a>(#[serde(borrow)] pub EndpointSlice<'a>);

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Endpoint<'a> {
    #[serde(borrow)]
    pub addresses: Option<List<Str<'a>, 1, 1>>,
    #[serde(borrow)]
    pub hostname: Option<Str<'a>>,
    #[serde(borrow)]
    pub target_ref: Option<TargetRef<'a>>,
    pub conditions: Option<Conditions>,
    #[serde(borrow)]
    pub node_name: Option<Str<'a>>,
    #[serde(borrow)]
    pub zone: Option<Str<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct TargetRef<'a> {
    #[serde(borrow)]
    pub kind: Option<Str<'a>>,
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Conditions {
    pub ready: Option<bool>,
}

/// A Node.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct Node<'a>(#[serde(borrow)] pub Bare<'a>);

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ServiceImport<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    pub spec: Option<ImportSpec<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ImportSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Option<Str<'a>>,
    #[serde(borrow)]
    pub ips: Option<List<Str<'a>, 1, 1>>,
    #[serde(borrow)]
    pub ports: Option<List<Port<'a>, 2, 2>>,
}
