//! Reads an image archive: checks every digest and size on the way to what is in it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::digest::sha256;
use crate::oci::INDEX;

/// An archive whose digests have all been checked.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The digest by which a registry would know it.
    pub digest: String,
    /// Octets of the archive.
    pub size: usize,
    /// Its images.
    pub images: Vec<Image>,
}

/// The image of one architecture.
#[derive(Debug, Clone)]
pub struct Image {
    /// OCI's name of the architecture.
    pub architecture: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Its configuration.
    pub config: Value,
    /// Octets of its layers, compressed.
    pub compressed: u64,
    /// Its files and folders in their order; folders end in a slash.
    pub entries: Vec<Entry>,
}

/// A file or a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The path without the leading slash.
    pub path: String,
    /// The permissions.
    pub mode: u32,
    /// The owner, user and group.
    pub owner: (u64, u64),
    /// When it was changed, seconds since 1970.
    pub time: u64,
    /// What is in it.
    pub content: Vec<u8>,
}

impl Contents {
    /// Reads an archive.
    ///
    /// # Errors
    /// No OCI archive, or a part of it that does not have its digest.
    pub fn read(octets: &[u8]) -> anyhow::Result<Self> {
        let files: BTreeMap<String, Vec<u8>> =
            untar(octets)?.into_iter().map(|entry| (entry.path, entry.content)).collect();
        let file =
            |path: &str| files.get(path).with_context(|| format!("the archive lacks {path}"));
        let layout: Value = serde_json::from_slice(file("oci-layout")?)?;
        ensure!(layout["imageLayoutVersion"] == "1.0.0", "no OCI layout of version 1.0.0");
        let index: Value = serde_json::from_slice(file("index.json")?)?;
        let [top] = list(&index["manifests"])? else { bail!("index.json names several images") };
        let manifests = if top["mediaType"] == INDEX {
            let index: Value = serde_json::from_slice(blob(&files, top)?)?;
            list(&index["manifests"])?.to_vec()
        } else {
            vec![top.clone()]
        };
        let images = manifests.iter().map(|manifest| Image::read(&files, manifest));
        Ok(Self {
            digest: text(&top["digest"]),
            size: octets.len(),
            images: images.collect::<anyhow::Result<_>>()?,
        })
    }

    /// The image of an architecture.
    #[must_use]
    pub fn image(&self, architecture: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.architecture == architecture)
    }
}

impl Image {
    fn read(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> anyhow::Result<Self> {
        let manifest: Value = serde_json::from_slice(blob(files, descriptor)?)?;
        let config: Value = serde_json::from_slice(blob(files, &manifest["config"])?)?;
        let layers = list(&manifest["layers"])?;
        let diff_ids = list(&config["rootfs"]["diff_ids"])?;
        ensure!(layers.len() == diff_ids.len(), "manifest and configuration differ in layers");
        let (mut entries, mut compressed) = (Vec::new(), 0);
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let mut tar = Vec::new();
            GzDecoder::new(blob(files, layer)?).read_to_end(&mut tar).context("broken layer")?;
            ensure!(*diff_id == format!("sha256:{}", sha256(&tar)), "a layer is not its diff_id");
            compressed += layer["size"].as_u64().unwrap_or_default();
            entries.extend(untar(&tar)?);
        }
        Ok(Self {
            architecture: text(&config["architecture"]),
            digest: text(&descriptor["digest"]),
            config,
            compressed,
            entries,
        })
    }

    /// The content of a file; its path may begin with a slash.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path.trim_start_matches('/'))
    }
}

impl fmt::Display for Contents {
    /// What is in it, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image   {}  ({} kB)", self.digest, self.size.div_ceil(1000))?;
        for image in &self.images {
            let unpacked: usize = image.entries.iter().map(|entry| entry.content.len()).sum();
            let config = &image.config["config"];
            writeln!(
                f,
                "\n{}   {}\n        {} kB compressed, {} kB unpacked; user {}, entrypoint {}",
                image.architecture,
                image.digest,
                image.compressed.div_ceil(1000),
                unpacked.div_ceil(1000),
                text(&config["User"]),
                config["Entrypoint"],
            )?;
            for (label, value) in config["Labels"].as_object().into_iter().flatten() {
                writeln!(f, "        {label}={}", text(value))?;
            }
            for entry in &image.entries {
                writeln!(f, "  {:04o} {:>9} /{}", entry.mode, entry.content.len(), entry.path)?;
            }
        }
        Ok(())
    }
}

fn untar(octets: &[u8]) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(octets).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let head = entry.header();
        entries.push(Entry {
            path: String::from_utf8(entry.path_bytes().into_owned())?,
            mode: head.mode()?,
            owner: (head.uid()?, head.gid()?),
            time: head.mtime()?,
            content,
        });
    }
    Ok(entries)
}

/// The blob of a descriptor, after its digest and size were checked.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> anyhow::Result<&'a [u8]> {
    let digest = text(&descriptor["digest"]);
    let hash = digest.strip_prefix("sha256:").context("a descriptor has no SHA-256 digest")?;
    let octets = files.get(&format!("blobs/sha256/{hash}"));
    let octets = octets.with_context(|| format!("the archive lacks the blob {digest}"))?;
    ensure!(sha256(octets) == hash, "the blob {digest} is another");
    ensure!(descriptor["size"] == octets.len(), "the blob {digest} has another size");
    Ok(octets)
}

fn list(value: &Value) -> anyhow::Result<&[Value]> {
    value.as_array().map(Vec::as_slice).context("a list is missing")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Architecture;
    use crate::files::Files;
    use crate::oci::{About, Archive};

    fn packed(architectures: &[Architecture]) -> Archive {
        let tree = |architecture: &Architecture| {
            let mut files = Files::default();
            files.program("nodens", architecture.name().into());
            files.text("usr/share/doc/LICENSE", "free");
            (*architecture, files)
        };
        let about = About { version: "1.2.3".into(), revision: Some("abc".into()), epoch: 86_400 };
        Archive::pack(&architectures.iter().map(tree).collect(), &about).unwrap()
    }

    #[test]
    fn what_was_packed_is_read_again() {
        for architectures in
            [&[Architecture::Arm64][..], &[Architecture::Amd64, Architecture::Arm64]]
        {
            let archive = packed(architectures);
            assert_eq!(archive.octets, packed(architectures).octets);
            let contents = Contents::read(&archive.octets).unwrap();
            assert_eq!(contents.digest, archive.digest);
            assert_eq!(contents.images.len(), architectures.len());
            let image = contents.image("arm64").unwrap();
            assert_eq!(image.file("/nodens").unwrap().content, b"arm64");
            assert_eq!(image.file("nodens").unwrap().mode, 0o755);
            assert!(image.entries.iter().all(|e| e.time == 86_400 && e.owner == (0, 0)));
            let shown = contents.to_string();
            assert!(shown.contains("image.revision=abc") && shown.contains("/usr/share/doc/"));
        }
    }

    #[test]
    fn a_changed_octet_is_noticed() {
        let archive = packed(&[Architecture::Amd64]);
        let mut octets = archive.octets;
        // The first blob follows the heads of two folders and its own.
        octets[3 * 512] ^= 1;
        assert!(Contents::read(&octets).unwrap_err().to_string().contains("is another"));
        assert!(Contents::read(b"").is_err());
    }
}
