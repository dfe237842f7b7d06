//! The fields of Pods, as names and as clients.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Head, List, MOST, Meta, Seconds, Str};

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct Pod<'a> {
    #[serde(borrow)]
    pub metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    pub spec: Option<PodSpec<'a>>,
    #[serde(borrow)]
    pub status: Option<PodStatus<'a>>,
}

/// A Pod that is read as a client.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct NodePod<'a> {
    #[serde(borrow)]
    pub metadata: Option<PodMeta<'a>>,
    #[serde(borrow)]
    pub spec: Option<PodSpec<'a>>,
    #[serde(borrow)]
    pub status: Option<PodStatus<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::cluster::decode) struct PodSpec<'a> {
    pub host_network: Option<bool>,
    #[serde(borrow)]
    pub dns_policy: Option<Str<'a>>,
    #[serde(borrow)]
    pub dns_config: Option<PodDnsConfig<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct PodDnsConfig<'a> {
    #[serde(borrow)]
    pub searches: Option<List<Str<'a>, 1, 4>>,
    #[serde(borrow)]
    pub options: Option<List<DnsOption<'a>, 1, 4>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct DnsOption<'a> {
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
    #[serde(borrow)]
    pub value: Option<Str<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct PodStatus<'a> {
    #[serde(borrow)]
    pub phase: Option<Str<'a>>,
    #[serde(borrow, rename = "podIP")]
    pub pod_ip: Option<Str<'a>>,
    #[serde(borrow, rename = "podIPs")]
    pub pod_ips: Option<List<PodIp<'a>, 1, 1>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct PodIp<'a> {
    #[serde(borrow)]
    pub ip: Option<Str<'a>>,
}

/// The `metadata` of a Pod that is read as a client.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::cluster::decode) struct PodMeta<'a> {
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
    #[serde(borrow)]
    pub namespace: Option<Str<'a>>,
    #[serde(borrow)]
    pub resource_version: Option<Str<'a>>,
    pub creation_timestamp: Option<Seconds>,
    #[serde(borrow)]
    pub labels: Option<AllLabels<'a>>,
    #[serde(borrow)]
    pub owner_references: Option<List<Owner<'a>, 1, 1>>,
}

/// An entry of `ownerReferences`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::cluster::decode) struct Owner<'a> {
    #[serde(borrow)]
    pub kind: Option<Str<'a>>,
    #[serde(borrow)]
    pub name: Option<Str<'a>>,
    pub controller: Option<bool>,
}

impl PodMeta<'_> {
    pub(in crate::cluster::decode) fn head(&self) -> Head<'_> {
        Head {
            name: self.name.as_deref(),
            namespace: self.namespace.as_deref(),
            resource_version: self.resource_version.as_deref(),
            is_headless: false,
        }
    }
}

/// All labels of an object; of a label that comes twice the later one counts, as in Go.
#[derive(Default)]
pub(in crate::cluster::decode) struct AllLabels<'a>(Vec<(Str<'a>, Str<'a>)>);

impl<'a> AllLabels<'a> {
    pub(in crate::cluster::decode) fn push(&mut self, key: Str<'a>, value: Str<'a>) {
        if self.0.len() < MOST {
            self.0.push((key, value));
        }
    }

    pub(in crate::cluster::decode) fn get(&self, key: &str) -> Option<&str> {
        self.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(in crate::cluster::decode) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// The value of a label. A number or a truth value, as people write it in a file, is none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(#[serde(borrow)] Str<'a>),
    Other(IgnoredAny),
}

impl<'de: 'a, 'a> Deserialize<'de> for AllLabels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = AllLabels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut labels = AllLabels::default();
                while let Some((key, value)) = map.next_entry::<Str<'_>, Value<'_>>()? {
                    let value = match value {
                        Value::Text(text) => text,
                        Value::Other(_) => Str::default(),
                    };
                    labels.push(key, value);
                }
                Ok(labels)
            }
        }

        deserializer.deserialize_map(Each)
    }
}
