//! `nodens check`: every mistake of a configuration at once, or the configuration in effect.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::args::{Check, Cli, Output, Serve};
use crate::control::{self, Request};
use crate::corefile::{self, Diagnostics, File, limits};
use crate::node::{self, NodeConfig, Origin};
use crate::plan::Plan;

/// Checks what the arguments name, and prints what it finds to `out`: errors and warnings as `file:line: ...`, or the
/// configuration after imports and variables. Returns whether a server would start with it.
///
/// # Errors
/// The flags make no sense, or the output cannot be written.
pub fn run(args: &Check, out: &mut impl Write) -> anyhow::Result<bool> {
    let (name, (file, diagnostics), serve) = read(args)?;
    // A file by itself may be meant for another machine; flags of the node's network, or a running server, mean this one.
    let is_here = args.file.is_none() || !serve.node.localip.is_empty();
    let machine = node::machine(&serve.node, is_here);
    let mut plan = Plan::new(file, diagnostics, serve.dns_port, &machine);
    if !plan.diagnostics.has_errors() {
        plan.check_upstreams();
    }
    match args.output {
        Output::Text => text(&name, &plan, out)?,
        Output::Json => json(&plan, out)?,
    }
    Ok(!plan.diagnostics.has_errors())
}

/// The configuration with its name: standard input, the file that is named, the one that the flags describe, or the one
/// of the running server.
fn read(args: &Check) -> anyhow::Result<(PathBuf, (File, Diagnostics), Serve)> {
    let mut serve = args.serve.clone();
    match &args.file {
        Some(file) if file.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            // One more than allowed, so that the parser sees that it is too long.
            std::io::stdin().take(limits::FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes);
            let parsed = corefile::parse(file, &text, &corefile::process_environment);
            return Ok((file.clone(), parsed, serve));
        }
        // A file by itself is never a template.
        Some(file) => return Ok((file.clone(), corefile::load(file), serve)),
        None if !Path::new(&serve.conf).exists() && serve.addon.basecorefile.is_none() => {
            serve = running(&serve).unwrap_or(serve);
        }
        None => {}
    }
    NodeConfig::read(&serve.node, serve.dns_port, corefile::process_environment)?;
    let origin = Origin::from_flags(&serve, Arc::default())?;
    let (file, diagnostics, _) = origin.read();
    Ok((origin.path().to_owned(), (file, diagnostics), serve))
}

/// The flags of the server that runs here, if one answers.
pub fn running(args: &Serve) -> Option<Serve> {
    let answer = control::ask(&args.socket, &Request::Arguments).ok()?;
    let words = answer.get("arguments")?.as_array()?.iter().filter_map(|word| word.as_str());
    let mut serve = Cli::read(words.map(Into::into)).ok()?.serve;
    if let Some(folder) = answer.get("folder").and_then(|folder| folder.as_str()) {
        serve.conf = Path::new(folder).join(&serve.conf);
    }
    Some(serve)
}

fn text(name: &Path, plan: &Plan, out: &mut impl Write) -> std::io::Result<()> {
    write!(out, "{}", plan.diagnostics)?;
    match plan.diagnostics.errors() {
        0 => write!(out, "{}", plan.file),
        1 => writeln!(out, "{}: 1 error", name.display()),
        n => writeln!(out, "{}: {n} errors", name.display()),
    }
}

fn json(plan: &Plan, out: &mut impl Write) -> std::io::Result<()> {
    let found: Vec<_> = plan
        .diagnostics
        .iter()
        .map(|d| {
            serde_json::json!({
                "severity": d.severity.to_string(),
                "file": d.at.file.display().to_string(),
                "line": d.at.line,
                "directive": d.directive,
                "what": d.what,
                "expected": d.expected,
                "help": d.help,
            })
        })
        .collect();
    let good = !plan.diagnostics.has_errors();
    let config = if good { plan.file.to_json() } else { serde_json::Value::Null };
    let all = serde_json::json!({ "good": good, "diagnostics": found, "configuration": config });
    writeln!(out, "{all:#}")
}
