//! A DaemonSet's pod without a kubelet: its arguments, variables, volumes and probes, as the manifest has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tests::log::Log;
use tests::{poll, process};

use super::site::{Site, project};
use crate::node::tests_deadline;
use crate::node::world::kind;

/// The node's address, which a pod on the host's network has.
const NODE: &str = "192.0.2.10";

/// The running pod; killed when dropped.
pub struct Container {
    child: Child,
    spec: Value,
    log: Log,
}

impl Container {
    /// Starts what the DaemonSet of the base says, with the Corefile of the same folder.
    pub fn start(site: &Site) -> Self {
        let text = fs::read_to_string(project("manifests/base/daemonset.yaml")).unwrap();
        let document = serde_yaml_ng::Deserializer::from_str(&text).next().unwrap();
        let pod = Value::deserialize(document).unwrap()["spec"]["template"]["spec"].clone();
        let spec = pod["containers"][0].clone();
        let mut mounts = String::from("mount --make-rprivate / 2>/dev/null || true\n");
        for mount in spec["volumeMounts"].as_array().unwrap() {
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            let source = source(site, volume);
            let target = mount["mountPath"].as_str().unwrap();
            mounts += &format!("mkdir -p {target}; mount --bind {} {target}\n", source.display());
        }
        let account = site.path("account");
        site.api.write_service_account(&account);
        let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
        mounts += &format!("mkdir -p {secrets}; mount --bind {} {secrets}\n", account.display());
        mounts += "exec \"$@\"";

        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &mounts, "sh"]).arg(process::binary());
        command.args(spec["args"].as_array().unwrap().iter().map(fill));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("NODENS_LINK_KIND", kind()).envs(site.api.environment());
        for variable in spec["env"].as_array().unwrap() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("status.podIP") => NODE,
                Some("spec.nodeName") => "node-1",
                other => panic!("the kubelet of this test knows no {other:?}"),
            };
            command.env(variable["name"].as_str().unwrap(), value);
        }
        let log = Log::of(&mut command, &site.path("container.log"));
        Self { child: command.spawn().unwrap(), spec, log }
    }

    /// Waits until the manifest's own startup and readiness probes succeed.
    pub fn wait_until_ready(&mut self) {
        for name in ["startupProbe", "readinessProbe"] {
            let words = self.spec[name]["exec"]["command"].as_array().unwrap();
            let words: Vec<String> =
                words.iter().skip(1).map(|word| word.as_str().unwrap().to_owned()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut said = String::new();
            let done = poll::until(tests_deadline(), || {
                assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log);
                let (works, out) = self.execute(&words);
                said = out;
                works
            });
            assert!(done, "{name} fails: {said}\nlog:\n{}", self.log);
        }
    }

    /// `kubectl exec`: runs the binary with these arguments in the pod's file system.
    pub fn execute(&self, arguments: &[&str]) -> (bool, String) {
        let pid = self.child.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m"]).arg(process::binary()).args(arguments);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Deletes the pod.
    pub fn delete(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let gone = poll::until(tests_deadline(), || self.child.try_wait().unwrap().is_some());
        assert!(gone, "it does not stop; log:\n{}", self.log);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- log of the container ---\n{}\n--- end ---", self.log);
        }
    }
}

/// An argument, with `$(POD_IP)` filled in as the kubelet does.
fn fill(argument: &Value) -> String {
    argument.as_str().unwrap().replace("$(POD_IP)", NODE)
}

/// What is mounted for a volume.
fn source(site: &Site, volume: &Value) -> PathBuf {
    if let Some(path) = volume["hostPath"]["path"].as_str() {
        fs::create_dir_all(path).unwrap();
        return Path::new(path).to_owned();
    }
    let folder = site.path("volumes").join(volume["name"].as_str().unwrap());
    fs::create_dir_all(&folder).unwrap();
    if volume["configMap"].is_object() {
        fs::copy(project("manifests/base/Corefile"), folder.join("Corefile")).unwrap();
    }
    folder
}
