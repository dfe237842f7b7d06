//! One EndpointSlice, packed: its ready addresses in order, and columns for the few names that endpoints have.
//!
//! An endpoint without a name of its own costs four or sixteen octets here. Endpoints that are not ready have no names in
//! DNS and are not kept.

use std::net::IpAddr;
use std::sync::Arc;

use super::label::{Label, LabelBuf};
use super::settings::Settings;
use crate::cluster::object::{self, Port, Text};
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
    /// Where the endpoints are, where the index keeps that.
    pub places: Places,
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
    /// Packs the ready endpoints of `slice`. Pods and places are kept only where `settings` say so, and only Pods whose names
    /// are labels.
    pub(super) fn pack(slice: &object::EndpointSlice, ports: Ports, settings: &Settings) -> Self {
        let ready = || slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let mut rows: Vec<Row<'_>> = Vec::with_capacity(slice.endpoints.len());
        for endpoint in ready() {
            let hostname = label(endpoint.hostname.as_deref());
            let pod = if settings.endpoint_pods { label(endpoint.pod.as_deref()) } else { "" };
            let place = if settings.places {
                let here = settings.node.is_some() && endpoint.place.node == settings.node;
                Place { zone: endpoint.place.zone.as_ref(), here }
            } else {
                Place::default()
            };
            let row = |&address: &IpAddr| Row { address, hostname, pod, place };
            rows.extend(endpoint.addresses.iter().map(row));
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
            hostnames: Column::pack(rows.iter().map(|row| row.hostname.as_bytes())),
            pods: Column::pack(rows.iter().map(|row| row.pod.as_bytes())),
            places: Places::pack(rows.iter().map(|row| row.place)),
        }
    }

    /// The endpoints whose place is one of these, as a slice that knows no places; `None` if there are none.
    pub(super) fn part(&self, is_in: impl Fn(Place<'_>) -> bool) -> Option<Self> {
        self.places.0.as_ref()?;
        let rows: Vec<usize> = (0..self.len()).filter(|&row| is_in(self.places.get(row))).collect();
        if rows.is_empty() {
            return None;
        }
        fn some<const N: usize>(all: &[[u8; N]], rows: &[usize]) -> Box<[[u8; N]]> {
            rows.iter().filter_map(|&row| all.get(row).copied()).collect()
        }
        Some(Self {
            name: self.name.clone(),
            ports: Arc::clone(&self.ports),
            cluster: self.cluster.clone(),
            addresses: match &self.addresses {
                Addresses::V4(all) => Addresses::V4(some(all, &rows)),
                Addresses::V6(all) => Addresses::V6(some(all, &rows)),
            },
            hostnames: Column::pack(rows.iter().map(|&row| self.hostnames.get(row))),
            pods: Column::pack(rows.iter().map(|&row| self.pods.get(row))),
            places: Places::default(),
        })
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
    fn pack<'a>(texts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        if texts.clone().all(<[u8]>::is_empty) {
            return Self::default();
        }
        let mut text = Vec::new();
        let mut ends = Vec::new();
        let mut by_hash = Vec::new();
        for (row, label) in texts.enumerate() {
            text.extend_from_slice(label);
            ends.push(text.len() as u32);
            if !label.is_empty() {
                by_hash.push((hash(label), row as u32));
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

/// Zones of a Service, and of a slice, whose endpoints are kept apart. Clusters have a few; a client of the API may name
/// any number of them, and each costs every change of the Service. Endpoints of further ones have no zone.
pub(super) const MAX_ZONES: usize = 64;

/// Where an endpoint is, as far as that is known.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'a> {
    pub(super) zone: Option<&'a Text>,
    /// On the node that this process runs on.
    pub(super) here: bool,
}

/// A place for each row, most often none at all: then it is one empty pointer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places(Option<Box<PlaceRows>>);

#[derive(Debug, PartialEq, Eq)]
struct PlaceRows {
    // Few: a Service runs in some zones of one cluster.
    zones: Box<[Text]>,
    // The number of the zone, from 1 to MAX_ZONES, and [`HERE`].
    rows: Box<[u8]>,
}

/// In a row's place: on this node.
const HERE: u8 = 1 << 7;
const _: () = assert!(MAX_ZONES < HERE as usize);

impl Places {
    fn pack<'a>(places: impl Iterator<Item = Place<'a>> + Clone) -> Self {
        if places.clone().all(|place| place == Place::default()) {
            return Self::default();
        }
        let mut zones: Vec<Text> = Vec::new();
        let rows = places.map(|place| {
            let number = place.zone.and_then(|zone| {
                let known = zones.iter().position(|known| known == zone);
                let at = known.or_else(|| {
                    let is_kept = zones.len() < MAX_ZONES;
                    is_kept.then(|| zones.push(zone.clone()))?;
                    Some(zones.len() - 1)
                });
                u8::try_from(at? + 1).ok()
            });
            let here = if place.here { HERE } else { 0 };
            number.unwrap_or(0) | here
        });
        let rows = rows.collect();
        Self(Some(Box::new(PlaceRows { zones: zones.into(), rows })))
    }

    /// Where the endpoint at `row` is.
    pub(super) fn get(&self, row: usize) -> Place<'_> {
        let Some(places) = &self.0 else { return Place::default() };
        let place = places.rows.get(row).copied().unwrap_or(0);
        let zone = usize::from(place & !HERE).checked_sub(1);
        Place { zone: zone.and_then(|zone| places.zones.get(zone)), here: place & HERE != 0 }
    }

    /// The zones of all rows, each once.
    pub(super) fn zones(&self) -> &[Text] {
        self.0.as_ref().map_or(&[], |places| &places.zones)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row<'a> {
    address: IpAddr,
    hostname: &'a str,
    pod: &'a str,
    place: Place<'a>,
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
