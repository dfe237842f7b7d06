//! What is published of a release besides the image: notes, sums, provenance, signatures.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::archive::Contents;
use crate::digest::{canonical, sha256};
use crate::provenance::{self, Origin};
use crate::sign::Key;

/// The sums, in the form that `sha256sum --check` reads.
const SUMS: &str = "SHA256SUMS";
/// The statement of provenance.
const PROVENANCE: &str = "provenance.json";
/// The same in a signed envelope.
const ENVELOPE: &str = "provenance.intoto.json";
/// The public half of the key.
const PUBLIC: &str = "nodens.pub";
/// What cosign signs of an image.
const PAYLOAD: &str = "image-payload.json";

/// What to write about a release.
#[derive(Default)]
pub struct Seal {
    /// Where it comes from.
    pub origin: Origin,
    /// The image archive in the folder, and the repository that it will have in a registry.
    pub image: Option<(String, String)>,
    /// What it is signed with; without it nothing is signed.
    pub key: Option<Key>,
}

/// Writes sums, provenance and, with a key, signatures for every file of a folder. Returns the names that were written.
///
/// Signatures differ from one run to the next, since ECDSA takes a random number; everything else does not.
///
/// # Errors
/// A file cannot be read or written, or was written by this before.
pub fn seal(folder: &Path, order: &Seal) -> anyhow::Result<Vec<String>> {
    let artifacts = artifacts(folder)?;
    let mut written = Vec::new();
    let mut write = |name: &str, octets: &[u8]| {
        let path = folder.join(name);
        ensure!(!path.exists(), "{} is there already: take an empty folder", path.display());
        fs::write(&path, octets).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(name.to_owned());
        Ok(())
    };
    let statement = provenance::write(&artifacts, &order.origin)?;
    write(PROVENANCE, &statement)?;
    let with_statement =
        artifacts.iter().cloned().chain([(PROVENANCE.to_owned(), sha256(&statement))]);
    let sums: String = with_statement.map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    write(SUMS, sums.as_bytes())?;
    let payload = order.image.as_ref().map(|image| payload(folder, image)).transpose()?;
    if let Some(payload) = &payload {
        write(PAYLOAD, payload)?;
    }
    let Some(key) = &order.key else { return Ok(written) };
    for (name, _) in &artifacts {
        let octets = read(folder, name)?;
        write(&format!("{name}.sig"), key.sign(&octets)?.as_bytes())?;
    }
    write(&format!("{SUMS}.sig"), key.sign(sums.as_bytes())?.as_bytes())?;
    if let Some(payload) = &payload {
        write(&format!("{PAYLOAD}.sig"), key.sign(payload)?.as_bytes())?;
    }
    write(ENVELOPE, &key.envelope(&statement)?)?;
    write(PUBLIC, key.public().as_bytes())?;
    Ok(written)
}

/// What cosign signs of an image: its digest, and the name that it goes by (containers-signature(5)).
fn payload(folder: &Path, (archive, repository): &(String, String)) -> anyhow::Result<Vec<u8>> {
    let contents = Contents::read(&read(folder, archive)?)?;
    canonical(json!({
        "critical": {
            "identity": { "docker-reference": repository },
            "image": { "docker-manifest-digest": contents.digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    }))
}

/// The files of a folder with their digests, by name.
fn artifacts(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        names.push(name.into_string().map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))?);
    }
    names.sort();
    ensure!(!names.is_empty(), "there is nothing in {}", folder.display());
    names.into_iter().map(|name| Ok((name.clone(), sha256(&read(folder, &name)?)))).collect()
}

fn read(folder: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = folder.join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A version's part of a changelog in the format of Keep a Changelog, without its heading.
///
/// # Errors
/// The changelog does not have the version, or nothing on it.
pub fn notes(changelog: &str, version: &str) -> anyhow::Result<String> {
    let heading = format!("## [{version}]");
    let mut lines = changelog.lines().skip_while(|line| !line.starts_with(&heading)).peekable();
    if lines.next().is_none() {
        bail!("the changelog has no section {heading}");
    }
    let part: Vec<&str> = lines.take_while(|line| !line.starts_with("## ")).collect();
    let text = part.join("\n");
    ensure!(!text.trim().is_empty(), "the changelog says nothing on {version}");
    Ok(format!("{}\n", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_one_section() {
        let changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-01\n\n### A\n- one\n\n## [0.1.0]\n- old\n";
        assert_eq!(notes(changelog, "0.2.0").unwrap(), "### A\n- one\n");
        assert_eq!(notes(changelog, "0.1.0").unwrap(), "- old\n");
        assert!(notes(changelog, "Unreleased").is_err() && notes(changelog, "0.3.0").is_err());
    }
}
