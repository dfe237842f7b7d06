//! The structure that the code keeps to: no file is longer than 500 lines, and no files of a crate use each other in a
//! circle. A private submodule is a part of its module, so that it may use what the module's own file has. Tests inside of
//! `src` count for the length and not for the circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const MAX_LINES: usize = 500;

/// Where circles are looked for: the sources of the product, and its fuzz targets.
const CRATES: [&str; 4] = ["agent/src", "image/src", "netsetup/src", "fuzz/src"];

/// The path of a module in its crate; empty for `lib.rs`.
type Module = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file of Rust below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let mut files = Vec::new();
    for folder in ["agent", "image", "netsetup", "tests", "fuzz"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 250, "only {} files", files.len());
    let mut long = Vec::new();
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

/// One file of a crate: what it imports and what it passes on from its children.
#[derive(Default)]
struct File {
    uses: Vec<Module>,
    /// The submodules that nothing outside can name.
    private: BTreeSet<String>,
    reexports: BTreeMap<String, Module>,
}

/// The files of one crate by their modules.
struct Crate(BTreeMap<Module, File>);

/// The module that a file is; `None` for tests and for programs, which nothing can import.
fn module(folder: &Path, file: &Path) -> Option<Module> {
    let path = file.strip_prefix(folder).unwrap().with_extension("");
    let mut words: Module = path.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if words.iter().any(|word| word == "tests" || word.ends_with("_tests")) {
        return None;
    }
    if matches!(words[0].as_str(), "main" | "bin") {
        return None;
    }
    if matches!(words.last().unwrap().as_str(), "mod" | "lib") {
        words.pop();
    }
    Some(words)
}

