//! Kubernetes objects as the API writes them, reduced to the fields that we read. Strings are borrowed from the input;
//! whatever is not named here is passed over without being kept.
//!
//! Every field may be missing or null: Go leaves out empty ones and writes empty lists as null.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

/// A string of the input, copied only where it has escapes. (serde would copy every `Option<Cow<str>>`.)
pub(super) struct Str<'a>(Cow<'a, str>);

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

/// A list, of which `INLINE` elements need no memory of their own, and which makes room for `ROOM` at once: serde makes
/// none beforehand where the format does not say how many there are.
pub(super) struct List<T, const INLINE: usize, const ROOM: usize>(SmallVec<[T; INLINE]>);

impl<T, const INLINE: usize, const ROOM: usize> Deref for List<T, INLINE, ROOM> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const INLINE: usize, const ROOM: usize> Deserialize<'de>
    for List<T, INLINE, ROOM>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T, const INLINE: usize, const ROOM: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const INLINE: usize, const ROOM: usize> Visitor<'de>
            for Each<T, INLINE, ROOM>
        {
            type Value = List<T, INLINE, ROOM>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = SmallVec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == list.capacity() {
                        list.reserve(ROOM.max(list.len()));
                    }
                    list.push(element);
                }
                Ok(List(list))
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
    pub deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow)]
    pub labels: Option<Labels<'a>>,
    #[serde(borrow)]
    pub annotations: Option<Annotations<'a>>,
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
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Annotations<'a> {
    #[serde(borrow, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub triggered: Option<Str<'a>>,
    /// On the bookmark that ends the list part of a streaming list.
    #[serde(borrow, rename = "k8s.io/initial-events-end")]
    pub initial_events_end: Option<Str<'a>>,
}

/// One line of a watch.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct Line<'a, T> {
    #[serde(borrow, rename = "type")]
    pub event: Str<'a>,
    pub object: T,
}

/// `v1.Status`, the object of an ERROR event.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Status<'a> {
    pub code: Option<u16>,
    #[serde(borrow)]
    pub message: Option<Str<'a>>,
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

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Pod<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    pub status: Option<PodStatus<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct PodStatus<'a> {
    #[serde(borrow)]
    pub phase: Option<Str<'a>>,
    #[serde(borrow, rename = "podIP")]
    pub pod_ip: Option<Str<'a>>,
    #[serde(borrow, rename = "podIPs")]
    pub pod_ips: Option<List<PodIp<'a>, 1, 1>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct PodIp<'a> {
    #[serde(borrow)]
    pub ip: Option<Str<'a>>,
}

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
