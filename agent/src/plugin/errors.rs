//! `errors [stdout] { stacktrace; consolidate DURATION REGEXP [LEVEL] [show_first] }`: a line for each query that failed.
//!
//! Consolidated errors are counted, and after DURATION one line reports how many there were. What is not yet reported when a
//! configuration ends is reported then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use regex::Regex;

use crate::chain::ErrorLog;
use crate::config::value::duration;
use crate::config::{Args, ValueError};
use crate::corefile::{Diagnostics, Directive};
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::request::{Outcome, Request};

/// What an `errors` line means.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Whether a panic is logged with its stack.
    pub stacktrace: bool,
    patterns: Vec<Pattern>,
}

/// One `consolidate` line.
#[derive(Clone, Debug)]
struct Pattern {
    period: Duration,
    regex: Regex,
    level: Level,
    show_first: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Error,
    Warning,
    Info,
    Debug,
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        Self::parse(directive, cx.diagnostics)
    }
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let _ = args.optional(|text| match text {
            "stdout" => Ok(()),
            _ => Err(ValueError::new(
                format!("errors cannot be written to {text:?}"),
                "stdout, or nothing",
            )),
        });
        args.end();
        let mut config = Self::default();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "stacktrace" => config.stacktrace = true,
                "consolidate" => config.patterns.extend(Pattern::parse(&mut args)),
                _ => args.unknown_option(&["stacktrace", "consolidate"]),
            }
            args.end();
        }
        config
    }

    /// The log that the line describes.
    pub fn build(self) -> Errors {
        let counted = |pattern| Arc::new(Counted { pattern, count: AtomicU64::new(0) });
        Errors { patterns: self.patterns.into_iter().map(counted).collect() }
    }
}

impl Pattern {
    fn parse(args: &mut Args<'_, '_>) -> Option<Self> {
        let period = args.value("a duration, as 5m", duration);
        let regex = args.value("a regular expression", |text| {
            Regex::new(text).map_err(|error| {
                // The library's message has several lines, of which the last one has the reason.
                let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
                ValueError::new(
                    format!("{text:?} is no regular expression: {why}"),
                    "one as in `timeout$`",
                )
            })
        });
        let (mut level, mut show_first) = (Level::default(), false);
        if args.peek().is_some_and(|word| word.as_str() != "show_first") {
            level = args.optional(self::level).unwrap_or_default();
        }
        if args.peek().is_some_and(|word| word.as_str() == "show_first") {
            show_first = args.next().is_some();
        }
        Some(Self { period: period?, regex: regex?, level, show_first })
    }
}

fn level(text: &str) -> Result<Level, ValueError> {
    Ok(match text {
        "error" => Level::Error,
        "warning" => Level::Warning,
        "info" => Level::Info,
        "debug" => Level::Debug,
        _ => {
            return Err(ValueError::new(
                format!("there is no level {text:?}"),
                "error, warning, info or debug",
            ));
        }
    })
}

/// A server block's log of failures.
#[derive(Debug)]
pub struct Errors {
    patterns: Box<[Arc<Counted>]>,
}

#[derive(Debug)]
struct Counted {
    pattern: Pattern,
    /// Since the last line.
    count: AtomicU64,
}

impl ErrorLog for Errors {
    fn write(&self, request: &Request<'_>, outcome: &Outcome, error: &str) {
        let matching = self.patterns.iter().find(|counted| counted.pattern.regex.is_match(error));
        if let Some(counted) = matching {
            let first = counted.count.fetch_add(1, Relaxed) == 0;
            if first {
                counted.say_later();
            }
            if !(first && counted.pattern.show_first) {
                return;
            }
        }
        let query = &request.query;
        // As CoreDNS prints it: the response code's number, the question, the error.
        tracing::error!(
            target: "errors",
            client = %request.origin.client.ip(),
            plugin = outcome.plugin.name(),
            "{} {} {}: {error}", outcome.rcode.0, query.name(), query.qtype(),
        );
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        self.patterns.iter().for_each(|counted| counted.report());
    }
}

