//! Which directives of a server block are served, and what to write instead of those that are not.

use super::table::{self, Repeat};
use super::unsupported::{self, Unsupported};
use crate::corefile::{Diagnostic, Diagnostics, Directive};

/// The candidate that was probably meant by a misspelt `name`.
pub fn nearest_of<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    all_nearest_of(name, candidates).into_iter().next()
}

/// The candidates that may have been meant by a misspelt `name`: those that are equally near to it, in the order of their
/// letters.
pub fn all_nearest_of<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    // A long word would cost time, and is no typing mistake.
    if name.len() > 40 {
        return Vec::new();
    }
    let allowed = (name.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<_> = candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort_unstable();
    near.dedup();
    let least = near.first().map(|(distance, _)| *distance);
    let nearest = near.into_iter().filter(|(distance, _)| Some(*distance) == least);
    nearest.map(|(_, candidate)| candidate).collect()
}

/// Options that are sometimes written beside the directive that they belong to.
const OPTIONS: [(&str, &[&str]); 5] = [
    (
        "forward",
        &[
            "except",
            "expire",
            "failover",
            "force_tcp",
            "health_check",
            "hedge",
            "max_concurrent",
            "max_fails",
            "next",
            "policy",
            "prefer_udp",
            "tls_servername",
        ],
    ),
    (
        "kubernetes",
        &["endpoint", "endpoints", "kubeconfig", "namespaces", "objects", "pods", "snapshot"],
    ),
    ("cache", &["denial", "keepttl", "prefetch", "serve_stale", "servfail", "success"]),
    ("errors", &["consolidate", "stacktrace"]),
    ("health", &["lameduck"]),
];

/// The directive that has an option of this name.
fn owner_of_option(name: &str) -> Option<&'static str> {
    let owner = OPTIONS.iter().find(|(_, options)| options.contains(&name));
    owner.map(|(directive, _)| *directive)
}

/// Reports the directives of one server block that are not served or are duplicates, and returns the others.
pub(super) fn check(directives: &[Directive], diagnostics: &mut Diagnostics) -> Vec<Directive> {
    let mut served: Vec<Directive> = Vec::new();
    for directive in directives {
        let name = directive.name.as_str();
        let Some(entry) = table::find(name) else {
            diagnostics.push(problem(directive));
            continue;
        };
        let first = served.iter().find(|first| first.name.as_str() == name);
        if let (Repeat::Once, Some(first)) = (entry.repeat, first) {
            let duplicate = Diagnostic::error(directive.at().clone(), "duplicate directive")
                .help(format!("first used at {}; keep one of them", first.at()))
                .directive(name);
            diagnostics.push(duplicate);
            continue;
        }
        served.push(directive.clone());
    }
    served
}

/// Why a directive is not served.
fn problem(directive: &Directive) -> Diagnostic {
    let name = directive.name.as_str();
    match unsupported::find(name) {
        Some(why) => unserved(directive, name, why),
        None => unknown(directive),
    }
}

/// A directive that is known as `known`, or was probably meant to be that one.
fn unserved(directive: &Directive, known: &str, why: Unsupported) -> Diagnostic {
    let error = |what: &str, help: &str| {
        Diagnostic::error(directive.at().clone(), what).help(help).directive(known)
    };
    match why {
        Unsupported::Ignored(help) => {
            Diagnostic::warning(directive.at().clone(), "has no effect in Nodens")
                .help(help)
                .directive(known)
        }
        Unsupported::Missing(help) => error("not supported by Nodens", help),
        Unsupported::Removed(help) => error("removed from CoreDNS long ago", help),
        Unsupported::External => error(
            "a plugin from outside of CoreDNS, not supported by Nodens",
            match known {
                "ratelimit" | "rrl" => "use `limit`",
                _ => "remove the line, or use a directive of CoreDNS",
            },
        ),
    }
}

fn unknown(directive: &Directive) -> Diagnostic {
    let name = directive.name.as_str();
    let error =
        |what: String, help: &str| Diagnostic::error(directive.at().clone(), what).help(help);
    if name.is_empty() {
        return error("the name of a directive is empty".into(), "write its name without quotes");
    }
    // A missing brace makes the next server block look like a directive.
    if directive.block.is_some() && name.contains(['.', ':']) {
        let what = format!("the server block {name:?} is inside of another one");
        return error(what, "close the block above it with a }");
    }
    if matches!(name, "{" | "}" | "{}") {
        return error(
            format!("{name:?} is not a directive"),
            "write braces between spaces and without quotes",
        );
    }
    let what = format!("there is no directive {name:?}");
    if let Some(owner) = owner_of_option(name) {
        return error(what, &format!("it is an option: write it into the block of {owner}"));
    }
    if let Some(nearest) = nearest_of(name, table::all().iter().map(|entry| entry.name)) {
        return error(what, &format!("did you mean {nearest:?}?"));
    }
    let near = nearest_of(name, unsupported::names());
    match near.and_then(|near| Some((near, unsupported::find(near)?))) {
        Some((near, why)) => unserved(directive, near, why),
        None => error(what, "use a directive that the manual lists, or remove the line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_understood() {
        let known = || table::all().iter().map(|entry| entry.name);
        for (name, meant) in [
            ("forwrad", Some("forward")),
            ("chache", Some("cache")),
            ("kuberentes", Some("kubernetes")),
            ("host", Some("hosts")),
            ("error", Some("errors")),
            ("whatever", None),
            ("", None),
        ] {
            assert_eq!(nearest_of(name, known()), meant, "{name}");
        }
        assert_eq!(nearest_of(&"f".repeat(1_000_000), known()), None);
        let options = ["ttl", "tls", "labels", "tls"];
        assert_eq!(all_nearest_of("tll", options.into_iter()), ["tls", "ttl"]);
        assert_eq!(all_nearest_of("tlt", options.into_iter()), ["tls", "ttl"]);
        assert_eq!(all_nearest_of("ttls", options.into_iter()), ["tls", "ttl"]);
        assert_eq!(all_nearest_of("ttll", options.into_iter()), ["ttl"]);
    }
}
