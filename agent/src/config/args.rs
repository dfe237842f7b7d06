//! The words of one line, taken one after the other and given their types.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::directive::all_nearest_of;
use super::value::{self, ListenAddress, ValueError};
use super::zone;
use crate::corefile::{Diagnostic, Diagnostics, Directive, Location, Token};
use crate::wire::name::Name;

/// Reads the arguments of a directive or of an option in its block.
///
/// Nothing returns early: what is missing or wrong becomes a diagnostic and `None`, and the caller continues with its
/// default. [`Args::end`] comes last and reports the words that are left.
///
/// ```
/// use nodens::{config::Args, corefile};
///
/// let (file, mut diagnostics) = corefile::parse("Corefile", ". {\n health {\n  lameduck 5\n }\n}", &|_| None);
/// let health = &file.blocks[0].directives[0];
/// Args::of(health, &mut diagnostics).end();
/// for option in health.options() {
///     let mut args = Args::of_option(health, option, &mut diagnostics);
///     match option.name.as_str() {
///         "lameduck" => drop(args.duration("a duration")),
///         _ => args.unknown_option(&["lameduck"]),
///     }
///     args.end();
/// }
/// assert!(diagnostics.to_string().starts_with("Corefile:3: health: lameduck: \"5\" has no unit"));
/// ```
#[derive(Debug)]
pub struct Args<'d, 'g> {
    words: &'d [Token],
    at: &'d Location,
    directive: &'d str,
    /// The option that is read, if it is one.
    option: Option<&'d str>,
    diagnostics: &'g mut Diagnostics,
}

impl<'d, 'g> Args<'d, 'g> {
    /// The arguments of a directive.
    pub fn of(directive: &'d Directive, diagnostics: &'g mut Diagnostics) -> Self {
        let name = directive.name.as_str();
        Self {
            words: &directive.args,
            at: directive.at(),
            directive: name,
            option: None,
            diagnostics,
        }
    }

    /// The arguments of an option inside of `directive`'s block.
    pub fn of_option(
        directive: &'d Directive,
        option: &'d Directive,
        diagnostics: &'g mut Diagnostics,
    ) -> Self {
        Self {
            words: &option.args,
            at: option.at(),
            directive: directive.name.as_str(),
            option: Some(option.name.as_str()),
            diagnostics,
        }
    }

