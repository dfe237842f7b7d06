//! `{$NAME}` and `{%NAME%}` inside of words, and placeholders that were not filled in.
//!
//! Values are put in after the lexer, as CoreDNS does: a blank, a brace or a `#` in a value means nothing special.

use super::{Diagnostic, Diagnostics, Location, limits};

/// How variables are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Looks a variable up in the environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    // The standard library panics on names that cannot exist in an environment.
    if name.is_empty() || name.contains(['=', '\0']) {
        return None;
    }
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Puts the variables into one word. A variable that is not set is empty, and warned about.
pub(super) fn expand(
    word: String,
    at: &Location,
    environment: Environment<'_>,
    diagnostics: &mut Diagnostics,
) -> String {
    let mut budget = limits::EXPANSIONS;
    let word = expand_form(word, ("{%", "%}"), &mut budget, at, environment, diagnostics);
    let word = expand_form(word, ("{$", "}"), &mut budget, at, environment, diagnostics);
    if let Some(name) = placeholder(&word) {
        let error =
            Diagnostic::error(at.clone(), format!("the placeholder {name} has not been filled in"));
        let plain = name.strip_prefix("$(").and_then(|name| name.strip_suffix(')'));
        diagnostics.push(match plain {
            Some(plain) => error.help(format!("write {{${plain}}} for the environment variable")),
            None => error.help("write a value in its place, or name the file with -basecorefile, which has it filled in"),
        });
    }
    word
}

/// The first placeholder in a word: of a node-cache template, or of a manifest, as `$(POD_IP)`.
pub(super) fn placeholder(word: &str) -> Option<&str> {
    pillar(word).or_else(|| manifest_variable(word))
}

/// `$(NAME)`, which the kubelet replaces in arguments, but not in a ConfigMap.
fn manifest_variable(word: &str) -> Option<&str> {
    let start = word.find("$(")?;
    let (name, _) = word.get(start + 2..)?.split_once(')')?;
    let is_name =
        |letter: u8| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == b'_';
    let is_variable = !name.is_empty() && name.bytes().all(is_name);
    word.get(start..start + name.len() + 3).filter(|_| is_variable)
}

fn pillar(word: &str) -> Option<&str> {
    let start = PLACEHOLDERS.iter().filter_map(|prefix| word.find(prefix)).min()?;
    let rest = word.get(start..)?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_uppercase() && letter != '_')
        .unwrap_or(rest.len());
    rest.get(..end)
}

/// Replaces references of one form, also those which a value brings along.
fn expand_form(
    mut word: String,
    (open, close): (&str, &str),
    budget: &mut usize,
    at: &Location,
    environment: Environment<'_>,
    diagnostics: &mut Diagnostics,
) -> String {
    while let Some(start) = word.find(open) {
        let inside = start + open.len();
        let Some(length) = word.get(inside..).and_then(|rest| rest.find(close)) else { break };
        // `{$}` is left alone, with all that follows it.
        if length == 0 {
            break;
        }
        let Some(name) = word.get(inside..inside + length) else { break };
        let value = environment(name);
        if value.is_none() {
            diagnostics.push(unset(name, at));
        }
        let value = value.unwrap_or_default();
        let replaced = word.len() + value.len();
        if *budget == 0 || replaced > limits::TOKEN_BYTES {
            diagnostics.push(
                Diagnostic::error(
                    at.clone(),
                    format!("the environment variable {name} expands without end"),
                )
                .help("set it to a value that does not refer to itself"),
            );
            break;
        }
        *budget -= 1;
        word.replace_range(start..inside + length + close.len(), &value);
    }
    word
}

fn unset(name: &str, at: &Location) -> Diagnostic {
    match name.split_once(':') {
        // Silently empty in CoreDNS, which is never what its author meant.
        Some((plain, _)) => {
            Diagnostic::error(at.clone(), format!("the environment variable {name:?} cannot exist"))
                .help(format!("write {{${plain}}}: there is no syntax for a default value"))
        }
        None => {
            Diagnostic::warning(at.clone(), format!("the environment variable {name} is not set"))
                .help("set it: the word is empty now")
        }
    }
}

const PLACEHOLDERS: [&str; 2] = ["__PILLAR__", "__PROMETHEUS__"];

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(word: &str) -> (String, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let environment = |name: &str| match name {
            "PORT" => Some("53".to_owned()),
            "ODD" => Some("a b { # \n".to_owned()),
            "NESTED" => Some("{$PORT}3".to_owned()),
            "SELF" => Some("x{$SELF}".to_owned()),
            "BOMB" => Some("{$BOMB}{$BOMB}".to_owned()),
            _ => None,
        };
        let at = Location::new(std::path::Path::new("Corefile"), 1);
        let word = expand(word.to_owned(), &at, &environment, &mut diagnostics);
        (word, diagnostics)
    }

    #[test]
    fn fills_in_anywhere_in_a_word() {
        for (word, wanted) in [
            (":{$PORT}", ":53"),
            ("{%PORT%}", "53"),
            ("tls://{$PORT}:{$PORT}", "tls://53:53"),
            ("{$NESTED}", "533"),
            ("{$ODD}", "a b { # \n"),
            ("$PORT ${PORT} {$} {$PORT", "$PORT ${PORT} {$} {$PORT"),
        ] {
            let (found, diagnostics) = expanded(word);
            assert_eq!(found, wanted);
            assert!(diagnostics.is_empty(), "{diagnostics}");
        }
    }

    #[test]
    fn an_unset_variable_is_empty_and_warned_about() {
        let (word, diagnostics) = expanded("a{$NONE}b");
        assert_eq!(word, "ab");
        assert!(!diagnostics.has_errors() && diagnostics.to_string().contains("NONE is not set"));
        let (_, diagnostics) = expanded("{$PORT:53}");
        assert!(diagnostics.has_errors());
    }

    #[test]
    fn values_that_refer_to_themselves_end() {
        for word in ["{$SELF}", "{$BOMB}"] {
            let (word, diagnostics) = expanded(word);
            assert!(word.len() <= limits::TOKEN_BYTES && diagnostics.has_errors());
        }
    }

    #[test]
    fn names_placeholders() {
        let (_, diagnostics) = expanded("__PILLAR__CLUSTER__DNS__");
        assert!(
            diagnostics
                .to_string()
                .contains("placeholder __PILLAR__CLUSTER__DNS__ has not been filled in")
        );
        assert_eq!(
            placeholder("http://__PILLAR__LOCAL__DNS__:8080"),
            Some("__PILLAR__LOCAL__DNS__")
        );
        assert_eq!(placeholder("pillar"), None);
    }
}
