//! Advisories on crates: RustSec's database, or the copy of its facts that is pinned here, held against Cargo.lock.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use semver::{Version, VersionReq};
use serde::Deserialize;

/// One advisory, as far as it decides whether a version is affected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advisory {
    /// As `RUSTSEC-2020-0105`.
    pub id: String,
    /// The crate.
    pub package: String,
    /// `unmaintained`, `unsound` or `notice`; empty: a vulnerability.
    pub kind: String,
    /// Versions that are not affected any more, or never were.
    pub good: Vec<VersionReq>,
}

impl Advisory {
    /// Whether this version of this crate is affected.
    #[must_use]
    pub fn affects(&self, package: &str, version: &Version) -> bool {
        self.package == package && !self.good.iter().any(|good| good.matches(version))
    }

    /// Whether it is about something that can go wrong; the others are remarks on the crate.
    #[must_use]
    pub fn is_danger(&self) -> bool {
        self.kind.is_empty() || self.kind == "unsound"
    }
}

#[derive(Deserialize)]
struct Written {
    advisory: About,
    #[serde(default)]
    versions: Versions,
}

#[derive(Deserialize)]
struct About {
    id: String,
    package: String,
    #[serde(default)]
    informational: String,
    withdrawn: Option<toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Versions {
    patched: Vec<String>,
    unaffected: Vec<String>,
}

/// Reads a clone of the database.
///
/// # Errors
/// It cannot be read, or has none.
pub fn database(folder: &Path) -> anyhow::Result<Vec<Advisory>> {
    let mut all = Vec::new();
    let crates = folder.join("crates");
    for entry in fs::read_dir(&crates).with_context(|| crates.display().to_string())? {
        for entry in fs::read_dir(entry?.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)?;
                all.extend(advisory(&text).with_context(|| path.display().to_string())?);
            }
        }
    }
    if all.is_empty() {
        bail!("{} has no advisories", crates.display());
    }
    all.sort_by(|a, b| (&a.package, &a.id).cmp(&(&b.package, &b.id)));
    Ok(all)
}

/// One file of it: TOML in a fence, and text behind. `None` if it was withdrawn.
fn advisory(text: &str) -> anyhow::Result<Option<Advisory>> {
    let front = text.split_once("```toml").and_then(|(_, rest)| rest.split_once("\n```"));
    let written: Written = toml::from_str(front.context("no TOML at its beginning")?.0)?;
    if written.advisory.withdrawn.is_some() {
        return Ok(None);
    }
    let words = written.versions.patched.iter().chain(&written.versions.unaffected);
    Ok(Some(Advisory {
        id: written.advisory.id,
        package: written.advisory.package,
        kind: written.advisory.informational,
        good: words.map(|word| VersionReq::parse(word)).collect::<Result<_, _>>()?,
    }))
}

/// Writes the facts: a line with where they are from, then one for each advisory.
#[must_use]
pub fn write(from: &str, all: &[Advisory]) -> String {
    let line = |one: &Advisory| {
        let good: Vec<String> = one.good.iter().map(ToString::to_string).collect();
        format!("{}\t{}\t{}\t{}\n", one.id, one.package, one.kind, good.join(" | "))
    };
    format!("{from}\n") + &all.iter().map(line).collect::<String>()
}

/// Reads what [`write`] has written: where it is from, and the advisories.
///
/// # Errors
/// A line is not one of its own.
pub fn read(text: &str) -> anyhow::Result<(String, Vec<Advisory>)> {
    let mut lines = text.lines();
    let from = lines.next().context("it is empty")?.to_owned();
    let advisory = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [id, package, kind, good] = words.as_slice() else { bail!("{line:?} is no advisory") };
        let good = good.split(" | ").filter(|word| !word.is_empty()).map(VersionReq::parse);
        let (id, package, kind) = ((*id).into(), (*package).into(), (*kind).into());
        Ok(Advisory { id, package, kind, good: good.collect::<Result<_, _>>()? })
    };
    Ok((from, lines.map(advisory).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2020-0001\"\npackage = \"a\"\ndate = \"2020-01-01\"\n\n\
        [versions]\npatched = [\">= 1.2.3, < 2.0.0\", \">= 2.1.0\"]\nunaffected = [\"< 0.5\"]\n```\n\n# Title\n";

    #[test]
    fn affected_versions_are_those_between() {
        let one = advisory(TEXT).unwrap().unwrap();
        let affects = |version: &str| one.affects("a", &Version::parse(version).unwrap());
        for (version, affected) in
            [("0.4.9", false), ("1.2.2", true), ("1.9.0", false), ("2.0.0", true), ("2.1.0", false)]
        {
            assert_eq!(affects(version), affected, "{version}");
        }
        assert!(!one.affects("b", &Version::new(1, 0, 0)) && one.is_danger());
        let withdrawn =
            TEXT.replace("\n\n[versions]", "\nwithdrawn = \"2020-02-01\"\n\n[versions]");
        assert_eq!(advisory(&withdrawn).unwrap(), None);
    }

    #[test]
    fn facts_are_read_as_they_were_written() {
        let all = vec![
            advisory(TEXT).unwrap().unwrap(),
            Advisory {
                kind: "unmaintained".into(),
                good: Vec::new(),
                ..advisory(TEXT).unwrap().unwrap()
            },
        ];
        assert_eq!(read(&write("from", &all)).unwrap(), ("from".to_owned(), all));
        assert!(read("from\nRUSTSEC").is_err());
    }
}
