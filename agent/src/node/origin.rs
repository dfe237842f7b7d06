//! Where the configuration comes from: a Corefile, or NodeLocal DNSCache's template with the kube-dns ConfigMap.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kube_dns::{self, KubeDns};
use super::template::{self, Values};
use super::{Counts, FlagError};
use crate::args::Serve;
use crate::config;
use crate::corefile::{self, Diagnostic, Diagnostics, File, Location, process_environment};
use crate::file_watch::{FileVersions, FileWatch};

/// The template of the Kubernetes add-on's DaemonSet, which names none.
const DEFAULT_TEMPLATE: &str = "/etc/coredns/Corefile.base";
/// The folder on which it mounts the ConfigMap.
const DEFAULT_KUBE_DNS: &str = "/etc/kube-dns";
/// The default of `-conf`, which is never overwritten.
const DEFAULT_CONF: &str = "Corefile";
/// How often template and ConfigMap are polled. A poll costs three stat(2).
const POLL: Duration = Duration::from_secs(2);

/// The place of the configuration.
#[derive(Debug)]
pub struct Origin {
    conf: PathBuf,
    template: Option<Template>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Template {
    path: PathBuf,
    kube_dns: PathBuf,
    dns_port: u16,
    values: Values,
    counts: Arc<Counts>,
    state: Mutex<State>,
    /// Made by the first [`Origin::changed`], which runs within a runtime.
    watch: tokio::sync::Mutex<Option<FileWatch>>,
}

/// What the last load saw.
#[derive(Debug, Default)]
struct State {
    /// The last ConfigMap that was good.
    kube_dns: KubeDns,
    seen: FileVersions,
    warned: bool,
}

impl Origin {
    /// Reads the flags.
    ///
    /// # Errors
    /// The template would be overwritten by what is made of it.
    pub fn from_flags(args: &Serve, counts: Arc<Counts>) -> Result<Self, FlagError> {
        let (flags, addon) = (&args.node, &args.addon);
        let default = PathBuf::from(DEFAULT_TEMPLATE);
        let path = match &addon.basecorefile {
            Some(path) => Some(path.clone()),
            None => (!flags.localip.is_empty() && default.is_file()).then_some(default),
        };
        if path.as_ref() == Some(&args.conf) {
            return Err(FlagError::SameFile(args.conf.clone()));
        }
        let template = path.map(|path| Template {
            path,
            kube_dns: addon.kubednscm.clone().unwrap_or_else(|| DEFAULT_KUBE_DNS.into()),
            dns_port: args.dns_port,
            values: Values {
                local: flags.localip.clone(),
                cluster_dns: template::service_address(&addon.upstreamsvc, process_environment),
                upstreams: Vec::new(),
                domain: addon.cluster_domain.clone(),
                prometheus: addon.prometheus_listen_address.clone(),
            },
            counts: Arc::clone(&counts),
            state: Mutex::default(),
            watch: tokio::sync::Mutex::default(),
        });
        Ok(Self { conf: args.conf.clone(), template, counts })
    }

    /// What goes wrong around the server.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Reads the configuration, rendered and parsed, and leaves a copy of what was rendered at `-conf`. Of a bad
    /// ConfigMap the last good version counts.
    pub fn load(&self) -> (File, Diagnostics) {
        let (file, diagnostics, rendered) = self.read();
        if let (Some(template), Some(text)) = (&self.template, rendered) {
            template.publish(&self.conf, &text);
        }
        (file, diagnostics)
    }

    /// Reads the configuration and touches nothing. The text is that of the rendered template.
    pub fn read(&self) -> (File, Diagnostics, Option<String>) {
        match &self.template {
            Some(template) => template.read(),
            None => {
                let (file, diagnostics) = corefile::load(&self.conf);
                (file, diagnostics, None)
            }
        }
    }

    /// The file that is read.
    pub fn path(&self) -> &Path {
        self.template.as_ref().map_or(&self.conf, |template| &template.path)
    }

