//! The rules of `deny.toml` for licences, sources, banned crates and advisories, checked on every crate that cargo would build for the
//! targets named there. The file has cargo-deny's format, so `cargo deny check` reads it as well; this test spares a fresh
//! machine five minutes of building that tool.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::Version;
use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};
use tests::advisories::{self, Advisory};

/// Where crates may come from; `deny.toml` denies every other registry.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Rules {
    advisories: Ignored,
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Ignored {
    ignore: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    id: String,
    reason: String,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Bans {
    wildcards: String,
    allow_wildcard_paths: bool,
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rules() -> Rules {
    toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap()
}

/// Every package that cargo would build for the targets of the rules, tests and build scripts included.
fn packages(rules: &Rules) -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut packages = BTreeMap::new();
    for target in &rules.graph.targets {
        let output = Command::new(&cargo)
            .args(["metadata", "--locked", "--format-version=1", "--filter-platform", target])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let built = metadata["resolve"]["nodes"].as_array().unwrap();
        let built: Vec<&Value> = built.iter().map(|node| &node["id"]).collect();
        for package in metadata["packages"].as_array().unwrap() {
            if built.contains(&&package["id"]) {
                packages.insert(package["id"].to_string(), package.clone());
            }
        }
    }
    assert!(packages.len() > 250, "only {} packages", packages.len());
    packages.into_values().collect()
}

/// Whether an expression can be satisfied with licences that are allowed.
fn is_allowed(expression: &str, allow: &[LicenseReq]) -> bool {
    Expression::parse_mode(expression, ParseMode::LAX)
        .is_ok_and(|expression| expression.evaluate(|licence| allow.contains(licence)))
}

/// The names that the rules allow, as requirements: some of them come with an exception (`WITH`).
fn allowed(rules: &Rules) -> Vec<LicenseReq> {
    let requirement = |name: &String| {
        let expression = Expression::parse(name).unwrap();
        let mut requirements = expression.requirements();
        requirements.next().unwrap().req.clone()
    };
    rules.licenses.allow.iter().map(requirement).collect()
}

#[test]
fn crates_keep_to_the_rules_of_deny_toml() {
    let rules = rules();
    let allow = allowed(&rules);
    let mut mistakes = Vec::new();
    for package in packages(&rules) {
        let name = package["name"].as_str().unwrap();
        let version = package["version"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence, &allow) {
            mistakes.push(format!("{name} {version}: licence {licence}"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| source != REGISTRY) {
            mistakes.push(format!("{name} {version}: source {}", package["source"]));
        }
        if let Some(banned) = rules.bans.deny.iter().find(|banned| banned.name == name) {
            mistakes.push(format!("{name} {version}: banned, {}", banned.reason));
        }
        // Only manifests of this workspace have no source.
        for dependency in package["dependencies"].as_array().unwrap() {
            if source.is_none() && dependency["req"] == "*" && dependency["path"].is_null() {
                mistakes.push(format!("{name}: {} in any version", dependency["name"]));
            }
        }
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}

#[test]
fn rules_and_licences_are_read_as_cargo_deny_reads_them() {
    let rules = rules();
    let [registry, git] = [&rules.sources.unknown_registry, &rules.sources.unknown_git];
    assert_eq!((registry.as_str(), git.as_str()), ("deny", "deny"));
    assert!(rules.bans.wildcards == "deny" && rules.bans.allow_wildcard_paths);
    let allow = allowed(&rules);
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "Apache-2.0 OR BSL-1.0",
        "(Apache-2.0 OR MIT) AND BSD-3-Clause",
        "Apache-2.0 WITH LLVM-exception",
        "GPL-3.0-only OR MIT",
    ] {
        assert!(is_allowed(good, &allow), "{good}");
    }
    for bad in [
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "MPL-2.0",
        "MIT WITH LLVM-exception",
        "none",
        "",
        "MIT OR",
    ] {
        assert!(!is_allowed(bad, &allow), "{bad}");
    }
}

/// Where the advisories are from, and what they are: the clone that NODENS_ADVISORY_DB names, else the facts that are pinned.
fn known_advisories() -> (String, Vec<Advisory>) {
    match std::env::var("NODENS_ADVISORY_DB") {
        Ok(folder) if !folder.is_empty() => {
            (format!("the database in {folder}"), advisories::database(Path::new(&folder)).unwrap())
        }
        _ => advisories::read(include_str!("../data/advisories.tsv")).unwrap(),
    }
}

#[test]
fn no_crate_has_a_known_vulnerability() {
    let rules = rules();
    let (from, known) = known_advisories();
    assert!(known.len() > 1_000, "only {} advisories", known.len());
    let mut affected = Vec::new();
    for package in packages(&rules).iter().filter(|package| package["source"].is_string()) {
        let name = package["name"].as_str().unwrap();
        let version = Version::parse(package["version"].as_str().unwrap()).unwrap();
        for one in known.iter().filter(|one| one.affects(name, &version)) {
            let line = format!("{}: {name} {version} {}", one.id, one.kind);
            match rules.advisories.ignore.iter().find(|ignored| ignored.id == one.id) {
                Some(ignored) => println!("ignored, {}: {line}", ignored.reason),
                None if one.is_danger() => affected.push(line),
                None => println!("remark: {line}"),
            }
        }
    }
    println!("advisories: {}, from {from}", known.len());
    assert!(affected.is_empty(), "by {from}:\n{}", affected.join("\n"));
}
