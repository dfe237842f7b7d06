//! `advisories FOLDER`: the facts of a clone of RustSec's database, as `tests/data/advisories.tsv` keeps them.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let folder =
        std::env::args().nth(1).context("usage: advisories FOLDER > tests/data/advisories.tsv")?;
    let commit = Command::new("git")
        .args(["-C", &folder, "log", "-1", "--format=%cs, commit %H"])
        .output()?;
    anyhow::ensure!(commit.status.success(), "{folder} is no clone of the database");
    let from =
        format!("RustSec's advisory database of {}", String::from_utf8(commit.stdout)?.trim());
    print!(
        "{}",
        tests::advisories::write(&from, &tests::advisories::database(Path::new(&folder))?)
    );
    Ok(())
}
