//! What the binary was built from, as cargo knows it: every crate of Cargo.lock, and whether it is part of the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::elf::Architecture;

/// The package whose binary is packed.
pub const PACKAGE: &str = "nodens";

/// Name and version.
pub type Id = (String, String);

/// One crate of Cargo.lock.
#[derive(Debug, Clone)]
pub struct Crate {
    /// Name and version.
    pub id: Id,
    /// The SHA-256 of its archive; crates of this workspace have none.
    pub checksum: Option<String>,
    /// Its licence as an SPDX expression; unknown for crates of other platforms.
    pub licence: Option<String>,
    /// Where its source is, unless it is of another platform.
    pub folder: Option<PathBuf>,
    /// Its part in the binary.
    pub part: Part,
    /// What it depends on, test dependencies of this workspace's crates included.
    pub dependencies: Vec<Id>,
}

/// A crate's part in the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// It is linked into it.
    Linked,
    /// It runs while the binary is built: build scripts and macros.
    Build,
    /// None: tests, tools, other platforms.
    None,
}

/// Every crate of a workspace's Cargo.lock.
///
/// # Errors
/// No cargo, no Cargo.lock, or one that is not up to date.
pub fn read(workspace: &Path, architecture: Architecture) -> anyhow::Result<Vec<Crate>> {
    let target = architecture.target();
    let tree = |edges: &str| {
        let edges = ["tree", "--locked", "-p", PACKAGE, "-e", edges, "--target", target];
        cargo(workspace, &[edges.as_slice(), &["--prefix", "none", "--no-dedupe"]].concat())
            .map(|text| text.lines().filter_map(tree_line).collect::<BTreeSet<Id>>())
    };
    let linked = tree("normal,no-proc-macro")?;
    let build = tree("normal,build")?;
    let metadata = ["metadata", "--locked", "--format-version=1", "--filter-platform", target];
    let metadata: Value = serde_json::from_str(&cargo(workspace, &metadata)?)?;
    let packages: BTreeMap<Id, &Value> = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?
        .iter()
        .filter_map(|package| Some((id(&package["name"], &package["version"])?, package)))
        .collect();

    let path = workspace.join("Cargo.lock");
    let lock =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut crates = from_lock(&lock)?;
    for found in &mut crates {
        if let Some(package) = packages.get(&found.id) {
            found.licence = package["license"].as_str().map(str::to_owned);
            let manifest = package["manifest_path"].as_str().map(Path::new);
            found.folder = manifest.and_then(Path::parent).map(Path::to_owned);
        }
        found.part = match () {
            () if linked.contains(&found.id) => Part::Linked,
            () if build.contains(&found.id) => Part::Build,
            () => Part::None,
        };
    }
    let count = crates.iter().filter(|found| found.part == Part::Linked).count();
    ensure!(count == linked.len(), "Cargo.lock lacks crates that cargo tree names");
    Ok(crates)
}

fn cargo(workspace: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace);
    let output = command.output().context("cannot run cargo")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {} failed:\n{errors}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// Reads `NAME vVERSION ...`.
fn tree_line(line: &str) -> Option<Id> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

fn id(name: &Value, version: &Value) -> Option<Id> {
    Some((name.as_str()?.to_owned(), version.as_str()?.to_owned()))
}

/// The crates of a Cargo.lock, in its order.
fn from_lock(text: &str) -> anyhow::Result<Vec<Crate>> {
    let lock: toml::Table = text.parse().context("Cargo.lock is no TOML")?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let packages = packages.context("Cargo.lock lists no packages")?;
    let word = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).map(str::to_owned)
    };
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    let mut crates = Vec::new();
    for package in packages {
        let name = word(package, "name").context("Cargo.lock has a package without a name")?;
        let version = word(package, "version").context("a package without a version")?;
        versions.insert(name.clone(), version.clone());
        crates.push(Crate {
            id: (name, version),
            checksum: word(package, "checksum"),
            licence: None,
            folder: None,
            part: Part::None,
            dependencies: Vec::new(),
        });
    }
    for (found, package) in crates.iter_mut().zip(packages) {
        let names = package.get("dependencies").and_then(toml::Value::as_array);
        for name in names.into_iter().flatten().filter_map(toml::Value::as_str) {
            // The version is only written where the name alone would be ambiguous.
            let mut words = name.split(' ');
            let name = words.next().unwrap_or_default();
            let version = words.next().or_else(|| versions.get(name).map(String::as_str));
            let version = version.with_context(|| format!("Cargo.lock lacks {name}"))?;
            found.dependencies.push((name.to_owned(), version.to_owned()));
        }
    }
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_and_trees_are_read() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\"b\", \"c 2.0.0\"]\n\
            [[package]]\nname = \"b\"\nversion = \"0.1.0\"\nchecksum = \"ab\"\n\
            [[package]]\nname = \"c\"\nversion = \"1.0.0\"\n[[package]]\nname = \"c\"\nversion = \"2.0.0\"\n";
        let crates = from_lock(lock).unwrap();
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(crates[0].dependencies, [pair("b", "0.1.0"), pair("c", "2.0.0")]);
        assert_eq!((crates.len(), crates[1].checksum.as_deref()), (4, Some("ab")));
        let line = "netsetup v0.1.0 (/somewhere/netsetup)";
        assert_eq!(tree_line(line), Some(pair("netsetup", "0.1.0")));
        assert_eq!(tree_line(""), None);
    }
}
