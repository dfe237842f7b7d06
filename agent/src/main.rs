//! The binary: command line to exit code. Everything else is in the library.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test fails by a panic"
    )
)]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nodens::args::{self, CacheAction, Cli, Command, Output, Serve};
use nodens::config::table;
use nodens::control::{self, Request};
use nodens::plugin::cache::inspect;
use nodens::status::{plain, text};
use nodens::supervisor::{self, Ended};
use nodens::{
    check, doctor, explain, kubectl, logging, lookup, node, observe, probe, run, upgrade,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if kubectl::is_plugin() {
        return plugin();
    }
    run_command(Cli::from_env())
}

/// `kubectl nodens`: in the pods, or here.
fn plugin() -> ExitCode {
    let args = args::Kubectl::from_env();
    if kubectl::is_local(&args.command) {
        return run_command(Cli::from_words(&kubectl::local_words(&args)));
    }
    match kubectl::run(&args, &mut std::io::stdout()) {
        Ok(code) => code,
        Err(error) => finish(Err(error.into())),
    }
}

fn run_command(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Some(Command::Check(args)) => match check::run(&args, &mut std::io::stdout().lock()) {
            Ok(false) => return ExitCode::FAILURE,
            done => done.map(drop),
        },
        Some(Command::Doctor(args)) => return doctor::run(&args, &mut std::io::stdout().lock()),
        Some(Command::Net(args)) => match node::cli::run(&args, &mut std::io::stdout().lock()) {
            Ok(false) => return ExitCode::FAILURE,
            done => done.map(drop),
        },
        Some(Command::Reload { force, socket }) => {
            ask(&socket, &Request::Reload { force }, Output::Text, plain::text)
        }
        Some(Command::Status { socket, output, watch: None }) => {
            ask(&socket, &Request::Status, output, text::text)
        }
        Some(Command::Status { socket, output, watch: Some(seconds) }) => {
            watch(&socket, output, Duration::from_secs(seconds))
        }
        Some(Command::Lookup(args)) => match lookup::run(&args, &mut std::io::stdout().lock()) {
            Ok(false) => return ExitCode::FAILURE,
            done => done.map(drop).map_err(Into::into),
        },
        Some(Command::Completions { shell }) => {
            args::completions(shell, &mut std::io::stdout().lock()).map_err(Into::into)
        }
        Some(Command::Man { folder }) => {
            args::man(folder.as_deref(), &mut std::io::stdout().lock()).map_err(Into::into)
        }
        Some(Command::Explain(flags)) => {
            let request = Request::Explain { question: flags.question() };
            ask(&flags.socket, &request, flags.output, explain::text::text)
        }
        Some(Command::Observe(flags)) => {
            observe::cli::observe(&flags, &mut std::io::stdout().lock())
        }
        Some(Command::Top(flags)) => observe::cli::top(&flags, &mut std::io::stdout().lock()),
        Some(Command::Probe { probe, socket }) => probe::run(&socket, probe).map_err(Into::into),
        Some(Command::Cache { action: CacheAction::Show { name, output }, socket }) => {
            ask(&socket, &Request::CacheShow { name }, output, inspect::text)
        }
        Some(Command::Cache { action: CacheAction::Flush { name }, socket }) => {
            ask(&socket, &Request::CacheFlush { name }, Output::Text, inspect::text)
        }
        Some(Command::Upgrade { force, socket }) => {
            upgrade::run(&socket, force, &mut std::io::stdout().lock())
        }
        None if cli.serve.plugins => print_directives(),
        None => match serve(&cli.serve) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    finish(result)
}

/// The exit code of a result; an error is printed.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // As of `nodens net show | head`: whoever reads has seen enough.
        Err(error) if is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodens: {}", logging::causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Serves, below a supervisor unless that is not wanted.
fn serve(args: &Serve) -> anyhow::Result<ExitCode> {
    let level = if args.quiet { "warn" } else { &args.log_level };
    logging::start(args.log_format.into(), level)?;
    let start = match args.no_supervisor {
        true => None,
        false => match supervisor::run()? {
            Ended::Supervisor(code) => return Ok(code),
            Ended::Child(start) => Some(start),
        },
    };
    run::run(args, start).map(|()| ExitCode::SUCCESS)
}

/// `-plugins`: the directives that are served, one a line.
fn print_directives() -> anyhow::Result<()> {
    let mut names: Vec<&str> = table::all().iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    Ok(writeln!(std::io::stdout().lock(), "{}", names.join("\n"))?)
}

/// Asks the running server and prints what it says.
fn ask(
    socket: &Path,
    request: &Request,
    output: Output,
    text: fn(&serde_json::Value) -> String,
) -> anyhow::Result<()> {
    let answer = control::ask(socket, request)?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => write!(out, "{}", text(&answer))?,
        Output::Json => writeln!(out, "{answer:#}")?,
    }
    Ok(out.flush()?)
}

/// Prints the status again and again, until it is interrupted. On a terminal each takes the place of the one before. A server that
/// does not answer is no reason to end: it may be starting.
fn watch(socket: &Path, output: Output, pause: Duration) -> anyhow::Result<()> {
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let is_terminal = std::io::stdout().is_terminal() && output == Output::Text;
    loop {
        let answer = control::ask(socket, &Request::Status);
        let mut out = std::io::stdout().lock();
        if is_terminal {
            write!(out, "{CLEAR}")?;
        }
        match (answer, output) {
            (Ok(answer), Output::Text) => write!(out, "{}", text::text(&answer))?,
            // One a line, for programs that read them one by one.
            (Ok(answer), Output::Json) => writeln!(out, "{answer}")?,
            (Err(error), Output::Text) => writeln!(out, "{}", logging::causes(&error))?,
            (Err(error), Output::Json) => eprintln!("nodens: {}", logging::causes(&error)),
        }
        if !is_terminal && output == Output::Text {
            writeln!(out)?;
        }
        out.flush()?;
        drop(out);
        std::thread::park_timeout(pause);
    }
}

/// True where the reader of our output has gone away.
fn is_unread(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
