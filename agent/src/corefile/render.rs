//! A parsed file as text again, in one canonical form, and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{Directive, File, ServerBlock, Token, tree};

impl File {
    /// The effective configuration: what is written where, after imports and variables.
    pub fn to_json(&self) -> Value {
        json!({ "serverBlocks": self.blocks.iter().map(ServerBlock::to_json).collect::<Vec<_>>() })
    }
}

impl ServerBlock {
    fn to_json(&self) -> Value {
        json!({
            "at": self.at.to_string(),
            "zones": texts(&self.keys),
            "directives": self.directives.iter().map(Directive::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Directive {
    fn to_json(&self) -> Value {
        let mut value = json!({ "at": self.at().to_string(), "name": self.name.as_str(), "args": texts(&self.args) });
        if let (Some(block), Some(fields)) = (&self.block, value.as_object_mut()) {
            fields.insert("block".into(), block.iter().map(Directive::to_json).collect());
        }
        value
    }

    fn render(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let bare = self.block.is_none();
        let name = Word { text: self.name.as_str(), ends_line: bare && self.args.is_empty() };
        write!(f, "{:width$}{name}", "", width = depth * 4)?;
        for (index, argument) in self.args.iter().enumerate() {
            let ends_line = bare && index + 1 == self.args.len();
            write!(f, " {}", Word { text: argument.as_str(), ends_line })?;
        }
        if let Some(block) = &self.block {
            f.write_str(" {\n")?;
            for line in block {
                line.render(f, depth + 1)?;
            }
            write!(f, "{:width$}}}", "", width = depth * 4)?;
        }
        f.write_str("\n")
    }
}

/// As it is written in a block, with its line end.
impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render(f, 0)
    }
}

/// The canonical text: one blank line between server blocks, four spaces for each level, quotes where needed.
///
/// It parses to the same file again. A backslash before a quote or at the end of a word that needs quotes is the one
/// thing that the syntax cannot express; it can only come from an environment variable.
impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{block}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ServerBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in &self.keys {
            write!(f, "{} ", Word { text: key.as_str(), ends_line: false })?;
        }
        f.write_str("{\n")?;
        for directive in &self.directives {
            directive.render(f, 1)?;
        }
        f.write_str("}\n")
    }
}

/// One word, quoted where it would otherwise be read as something else.
struct Word<'a> {
    text: &'a str,
    ends_line: bool,
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = matches!(self.text, "" | "{" | "}")
            || self.text.starts_with(['"', '\u{feff}'])
            || self.text.contains(|letter: char| letter.is_whitespace() || letter == '#')
            || (self.ends_line && tree::is_glued(self.text));
        if !quoted {
            return f.write_str(self.text);
        }
        write!(f, "\"{}\"", self.text.replace('"', "\\\""))
    }
}

fn texts(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(Token::as_str).collect()
}
