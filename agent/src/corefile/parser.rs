//! Snippets and imports expanded, server blocks separated from their contents.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::environment::Environment;
use super::import::{self, Imported};
use super::tree::Line;
use super::{Diagnostic, Diagnostics, Directive, File, Location, ServerBlock, Token, limits};

/// Parses a whole configuration, which begins with `text`.
pub(super) fn parse(name: &Path, text: &str, environment: Environment<'_>) -> (File, Diagnostics) {
    let start = Location::new(name, 1);
    let mut parser = Parser {
        environment,
        diagnostics: Diagnostics::default(),
        snippets: HashMap::new(),
        later: HashMap::new(),
        stack: vec![Source::File(name.to_owned())],
        words: 0,
        imports: 0,
    };
    let lines = import::lines_of(text, &start, environment, &mut parser.diagnostics);
    let mut flat = Vec::new();
    parser.top(lines, &mut flat);
    let file = parser.file(flat);
    if file.blocks.is_empty() && !parser.diagnostics.has_errors() {
        parser.diagnostics.push(
            Diagnostic::error(start, "nothing is configured").help(
                "add a server block, as in `. { forward . /etc/resolv.conf }` over three lines",
            ),
        );
    }
    (file, parser.diagnostics)
}

struct Parser<'a> {
    environment: Environment<'a>,
    diagnostics: Diagnostics,
    snippets: HashMap<Arc<str>, Snippet>,
    /// Every snippet of the files read so far, also those below the line that is being looked at.
    later: HashMap<Arc<str>, Location>,
    /// What is being imported right now, outermost first.
    stack: Vec<Source>,
    words: usize,
    imports: usize,
}

struct Snippet {
    lines: Rc<Vec<Line>>,
    at: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Snippet(Arc<str>),
}

