//! What a client needs to reach the server: kubeconfigs and the folder of a service account.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::certificates::Pair;

/// How a kubeconfig proves who asks.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A bearer token in the file.
    Token(String),
    /// A file that holds the token and is read again.
    TokenFile(PathBuf),
    /// A client certificate.
    Certificate(Pair),
    /// An exec plugin: this command with these arguments prints an `ExecCredential`.
    Exec(String, Vec<String>),
    /// Nothing.
    Anonymous,
}

/// Writes a kubeconfig with one context, `test`.
///
/// # Errors
/// The file cannot be written.
pub fn write_kubeconfig(
    path: &Path,
    server: &str,
    ca_pem: Option<&str>,
    identity: &Identity,
) -> anyhow::Result<()> {
    let mut cluster = json!({"server": server});
    if let Some(ca) = ca_pem {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(ca));
    }
    let user = match identity {
        Identity::Token(token) => json!({"token": token}),
        Identity::TokenFile(file) => json!({"tokenFile": file}),
        Identity::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }),
        Identity::Exec(command, arguments) => json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": arguments,
            "interactiveMode": "Never",
        }}),
        Identity::Anonymous => json!({}),
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    fs::write(path, serde_yaml_ng::to_string(&config)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes, or replaces as the kubelet does, the folder of a service account: files behind `..data`, swapped in one rename.
///
/// # Errors
/// The folder cannot be written.
pub fn write_service_account(folder: &Path, token: &str, ca_pem: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let number = fs::read_dir(folder)?.count();
    let data = folder.join(format!("..version-{number}"));
    fs::create_dir(&data)?;
    for (name, text) in [("token", token), ("ca.crt", ca_pem), ("namespace", "kube-system")] {
        fs::write(data.join(name), text)?;
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    let fresh = folder.join("..data_tmp");
    symlink(data.file_name().unwrap_or_default(), &fresh)?;
    fs::rename(&fresh, folder.join("..data"))?;
    Ok(())
}
