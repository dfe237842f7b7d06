//! `image`: what `scripts/image` packs and shows images with.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use image::archive::Contents;
use image::crates::{self, PACKAGE};
use image::elf::{Architecture, static_binary};
use image::files::Files;
use image::layer::Layer;
use image::oci::{About, Archive};
use image::release::Seal;
use image::sbom::Component;
use image::sign::Key;
use image::{licences, release, sbom};

const USAGE: &str = "usage: image pack --output FILE IMAGE...       packs an OCI archive
       image tree --output FOLDER IMAGE       writes the tree of the image instead
       image show FILE                        checks an archive and lists what is in it
       image extract FILE ARCHITECTURE PATH   writes a file of an image to standard output
       image bundle EPOCH PREFIX=PATH...      writes files and folders as a .tar.gz to standard output
       image notes CHANGELOG VERSION          writes a version's part of the changelog to standard output
       image seal FOLDER RELEASE              writes sums, provenance and signatures of a folder's files into it

  IMAGE is --binary FILE, then for each library that no crate brings
           --component NAME VERSION LICENCE TEXT[:TEXT...]
  RELEASE is --version TEXT --revision TEXT --builder URI [--source URI] [--tool NAME VERSION]...
          [--image FILE REPOSITORY] [--key FILE]
  pack and tree also take --workspace FOLDER, --revision TEXT and --epoch SECONDS";

struct Pack {
    output: PathBuf,
    workspace: PathBuf,
    revision: Option<String>,
    epoch: u64,
    inputs: Vec<Input>,
}

struct Input {
    binary: PathBuf,
    components: Vec<Component>,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = std::io::stdout().lock();
    match words.as_slice() {
        ["pack", rest @ ..] => {
            let order = parse(rest)?;
            let (trees, about) = order.trees()?;
            let archive = Archive::pack(&trees, &about)?;
            write(&order.output, &archive.octets)?;
            writeln!(out, "{}", archive.digest)?;
        }
        ["tree", rest @ ..] => {
            let order = parse(rest)?;
            let (trees, _) = order.trees()?;
            let mut trees = trees.into_values();
            let (Some(tree), None) = (trees.next(), trees.next()) else {
                bail!("a tree is of one architecture");
            };
            tree.write_below(&order.output)?;
        }
        ["show", file] => write!(out, "{}", contents(file)?)?,
        ["extract", file, architecture, path] => {
            let contents = contents(file)?;
            let image = contents.image(architecture);
            let image = image.with_context(|| format!("{file} is not for {architecture}"))?;
            let found = image.file(path).with_context(|| format!("there is no {path} in it"))?;
            out.write_all(&found.content)?;
        }
        ["bundle", epoch, parts @ ..] => {
            let mut files = Files::default();
            for part in parts {
                let (prefix, path) = part.split_once('=').context(USAGE)?;
                files.add(prefix, Path::new(path))?;
            }
            let epoch = epoch.parse().context("EPOCH is in seconds")?;
            out.write_all(&Layer::pack(&files, epoch)?.gzip)?;
        }
        ["notes", changelog, version] => {
            let text = fs::read_to_string(changelog);
            let text = text.with_context(|| format!("cannot read {changelog}"))?;
            write!(out, "{}", release::notes(&text, version)?)?;
        }
        ["seal", folder, rest @ ..] => {
            for name in release::seal(Path::new(folder), &parse_seal(rest)?)? {
                writeln!(out, "{name}")?;
            }
        }
        _ => bail!("{USAGE}"),
    }
    Ok(())
}

fn contents(file: &str) -> anyhow::Result<Contents> {
    let octets = fs::read(file).with_context(|| format!("cannot read {file}"))?;
    Contents::read(&octets).with_context(|| format!("{file} is no image archive"))
}

fn write(path: &Path, octets: &[u8]) -> anyhow::Result<()> {
    fs::write(path, octets).with_context(|| format!("cannot write {}", path.display()))
}

