//! The binary: command line to exit code. Everything else is in the library.

use std::process::ExitCode;

use nodens::args::{Cli, Command};
use nodens::{check, node, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::from_env();
    let result = match cli.command {
        Some(Command::Check { file, output }) => {
            return match check::run(&file, output, &mut std::io::stdout().lock()) {
                Ok(true) => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
        }
        Some(Command::Net(args)) => match node::cli::run(&args, &mut std::io::stdout().lock()) {
            Ok(false) => return ExitCode::FAILURE,
            done => done.map(drop),
        },
        Some(_) => Ok(()),
        None => run::run(&cli.serve),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodens: {error:#}");
            ExitCode::FAILURE
        }
    }
}