    /// The next word as it was written, if there is one.
    #[allow(
        clippy::should_implement_trait,
        reason = "a cursor over words, not an iterator of values"
    )]
    pub fn next(&mut self) -> Option<&'d Token> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    /// The next word, which stays the next.
    pub fn peek(&self) -> Option<&'d Token> {
        self.words.first()
    }

    /// True if the word so many words behind the next one is `word`.
    pub fn follows(&self, word: &str, behind: usize) -> bool {
        self.words.get(behind).is_some_and(|found| found.as_str().eq_ignore_ascii_case(word))
    }

    /// All words that are left.
    pub fn rest(&mut self) -> &'d [Token] {
        std::mem::take(&mut self.words)
    }

    /// How many words are left.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether no word is left.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The next word, which must be there; `expected` says what it would be, as in "a file".
    pub fn required(&mut self, expected: &str) -> Option<&'d Token> {
        let word = self.next();
        if word.is_none() {
            self.error("an argument is missing", expected);
        }
        word
    }

    /// The next word, which must be there, read by `parse`.
    pub fn value<T>(
        &mut self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let word = self.required(expected)?;
        self.read(word, parse)
    }

    /// The next word read by `parse`, if there is one.
    pub fn optional<T>(&mut self, parse: impl FnOnce(&str) -> Result<T, ValueError>) -> Option<T> {
        let word = self.next()?;
        self.read(word, parse)
    }

    /// A word that was taken before, read by `parse`. A placeholder that was not filled in has been reported already.
    pub fn read<T>(
        &mut self,
        word: &Token,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        match parse(word.as_str()) {
            Ok(value) => Some(value),
            Err(_) if word.is_placeholder() => None,
            Err(wrong) => {
                self.error_at(&word.at, wrong.what, wrong.expected);
                None
            }
        }
    }

    /// A duration with its unit, see [`value::duration`].
    pub fn duration(&mut self, expected: &str) -> Option<Duration> {
        self.value(expected, value::duration)
    }

    /// A duration with its unit, within limits.
    pub fn duration_in(
        &mut self,
        expected: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.value(expected, |text| value::duration_in(text, range))
    }

    /// A whole number within limits.
    pub fn integer<T>(&mut self, expected: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        self.value(expected, |text| value::integer(text, range))
    }

    /// A percentage with its sign, within limits.
    pub fn percentage(&mut self, expected: &str, range: RangeInclusive<u8>) -> Option<u8> {
        self.value(expected, |text| value::percentage(text, range))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self) -> Option<bool> {
        self.value("true or false", value::boolean)
    }

    /// An IP address with or without a port.
    pub fn socket_address(&mut self, default_port: u16) -> Option<SocketAddr> {
        self.value("IP or IP:PORT", |text| value::socket_address(text, default_port))
    }

    /// Where an HTTP endpoint listens; the default where nothing is written.
    pub fn listen_address_or(&mut self, default: ListenAddress) -> ListenAddress {
        self.optional(value::listen_address).unwrap_or(default)
    }

    /// The words that are left as zones (networks as their reverse zones), or `default`, the server block's, where no
    /// word is left.
    pub fn zones_or(&mut self, default: &[Name]) -> Vec<Name> {
        if self.is_empty() {
            return default.to_vec();
        }
        let mut zones: Vec<Name> = Vec::new();
        for word in self.rest() {
            for name in self.read(word, zone::zone_names).unwrap_or_default() {
                if !zones.contains(&name) {
                    zones.push(name);
                }
            }
        }
        zones
    }

    /// Reports the words that are left. Called first, it makes every argument an error.
    pub fn end(mut self) {
        if let Some(word) = self.next() {
            let what = format!("there is an argument too many: {:?}", word.as_str());
            self.error_at(&word.at, what, "nothing more on this line");
        }
    }

    /// Reports an option that does not exist, with the nearest of those that do, and takes its arguments.
    pub fn unknown_option(&mut self, known: &[&str]) {
        let name = self.option.take().unwrap_or_default();
        let near = all_nearest_of(name, known.iter().copied());
        let expected = match (near.is_empty(), known) {
            (false, _) => near.join(" or "),
            (true, []) => "no options".to_owned(),
            (true, [one]) => (*one).to_owned(),
            (true, _) => format!("one of {}", known.join(", ")),
        };
        self.error(format!("there is no option {name:?}"), expected);
        self.rest();
    }

    /// Reports an error of the line as a whole.
    pub fn error(&mut self, what: impl Into<String>, expected: impl Into<String>) {
        self.error_at(self.at, what, expected);
    }

    /// Reports an error at a word.
    pub fn error_at(
        &mut self,
        at: &Location,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::error(at.clone(), self.prefixed(what.into()));
        self.diagnostics.push(diagnostic.expected(expected).directive(self.directive));
    }

    /// Reports an error of the line as a whole with what to do about it.
    pub fn refuse(&mut self, what: impl Into<String>, help: impl Into<String>) {
        let diagnostic = Diagnostic::error(self.at.clone(), self.prefixed(what.into()));
        self.diagnostics.push(diagnostic.help(help).directive(self.directive));
    }

    /// Reports something that works and is probably not meant, with what to do about it.
    pub fn warning(&mut self, what: impl Into<String>, help: impl Into<String>) {
        let diagnostic = Diagnostic::warning(self.at.clone(), self.prefixed(what.into()));
        self.diagnostics.push(diagnostic.help(help).directive(self.directive));
    }

    fn prefixed(&self, what: String) -> String {
        match self.option {
            Some(option) => format!("{option}: {what}"),
            None => what,
        }
    }
}

