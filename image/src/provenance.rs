//! Where a release comes from: a statement of in-toto with the predicate of SLSA provenance 1.

use serde_json::{Value, json};

use crate::digest::canonical;

/// What a build was made of.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The version.
    pub version: String,
    /// The commit.
    pub revision: String,
    /// Where the sources are kept, as a URI; empty: not said.
    pub source: String,
    /// Who built it, as a URI.
    pub builder: String,
    /// Tools and libraries with their versions.
    pub tools: Vec<(String, String)>,
}

/// How the artifacts were made; the manual describes what the parameters mean.
const BUILD_TYPE: &str = "urn:nodens:scripts-release:1";

/// Writes the statement about these artifacts, each a name and its SHA-256.
///
/// There are no times in it, so that two builds of a commit give the same statement.
///
/// # Errors
/// None in practice; JSON that cannot be written.
pub fn write(artifacts: &[(String, String)], origin: &Origin) -> anyhow::Result<Vec<u8>> {
    let subjects: Vec<Value> = artifacts
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest } }))
        .collect();
    let commit = origin.revision.split('-').next().unwrap_or_default();
    let mut dependencies = vec![json!({
        "name": "source", "uri": if origin.source.is_empty() { "git+urn:nodens" } else { &origin.source },
        "digest": { "gitCommit": commit },
    })];
    dependencies.extend(
        origin
            .tools
            .iter()
            .map(|(name, version)| json!({ "name": name, "annotations": { "version": version } })),
    );
    canonical(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": { "version": origin.version, "revision": origin.revision },
                "resolvedDependencies": dependencies,
            },
            "runDetails": { "builder": { "id": origin.builder } },
        },
    }))
}
