//! `import` of files: which ones a pattern means, and their lines.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::tree::{self, Line};
use super::{Diagnostic, Diagnostics, Location, Token, lexer, limits};

/// One file found for an import.
pub(super) struct Imported {
    pub(super) path: PathBuf,
    pub(super) lines: Vec<Line>,
}

/// Cuts the text of one file into lines with blocks.
pub(super) fn lines_of(
    text: &str,
    file: &Location,
    environment: Environment<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<Line> {
    if text.len() > limits::FILE_BYTES {
        diagnostics.push(
            Diagnostic::error(file.clone(), "the file is too long")
                .help(format!("files have at most {} MiB", limits::FILE_BYTES >> 20)),
        );
        return Vec::new();
    }
    let lexemes = lexer::lex(text, file, diagnostics);
    if lexemes.len() > limits::TOKENS {
        diagnostics.push(too_many_words(file));
        return Vec::new();
    }
    tree::build(lexemes, file, environment, diagnostics)
}

/// The error for a configuration that has more words than [`limits::TOKENS`].
pub(super) fn too_many_words(at: &Location) -> Diagnostic {
    Diagnostic::error(at.clone(), "the configuration has too many words")
        .help(format!("write at most {} after imports", limits::TOKENS))
}

/// Reads the files that `pattern` means, in alphabetical order.
///
/// A relative pattern starts at the folder of the file in which it is written. A wildcard that matches nothing is
/// only a warning, since the files of an empty folder of additions may come later.
pub(super) fn read_files(
    pattern: &Token,
    environment: Environment<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<Imported> {
    let folder = pattern.at.file.parent().unwrap_or(Path::new(""));
    let path = folder.join(pattern.as_str());
    let paths = if pattern.as_str().contains(['*', '?', '[', ']']) {
        matches(pattern, &path, diagnostics)
    } else {
        vec![path]
    };
    let mut files = Vec::new();
    for path in paths {
        match super::read(&path, &Location::new(path.as_path(), 1), diagnostics) {
            Ok(text) => {
                let lines =
                    lines_of(&text, &Location::new(path.as_path(), 1), environment, diagnostics);
                files.push(Imported { path, lines });
            }
            Err(error) => diagnostics.push(
                Diagnostic::error(
                    pattern.at.clone(),
                    format!("{} cannot be imported: {error}", path.display()),
                )
                .directive("import")
                .help("name a snippet that is defined above, or a file that can be read"),
            ),
        }
    }
    files
}

/// The files of a pattern with a wildcard. Folders are passed over: a mounted ConfigMap holds one named `..data`.
fn matches(pattern: &Token, path: &Path, diagnostics: &mut Diagnostics) -> Vec<PathBuf> {
    let error = |what: &str, help: &str| {
        Diagnostic::error(pattern.at.clone(), format!("the pattern {:?} {what}", pattern.as_str()))
            .directive("import")
            .help(help)
    };
    let Some(path) = path.to_str() else {
        diagnostics.push(error("is in a folder whose name is not UTF-8", "rename the folder"));
        return Vec::new();
    };
    // CoreDNS's own limit, kept so that a pattern cannot walk the whole disk.
    let several = path.matches('*').count() > 1 || path.matches('?').count() > 1;
    if several || path.contains('[') || path.contains(']') {
        diagnostics
            .push(error("has too many wildcards", "use at most one * and one ?, and no [...]"));
        return Vec::new();
    }
    let found = match glob::glob(path) {
        Ok(found) => found,
        Err(problem) => {
            diagnostics.push(error(
                &format!("is not a pattern: {problem}"),
                "write a path with one * or ?",
            ));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> =
        found.flatten().filter(|path| path.is_file()).take(limits::IMPORTS).collect();
    files.sort();
    if files.is_empty() {
        diagnostics.push(
            Diagnostic::warning(
                pattern.at.clone(),
                format!("the pattern {:?} matches no file", pattern.as_str()),
            )
            .directive("import")
            .help("nothing is imported; remove the line if that is meant"),
        );
    }
    files
}
