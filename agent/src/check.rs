//! `nodens check`: every mistake of a Corefile at once, or the configuration in effect.

use std::io::Write;
use std::path::Path;

use crate::args::Output;
use crate::{corefile, plugin};

/// Checks `path` and prints what it finds to `out`: errors and warnings as `file:line: ...`, or the configuration after
/// imports and variables. Returns whether the file is good.
pub fn run(path: &Path, output: Output, out: &mut impl Write) -> std::io::Result<bool> {
    let (file, mut diagnostics) = corefile::load(path);
    if !diagnostics.has_errors() {
        plugin::read(&file, DEFAULT_PORT, &mut diagnostics);
    }
    diagnostics.sort();
    let good = !diagnostics.has_errors();
    match output {
        Output::Text => {
            write!(out, "{diagnostics}")?;
            if good {
                write!(out, "{file}")?;
            } else {
                let n = diagnostics.errors();
                writeln!(out, "{}: {n} error{}", path.display(), if n == 1 { "" } else { "s" })?;
            }
        }
        Output::Json => {
            let found: Vec<_> = diagnostics
                .iter()
                .map(|d| {
                    serde_json::json!({
                        "severity": if d.severity == corefile::Severity::Error { "error" } else { "warning" },
                        "file": d.at.file.display().to_string(),
                        "line": d.at.line,
                        "directive": d.directive,
                        "what": d.what,
                        "wanted": d.wanted,
                    })
                })
                .collect();
            let config = if good { file.to_json() } else { serde_json::Value::Null };
            let all =
                serde_json::json!({ "good": good, "diagnostics": found, "configuration": config });
            writeln!(out, "{all:#}")?;
        }
    }
    Ok(good)
}

/// The port of server blocks that name none.
const DEFAULT_PORT: u16 = 53;