/// Reports a block behind a directive that has no options.
pub fn no_block(directive: &Directive, diagnostics: &mut Diagnostics) {
    if directive.block.is_some() {
        diagnostics.push(
            Diagnostic::error(directive.at().clone(), "it has a block")
                .help("remove the braces: there are no options")
                .directive(directive.name.as_str()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Directive {
        let (mut file, diagnostics) = crate::corefile::parse("Corefile", text, &|_| None);
        assert!(diagnostics.is_empty(), "{diagnostics}");
        file.blocks.remove(0).directives.remove(0)
    }

    #[test]
    fn takes_words_with_their_types() {
        let directive = first(". {\n x 5s 30 80% true 1.1.1.1 :81 a.org 10.0.0.0/8\n}");
        let mut diagnostics = Diagnostics::default();
        let mut args = Args::of(&directive, &mut diagnostics);
        assert_eq!(args.len(), 8);
        assert_eq!(args.duration("a duration"), Some(Duration::from_secs(5)));
        assert_eq!(args.integer("a number", 0..=99_u32), Some(30));
        assert_eq!(args.percentage("a share", 0..=100), Some(80));
        assert_eq!(args.boolean(), Some(true));
        assert_eq!(args.socket_address(53), Some(([1, 1, 1, 1], 53).into()));
        let default = ListenAddress { ip: None, port: 1 };
        assert_eq!(args.listen_address_or(default).port, 81);
        let zones: Vec<_> = args.zones_or(&[]).iter().map(Name::to_string).collect();
        assert_eq!(zones, ["a.org.", "10.in-addr.arpa."]);
        assert_eq!(args.zones_or(&[Name::root()]), [Name::root()]);
        assert_eq!(args.listen_address_or(default), default);
        args.end();
        assert!(diagnostics.is_empty());
    }

    #[test]
    fn collects_all_that_is_wrong() {
        let directive = first(
            ". {\n x 5 y {\n  max_fail 1 2\n  max_fails x\n  expire\n  zzz\n  max_fails 1 2\n }\n}",
        );
        let mut diagnostics = Diagnostics::default();
        no_block(&directive, &mut diagnostics);
        let mut args = Args::of(&directive, &mut diagnostics);
        assert_eq!(args.duration("a duration"), None);
        args.end();
        for option in directive.options() {
            let mut args = Args::of_option(&directive, option, &mut diagnostics);
            match option.name.as_str() {
                "max_fails" => drop(args.integer("a number", 0..=9_u8)),
                "expire" => drop(args.duration("a duration")),
                _ => args.unknown_option(&["max_fails", "expire"]),
            }
            args.end();
        }
        assert_eq!(
            diagnostics.to_string().lines().collect::<Vec<_>>(),
            [
                "Corefile:2: x: it has a block; remove the braces: there are no options",
                "Corefile:2: x: \"5\" has no unit, expected a duration as in 30s, 500ms or 1h30m: perhaps 5s",
                "Corefile:2: x: there is an argument too many: \"y\", expected nothing more on this line",
                "Corefile:3: x: there is no option \"max_fail\", expected max_fails",
                "Corefile:4: x: max_fails: \"x\" is not a whole number, expected a whole number from 0 to 9",
                "Corefile:5: x: expire: an argument is missing, expected a duration",
                "Corefile:6: x: there is no option \"zzz\", expected one of max_fails, expire",
                "Corefile:7: x: max_fails: there is an argument too many: \"2\", expected nothing more on this line",
            ]
        );
    }

    #[test]
    fn a_placeholder_is_reported_once() {
        let text = ". {\n forward . __PILLAR__CLUSTER__DNS__\n}";
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", text, &|_| None);
        let mut args = Args::of(&file.blocks[0].directives[0], &mut diagnostics);
        args.next();
        assert_eq!(args.socket_address(53), None);
        assert_eq!(diagnostics.errors(), 1);
    }
}
