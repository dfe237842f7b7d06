//! What is generated from the definition of the command line: completions for shells, manual pages.

use std::io::{self, Write};
use std::path::Path;

use clap_complete::Shell;

/// The program's name in both.
const NAME: &str = "nodens";

/// Writes what `shell` reads to complete this command line.
///
/// # Errors
/// `out` cannot be written to.
pub fn completions(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), NAME, &mut text);
    out.write_all(&text)
}

/// Writes the manual page, as roff; with a folder, that page and one for each command as files `nodens-COMMAND.1` there.
///
/// # Errors
/// `out` or the folder cannot be written to.
pub fn man(folder: Option<&Path>, out: &mut impl Write) -> io::Result<()> {
    match folder {
        None => clap_mangen::Man::new(super::command()).render(out),
        Some(folder) => {
            let named = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot write to {}: {error}", folder.display()),
                )
            };
            clap_mangen::generate_to(super::command(), folder).map_err(named)
        }
    }
}
