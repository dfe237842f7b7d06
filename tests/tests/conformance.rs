//! The conformance record through the real binary: five variants, 12,015 questions.

use tests::conformance::{Deviations, Variant};

fn check(variant: &str) {
    let report = Variant::load(variant).unwrap().run(&Deviations::load());
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn insecure() {
    check("insecure");
}

#[test]
fn verified() {
    check("verified");
}

#[test]
fn namespaces() {
    check("namespaces");
}

#[test]
fn ignore_empty() {
    check("ignore_empty");
}

#[test]
fn noendpoints() {
    check("noendpoints");
}
