use proptest::prelude::*;

use super::*;
use crate::cluster::decode::tests::conformance_cluster;
use crate::cluster::object::{DnsPolicy, NodePod, ObjectId, PodDns, PodOwner, Text};
use crate::wire::Name;

fn head(written: u64) -> Head<'static> {
    let versions = [(Kind::Service, 12), (Kind::Pod, u64::MAX), (Kind::NodePod, 9)];
    let versions = versions.into_iter().collect();
    Head { identity: "test", written, versions }
}

fn snapshot() -> (Vec<Object>, Vec<u8>) {
    let mut objects = conformance_cluster(&Interner::default());
    for object in &mut objects {
        // The trigger time says how late an event was; an object from a snapshot is no event, and its version is not kept.
        *object = object.clone().of_version(0);
        if let Object::EndpointSlice(slice) = object {
            slice.triggered_at = None;
        }
    }
    let id = ObjectId { namespace: "shop".into(), name: "web-0".into() };
    let own = [Name::from_text("corp.test").unwrap()];
    for (policy, searches, ndots) in [
        (DnsPolicy::Cluster, &own[..0], None),
        (DnsPolicy::Node, &own[..], Some(2)),
        (DnsPolicy::Own, &own[..], Some(0)),
    ] {
        objects.push(Object::NodePod(NodePod {
            id: id.clone(),
            addresses: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
            host_network: policy == DnsPolicy::Node,
            created: 1_767_225_600,
            dns: PodDns { policy, searches: searches.into(), ndots },
            owner: None,
            labels: Box::default(),
        }));
    }
    let owner = PodOwner { kind: "StatefulSet".into(), name: "web".into() };
    let labels: [(Text, Text); 2] =
        [("app".into(), "web".into()), ("example.com/x".into(), "".into())];
    for (owner, labels) in [(Some(owner), labels.clone().into()), (None, labels.into())] {
        objects.push(Object::NodePod(NodePod {
            id: id.clone(),
            addresses: ["10.0.0.1".parse().unwrap()].into_iter().collect(),
            host_network: false,
            created: 0,
            dns: PodDns::default(),
            owner,
            labels,
        }));
    }
    let walk = |visit: &mut dyn FnMut(Object)| objects.iter().cloned().for_each(visit);
    let (bytes, len) = encode(Vec::new(), &head(7), walk).unwrap();
    assert_eq!(bytes.len() as u64, len);
    (objects, bytes)
}

fn resum(bytes: &mut [u8]) {
    let (body, sum) = bytes.split_last_chunk_mut::<4>().unwrap();
    *sum = crc32fast::hash(body).to_be_bytes();
}

fn survive(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        let interner = Interner::default();
        let mut objects = snapshot.objects(&interner).skip_while(Result::is_ok);
        assert!(objects.next().is_none_or(|error| error.is_err()) && objects.next().is_none());
    }
}

#[test]
fn what_was_written_is_read() {
    let (objects, bytes) = snapshot();
    let read = Snapshot::decode(&bytes).unwrap();
    assert_eq!((read.identity, read.written), ("test", 7));
    assert_eq!(read.versions, head(7).versions);
    assert_eq!(
        (read.versions.of(Kind::Service), read.versions.of(Kind::Namespace)),
        (Some(12), None)
    );
    let interner = Interner::default();
    assert_eq!(read.objects(&interner).collect::<Result<Vec<_>, _>>().unwrap(), objects);
    assert!(read.check_identity("test").is_ok());
    let error = read.check_identity("other").unwrap_err().to_string();
    assert_eq!(error, "it was written for another cluster or other settings (test)");
}

#[test]
fn every_damaged_octet_is_noticed() {
    let (_, bytes) = snapshot();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(Snapshot::decode(&damaged).is_err(), "octet {at}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let (_, bytes) = snapshot();
    for len in 0..bytes.len() {
        assert!(Snapshot::decode(&bytes[..len]).is_err(), "{len} octets");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let (_, mut bytes) = snapshot();
    assert_eq!(
        Snapshot::decode(b"#!/bin/sh\nexit\n").unwrap_err().to_string(),
        "it is no snapshot of Nodens"
    );
    bytes[9] = 9;
    let error = Snapshot::decode(&bytes).unwrap_err().to_string();
    assert_eq!(error, "it has format 9, and this version reads format 4");
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/cluster.snapshot");
    assert!(read(&path).unwrap().is_none());
    let (objects, _) = snapshot();
    for written in [1, 2] {
        let len =
            write(&path, &head(written), |visit| objects.iter().cloned().for_each(visit)).unwrap();
        let bytes = read(&path).unwrap().unwrap();
        assert_eq!(len, bytes.len() as u64);
        assert_eq!(Snapshot::decode(&bytes).unwrap().written, written);
    }
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["cluster.snapshot"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let error = write(Path::new("/proc/nodens/cluster.snapshot"), &head(1), |_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot make the folder of the snapshot /proc/nodens/cluster.snapshot: "),
        "{error}"
    );
}

proptest! {
    #[test]
    fn any_octets_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), sound in any::<bool>()) {
        let mut all = MAGIC.to_vec();
        if sound {
            all.extend(VERSION.to_be_bytes());
            all.extend([0; 9]);
        }
        all.append(&mut bytes);
        if all.len() >= 12 {
            resum(&mut all);
        }
        survive(&all);
    }

    #[test]
    fn mutations_with_the_right_sum_are_survived(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (_, mut bytes) = snapshot();
        let len = bytes.len() - 4;
        bytes[at.index(len)] = to;
        resum(&mut bytes);
        survive(&bytes);
    }
}