impl Parser<'_> {
    /// Expands lines outside of any block: takes the snippets out, puts imported lines in.
    fn top(&mut self, lines: Vec<Line>, flat: &mut Vec<Line>) {
        for line in &lines {
            if let Some(name) = snippet_name(line) {
                self.later.entry(name).or_insert_with(|| line.at.clone());
            }
        }
        let mut lines = lines.into_iter().peekable();
        while let Some(mut line) = lines.next() {
            if let Some(name) = snippet_name(&line) {
                let body = line.body.or_else(|| lines.next_if(is_bare_block)?.body);
                self.define(name, body, line.at);
            } else if is_import(&line) {
                for (source, imported) in self.import(&line) {
                    self.stack.push(source);
                    self.top(imported, flat);
                    self.stack.pop();
                }
            } else if self.count(&line) {
                line.body = line.body.map(|body| self.inside(body));
                flat.push(line);
            }
        }
    }

    /// Expands lines inside of a block, at any depth.
    fn inside(&mut self, lines: Vec<Line>) -> Vec<Line> {
        let mut expanded = Vec::new();
        for mut line in lines {
            if is_import(&line) {
                for (source, imported) in self.import(&line) {
                    self.stack.push(source);
                    expanded.extend(self.inside(imported));
                    self.stack.pop();
                }
            } else if self.count(&line) {
                line.body = line.body.map(|body| self.inside(body));
                expanded.push(line);
            }
        }
        expanded
    }

    /// Counts the words of a line; false, with one error, when there are too many.
    fn count(&mut self, line: &Line) -> bool {
        // A line costs something even without words.
        self.words += line.words.len().max(1);
        if self.words > limits::TOKENS {
            self.diagnostics.push(import::too_many_words(&self.start()));
            return false;
        }
        true
    }

    /// The first line of the file with which everything began.
    fn start(&self) -> Location {
        match self.stack.first() {
            Some(Source::File(path)) => Location::new(path.as_path(), 1),
            _ => Location::new(Path::new(""), 1),
        }
    }

    fn define(&mut self, name: Arc<str>, body: Option<Vec<Line>>, at: Location) {
        let Some(lines) = body else {
            self.error(&at, format!("the snippet ({name}) has no block"), "write { after its name");
            return;
        };
        if let Some(first) = self.snippets.get(&name) {
            let what = format!("the snippet ({name}) is defined twice, first at {}", first.at);
            self.error(&at, what, "rename one of them");
            return;
        }
        self.snippets.insert(name, Snippet { lines: Rc::new(lines), at });
    }

    /// What an import line stands for: the lines of a snippet, or of each file.
    fn import(&mut self, line: &Line) -> Vec<(Source, Vec<Line>)> {
        let diagnostics = &mut self.diagnostics;
        let mut fail = |what: String, help: &str| {
            diagnostics
                .push(Diagnostic::error(line.at.clone(), what).directive("import").help(help));
            Vec::new()
        };
        const WHAT: &str = "name a snippet, a file or a pattern";
        let target = match line.words.as_slice() {
            [_, target] if !target.text.is_empty() => target,
            [_, _] => return fail("the name is empty".into(), WHAT),
            [_] | [] => return fail("nothing is named".into(), WHAT),
            [_, _, more, ..] => {
                let what = format!("there is a second argument {:?}", more.as_str());
                return fail(what, "write one snippet, file or pattern on each line");
            }
        };
        if line.body.is_some() {
            return fail("it has a block".into(), "remove the braces");
        }
        // Reported where it was counted.
        if self.words > limits::TOKENS {
            return Vec::new();
        }
        self.imports += 1;
        if self.imports > limits::IMPORTS {
            return fail(
                "there are too many imports".into(),
                &format!("use at most {}", limits::IMPORTS),
            );
        }
        if self.stack.len() > limits::IMPORT_DEPTH {
            return fail(
                "imports are nested too deeply".into(),
                &format!("use at most {} levels", limits::IMPORT_DEPTH),
            );
        }
        if let Some(snippet) = self.snippets.get(&target.text) {
            let source = Source::Snippet(target.text.clone());
            if self.stack.contains(&source) {
                return fail(
                    format!("the snippet ({target}) imports itself"),
                    "remove one of the imports",
                );
            }
            return vec![(source, snippet.lines.as_ref().clone())];
        }
        if let Some(later) = self.later.get(&target.text) {
            return fail(
                format!("the snippet ({target}) is defined only at {later}"),
                "move its definition above this line",
            );
        }
        let mut imported = Vec::new();
        for Imported { path, lines } in
            import::read_files(target, self.environment, &mut self.diagnostics)
        {
            let source = Source::File(path);
            if self.stack.contains(&source) {
                let what = format!("{target} imports itself");
                self.diagnostics.push(
                    Diagnostic::error(line.at.clone(), what)
                        .directive("import")
                        .help("remove one of the imports"),
                );
            } else {
                imported.push((source, lines));
            }
        }
        imported
    }

    /// Puts the server blocks together.
    fn file(&mut self, lines: Vec<Line>) -> File {
        let mut file = File::default();
        let mut lines = lines.into_iter().peekable();
        while let Some(line) = lines.next() {
            if line.words.is_empty() {
                self.error(&line.at, "the block has no zone", "write a zone before {, as in `. {`");
                continue;
            }
            let at = line.at.clone();
            let mut keys = Keys::default();
            keys.take(line.words, self);
            let mut body = line.body;
            while body.is_none() && keys.open {
                let Some(next) = lines.next() else { break };
                keys.take(next.words, self);
                body = next.body;
            }
            if keys.open {
                self.error(
                    &at,
                    "the list of zones ends with a comma",
                    "add a zone, or remove the comma",
                );
            }
            let body = body.or_else(|| lines.next_if(is_bare_block)?.body);
            // The one block that needs no braces reaches to the end.
            let body = body.unwrap_or_else(|| lines.by_ref().collect());
            if keys.found.is_empty() {
                self.error(&at, "the zone is empty", "write a zone, as in `. {`");
            }
            let directives = self.directives(body);
            file.blocks.push(ServerBlock { keys: keys.found, directives, at });
        }
        file
    }

    fn directives(&mut self, lines: Vec<Line>) -> Vec<Directive> {
        let mut directives: Vec<Directive> = Vec::new();
        for line in lines {
            let mut words = line.words.into_iter();
            let block = line.body.map(|body| self.directives(body));
            if let Some(name) = words.next() {
                directives.push(Directive { name, args: words.collect(), block });
                continue;
            }
            let previous = directives.last_mut();
            let name = previous.as_ref().map(|directive| directive.name.text.to_string());
            let mut error = Diagnostic::error(line.at, "the { is on a line of its own")
                .help("put it at the end of the directive's line");
            error.directive = name;
            self.diagnostics.push(error);
            // Read as it was meant, so that what is inside is checked as well.
            if let Some(previous) = previous.filter(|previous| previous.block.is_none()) {
                previous.block = block;
            }
        }
        directives
    }

    fn error(&mut self, at: &Location, what: impl Into<String>, help: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(at.clone(), what).help(help));
    }
}

/// The zones before a brace, which may continue on the next line after a comma.
#[derive(Default)]
struct Keys {
    found: Vec<Token>,
    /// Whether the last word ended with a comma.
    open: bool,
}

impl Keys {
    fn take(&mut self, words: Vec<Token>, parser: &mut Parser<'_>) {
        for word in words {
            let text = word.text.trim_end_matches(',');
            let commas = word.text.len() - text.len();
            if word.text.is_empty() {
                let warning =
                    Diagnostic::warning(word.at, "an empty word among the zones is ignored");
                parser.diagnostics.push(warning.help("remove it, or write a zone"));
                continue;
            }
            if commas > 1 || text.is_empty() {
                parser.error(
                    &word.at,
                    format!("there is a comma too many in {:?}", word.as_str()),
                    "write one after a zone",
                );
            }
            if text == "import" {
                parser.error(
                    &word.at,
                    "there is an import among the zones",
                    "begin a line with it",
                );
            }
            self.open = commas > 0;
            if !text.is_empty() {
                self.found.push(Token::new(text, word.at));
            }
        }
    }
}

/// `(name)` alone before a block.
fn snippet_name(line: &Line) -> Option<Arc<str>> {
    let [word] = line.words.as_slice() else { return None };
    word.text.strip_prefix('(')?.strip_suffix(')').map(Arc::from)
}

fn is_import(line: &Line) -> bool {
    line.words.first().is_some_and(|word| word.as_str() == "import")
}

fn is_bare_block(line: &Line) -> bool {
    line.words.is_empty() && line.body.is_some()
}

#[cfg(test)]
mod tests;
