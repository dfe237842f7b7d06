//! The image: packed twice by `scripts/image`, taken apart with the programs that every machine has, and run with nothing
//! else around it. That two builds from two folders give the same image is the lane `scripts/test reproducible`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;

/// An image that was built, unpacked.
struct Built {
    folder: TempDir,
    /// What the script printed last: the archive and its digest.
    printed: String,
    /// The binary that was packed, or that the archive has if it was built for it.
    binary: String,
    index: Value,
    manifest: Value,
    config: Value,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Runs a program; it has to succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}:\n{out}{err}");
    out
}

/// Built once for all tests; with the profile `dev`, which is quick. `NODENS_IMAGE_BUILT` names a static binary that is built
/// already (`scripts/test` has one).
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let archive = at("nodens.oci.tar");
        let prebuilt = std::env::var("NODENS_IMAGE_BUILT").ok();
        let more = prebuilt.as_ref().map(|path| ["--built", path]);
        let more: Vec<&str> = more.into_iter().flatten().collect();
        let printed = pack(&archive, &[["--binary", &at("binary")].as_slice(), &more].concat());
        for name in ["layout", "root"] {
            fs::create_dir(at(name)).unwrap();
        }
        run("tar", &["-xf", &archive, "-C", &at("layout")]);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let path = format!("{}/blobs/{}", at("layout"), digest.replace(':', "/"));
            let octets = fs::read(&path).unwrap();
            assert_eq!(descriptor["size"], octets.len(), "{digest}");
            (path, octets)
        };
        let json = |octets: &[u8]| serde_json::from_slice::<Value>(octets).unwrap();
        let index = json(&fs::read(at("layout/index.json")).unwrap());
        let manifest = json(&blob(&index["manifests"][0]).1);
        let config = json(&blob(&manifest["config"]).1);
        let layer = blob(&manifest["layers"][0]).0;
        run("tar", &["-xzf", &layer, "-C", &at("root"), "--no-same-owner"]);
        fs::write(at("listing"), run("tar", &["-tzvf", &layer, "--numeric-owner"])).unwrap();
        let binary = prebuilt.unwrap_or_else(|| at("binary"));
        Built { folder, printed, binary, index, manifest, config }
    })
}

/// Runs `scripts/image`; returns the line that it prints last.
fn pack(archive: &str, more: &[&str]) -> String {
    let script = root().join("scripts/image");
    let words = ["--profile", "dev", "--arch", architecture(), "--output", archive];
    let printed = run(script.to_str().unwrap(), &[words.as_slice(), more].concat());
    print!("{printed}");
    printed.lines().last().unwrap().to_owned()
}

impl Built {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn sbom(&self) -> Value {
        serde_json::from_str(&self.read("root/usr/share/doc/nodens/sbom.cdx.json")).unwrap()
    }

    fn components(&self) -> Vec<Value> {
        self.sbom()["components"].as_array().unwrap().clone()
    }
}

#[test]
fn packing_twice_gives_the_same_archive() {
    let built = built();
    let [first, second] = ["nodens.oci.tar", "again.oci.tar"].map(|name| built.path(name));
    let printed = pack(second.to_str().unwrap(), &["--built", &built.binary]);
    let digest = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(digest(&printed), digest(&built.printed));
    assert_eq!(digest(&printed), built.index["manifests"][0]["digest"]);
    assert_eq!(digest(&printed).len(), "sha256:".len() + 64);
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "the archives differ");
}

#[test]
fn every_digest_and_media_type_is_right() {
    let built = built();
    let blobs = built.path("layout/blobs/sha256");
    let mut count = 0;
    for entry in fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let sum = run("sha256sum", &[path.to_str().unwrap()]);
        assert_eq!(sum.split(' ').next(), path.file_name().unwrap().to_str());
        count += 1;
    }
    assert_eq!(count, 3, "manifest, configuration, layer");
    let layout = built.read("layout/oci-layout");
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let [index, manifest] = [&built.index, &built.manifest];
    assert_eq!((&index["schemaVersion"], &manifest["schemaVersion"]), (&2.into(), &2.into()));
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["platform"]["architecture"], architecture());
    assert_eq!(
        descriptor["annotations"]["org.opencontainers.image.ref.name"],
        env!("CARGO_PKG_VERSION")
    );
    for (value, kind) in [
        (&index["mediaType"], "application/vnd.oci.image.index.v1+json"),
        (&manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json"),
        (&manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json"),
        (&manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip"),
    ] {
        assert_eq!(value, kind);
    }
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let layer = blobs.join(layer);
    let sum = run("sh", &["-c", &format!("gzip -dc {} | sha256sum", layer.display())]);
    let diff_id = built.config["rootfs"]["diff_ids"][0].as_str().unwrap();
    assert_eq!(format!("sha256:{}", &sum[..64]), diff_id);
}

#[test]
fn the_configuration_is_what_a_container_needs() {
    let (config, dockerfile) =
        (&built().config, fs::read_to_string(root().join("Dockerfile")).unwrap());
    assert_eq!((&config["os"], &config["architecture"]), (&"linux".into(), &architecture().into()));
    let container = &config["config"];
    assert_eq!(container["Entrypoint"], serde_json::json!(["/nodens"]));
    assert_eq!((&container["User"], &container["StopSignal"]), (&"0:0".into(), &"SIGTERM".into()));
    assert!(
        dockerfile.contains("\nENTRYPOINT [\"/nodens\"]\n") && dockerfile.contains("\nUSER 0:0\n")
    );
    let labels = &container["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    for label in ["title", "description", "licenses", "created"] {
        let key = format!("org.opencontainers.image.{label}");
        let value = labels[&key].as_str().unwrap();
        // Version and time are in the archive only: the engine knows neither.
        let fixed = label == "created" || dockerfile.contains(value);
        assert!(!value.is_empty() && fixed, "{key}={value}");
    }
    // The same compiler in both.
    let toolchain = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let channel = toolchain.split('"').nth(1).unwrap();
    let minor = channel.rsplit_once('.').unwrap().0;
    assert!(dockerfile.contains(&format!("FROM rust:{minor}-")), "not {channel} in the Dockerfile");
}

#[test]
fn there_is_one_program_and_no_shell() {
    let listing = built().read("listing");
    let mut paths = Vec::new();
    let mut times = BTreeSet::new();
    for line in listing.lines() {
        // -rwxr-xr-x 0/0  123 2026-01-01 12:00 nodens
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], "0/0", "{line}");
        times.insert((words[3], words[4]));
        let is_program = words[0].starts_with('-') && words[0].contains('x');
        assert_eq!(is_program, words[5] == "nodens", "{line}");
        assert!(words[0].starts_with(['-', 'd']), "neither file nor folder: {line}");
        paths.push(words[5]);
    }
    assert_eq!(times.len(), 1, "{listing}");
    let documents = "usr/share/doc/nodens/";
    let expected = [
        "usr/",
        "usr/share/",
        "usr/share/doc/",
        documents,
        "nodens",
        &format!("{documents}LICENSE"),
        &format!("{documents}THIRD-PARTY"),
        &format!("{documents}sbom.cdx.json"),
    ];
    assert_eq!(paths, expected);
}

