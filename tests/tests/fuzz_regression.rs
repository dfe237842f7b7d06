//! The fuzz targets over their committed seeds, and over damaged copies of them, with any compiler.

use std::path::Path;
use std::time::Instant;

use tests::mutate::{Random, mutate};

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the targets are one library, shared with the fuzzer")]
mod targets;

/// Damaged copies of each seed.
const COPIES: usize = 300;

#[test]
fn seeds_and_damaged_copies_pass() {
    let seeds = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds"));
    for (name, target) in targets::ALL {
        let folder = std::fs::read_dir(seeds.join(name));
        let folder = folder.unwrap_or_else(|error| panic!("no seeds for {name}: {error}"));
        let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no seeds for {name}");
        let begun = Instant::now();
        for file in &files {
            let seed = std::fs::read(file).unwrap();
            run(target, &seed, file, 0);
            let mut random = Random::new(seed.len() as u64);
            for copy in 1..=COPIES {
                let mut bytes = seed.clone();
                mutate(&mut random, &mut bytes);
                run(target, &bytes, file, copy);
            }
        }
        println!(
            "{name}: {} seeds, {COPIES} damaged copies of each, {:?}",
            files.len(),
            begun.elapsed()
        );
    }
}

fn run(target: fn(&[u8]), bytes: &[u8], file: &Path, copy: usize) {
    let result = std::panic::catch_unwind(|| target(bytes));
    assert!(result.is_ok(), "{} copy {copy}: {bytes:02x?}", file.display());
}
