//! `scripts/release`: a draft of a release, verified with the programs that everybody has, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = "registry.example/nodens";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program} {words:?}:\n{out}{err}");
    out
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn release(words: &[&str]) -> Output {
    Command::new(root().join("scripts/release")).args(words).output().unwrap()
}

/// Two drafts of the same build: one that is signed, and one that is not.
struct Drafts {
    folder: TempDir,
}

impl Drafts {
    fn of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn signed(&self, name: &str) -> PathBuf {
        self.of("signed").join(name)
    }

    fn names(&self, which: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.of(which))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Made once, from the binary that `scripts/test` has built, or from one that is built now.
fn drafts() -> &'static Drafts {
    static DRAFTS: OnceLock<Drafts> = OnceLock::new();
    DRAFTS.get_or_init(|| {
        let drafts = Drafts { folder: tempfile::tempdir().unwrap() };
        let key = drafts.of("key.pem");
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        run("openssl", &[curve.as_slice(), &[key.to_str().unwrap()]].concat());
        // Once for both, so that a commit meanwhile makes no difference.
        let git = |words: &[&str]| {
            let output = Command::new("git").arg("-C").arg(root()).args(words).output();
            output.map_or(String::new(), |output| text(&output.stdout).trim().to_owned())
        };
        let epoch = git(&["log", "-1", "--format=%ct"]);
        let epoch = if epoch.is_empty() { "0".to_owned() } else { epoch };
        let source =
            [("SOURCE_DATE_EPOCH", epoch), ("NODENS_REVISION", git(&["rev-parse", "HEAD"]))];
        let mut built = std::env::var("NODENS_IMAGE_BUILT").ok();
        for (name, more) in
            [("signed", ["--key", key.to_str().unwrap()].as_slice()), ("plain", &[])]
        {
            let to = drafts.of(name);
            let mut words = vec![
                "--draft",
                "--arch",
                architecture(),
                "--profile",
                "dev",
                "--repository",
                REPOSITORY,
            ];
            words.extend(["--output", to.to_str().unwrap()]);
            words.extend(built.iter().flat_map(|path| ["--built", path]));
            let mut command = Command::new(root().join("scripts/release"));
            let output = command.args(words).args(more).envs(source.clone()).output().unwrap();
            let said = text(&output.stderr);
            assert!(output.status.success(), "{said}");
            assert_eq!(said.contains("nothing is signed"), name == "plain", "{said}");
            // The second is of the first one's binary: nothing is built for it.
            let bundle = format!("nodens-{VERSION}-linux-{}", architecture());
            let archive = to.join(format!("{bundle}.tar.gz"));
            let there = drafts.folder.path().to_str().unwrap();
            run("tar", &["-xzf", archive.to_str().unwrap(), "-C", there]);
            built.get_or_insert_with(|| format!("{there}/{bundle}/nodens"));
        }
        drafts
    })
}

#[test]
fn a_release_has_its_files_and_their_sums() {
    let drafts = drafts();
    let name = format!("nodens-{VERSION}");
    let arch = architecture();
    let mut wanted = vec![
        "RELEASE-NOTES.md".to_owned(),
        "SHA256SUMS".to_owned(),
        "image-payload.json".to_owned(),
        format!("{name}-linux-{arch}.cdx.json"),
        format!("{name}-linux-{arch}.tar.gz"),
        format!("{name}.oci.tar"),
        format!("{name}.tgz"),
        format!("nodens-manifests-{VERSION}.tar.gz"),
        "provenance.json".to_owned(),
    ];
    wanted.sort();
    assert_eq!(drafts.names("plain"), wanted);
    let folder = drafts.of("plain");
    run(
        "sh",
        &["-c", &format!("cd {} && sha256sum --check --strict SHA256SUMS", folder.display())],
    );
    // Only the signatures differ between the two.
    for name in wanted {
        let read = |which: &str| fs::read(drafts.of(which).join(&name)).unwrap();
        assert!(read("plain") == read("signed"), "{name} differs");
    }
    let notes = fs::read_to_string(folder.join("RELEASE-NOTES.md")).unwrap();
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(notes.len() > 1_000 && changelog.contains(notes.trim()), "{notes}");
}

/// As the manual says, without cosign.
#[test]
fn signatures_are_those_of_the_public_key() {
    let drafts = drafts();
    let verify = |signature: &[u8], octets: &[u8]| {
        let (at, of) = (drafts.of("one.der"), drafts.of("one.octets"));
        let base64 = drafts.of("one.sig");
        fs::write(&base64, signature).unwrap();
        fs::write(&at, Command::new("base64").arg("-d").arg(&base64).output().unwrap().stdout)
            .unwrap();
        fs::write(&of, octets).unwrap();
        let key = drafts.signed("nodens.pub");
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-verify"]).arg(key).arg("-signature").arg(at).arg(of);
        text(&command.output().unwrap().stdout).contains("Verified OK")
    };
    let names = drafts.names("signed");
    let signed: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".sig")).collect();
    assert!(signed.len() >= 8 && signed.contains(&"SHA256SUMS"), "{signed:?}");
    for name in signed {
        let read = |name: &str| fs::read(drafts.signed(name)).unwrap();
        let (signature, octets) = (read(&format!("{name}.sig")), read(name));
        assert!(verify(&signature, &octets), "{name}");
        assert!(!verify(&signature, &[octets.as_slice(), b"x"].concat()), "{name}: another file");
    }
    // The envelope: the statement, and a signature of its encoding (DSSE).
    let read = |name: &str| fs::read(drafts.signed(name)).unwrap();
    let envelope: Value = serde_json::from_slice(&read("provenance.intoto.json")).unwrap();
    let statement = read("provenance.json");
    let kind = "application/vnd.in-toto+json";
    assert_eq!(envelope["payloadType"], kind);
    let encoded =
        [format!("DSSEv1 {} {kind} {} ", kind.len(), statement.len()).as_bytes(), &statement]
            .concat();
    assert!(verify(envelope["signatures"][0]["sig"].as_str().unwrap().as_bytes(), &encoded));
    let public =
        run("openssl", &["pkey", "-in", drafts.of("key.pem").to_str().unwrap(), "-pubout"]);
    assert_eq!(public.as_bytes(), read("nodens.pub"));
}

