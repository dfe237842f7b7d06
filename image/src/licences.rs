//! The licence texts of what is linked, from the sources that it was linked from; each text once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::crates::{Crate, Part};
use crate::sbom::Component;

/// What the names of files with licence texts begin with, in lower case.
const NAMES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];

/// How deep below a crate's folder texts are looked for: vendored C code has its own.
const DEPTH: usize = 4;

/// Writes one text file with the licences of every linked crate of others, and of `components`.
///
/// `apache` is the text for a crate that names Apache-2.0 and ships no text: that licence is the same for everybody.
///
/// # Errors
/// A crate without any text.
pub fn write(crates: &[Crate], components: &[Component], apache: &str) -> anyhow::Result<String> {
    // By text, who has it; then by who has it, so that the order is that of the names.
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |text: &str, user: &str| {
        let users = users.entry(clean(text)).or_default();
        if users.last().is_none_or(|last| last != user) {
            users.push(user.to_owned());
        }
    };
    let others = crates.iter().filter(|c| c.part == Part::Linked && c.checksum.is_some());
    for found in others {
        let licence = found.licence.as_deref().unwrap_or("no licence named");
        let user = format!("{} {} ({licence})", found.id.0, found.id.1);
        let folder = found.folder.as_deref().context("a linked crate has no source")?;
        let mut texts = Vec::new();
        texts_below(folder, DEPTH, &mut texts)?;
        if texts.is_empty() {
            let is_apache = licence.split([' ', '/', '(', ')']).any(|word| word == "Apache-2.0");
            ensure!(is_apache, "{user} comes without a licence text");
            texts.push(apache.to_owned());
        }
        texts.iter().for_each(|text| note(text, &user));
    }
    for other in components {
        let user = format!("{} {} ({})", other.name, other.version, other.licence);
        ensure!(!other.texts.is_empty(), "{user} comes without a licence text");
        other.texts.iter().for_each(|text| note(text, &user));
    }
    let mut sections: Vec<(Vec<String>, String)> = users.into_iter().map(|(t, u)| (u, t)).collect();
    sections.sort();
    let mut out = String::from(
        "The binary of Nodens contains the software below. Each licence text follows the list of what it belongs to.\n",
    );
    for (users, text) in sections {
        let line = "-".repeat(100);
        write!(out, "\n{line}\n{}\n{line}\n\n{text}\n", users.join("\n"))?;
    }
    Ok(out)
}

/// Reads every licence text below a folder.
///
/// # Errors
/// A file that cannot be read.
fn texts_below(folder: &Path, depth: usize, texts: &mut Vec<String>) -> anyhow::Result<()> {
    let reading = || format!("cannot read {}", folder.display());
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, path) = (entry.file_type().with_context(reading)?, entry.path());
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_text = NAMES.iter().any(|begin| name.starts_with(begin));
        let is_code = [".rs", ".toml", ".py", ".sh", ".hbs"].iter().any(|end| name.ends_with(end));
        if kind.is_dir() && depth > 0 {
            texts_below(&path, depth - 1, texts)?;
        } else if kind.is_file() && is_text && !is_code {
            let octets =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.push(String::from_utf8_lossy(&octets).into_owned());
        }
    }
    Ok(())
}

/// The same text, whatever editor saved it.
fn clean(text: &str) -> String {
    let lines: Vec<&str> =
        text.trim_matches(['\n', '\r', '\u{feff}']).lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_once_and_a_missing_one_is_an_error() {
        let component = |name: &str, texts: &[&str]| Component {
            name: name.into(),
            version: "1".into(),
            licence: "MIT".into(),
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
        };
        let two = [component("a", &["Be nice.\r\n"]), component("b", &["Be nice. \n"])];
        let out = write(&[], &two, "").unwrap();
        assert_eq!(out.matches("Be nice.").count(), 1);
        assert!(out.contains("a 1 (MIT)\nb 1 (MIT)\n"), "{out}");
        let error = write(&[], &[component("c", &[])], "").unwrap_err();
        assert!(error.to_string().contains("c 1 (MIT) comes without"));
    }
}
