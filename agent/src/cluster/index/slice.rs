//! One EndpointSlice, packed: its ready addresses in order, and columns for the few names that endpoints have.
//!
//! An endpoint without a name of its own costs four or sixteen octets here. Endpoints that are not ready have no names in
//! DNS and are not kept.

use std::net::IpAddr;
use std::sync::Arc;

use super::label::{Label, LabelBuf};
use crate::cluster::object::{self, Port};
use crate::wire::name::MAX_LABEL;

/// The ports of a Service or slice; equal lists are kept once.
pub type Ports = Arc<[Port]>;

/// A slice.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name within the namespace.
    pub name: Box<str>,
    /// The ports that all its endpoints share.
    pub ports: Ports,
    /// Addresses of its ready endpoints in ascending order; an address that two endpoints have stands twice.
    pub addresses: Addresses,
    /// The cluster that it comes from, of an import. A pointer to it, since hardly any slice has one.
    cluster: Option<Box<Box<str>>>,
    /// The endpoints' `hostname`s.
    pub hostnames: Column,
    /// The endpoints' Pods, where the index keeps them.
    pub pods: Column,
}

/// Addresses of one family, in ascending order.
#[derive(Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4(Box<[[u8; 4]]>),
    /// IPv6.
    V6(Box<[[u8; 16]]>),
}

impl Slice {
    /// Packs the ready endpoints of `slice`. Pods are kept only where `keep_pods` says so, and only those whose names are
    /// labels.
    pub(super) fn pack(slice: &object::EndpointSlice, ports: Ports, keep_pods: bool) -> Self {
        let ready = || slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let mut rows: Vec<Row<'_>> = Vec::with_capacity(slice.endpoints.len());
        for endpoint in ready() {
            let hostname = label(endpoint.hostname.as_deref());
            let pod = if keep_pods { label(endpoint.pod.as_deref()) } else { "" };
            rows.extend(endpoint.addresses.iter().map(|&address| Row { address, hostname, pod }));
        }
        // The API server refuses a slice of mixed families; of one that came otherwise, the first family counts.
        let v6 = rows.first().is_some_and(|row| row.address.is_ipv6());
        rows.retain(|row| row.address.is_ipv6() == v6);
        rows.sort_unstable();
        let addresses = if v6 {
            Addresses::V6(rows.iter().filter_map(|row| octets_v6(row.address)).collect())
        } else {
            Addresses::V4(rows.iter().filter_map(|row| octets_v4(row.address)).collect())
        };
        Self {
            name: (&*slice.id.name).into(),
            ports,
            cluster: slice.cluster.as_deref().map(|label| Box::new(label.into())),
            addresses,
            hostnames: Column::pack(rows.iter().map(|row| row.hostname)),
            pods: Column::pack(rows.iter().map(|row| row.pod)),
        }
    }

    /// The label of the cluster that it comes from, of an import.
    pub fn cluster(&self) -> Option<&[u8]> {
        self.cluster.as_ref().map(|label| label.as_bytes())
    }

