//! `nodens check`: every mistake of a Corefile at once, or the configuration in effect.

use std::io::Write;
use std::path::Path;

use crate::args::Output;
use crate::assemble::own_addresses;
use crate::corefile::Diagnostics;
use crate::plugin::{Block, forward};
use crate::{corefile, plugin};

/// Checks `path` and prints what it finds to `out`: errors and warnings as `file:line: ...`, or the configuration after
/// imports and variables. Returns whether the file is good.
pub fn run(path: &Path, output: Output, out: &mut impl Write) -> std::io::Result<bool> {
    let (file, mut diagnostics) = corefile::load(path);
    if !diagnostics.has_errors() {
        let blocks = plugin::read(&file, DEFAULT_PORT, &mut diagnostics);
        if !diagnostics.has_errors() {
            check_upstreams(&blocks, &mut diagnostics);
        }
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
                        "expected": d.expected,
                        "help": d.help,
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

/// Reads the files that `forward` lines name, as a start would.
fn check_upstreams(blocks: &[Block], diagnostics: &mut Diagnostics) {
    // An interface that this machine lacks is for the start to tell.
    let own = own_addresses(blocks).unwrap_or_default();
    for block in blocks {
        let lines = block.written.directives.iter().filter(|line| line.name.as_str() == "forward");
        for (config, line) in block.forward.iter().zip(lines) {
            forward::check(config, line, &own, diagnostics);
        }
    }
}

/// The port of server blocks that name none.
const DEFAULT_PORT: u16 = 53;
