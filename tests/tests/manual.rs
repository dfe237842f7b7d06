//! The manual against the tree: links lead somewhere, paths exist, and log lines are those that the program prints.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use nodens::config::table::{self, Repeat};
use regex::Regex;

/// Shorter pieces of a log line are in any program.
const TELLING: usize = 8;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page: its path from the root, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .iter()
        .map(|name| root().join(name))
        .chain(files(&root().join("docs"), "md"))
        .chain(files(&root().join("manifests"), "md"))
        .collect();
    pages.sort();
    pages.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|has| has == extension) {
            found.push(path);
        }
    }
    found
}

/// The text without what stands in fences.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands in fences of this language.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mut inside = false;
    let open = format!("```{language}");
    text.lines()
        .map(str::trim)
        .filter(|line| {
            let was = inside;
            inside = if inside { *line != "```" } else { *line == open };
            was && inside
        })
        .collect()
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(text: &str) -> HashSet<String> {
    let headings = prose(text);
    headings
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut dead = Vec::new();
    for (path, text) in pages() {
        for found in link.captures_iter(&prose(&text)) {
            let target = &found[1];
            if target.starts_with("http") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = to.exists()
                && (fragment.is_empty()
                    || anchors(&fs::read_to_string(&to).unwrap()).contains(fragment));
            if !there {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let contents = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for (path, _) in pages() {
        let Ok(name) = path.strip_prefix(root().join("docs")) else { continue };
        let name = name.to_string_lossy();
        assert!(name == "README.md" || contents.contains(&format!("]({name})")), "{name}");
    }
}

#[test]
fn paths_exist() {
    let path = Regex::new(
        r"`((?:agent|docs|fuzz|image|manifests|netsetup|scripts|tests)/[A-Za-z0-9_./-]+)`",
    )
    .unwrap();
    let test = Regex::new(r"`([a-z0-9_]+)` in\s+`([A-Za-z0-9_./-]+\.rs)`").unwrap();
    let mut missing = Vec::new();
    for (page, text) in pages() {
        // The changelog tells of what was.
        if page.ends_with("CHANGELOG.md") {
            continue;
        }
        for found in path.captures_iter(&prose(&text)) {
            if !root().join(&found[1]).exists() {
                missing.push(format!("{}: {}", page.display(), &found[1]));
            }
        }
        for found in test.captures_iter(&prose(&text)) {
            let file = fs::read_to_string(root().join(&found[2])).unwrap_or_default();
            if !file.contains(&format!("fn {}(", &found[1])) {
                missing.push(format!("{}: {} in {}", page.display(), &found[1], &found[2]));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_architectures_modules_exist() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let source = root().join("agent/src");
    let module = Regex::new(r"\b([a-z_]+)::([a-z_]+)\b").unwrap();
    for found in module.captures_iter(&page) {
        let (outer, inner) = (&found[1], &found[2]);
        let folder = source.join(outer);
        let file = source.join(format!("{outer}.rs"));
        let item =
            || fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("fn {inner}")));
        assert!(
            folder.join(format!("{inner}.rs")).exists() || folder.join(inner).exists() || item(),
            "{outer}::{inner}"
        );
    }
    for line in page.lines().filter_map(|line| line.strip_prefix("  src/")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(source.join(name).exists(), "agent/src/{name}");
    }
}

/// Each check of the doctor is a line of the table of its category, with its question.
#[test]
fn every_check_of_the_doctor_is_in_its_table() {
    let page = fs::read_to_string(root().join("docs/doctor.md")).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let mut lines = 0;
    for check in nodens::doctor::table::ALL {
        let of_category = |text: &&&str| text.lines().next() == Some(check.category.name());
        let section = sections.iter().find(of_category).unwrap_or_else(|| panic!("{}", check.id));
        let line = format!("| `{}` | {} | ", check.id, check.title);
        assert!(section.contains(&line), "{line}");
        lines += 1;
    }
    let all = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(all, lines, "a line without a check");
}

/// The part of the reference that is about a directive: a page, or a section.
fn section(directive: &str) -> Option<String> {
    let page = |name: &str| fs::read_to_string(root().join("docs").join(name)).unwrap();
    match directive {
        "kubernetes" | "cache" | "forward" => return Some(page(&format!("{directive}.md"))),
        "loop" => return Some(page("forward.md")),
        "stale_on_denial" => return Some(page("cache.md")),
        _ => {}
    }
    let both = page("directives.md") + &page("directives-queries.md");
    let sections = both.split("\n## ").skip(1);
    sections.filter(|text| text.lines().next() == Some(directive)).map(str::to_owned).next()
}

#[test]
fn every_directive_and_option_is_in_the_reference() {
    let plugins = root().join("agent/src/plugin");
    let mut missing = Vec::new();
    let mut options = 0;
    for directive in table::all().iter().map(|entry| entry.name.to_owned()) {
        let Some(section) = section(&directive) else {
            missing.push(directive);
            continue;
        };
        if !section.contains("```corefile") && directive != "debug" {
            missing.push(format!("{directive}: an example"));
        }
        for option in options_of(&plugins, &directive) {
            options += 1;
            if !section.contains(&option) {
                missing.push(format!("{directive}: {option}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(options > 60, "{options} options");
}

/// The manual's sentences on the order of the chain and on directives that may be used once say what the table says.
#[test]
fn the_order_of_directives_is_in_the_reference() {
    let page = fs::read_to_string(root().join("docs/directives.md")).unwrap();
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let listed = |names: Vec<&str>| {
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let (last, others) = quoted.split_last().unwrap();
        format!("{} and {last}", others.join(", "))
    };
    let handlers = table::all().iter().filter(|entry| entry.plugin.is_some());
    let order = listed(handlers.map(|entry| entry.name).collect());
    assert!(text.contains(&format!("queries pass {order}, in this order")), "{order}");
    let once = table::all().iter().filter(|entry| entry.repeat == Repeat::Once);
    let mut once: Vec<_> = once.map(|entry| entry.name).collect();
    once.sort_unstable();
    let once = listed(once);
    assert!(text.contains(&format!("{once} may be used once in a block")), "{once}");
}

/// The names that a directive's parser offers for one that it does not know.
fn options_of(plugins: &Path, directive: &str) -> Vec<String> {
    let module = if directive == "loop" { "loop_" } else { directive };
    let sources = [
        plugins.join(format!("{module}.rs")),
        plugins.join(module).join("mod.rs"),
        plugins.join(module).join("config.rs"),
        plugins.join(module).join("options.rs"),
    ];
    let text: String = sources.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let text = match (directive, fs::read_to_string(plugins.join("settings.rs"))) {
        ("timeouts", Ok(settings)) => settings,
        _ => text,
    };
    let list = Regex::new(r"(?s)(?:unknown_option\(&|const OPTIONS: [^=]*= &?)\[(.*?)\]").unwrap();
    let name = Regex::new(r#""([A-Za-z_0-9]+)""#).unwrap();
    list.captures_iter(&text)
        .flat_map(|list| {
            name.captures_iter(list.get(1).unwrap().as_str())
                .map(|name| name[1].to_owned())
                .collect::<Vec<_>>()
        })
        // Without effect in CoreDNS since 1.7, and not worth a word.
        .filter(|option| option != "upstream")
        .collect()
}

/// `...` in a line stands for what differs, `NAME=` begins a field.
#[test]
fn log_lines_are_those_of_the_program() {
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let mut source = String::new();
    for folder in ["agent/src", "netsetup/src"] {
        for file in files(&root().join(folder), "rs") {
            source.push_str(&fs::read_to_string(file).unwrap());
        }
    }
    let source = continued.replace_all(&source, "").replace("\\\"", "\"");
    let cut = Regex::new(r"\.\.\.|: |; |\b[a-z_]+=").unwrap();
    let mut lines = 0;
    let mut unknown = Vec::new();
    for (page, text) in pages() {
        for line in fenced(&text, "log") {
            lines += 1;
            for piece in cut.split(line).map(str::trim).filter(|piece| piece.len() >= TELLING) {
                if !source.contains(piece) {
                    unknown.push(format!("{}: {line}\n    {piece:?}", page.display()));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    assert!(lines > 30, "{lines} lines");
}