    /// The label of the endpoint at `row`: its hostname, else its Pod's name where the index keeps those, else its address.
    pub fn label(&self, row: usize) -> Option<Label<'_>> {
        let own = match self.hostnames.get(row) {
            b"" => self.pods.get(row),
            hostname => hostname,
        };
        if own.is_empty() { self.address(row).map(Label::Address) } else { Some(Label::read(own)) }
    }

    /// The rows whose endpoint has this label.
    pub fn rows_with<'s>(&'s self, label: Label<'s>) -> impl Iterator<Item = usize> + 's {
        let mut buffer = LabelBuf::new();
        let hash = hash(label.text(&mut buffer));
        let by_name = [&self.hostnames, &self.pods].into_iter().flat_map(move |c| c.rows(hash));
        let by_address = match label {
            Label::Address(address) => self.rows_of(address),
            Label::Own(_) => 0..0,
        };
        by_name.chain(by_address).filter(move |&row| self.label(row) == Some(label))
    }

    /// True if every endpoint is named by its address.
    pub fn is_named_by_address(&self) -> bool {
        self.hostnames.is_empty() && self.pods.is_empty()
    }

    /// True if no two rows have the same address or may have the same label. Costs a step for each row.
    pub(super) fn has_no_repetition(&self) -> bool {
        let mut labels = hashbrown::HashSet::with_capacity(self.len());
        let mut before = None;
        (0..self.len()).all(|row| {
            let address = self.address(row);
            let repeated = before == Some(address);
            before = Some(address);
            !repeated && self.label(row).is_some_and(|label| labels.insert(label))
        })
    }

    /// How many addresses are ready.
    pub fn len(&self) -> usize {
        match &self.addresses {
            Addresses::V4(all) => all.len(),
            Addresses::V6(all) => all.len(),
        }
    }

    /// True where no endpoint is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address at `row`.
    pub fn address(&self, row: usize) -> Option<IpAddr> {
        match &self.addresses {
            Addresses::V4(all) => all.get(row).map(|&octets| octets.into()),
            Addresses::V6(all) => all.get(row).map(|&octets| octets.into()),
        }
    }

    /// The rows that have this address.
    pub fn rows_of(&self, address: IpAddr) -> std::ops::Range<usize> {
        fn equal<const N: usize>(all: &[[u8; N]], octets: [u8; N]) -> std::ops::Range<usize> {
            let start = all.partition_point(|other| *other < octets);
            let count = all.iter().skip(start).take_while(|other| **other == octets).count();
            start..start + count
        }
        match (&self.addresses, address) {
            (Addresses::V4(all), IpAddr::V4(address)) => equal(all, address.octets()),
            (Addresses::V6(all), IpAddr::V6(address)) => equal(all, address.octets()),
            _ => 0..0,
        }
    }
}

/// Short texts, one for each row, most often none at all: then it is one empty pointer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Column(Option<Box<Texts>>);

#[derive(Debug, PartialEq, Eq)]
struct Texts {
    // Where each row's text ends.
    ends: Box<[u32]>,
    text: Box<[u8]>,
    // (hash of the text, row) in order; only of rows that have one.
    by_hash: Box<[(u32, u32)]>,
}

impl Column {
    fn pack<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        if texts.clone().all(str::is_empty) {
            return Self::default();
        }
        let mut text = Vec::new();
        let mut ends = Vec::new();
        let mut by_hash = Vec::new();
        for (row, label) in texts.enumerate() {
            text.extend_from_slice(label.as_bytes());
            ends.push(text.len() as u32);
            if !label.is_empty() {
                by_hash.push((hash(label.as_bytes()), row as u32));
            }
        }
        by_hash.sort_unstable();
        Self(Some(Box::new(Texts {
            ends: ends.into(),
            text: text.into(),
            by_hash: by_hash.into(),
        })))
    }

    /// The text of a row; empty where it has none.
    pub fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |texts| texts.get(row))
    }

    /// The rows whose text has this [`hash`], in order.
    fn rows(&self, wanted: u32) -> impl Iterator<Item = usize> + '_ {
        let by_hash = self.0.as_ref().map_or(&[][..], |texts| &texts.by_hash);
        let start = by_hash.partition_point(|&(hash, _)| hash < wanted);
        let same = by_hash.iter().skip(start).take_while(move |(hash, _)| *hash == wanted);
        same.map(|&(_, row)| row as usize)
    }

    /// True where no row has a text.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Texts {
    fn get(&self, row: usize) -> &[u8] {
        let Some(&end) = self.ends.get(row) else { return &[] };
        let start =
            row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(start as usize..end as usize).unwrap_or(&[])
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row<'a> {
    address: IpAddr,
    hostname: &'a str,
    pod: &'a str,
}

/// The text, where it can be one label.
fn label(text: Option<&str>) -> &str {
    text.filter(|text| text.len() <= MAX_LABEL && !text.contains('.')).unwrap_or("")
}

pub(super) fn octets_v4(address: IpAddr) -> Option<[u8; 4]> {
    if let IpAddr::V4(v4) = address { Some(v4.octets()) } else { None }
}

pub(super) fn octets_v6(address: IpAddr) -> Option<[u8; 16]> {
    if let IpAddr::V6(v6) = address { Some(v6.octets()) } else { None }
}

/// The hash that orders a [`Column`], FNV-1a. A collision costs one comparison in one slice: there is nothing to gain by
/// forcing some.
fn hash(text: &[u8]) -> u32 {
    text.iter()
        .fold(0x811c_9dc5, |hash, &octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}
