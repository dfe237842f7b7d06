//! Which program this is: version, revision of the source, kind of build. `--version`, `status` and metrics say the same.

use std::sync::LazyLock;

/// The version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How many digits of a revision people need to find it.
const SHORT: usize = 12;

/// The commit that was built, as git names it, with `-modified` behind it if the tree had other changes; `unknown` if the
/// build was not told (`NODENS_REVISION` in its environment, which `scripts/image` sets).
#[must_use]
pub fn revision() -> &'static str {
    option_env!("NODENS_REVISION").filter(|revision| !revision.is_empty()).unwrap_or("unknown")
}

/// The kind of build: `release`, or `debug` if it checks its own assumptions.
#[must_use]
pub fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// All in one line: `0.2.0 (revision 0123456789ab, release)`.
#[must_use]
pub fn line() -> &'static str {
    static LINE: LazyLock<String> =
        LazyLock::new(|| format!("{VERSION} (revision {}, {})", short(revision()), build()));
    &LINE
}

/// The first digits of a revision, with what stands behind a dash.
fn short(revision: &str) -> String {
    let (digits, rest) = revision.split_once('-').unwrap_or((revision, ""));
    let digits: String = digits.chars().take(SHORT).collect();
    if rest.is_empty() { digits } else { format!("{digits}-{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_short_and_say_what_was_changed() {
        let full = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(short(full), "0123456789ab");
        assert_eq!(short(&format!("{full}-modified")), "0123456789ab-modified");
        assert_eq!(short("unknown"), "unknown");
        assert!(line().starts_with(VERSION) && line().contains("(revision "), "{}", line());
    }
}