fn parse(words: &[&str]) -> anyhow::Result<Pack> {
    let mut order = Pack {
        output: PathBuf::new(),
        workspace: ".".into(),
        revision: None,
        epoch: 0,
        inputs: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(option) = words.next() {
        let mut next = || words.next().with_context(|| format!("{option} wants more\n{USAGE}"));
        match *option {
            "--output" => order.output = next()?.into(),
            "--workspace" => order.workspace = next()?.into(),
            "--revision" => order.revision = Some((*next()?).to_owned()).filter(|r| !r.is_empty()),
            "--epoch" => order.epoch = next()?.parse().context("--epoch wants seconds")?,
            "--binary" => {
                order.inputs.push(Input { binary: next()?.into(), components: Vec::new() })
            }
            "--component" => {
                let [name, version, licence, texts] = [*next()?, *next()?, *next()?, *next()?];
                let read = |path| {
                    fs::read_to_string(path)
                        .with_context(|| format!("cannot read {path} for {name}"))
                };
                let component = Component {
                    name: name.into(),
                    version: version.into(),
                    licence: licence.into(),
                    texts: texts.split(':').map(read).collect::<anyhow::Result<_>>()?,
                };
                let input = order.inputs.last_mut().context("--component before --binary")?;
                input.components.push(component);
            }
            other => bail!("unknown option {other}\n{USAGE}"),
        }
    }
    ensure!(!order.output.as_os_str().is_empty() && !order.inputs.is_empty(), "{USAGE}");
    Ok(order)
}

fn parse_seal(words: &[&str]) -> anyhow::Result<Seal> {
    let mut order = Seal::default();
    let mut words = words.iter();
    while let Some(option) = words.next() {
        let mut next = || {
            words
                .next()
                .map(|word| (*word).to_owned())
                .with_context(|| format!("{option} wants more\n{USAGE}"))
        };
        match *option {
            "--version" => order.origin.version = next()?,
            "--revision" => order.origin.revision = next()?,
            "--builder" => order.origin.builder = next()?,
            "--source" => order.origin.source = next()?,
            "--tool" => order.origin.tools.push((next()?, next()?)),
            "--image" => order.image = Some((next()?, next()?)),
            "--key" => {
                let file = next()?;
                let pem =
                    fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
                order.key = Some(Key::read(&pem).with_context(|| format!("{file} is no key"))?);
            }
            other => bail!("unknown option {other}\n{USAGE}"),
        }
    }
    Ok(order)
}

impl Pack {
    fn trees(&self) -> anyhow::Result<(BTreeMap<Architecture, Files>, About)> {
        let mut trees = BTreeMap::new();
        let mut version = String::new();
        let licence = self.workspace.join("LICENSE");
        let licence = fs::read_to_string(&licence)
            .with_context(|| format!("cannot read {}", licence.display()))?;
        for input in &self.inputs {
            let name = || input.binary.display().to_string();
            let binary = fs::read(&input.binary).with_context(name)?;
            let architecture = static_binary(&binary).with_context(name)?;
            let crates = crates::read(&self.workspace, architecture)?;
            let product = crates.iter().find(|found| found.id.0 == PACKAGE);
            version.clone_from(&product.context("Cargo.lock lacks the package itself")?.id.1);
            let mut files = Files::default();
            files.program("nodens", binary);
            files.text("usr/share/doc/nodens/LICENSE", licence.as_str());
            let texts = licences::write(&crates, &input.components, &licence)?;
            files.text("usr/share/doc/nodens/THIRD-PARTY", texts);
            let bill = sbom::write(&crates, &input.components, self.epoch)?;
            files.text("usr/share/doc/nodens/sbom.cdx.json", bill);
            ensure!(
                trees.insert(architecture, files).is_none(),
                "two binaries for {architecture:?}"
            );
        }
        let about = About { version, revision: self.revision.clone(), epoch: self.epoch };
        Ok((trees, about))
    }
}