/// The text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let tests = Regex::new(r"#\[cfg\(test\)\]\s*mod \w+ \{").unwrap();
    let end = tests.find(text).map_or(text.len(), |found| found.start());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The single paths of a `use`, without the names that are given to them.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<Module>) {
    let words = |text: &str| -> Module {
        let words = text.split("::").map(str::trim).filter(|word| !word.is_empty());
        prefix.iter().cloned().chain(words.map(str::to_owned)).collect()
    };
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        found.push(words(path));
        return;
    };
    let rest = rest.trim_end();
    let (head, rest) = (words(head), rest.strip_suffix('}').unwrap_or(rest).to_owned() + ",");
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in rest.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !rest[begin..at].trim().is_empty() {
                    expand(&head, &rest[begin..at], found);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// A path as the crate's root sees it; `None` if it leads out of the crate.
fn absolute(from: &Module, path: &[String], is_module: impl Fn(&Module) -> bool) -> Option<Module> {
    let mut base = match path.first()?.as_str() {
        "crate" => Module::new(),
        "self" | "super" => from.clone(),
        child => {
            let mut base = from.clone();
            base.push(child.to_owned());
            return is_module(&base).then(|| [from.as_slice(), path].concat());
        }
    };
    let rest = path.iter().skip(usize::from(path[0] != "super"));
    for word in rest {
        if word == "super" {
            base.pop()?;
        } else {
            base.push(word.clone());
        }
    }
    Some(base)
}

impl Crate {
    fn read(folder: &Path) -> Self {
        let mut files = Vec::new();
        sources(folder, &mut files);
        let texts: BTreeMap<Module, String> = files
            .iter()
            .filter_map(|file| Some((module(folder, file)?, fs::read_to_string(file).unwrap())))
            .collect();
        let imports = Regex::new(r"(?s)\b(pub(?:\([a-z ]+\))?\s+)?use\s+([^;]+);").unwrap();
        let inline = Regex::new(r"\b(?:crate|super)(?:::\w+)+").unwrap();
        let submodules = Regex::new(r"(?m)^mod (\w+);").unwrap();
        let is_module = |path: &Module| texts.contains_key(path);
        let read = |(module, text): (&Module, &String)| {
            let code = code(text);
            let private = submodules.captures_iter(&code).map(|found| found[1].to_owned());
            let mut file = File { private: private.collect(), ..File::default() };
            for found in imports.captures_iter(&code) {
                let mut paths = Vec::new();
                expand(&[], &found[2], &mut paths);
                let paths = paths.iter().filter_map(|path| absolute(module, path, is_module));
                if found.get(1).is_some() {
                    let named = paths.filter_map(|path| Some((path.last()?.clone(), path)));
                    file.reexports.extend(named);
                } else {
                    file.uses.extend(paths);
                }
            }
            for found in inline.find_iter(&imports.replace_all(&code, "")) {
                let path: Module = found.as_str().split("::").map(str::to_owned).collect();
                file.uses.extend(absolute(module, &path, is_module));
            }
            (module.clone(), file)
        };
        Self(texts.iter().map(read).collect())
    }

    /// The file in which a path's item is written: a name that a module only passes on belongs to the file that has it.
    fn file_of(&self, path: &Module) -> Module {
        let mut file = Module::new();
        for word in path {
            let child = [file.as_slice(), std::slice::from_ref(word)].concat();
            if self.0.contains_key(&child) {
                file = child;
            } else if let Some(origin) = self.0[&file].reexports.get(word)
                && origin != path
            {
                return self.file_of(origin);
            } else {
                break;
            }
        }
        file
    }

    /// The files that a file uses, but for the one whose private submodule it is.
    fn used(&self, module: &Module) -> BTreeSet<Module> {
        let mut used: BTreeSet<Module> =
            self.0[module].uses.iter().map(|path| self.file_of(path)).collect();
        used.remove(module);
        if let Some((name, parent)) = module.split_last()
            && self.0.get(parent).is_some_and(|file| file.private.contains(name))
        {
            used.remove(parent);
        }
        used
    }

    /// Every file that a file reaches by what it uses, directly or through others.
    fn reached(&self, from: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(module) = open.pop() {
            for used in self.used(&module) {
                if reached.insert(used.clone()) {
                    open.push(used);
                }
            }
        }
        reached
    }

    /// The uses by which a file is part of a circle.
    fn circles(&self) -> Vec<String> {
        let mut circles = Vec::new();
        for module in self.0.keys() {
            for used in self.used(module) {
                if self.reached(&used).contains(module) {
                    circles.push(format!("{} uses {}", module.join("::"), used.join("::")));
                }
            }
        }
        circles
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for folder in CRATES {
        let found = Crate::read(&root().join(folder)).circles();
        circles.extend(found.into_iter().map(|line| format!("{folder}: {line}")));
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}

#[test]
fn circles_are_seen_through_nested_uses_and_reexports() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod a;\npub mod b;\npub mod c;\n");
    write("a/mod.rs", "mod inner;\npub use self::inner::Thing;\n// use crate::b;\n");
    write("a/inner.rs", "use crate::c::{One, two::{Deep, self}};\npub struct Thing;\n");
    write(
        "b.rs",
        "use std::io;\nuse crate::a::Thing;\n#[cfg(test)]\nmod tests {\n    use crate::c::X;\n}\n",
    );
    write("c/mod.rs", "pub mod two;\npub struct One;\n");
    write("c/two.rs", "pub struct Deep;\n");
    let circles = |folder: &Path| Crate::read(folder).circles();
    assert_eq!(circles(folder.path()), [""; 0]);
    write("c/two.rs", "pub fn deep() { crate::b::call() }\n");
    let found = ["a::inner uses c::two", "b uses a::inner", "c::two uses b"];
    assert_eq!(circles(folder.path()), found);
    write("c/two.rs", "pub fn deep() { super::One }\n");
    write("c/mod.rs", "pub mod two;\nuse self::two::deep;\npub struct One;\n");
    assert_eq!(circles(folder.path()), ["c uses c::two", "c::two uses c"]);
}