    /// Returns when the template or the ConfigMap has changed since the last [`Origin::load`]; never without a template.
    pub async fn changed(&self) {
        let Some(template) = &self.template else { return std::future::pending().await };
        let mut watch = template.watch.lock().await;
        let watch = watch.get_or_insert_with(|| FileWatch::new(template.paths(), POLL));
        while template.versions() == template.state().seen {
            watch.due().await;
        }
    }
}

impl Template {
    fn read(&self) -> (File, Diagnostics, Option<String>) {
        let mut diagnostics = Diagnostics::default();
        let mut state = self.state();
        // Before reading, so that a change meanwhile is seen as one the next time.
        state.seen = self.versions();
        match KubeDns::read(&self.kube_dns) {
            Ok(good) => state.kube_dns = good,
            Err(error) => {
                self.counts.error("configmap");
                let [stubs, _] = kube_dns::files(&self.kube_dns);
                let what =
                    format!("the kube-dns ConfigMap is not used, the last good one is: {error}");
                diagnostics.push(Diagnostic::warning(Location::new(stubs, 1), what));
            }
        }
        let start = Location::new(self.path.as_path(), 1);
        let template = match corefile::read(&self.path, &start, &mut diagnostics) {
            Ok(text) => text,
            Err(error) => {
                let what = format!("the template cannot be read: {error}");
                diagnostics
                    .push(Diagnostic::error(start, what).expected("a file that may be read"));
                self.counts.error("configmap");
                return (File::default(), diagnostics, None);
            }
        };
        let values = Values { upstreams: state.kube_dns.upstreams.clone(), ..self.values.clone() };
        let text = template::render(&self.path, &template, &values, &mut diagnostics);
        if diagnostics.has_errors() {
            self.counts.error("configmap");
            return (File::default(), diagnostics, None);
        }
        let (mut file, found) = corefile::parse(&self.path, &text, &process_environment);
        diagnostics.append(found);
        let blocks = state.kube_dns.blocks(&self.kube_dns, &self.values.local, self.dns_port);
        let mut stubs = File { blocks };
        self.leave_out_served(&file, &mut stubs, &mut diagnostics);
        let rendered = format!("{}\n{stubs}", text.trim_end());
        file.blocks.extend(stubs.blocks);
        let rendered = (!diagnostics.has_errors()).then_some(rendered);
        (file, diagnostics, rendered)
    }

    /// Drops the stub domains of the ConfigMap that the template serves itself: the configuration as a whole would be
    /// refused for them, and with it a server that has to start.
    fn leave_out_served(&self, file: &File, stubs: &mut File, diagnostics: &mut Diagnostics) {
        let served = config::served_zones(file, self.dns_port);
        stubs.blocks.retain(|block| {
            let zones = block.keys.iter().flat_map(|key| config::zones_of(key, self.dns_port));
            let Some((zone, _)) = zones.into_iter().find(|zone| served.contains(zone)) else {
                return true;
            };
            self.counts.error("configmap");
            let what = format!("the stub domain {zone} is not used: the Corefile serves this zone");
            let warning = Diagnostic::warning(block.at.clone(), what);
            diagnostics.push(warning.help("remove it from the kube-dns ConfigMap"));
            false
        });
    }

    /// Leaves a copy for people to look at.
    fn publish(&self, conf: &Path, text: &str) {
        if conf == Path::new(DEFAULT_CONF) {
            return;
        }
        let mut state = self.state();
        let written = write(conf, text);
        if let (Err(error), false) = (&written, state.warned) {
            tracing::warn!(
                "the rendered Corefile is not written to {}: {error}; it is served all the same",
                conf.display()
            );
        }
        state.warned = written.is_err();
    }

    /// The versions of the files that matter, as they are now.
    fn versions(&self) -> FileVersions {
        FileVersions::of(self.paths())
    }