#[test]
fn the_binary_needs_nothing_and_names_no_path_of_this_machine() {
    let binary = built().path("root/nodens");
    assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
    let out = run(binary.to_str().unwrap(), &["--version"]);
    let begin = concat!("nodens ", env!("CARGO_PKG_VERSION"), " (revision ");
    assert!(out.starts_with(begin) && out.trim_end().ends_with(')'), "{out}");
    let octets = fs::read(&binary).unwrap();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/nonexistent".into());
    for path in [root().to_str().unwrap(), &format!("{home}/.cargo"), &format!("{home}/.rustup")] {
        let found = octets.windows(path.len()).any(|window| window == path.as_bytes());
        assert!(!found, "the binary contains {path}");
    }
    if !Uid::effective().is_root() {
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: without root no chroot ***");
        return;
    }
    // Nothing but the image's files, and a Corefile.
    let empty = built().path("root");
    fs::write(empty.join("Corefile"), ".:5300 {\n    bind 127.0.0.1\n    whoami\n}\n").unwrap();
    let words = [empty.to_str().unwrap(), "/nodens", "check", "/Corefile"];
    let out = run("chroot", &words);
    fs::remove_file(empty.join("Corefile")).unwrap();
    assert!(out.contains("whoami"), "{out}");
}

/// Name and version.
type Id = (String, String);

fn id(value: &Value) -> Id {
    let word = |key: &str| value[key].as_str().unwrap().to_owned();
    (word("name"), word("version"))
}

#[test]
fn the_bill_lists_every_crate_of_the_lock() {
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let word = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).map(str::to_owned)
    };
    let locked: BTreeMap<Id, Option<String>> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let id = (word(package, "name").unwrap(), word(package, "version").unwrap());
            (id, word(package, "checksum"))
        })
        .filter(|(id, _)| id.0 != "nodens")
        .collect();
    let components = built().components();
    let listed: BTreeMap<Id, Option<String>> = components
        .iter()
        .filter(|component| component["purl"].is_string())
        .map(|component| {
            (id(component), component["hashes"][0]["content"].as_str().map(str::to_owned))
        })
        .collect();
    assert_eq!(listed, locked);
    let sbom = built().sbom();
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(sbom["metadata"]["component"]["name"], "nodens");
    let others: Vec<String> =
        components.iter().filter(|c| c["purl"].is_null()).map(|c| id(c).0).collect();
    assert_eq!(others, ["glibc", "libgcc", "rust-std"]);
}

#[test]
fn what_is_linked_is_marked_and_has_its_licence() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let words = ["tree", "--locked", "-p", "nodens", "-e", "normal,no-proc-macro", "--target"];
    let format = ["--prefix", "none", "--no-dedupe", "-f", "{p} {l}"];
    let output = Command::new(cargo)
        .args(words)
        .arg(target)
        .args(format)
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let linked: BTreeSet<Id> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            Some((name, words.next()?.strip_prefix('v')?.to_owned()))
        })
        .filter(|(name, _)| name != "nodens")
        .collect();
    let components = built().components();
    let required: BTreeSet<Id> = components
        .iter()
        .filter(|component| component["scope"] == "required" && component["purl"].is_string())
        .map(id)
        .collect();
    assert!(
        linked.len() > 100 && required == linked,
        "{:?}",
        required.symmetric_difference(&linked)
    );

    let texts = built().read("root/usr/share/doc/nodens/THIRD-PARTY");
    for component in components.iter().filter(|component| component["scope"] == "required") {
        let (name, version) = id(component);
        if name == "netsetup" {
            continue;
        }
        let licence = &component["licenses"][0]["expression"];
        assert!(licence.is_string(), "{name} has no licence in the bill");
        assert!(texts.contains(&format!("\n{name} {version} (")), "no licence text for {name}");
    }
    for word in
        ["Apache License", "Permission is hereby granted", "GNU Lesser General Public", "jemalloc"]
    {
        assert!(texts.contains(word), "the licences do not contain {word:?}");
    }
    let licence = fs::read_to_string(root().join("LICENSE")).unwrap();
    assert_eq!(built().read("root/usr/share/doc/nodens/LICENSE"), licence);
}
