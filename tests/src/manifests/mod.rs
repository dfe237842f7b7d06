//! The manifests as a cluster would get them: rendered, parsed strictly, and taken apart for tests that run what is in them.

pub mod corefile;
pub mod helm;
pub mod kustomize;
mod patch;
pub mod schema;
pub mod strict;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

/// The folder `manifests` of the project; the guest has it elsewhere and sets NODENS_MANIFESTS.
#[must_use]
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("NODENS_MANIFESTS") {
        return folder.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// One overlay, rendered.
///
/// # Panics
/// When it cannot be rendered.
#[must_use]
pub fn overlay(name: &str) -> Vec<Value> {
    let folder = folder().join("overlays").join(name);
    kustomize::render(&folder).unwrap_or_else(|error| panic!("overlay {name}: {error:#}"))
}

/// The documents of a YAML text; empty ones are left out.
///
/// # Errors
/// It is not YAML.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            all.push(value);
        }
    }
    Ok(all)
}

/// The documents of a YAML file.
///
/// # Errors
/// It cannot be read, or is not YAML.
pub fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    documents(&text).with_context(|| path.display().to_string())
}

/// The document of this kind and name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn find<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    all.iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The one container of the DaemonSet.
#[must_use]
pub fn container(all: &[Value]) -> &Value {
    &find(all, "DaemonSet", "nodens")["spec"]["template"]["spec"]["containers"][0]
}

/// The container's arguments as the kubelet would give them: `$(NAME)` replaced by the environment. What is not in it stays.
#[must_use]
pub fn arguments(all: &[Value], environment: &[(&str, &str)]) -> Vec<String> {
    let words = container(all)["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    let filled = |word: &Value| {
        environment
            .iter()
            .fold(word.as_str().unwrap_or_default().to_owned(), |word, (name, value)| {
                word.replace(&format!("$({name})"), value)
            })
    };
    words.iter().map(filled).collect()
}

/// The Corefile in the ConfigMap.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn corefile(all: &[Value]) -> &str {
    let text = find(all, "ConfigMap", "nodens")["data"]["Corefile"].as_str();
    text.unwrap_or_else(|| panic!("the ConfigMap has no Corefile"))
}
