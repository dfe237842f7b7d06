//! As much of kustomize as the manifests use, strictly: a field that is not known here is an error. A test compares it with the
//! real one where that is installed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::{self, Operation};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    components: Vec<String>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    images: Vec<Image>,
    #[serde(default)]
    labels: Vec<Labels>,
    #[serde(default)]
    name_suffix: String,
}

/// Of the objects alone: selectors and the pods of a template stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generator {
    name: String,
    namespace: String,
    #[serde(default)]
    behavior: Behavior,
    files: Vec<String>,
    options: GeneratorOptions,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Behavior {
    #[default]
    Create,
    Replace,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GeneratorOptions {
    disable_name_suffix_hash: bool,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: String,
    /// Without one the file is a document with `$patch: delete`.
    target: Option<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    name: String,
    new_name: String,
    new_tag: String,
}

/// Renders a folder.
///
/// # Errors
/// Something in it cannot be read, is not known here, or does not fit together.
pub fn render(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    apply(folder, &mut all)?;
    Ok(all)
}

/// Lets a component change what is there.
///
/// # Errors
/// As of [`render`].
pub fn add_component(folder: &Path, all: &mut Vec<Value>) -> anyhow::Result<()> {
    apply(folder, all)
}

/// Adds a kustomization, or lets a component change what is there.
fn apply(folder: &Path, all: &mut Vec<Value>) -> anyhow::Result<()> {
    let file = folder.join("kustomization.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let wanted: Kustomization =
        serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())?;
    for resource in &wanted.resources {
        let path = folder.join(resource);
        if path.is_dir() {
            all.extend(render(&path)?);
        } else {
            all.extend(super::read(&path)?);
        }
    }
    for component in &wanted.components {
        apply(&folder.join(component), all)?;
    }
    for generator in &wanted.config_map_generator {
        generate(folder, generator, all)?;
    }
    for patch in &wanted.patches {
        patch_one(folder, patch, all)?;
    }
    add_suffix(&wanted.name_suffix, all);
    for image in &wanted.images {
        all.iter_mut().for_each(|document| set_image(document, image));
    }
    for (name, value) in wanted.labels.iter().flat_map(|labels| &labels.pairs) {
        for document in all.iter_mut() {
            document["metadata"]["labels"][name] = value.as_str().into();
        }
    }
    Ok(())
}

fn generate(folder: &Path, generator: &Generator, all: &mut Vec<Value>) -> anyhow::Result<()> {
    if !generator.options.disable_name_suffix_hash {
        bail!("ConfigMap {}: names with a hash are not known here", generator.name);
    }
    let mut data = serde_json::Map::new();
    for file in &generator.files {
        let (key, path) = file.split_once('=').unwrap_or((file, file));
        let text = std::fs::read_to_string(folder.join(path)).with_context(|| path.to_owned())?;
        data.insert(key.to_owned(), text.into());
    }
    let made = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": generator.name,
            "namespace": generator.namespace,
            "labels": generator.options.labels,
        },
        "data": data,
    });
    let there = all.iter_mut().find(|document| same(document, "ConfigMap", &generator.name));
    match (there, &generator.behavior) {
        (None, Behavior::Create) => all.push(made),
        (Some(there), Behavior::Replace) => *there = made,
        _ => bail!(
            "ConfigMap {}: it is there already, or is not there to be replaced",
            generator.name
        ),
    }
    Ok(())
}

/// Gives every object a longer name, and takes the references of pods along. What else refers to a name is not known here.
fn add_suffix(suffix: &str, all: &mut [Value]) {
    if suffix.is_empty() {
        return;
    }
    let renamed: Vec<(Value, Value)> =
        all.iter().map(|one| (one["kind"].clone(), one["metadata"]["name"].clone())).collect();
    let longer = |name: &mut Value, kind: &str| {
        if renamed.contains(&(kind.into(), name.clone())) {
            *name = format!("{}{suffix}", name.as_str().unwrap_or_default()).into();
        }
    };
    for document in all {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        longer(&mut document["metadata"]["name"], &kind);
        let Some(pod) = document.pointer_mut("/spec/template/spec") else { continue };
        if let Some(account) = pod.get_mut("serviceAccountName") {
            longer(account, "ServiceAccount");
        }
        let volumes = pod.get_mut("volumes").and_then(Value::as_array_mut);
        for volume in volumes.into_iter().flatten() {
            if let Some(name) = volume.pointer_mut("/configMap/name") {
                longer(name, "ConfigMap");
            }
        }
    }
}

fn patch_one(folder: &Path, wanted: &Patch, all: &mut Vec<Value>) -> anyhow::Result<()> {
    let path = folder.join(&wanted.path);
    let Some(target) = &wanted.target else {
        for gone in super::read(&path)? {
            let (kind, name) = (&gone["kind"], &gone["metadata"]["name"]);
            let before = all.len();
            all.retain(|one| &one["kind"] != kind || &one["metadata"]["name"] != name);
            if gone["$patch"] != "delete" || all.len() + 1 != before {
                bail!("{}: no patch that deletes one object", path.display());
            }
        }
        return Ok(());
    };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let operations: Vec<Operation> =
        serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
    let Target { kind, name } = target;
    let Some(document) = all.iter_mut().find(|document| same(document, kind, name)) else {
        bail!("{}: there is no {kind} {name}", path.display());
    };
    for operation in &operations {
        patch::apply(document, operation).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn same(document: &Value, kind: &str, name: &str) -> bool {
    document["kind"] == kind && document["metadata"]["name"] == name
}

fn set_image(document: &mut Value, image: &Image) {
    let containers = document.pointer_mut("/spec/template/spec/containers");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        if container["image"] == image.name.as_str() {
            container["image"] = format!("{}:{}", image.new_name, image.new_tag).into();
        }
    }
}
