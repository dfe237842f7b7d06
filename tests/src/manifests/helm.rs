//! The chart, rendered by the template engine that Helm uses (`tests/helm/render.go`), and values merged as Helm merges them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Whether `go` is there to build the engine with.
#[must_use]
pub fn is_possible() -> bool {
    Command::new("go").arg("version").output().is_ok_and(|output| output.status.success())
}

/// The chart's values with `changes` laid over.
///
/// # Errors
/// The chart cannot be read.
pub fn values(changes: &Value) -> anyhow::Result<Value> {
    let mut values = one(&super::folder().join("helm/nodens/values.yaml"))?;
    merge(&mut values, changes);
    Ok(values)
}

/// What Helm makes of the chart.
#[derive(Debug)]
pub struct Release {
    /// What is installed.
    pub objects: Vec<Value>,
    /// What `helm test` and other hooks create.
    pub hooks: Vec<Value>,
    /// What is printed after the installation.
    pub notes: String,
}

/// What is installed as release `nodens` in kube-system.
///
/// # Errors
/// A template fails, or what it makes is not YAML.
pub fn render(values: &Value) -> anyhow::Result<Vec<Value>> {
    Ok(release(values)?.objects)
}

/// Renders the chart as release `nodens` in kube-system.
///
/// # Errors
/// A template fails, or what it makes is not YAML.
pub fn release(values: &Value) -> anyhow::Result<Release> {
    let chart = super::folder().join("helm/nodens");
    let about = one(&chart.join("Chart.yaml"))?;
    let input = json!({
        "chart": { "Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"] },
        "release": { "Name": "nodens", "Namespace": "kube-system" },
        "values": values,
        "templates": texts(&chart.join("templates"), "")?,
        "files": texts(&chart.join("files"), "files/")?,
    });
    let mut rendered = engine(&input)?;
    let notes = rendered.remove("NOTES.txt").context("there is no NOTES.txt")?;
    let mut all = Vec::new();
    for (name, text) in rendered {
        all.extend(super::documents(&text).with_context(|| format!("{name}:\n{text}"))?);
    }
    let is_hook = |one: &Value| one["metadata"]["annotations"]["helm.sh/hook"].is_string();
    let (hooks, objects) = all.into_iter().partition(is_hook);
    Ok(Release { objects, hooks, notes })
}

fn engine(input: &Value) -> anyhow::Result<BTreeMap<String, String>> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/render.go");
    let mut child = Command::new("go")
        .arg("run")
        .arg(program)
        // Nothing but the standard library; nothing is fetched.
        .envs([("GO111MODULE", "off"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local")])
        .env("GOCACHE", std::env::temp_dir().join("nodens-go-cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run go")?;
    child.stdin.take().context("no pipe")?.write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the chart cannot be rendered: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The files of a folder by name.
fn texts(folder: &Path, prefix: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all.insert(format!("{prefix}{name}"), text);
    }
    Ok(all)
}

fn one(path: &Path) -> anyhow::Result<Value> {
    super::read(path)?.pop().with_context(|| format!("{} is empty", path.display()))
}

/// Objects are merged, everything else is replaced; null takes away.
fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), change);
                }
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}
