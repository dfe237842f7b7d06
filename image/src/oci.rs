//! OCI's image format: configuration, manifest, index, and the archive that holds them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::digest::{canonical, sha256};
use crate::elf::Architecture;
use crate::files::Files;
use crate::layer::{Layer, entry};
use crate::time::rfc3339;

/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What all architectures of an image have in common.
#[derive(Debug, Clone)]
pub struct About {
    /// The version, which is also the image's tag.
    pub version: String,
    /// The commit, if it is known.
    pub revision: Option<String>,
    /// SOURCE_DATE_EPOCH.
    pub epoch: u64,
}

/// A finished archive.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The tar.
    pub octets: Vec<u8>,
    /// The digest by which a registry would know the image.
    pub digest: String,
}

#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl About {
    /// The labels of the image: OCI's predefined annotation keys.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<&'static str, String> {
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.title", "nodens".to_owned()),
            ("org.opencontainers.image.description", "The DNS server of a Kubernetes node".into()),
            ("org.opencontainers.image.version", self.version.clone()),
            ("org.opencontainers.image.licenses", "Apache-2.0".into()),
            ("org.opencontainers.image.created", rfc3339(self.epoch)),
        ]);
        if let Some(revision) = &self.revision {
            labels.insert("org.opencontainers.image.revision", revision.clone());
        }
        labels
    }
}

impl Archive {
    /// Packs one tree per architecture. With one, the archive's index names its manifest; with several, an index of them.
    ///
    /// # Errors
    /// A path that tar cannot hold.
    pub fn pack(trees: &BTreeMap<Architecture, Files>, about: &About) -> anyhow::Result<Self> {
        let mut blobs = Blobs::default();
        let mut manifests = Vec::new();
        for (architecture, files) in trees {
            let layer = Layer::pack(files, about.epoch)?;
            let config = canonical(config(*architecture, &layer, about))?;
            let manifest = canonical(json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": blobs.add(CONFIG, config),
                "layers": [blobs.add(LAYER, layer.gzip)],
                "annotations": about.labels(),
            }))?;
            let mut descriptor = blobs.add(MANIFEST, manifest);
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture.name()});
            manifests.push(descriptor);
        }
        let mut top = match manifests.as_slice() {
            [one] => one.clone(),
            several => {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": several, "annotations": about.labels()});
                blobs.add(INDEX, canonical(index)?)
            }
        };
        let digest = top["digest"].as_str().unwrap_or_default().to_owned();
        top["annotations"] = json!({"org.opencontainers.image.ref.name": about.version});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
        let octets = blobs.archive(&canonical(index)?, about.epoch)?;
        Ok(Self { octets, digest })
    }
}

impl Blobs {
    /// Keeps a blob; returns its descriptor.
    fn add(&mut self, media_type: &str, octets: Vec<u8>) -> Value {
        let (hash, size) = (sha256(&octets), octets.len());
        self.0.insert(hash.clone(), octets);
        json!({"mediaType": media_type, "digest": format!("sha256:{hash}"), "size": size})
    }

    fn archive(&self, index: &[u8], epoch: u64) -> anyhow::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for folder in ["blobs/", "blobs/sha256/"] {
            entry(&mut tar, EntryType::Directory, folder, 0o755, &[], epoch)?;
        }
        for (hash, octets) in &self.0 {
            let path = format!("blobs/sha256/{hash}");
            entry(&mut tar, EntryType::Regular, &path, 0o644, octets, epoch)?;
        }
        let layout = canonical(json!({"imageLayoutVersion": "1.0.0"}))?;
        for (path, octets) in [("index.json", index), ("oci-layout", layout.as_slice())] {
            entry(&mut tar, EntryType::Regular, path, 0o644, octets, epoch)?;
        }
        Ok(tar.into_inner()?)
    }
}

/// What a container of the image runs as.
///
/// The user is root, since nothing else can be given a capability by a pod's `securityContext`: CAP_NET_ADMIN for the link and
/// CAP_NET_BIND_SERVICE for port 53. The process gives all others away, and `--user` makes it another user.
fn config(architecture: Architecture, layer: &Layer, about: &About) -> Value {
    json!({
        "architecture": architecture.name(), "os": "linux", "created": rfc3339(about.epoch),
        "config": {
            "User": "0:0", "Entrypoint": ["/nodens"], "WorkingDir": "/", "StopSignal": "SIGTERM",
            "Labels": about.labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.diff_id)]},
        "history": [{"created": rfc3339(about.epoch), "created_by": "scripts/image"}],
    })
}
