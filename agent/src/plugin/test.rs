//! What the tests of the plugins share.

use crate::corefile::{Diagnostics, Directive};

/// Parses one directive as the second line of a Corefile; what comes back is the result and all diagnostics.
#[track_caller]
pub(crate) fn parsed<T>(
    text: &str,
    parse: impl FnOnce(&Directive, &mut Diagnostics) -> T,
) -> (T, String) {
    let (mut file, mut diagnostics) =
        crate::corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &|_| None);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let directive = file.blocks.remove(0).directives.remove(0);
    let result = parse(&directive, &mut diagnostics);
    (result, diagnostics.to_string())
}