#[test]
fn provenance_names_every_file_and_what_it_was_made_of() {
    let drafts = drafts();
    let read = |name: &str| fs::read_to_string(drafts.signed(name)).unwrap();
    let statement: Value = serde_json::from_str(&read("provenance.json")).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let subjects: BTreeMap<&str, &str> = statement["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["digest"]["sha256"].as_str().unwrap()))
        .collect();
    let sums = read("SHA256SUMS");
    let sums: BTreeMap<&str, &str> = sums
        .lines()
        .filter_map(|line| line.split_once("  ").map(|(digest, name)| (name, digest)))
        .filter(|(name, _)| *name != "provenance.json")
        .collect();
    assert_eq!(subjects, sums);
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(build["externalParameters"]["version"], VERSION);
    let made_of = build["resolvedDependencies"].as_array().unwrap();
    let names: Vec<_> = made_of.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["source", "rustc", "gcc", "libc"]);
    let payload: Value = serde_json::from_str(&read("image-payload.json")).unwrap();
    assert_eq!(payload["critical"]["identity"]["docker-reference"], REPOSITORY);
    let digest = payload["critical"]["image"]["docker-manifest-digest"].as_str().unwrap();
    let index = run(
        "tar",
        &[
            "-xOf",
            drafts.signed(&format!("nodens-{VERSION}.oci.tar")).to_str().unwrap(),
            "index.json",
        ],
    );
    assert!(index.contains(digest), "{digest}\n{index}");
}

#[test]
fn the_bundles_can_be_used_by_themselves() {
    let drafts = drafts();
    let folder = tempfile::tempdir().unwrap();
    let unpack = |name: &str| {
        run(
            "tar",
            &["-xzf", drafts.signed(name).to_str().unwrap(), "-C", folder.path().to_str().unwrap()],
        );
    };
    let at = |path: &str| folder.path().join(path);
    unpack(&format!("nodens-{VERSION}.tgz"));
    for path in [
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "templates/daemonset.yaml",
        "files/prometheus-rule.yaml",
    ] {
        // A chart's links lead out of it.
        assert!(fs::symlink_metadata(at("nodens").join(path)).unwrap().is_file(), "{path}");
    }
    unpack(&format!("nodens-manifests-{VERSION}.tar.gz"));
    let overlay = at(&format!("nodens-{VERSION}/overlays/takeover"));
    let rendered = tests::manifests::kustomize::render(&overlay).unwrap();
    assert_eq!(rendered.len(), tests::manifests::overlay("takeover").len());
    let name = format!("nodens-{VERSION}-linux-{}", architecture());
    unpack(&format!("{name}.tar.gz"));
    let version = run(at(&name).join("nodens").to_str().unwrap(), &["--version"]);
    assert!(version.starts_with(&format!("nodens {VERSION} (revision ")), "{version}");
    for path in [
        "LICENSE",
        "THIRD-PARTY",
        "man/nodens.1",
        "completions/nodens.bash",
        "systemd/nodens.service",
    ] {
        assert!(at(&name).join(path).is_file(), "{path}");
    }
}

/// What is no draft has to be of a clean tree, of one version, with a date, and for every architecture.
#[test]
fn a_release_that_is_not_ready_is_refused() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let dated = format!("## [{VERSION}] - 2");
    if !changelog.contains(&dated) {
        let output = release(&[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!(
                "write `## [{VERSION}] - YYYY-MM-DD` with the day of the release"
            )),
            "{said}"
        );
    }
    let output = release(&["--arch", "amd64"]);
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && said.contains("--arch, --profile and --built are for --draft"),
        "{said}"
    );
    assert_eq!(release(&["--nonsense"]).status.code(), Some(2));
    // The version is one in all places, so that a release needs no search for them.
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let chart = read("manifests/helm/nodens/Chart.yaml");
    assert!(
        chart.contains(&format!("\nversion: {VERSION}\n"))
            && chart.contains(&format!("appVersion: \"{VERSION}\""))
    );
    assert!(read("manifests/base/kustomization.yaml").contains(&format!("newTag: {VERSION}\n")));
    assert!(
        changelog.contains(&format!("\n## [{VERSION}]")),
        "the changelog has no section for {VERSION}"
    );
}
