//! One layer: a tar of the tree with fixed owners and times, and its gzip.

use std::io::Write as _;

use anyhow::Context;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::digest::sha256;
use crate::files::Files;

/// A layer as it stands in an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Compressed.
    pub gzip: Vec<u8>,
    /// The SHA-256 of the uncompressed tar, which the image's configuration names.
    pub diff_id: String,
    /// Octets of the uncompressed tar.
    pub unpacked: usize,
}

impl Layer {
    /// Packs a tree; every time in it is `epoch`.
    ///
    /// # Errors
    /// A path that tar cannot hold.
    pub fn pack(files: &Files, epoch: u64) -> anyhow::Result<Self> {
        let mut tar = Builder::new(Vec::new());
        for folder in files.folders() {
            entry(&mut tar, EntryType::Directory, &format!("{folder}/"), 0o755, &[], epoch)?;
        }
        for (path, file) in files.iter() {
            entry(&mut tar, EntryType::Regular, path, file.mode, &file.content, epoch)?;
        }
        let tar = tar.into_inner()?;
        // Neither name nor time in the head; the compressor is part of this program, so every machine has the same.
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar)?;
        let (diff_id, unpacked) = (sha256(&tar), tar.len());
        Ok(Self { gzip: gzip.finish()?, diff_id, unpacked })
    }
}

/// Adds an entry of root to a tar, with nothing in it that the machine decides.
///
/// # Errors
/// A path that tar cannot hold.
pub fn entry(
    tar: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    content: &[u8],
    epoch: u64,
) -> anyhow::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(content.len() as u64);
    header.set_path(path).with_context(|| format!("cannot put {path} into a tar"))?;
    header.set_cksum();
    tar.append(&header, content).with_context(|| format!("cannot add {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_gives_the_same_octets() {
        let mut files = Files::default();
        files.text("usr/share/doc/b", "b");
        files.program("a", b"a".to_vec());
        let layer = Layer::pack(&files, 7).unwrap();
        assert_eq!(layer.gzip, Layer::pack(&files, 7).unwrap().gzip);
        assert_ne!(layer.gzip, Layer::pack(&files, 8).unwrap().gzip);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(layer.gzip.as_slice()));
        let paths: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(paths, ["usr/", "usr/share/", "usr/share/doc/", "a", "usr/share/doc/b"]);
    }
}