    fn paths(&self) -> [PathBuf; 3] {
        let [stubs, upstreams] = kube_dns::files(&self.kube_dns);
        [self.path.clone(), stubs, upstreams]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file in one step, unless it has this text already. For people who look; nothing here reads it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = (|| {
        let mut file = fs::File::create(&fresh)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    })();
    if written.is_err() {
        // Most often it could not even be made.
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    struct Fixture {
        folder: tempfile::TempDir,
        origin: Origin,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name).display().to_string();
            fs::create_dir(at("cm")).unwrap();
            fs::write(
                at("base"),
                ".:53 {\n    bind __PILLAR__LOCAL__DNS__\n    forward . __PILLAR__UPSTREAM__SERVERS__\n}\n",
            )
            .unwrap();
            let line = [
                "nodens",
                "--localip=169.254.20.10",
                &format!("--basecorefile={}", at("base")),
                &format!("--kubednscm={}", at("cm")),
                &format!("--conf={}", at("conf")),
            ]
            .map(str::to_owned);
            let args = Cli::try_parse_from(line).unwrap().serve;
            let origin = Origin::from_flags(&args, Arc::default()).unwrap();
            Self { folder, origin }
        }

        fn write(&self, name: &str, text: &str) {
            let fresh = self.folder.path().join("fresh");
            fs::write(&fresh, text).unwrap();
            fs::rename(fresh, self.folder.path().join(name)).unwrap();
        }

        fn loaded(&self) -> String {
            let (file, diagnostics) = self.origin.load();
            assert!(!diagnostics.has_errors(), "{diagnostics}");
            file.to_string()
        }

        fn changed(&self) -> bool {
            let template = self.origin.template.as_ref().unwrap();
            template.versions() != template.state().seen
        }
    }

    #[test]
    fn the_config_map_is_followed_and_a_bad_one_left_out() {
        let fixture = Fixture::new();
        assert!(fixture.loaded().contains("forward . /etc/resolv.conf"));
        assert!(!fixture.changed());
        fixture.write("cm/upstreamNameservers", r#"["192.0.2.1"]"#);
        fixture.write("cm/stubDomains", r#"{"corp.example": ["192.0.2.2"]}"#);
        assert!(fixture.changed());
        let good = fixture.loaded();
        assert!(good.contains("forward . 192.0.2.1") && good.contains("corp.example:53"), "{good}");
        let written = fs::read_to_string(fixture.folder.path().join("conf")).unwrap();
        assert!(written.contains("corp.example:53 {"), "{written}");
        let (file, diagnostics) = corefile::load(fixture.folder.path().join("conf"));
        assert!(diagnostics.is_empty() && file.to_string() == good, "{diagnostics}{file}");

        fixture.write("cm/stubDomains", "{");
        assert!(fixture.changed());
        assert_eq!(fixture.loaded(), good);
        assert!(!fixture.changed());
        fs::remove_file(fixture.folder.path().join("cm/stubDomains")).unwrap();
        assert!(fixture.changed() && !fixture.loaded().contains("corp.example"));
    }

    #[test]
    fn a_bad_template_is_told_with_its_own_lines() {
        let fixture = Fixture::new();
        fixture.write("base", ".:53 {\n    forward . __PILLAR__CLUSTER__DNS__\n}\n");
        let (_, diagnostics) = fixture.origin.load();
        assert!(diagnostics.to_string().contains("base:2"), "{diagnostics}");
        fixture.write("base", ".:53 {\n    \"\n}\n");
        assert!(fixture.origin.load().1.to_string().contains("base:2"));
        fs::remove_file(fixture.folder.path().join("base")).unwrap();
        assert!(fixture.origin.load().1.to_string().contains("the template cannot be read"));
    }

    #[test]
    fn what_cannot_be_written_is_served_all_the_same() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.folder.path().join("conf")).unwrap();
        assert!(fixture.loaded().contains("forward"));
        let leftovers: Vec<_> = fs::read_dir(fixture.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().starts_with("conf."))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}
