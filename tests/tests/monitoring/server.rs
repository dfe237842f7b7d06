//! A real Prometheus, from Debian's package.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::{http, poll, ports};

const SOON: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

/// The folder with `prometheus` and `promtool`. `None`, and a loud word, where they cannot be had; a failure with CI=true.
pub fn tools() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Beside the test's own build, so that a second run finds it. One test at a time fetches it.
    static ONCE: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    let found = ONCE.get_or_init(|| {
        let build = std::env::current_exe().unwrap();
        let target = build.ancestors().nth(3).unwrap().join("prometheus");
        let output = Command::new(root.join("scripts/prometheus")).arg(target).output();
        let output = output.map_err(|error| format!("cannot run scripts/prometheus: {error}"))?;
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout).into())
        } else {
            Err(text(&output.stderr))
        }
    });
    match found {
        Ok(folder) => Some(folder.clone()),
        Err(reason) => {
            let is_demanded = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!is_demanded, "no Prometheus, and this may not be skipped here: {reason}");
            // Not eprintln!, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "\n*** SKIPPED, no Prometheus: {reason} ***");
            None
        }
    }
}

impl Prometheus {
    /// Starts one that scrapes a port of this machine each second and evaluates these rules as often.
    pub fn start(tools: &Path, rules: &Value, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("rules.yaml", &serde_yaml_ng::to_string(rules).unwrap());
        write(
            "prometheus.yaml",
            &format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [rules.yaml]\n\
                 scrape_configs:\n\
                 - {{job_name: nodens-metrics, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
            ),
        );
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::one()));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(tools.join("prometheus"))
            .arg(format!("--web.listen-address={address}"))
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { child, address, folder };
        let is_ready = poll::until(SOON, || {
            http::get(address, "/-/ready", SOON).is_ok_and(|reply| reply.status == 200)
        });
        let log = fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
        assert!(is_ready, "Prometheus is not ready:\n{log}");
        server
    }

    /// A page of its API.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let reply = http::get(self.address, path, SOON).map_err(|error| error.to_string())?;
        let page: Value = serde_json::from_str(&reply.body).map_err(|error| error.to_string())?;
        if page["status"] == "success" { Ok(page) } else { Err(reply.body) }
    }

    /// The series that an expression gives now.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let escaped: String = expression.bytes().map(|octet| format!("%{octet:02x}")).collect();
        let page = self.get(&format!("/api/v1/query?query={escaped}"))?;
        Ok(page["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// The value of the one series that an expression gives.
    pub fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression).ok()?;
        let [one] = found.as_slice() else { return None };
        one["value"][1].as_str()?.parse().ok()
    }

    /// Every metric that is stored.
    pub fn names(&self) -> BTreeSet<String> {
        let page = self.get("/api/v1/label/__name__/values").unwrap();
        let names = page["data"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