impl Counted {
    fn say_later(self: &Arc<Self>) {
        let counted = Arc::clone(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(counted.pattern.period).await;
                counted.report();
            })),
            // Queries are served within a runtime; without one the task would never run.
            Err(_) => self.report(),
        }
    }

    fn report(&self) {
        let count = self.count.swap(0, Relaxed);
        if count == 0 {
            return;
        }
        let Pattern { period, regex, level, .. } = &self.pattern;
        let line = format!("{count} errors like '{regex}' occurred in last {}", humane(*period));
        match level {
            Level::Error => tracing::error!(target: "errors", count, "{line}"),
            Level::Warning => tracing::warn!(target: "errors", count, "{line}"),
            Level::Info => tracing::info!(target: "errors", count, "{line}"),
            Level::Debug => tracing::debug!(target: "errors", count, "{line}"),
        }
    }
}

/// A duration as Go prints it, down to seconds: `1h0m0s`, `5m0s`, `30s`.
fn humane(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match seconds {
        0 => format!("{duration:?}"),
        1..60 => format!("{rest}s"),
        60..3_600 => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::Format;
    use crate::logging::test::{capture, captured};
    use crate::plugin::testing::{read, request};
    use crate::request::Plugin;
    use crate::wire::Rcode;

    fn config(text: &str) -> (Config, String) {
        read(text, Config::parse)
    }

    fn fail(errors: &Errors, what: &str) {
        request("example.org", |request| {
            errors.write(request, &Outcome::new(Plugin::Forward, Rcode::SERVFAIL), what);
        });
    }

    #[test]
    fn a_line_for_each_failure() {
        let errors = config("errors stdout").0.build();
        let shown = captured(Format::Text, || fail(&errors, "192.0.2.1:53: timeout"));
        assert!(shown.contains("ERROR errors: 2 example.org. A: 192.0.2.1:53: timeout"), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn consolidated_errors_are_counted() {
        let (config, shown) = config(
            "errors {\n consolidate 5m \".* timeout$\" warning\n consolidate 30s ^refused show_first\n stacktrace\n}",
        );
        assert_eq!((shown.as_str(), config.stacktrace), ("", true));
        let errors = config.build();
        let lines = capture(Format::Text);
        for _ in 0..7 {
            fail(&errors, "i/o timeout");
        }
        fail(&errors, "refused by 192.0.2.1");
        fail(&errors, "refused by 192.0.2.1");
        assert_eq!(lines.text().matches("2 example.org. A: refused by 192.0.2.1").count(), 1);
        tokio::time::sleep(Duration::from_secs(301)).await;
        let shown = lines.text();
        assert!(
            shown.contains("WARN errors: 7 errors like '.* timeout$' occurred in last 5m0s"),
            "{shown}"
        );
        assert!(
            shown.contains("ERROR errors: 2 errors like '^refused' occurred in last 30s"),
            "{shown}"
        );
        fail(&errors, "i/o timeout");
        drop(errors);
        let shown = lines.text();
        assert!(shown.contains("1 errors like '.* timeout$'"), "{shown}");
        assert_eq!(shown.lines().count(), 4, "{shown}");
    }

    #[test]
    fn all_that_is_wrong() {
        let (_, shown) = config(
            "errors stderr {\n consolidate 5 x\n consolidate 5s ( error\n consolidate 5s x loud\n x\n consolidate\n}",
        );
        for wanted in [
            "Corefile:2: errors: errors cannot be written to \"stderr\"",
            "Corefile:3: errors: consolidate: \"5\" has no unit",
            "Corefile:4: errors: consolidate: \"(\" is no regular expression: error: unclosed group",
            "Corefile:5: errors: consolidate: there is no level \"loud\"",
            "Corefile:6: errors: there is no option \"x\"",
            "Corefile:7: errors: consolidate: an argument is missing",
        ] {
            assert!(shown.contains(wanted), "{wanted}\n{shown}");
        }
    }
}
