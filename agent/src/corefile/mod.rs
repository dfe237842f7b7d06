//! What was written: a Corefile as tokens that know their file and line.
//!
//! ```text
//! text -> lexer   words and braces, quotes and comments gone
//!      -> tree    lines and their blocks, environment variables put in
//!      -> parser  imports and snippets expanded, server blocks separated
//!      -> File    what `config` gives a meaning to, and `render` prints
//! ```
//!
//! Nothing here knows a directive. Every stage continues after an error, so that one look at the diagnostics shows
//! all that is wrong. All input is bounded (see [`limits`]), and [`parse`] returns for any text whatsoever.
//!
//! A file that has placeholders of another tool's template (`__PILLAR__...`) is rendered as plain text first and
//! handed to [`parse`] afterwards; placeholders that are still there are errors which name them.

mod diagnostic;
mod environment;
mod import;
mod lexer;
pub mod limits;
mod parser;
mod render;
mod restore;
mod tree;

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use environment::{Environment, process_environment};

/// A Corefile after imports, snippets and environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The server blocks in the order in which they were written.
    pub blocks: Vec<ServerBlock>,
}

/// One server block: the zones it is for, and its directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBlock {
    /// What is before the brace, without commas: zones with schemes and ports, still as text.
    pub keys: Vec<Token>,
    /// The directives in the order in which they were written.
    pub directives: Vec<Directive>,
    /// Where the block begins.
    pub at: Location,
}

/// One line of a block with what belongs to it. Options inside of a directive's block have the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The first word.
    pub name: Token,
    /// The other words of the line.
    pub args: Vec<Token>,
    /// The lines between the braces; `None` where there are no braces.
    pub block: Option<Vec<Directive>>,
}

/// One word, after quotes and environment variables were resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The word itself. Empty for `""` and for a variable that is not set.
    pub text: Arc<str>,
    /// Where it was written, which for an imported word is the imported file.
    pub at: Location,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file, spelled as it was given or as the import found it.
    pub file: Arc<Path>,
    /// The line, counted from one.
    pub line: u32,
}

impl File {
    /// All words of the file, in order.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.blocks.iter().flat_map(|block| {
            block
                .keys
                .iter()
                .chain(block.directives.iter().flat_map(|directive| directive.tokens()))
        })
    }
}

impl Directive {
    /// Where the line begins.
    pub fn at(&self) -> &Location {
        &self.name.at
    }

    /// The lines inside of the braces; none where there are no braces.
    pub fn options(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The name, the arguments and all that is inside of the braces.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        let mut words = Vec::new();
        let mut lines = vec![self];
        while let Some(line) = lines.pop() {
            words.push(&line.name);
            words.extend(&line.args);
            lines.extend(line.options().iter().rev());
        }
        words.into_iter()
    }
}

impl Token {
    /// Makes a token; the parser is the usual source of them.
    pub fn new(text: impl Into<Arc<str>>, at: Location) -> Self {
        Self { text: text.into(), at }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether an unrendered placeholder of a node-cache template is in the word. The parser has reported it, so
    /// there is no use in reporting also that it is no address.
    pub fn is_placeholder(&self) -> bool {
        environment::placeholder(&self.text).is_some()
    }
}

impl Location {
    /// Makes a location; lines count from one.
    pub fn new(file: impl Into<Arc<Path>>, line: u32) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Reads and parses the file at `path` with the environment of this process.
///
/// A file that cannot be read is one of the diagnostics. The file is good if [`Diagnostics::has_errors`] is false.
pub fn load(path: impl AsRef<Path>) -> (File, Diagnostics) {
    let path = path.as_ref();
    let mut diagnostics = Diagnostics::default();
    let start = Location::new(path, 1);
    match read(path, &start, &mut diagnostics) {
        Ok(text) => {
            let (file, found) = parse(path, &text, &process_environment);
            diagnostics.append(found);
            (file, diagnostics)
        }
        Err(error) => {
            let help = match error.kind() {
                std::io::ErrorKind::NotFound => "create it, or name the right one with -conf",
                std::io::ErrorKind::PermissionDenied => "let this process read it",
                _ => "name a readable file with -conf",
            };
            diagnostics.push(
                Diagnostic::error(start, format!("the file cannot be read: {error}")).help(help),
            );
            (File::default(), diagnostics)
        }
    }
}

/// Parses `text`. Relative imports start at the folder of `name`, which is also what the locations show.
pub fn parse(
    name: impl AsRef<Path>,
    text: &str,
    environment: Environment<'_>,
) -> (File, Diagnostics) {
    parser::parse(name.as_ref(), text, environment)
}

/// Reads a regular file of bounded size. Bytes that are not UTF-8 are replaced and warned about, since they mostly
/// are in comments.
pub(crate) fn read(
    path: &Path,
    at: &Location,
    diagnostics: &mut Diagnostics,
) -> std::io::Result<String> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(std::io::Error::other("it is a directory"));
    }
    // Opening a FIFO would wait for its writer, a device may never end.
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    // One more than allowed, so that `parse` sees that it is too long.
    std::fs::File::open(path)?.take(limits::FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let line = error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count();
            diagnostics.push(
                Diagnostic::warning(
                    Location::new(at.file.clone(), line as u32 + 1),
                    "there are bytes that are not UTF-8",
                )
                .help("save the file as UTF-8"),
            );
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }
    })
}
