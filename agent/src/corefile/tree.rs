//! Lines and the blocks that belong to them, for one file at a time.
//!
//! A file must balance its own braces, so that an import can never close a block of the file that imports it.

use std::mem;

use super::environment::{self, Environment};
use super::lexer::{Kind, Lexeme};
use super::{Diagnostic, Diagnostics, Location, Token, limits};

/// One line: its words, and the block that was opened at its end.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Empty for a brace that is alone on its line.
    pub(super) words: Vec<Token>,
    pub(super) body: Option<Vec<Line>>,
    pub(super) at: Location,
}

/// Builds the lines of one file and puts the environment into its words.
pub(super) fn build(
    lexemes: Vec<Lexeme>,
    file: &Location,
    environment: Environment<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<Line> {
    let root = Frame { lines: Vec::new(), current: None, opened: file.clone() };
    let mut builder = Builder { frames: vec![], top: root, too_deep: 0, environment, diagnostics };
    let mut previous: Option<(Kind, u32)> = None;
    let mut lexemes = lexemes.into_iter().peekable();
    while let Some(lexeme) = lexemes.next() {
        let at = Location { file: file.file.clone(), line: lexeme.line };
        let same_line =
            previous.filter(|(_, last_line)| *last_line >= lexeme.line).map(|(kind, _)| kind);
        let is_last = lexemes.peek().is_none_or(|next| next.line > lexeme.last_line);
        previous = Some((lexeme.kind, lexeme.last_line));
        match same_line {
            None => builder.end_line(),
            Some(Kind::Close) => {
                builder.error(
                    &at,
                    format!("{:?} follows a }} on its line", lexeme.text),
                    "each } on its own line",
                );
                builder.end_line();
            }
            Some(_) => {}
        }
        match lexeme.kind {
            Kind::Word if is_last && is_glued(&lexeme.text) => {
                builder.error(
                    &at,
                    format!("the brace is part of the word {:?}", lexeme.text),
                    "write a space before {",
                );
                let mut text = lexeme.text;
                text.pop();
                builder.word(text, &at);
                builder.open(&at);
            }
            Kind::Word | Kind::Quoted => builder.word(lexeme.text, &at),
            Kind::Open => builder.open(&at),
            Kind::Close => {
                if matches!(same_line, Some(Kind::Word | Kind::Quoted)) {
                    builder.error(
                        &at,
                        "there is a } at the end of a line with other words",
                        "each } on its own line",
                    );
                }
                builder.close(&at);
            }
        }
    }
    builder.finish()
}

/// `.:53{` was meant as two words. Go templates (`{{`) and regular expressions rarely end like this.
pub(super) fn is_glued(word: &str) -> bool {
    word.ends_with('{') && !word.ends_with("{{")
}

struct Builder<'a> {
    /// The blocks around the one that is being read, outermost first.
    frames: Vec<Frame>,
    top: Frame,
    /// Open braces beyond the allowed nesting, whose blocks are not kept apart.
    too_deep: usize,
    environment: Environment<'a>,
    diagnostics: &'a mut Diagnostics,
}

struct Frame {
    lines: Vec<Line>,
    current: Option<Line>,
    opened: Location,
}

impl Builder<'_> {
    fn word(&mut self, text: String, at: &Location) {
        let text = environment::expand(text, at, self.environment, self.diagnostics);
        self.current(at).words.push(Token::new(text, at.clone()));
    }

    fn open(&mut self, at: &Location) {
        if self.frames.len() >= limits::NESTING {
            self.error(
                at,
                "blocks are nested too deeply",
                format!("use at most {} levels", limits::NESTING),
            );
            self.too_deep += 1;
            return;
        }
        self.current(at);
        let inner = Frame { lines: Vec::new(), current: None, opened: at.clone() };
        self.frames.push(mem::replace(&mut self.top, inner));
    }

    fn close(&mut self, at: &Location) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
            return;
        }
        self.end_line();
        match self.frames.pop() {
            Some(outer) => {
                let inner = mem::replace(&mut self.top, outer);
                self.current(at).body = Some(inner.lines);
            }
            None => self.error(at, "this } closes no block", "remove it, or add the missing {"),
        }
    }

    /// The line that is being read, begun here if need be.
    fn current(&mut self, at: &Location) -> &mut Line {
        self.top.current.get_or_insert_with(|| Line {
            words: Vec::new(),
            body: None,
            at: at.clone(),
        })
    }

    fn end_line(&mut self) {
        self.top.lines.extend(self.top.current.take());
    }

    fn finish(mut self) -> Vec<Line> {
        if !self.frames.is_empty() {
            let at = self.top.opened.clone();
            let what = "the block that begins here is never closed";
            let error = Diagnostic::error(at.clone(), what).help("add a } on a line of its own");
            match self.frames.len() {
                // A server block: the lines in it are what they are wherever it ends.
                1 => {
                    self.diagnostics.push(error);
                    self.diagnostics.distrust(&Location { line: u32::MAX, ..at });
                }
                _ => self.diagnostics.push_malformed(error),
            }
        }
        self.too_deep = 0;
        while !self.frames.is_empty() {
            let at = self.top.opened.clone();
            self.close(&at);
        }
        self.end_line();
        self.top.lines
    }

    fn error(&mut self, at: &Location, what: impl Into<String>, help: impl Into<String>) {
        self.diagnostics.push_malformed(Diagnostic::error(at.clone(), what).help(help));
    }
}
