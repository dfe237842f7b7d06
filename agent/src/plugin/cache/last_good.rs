//! `stale_on_denial { after AGE; for TIME; zones ZONE... }`: what was good for long and is denied now is given for a while yet.
//!
//! The great outages of clouds began with resolvers that answered NXDOMAIN for names that had been there for years. `serve_stale`
//! does not help then, since a denial is an answer. What a denial takes away rightly is given on, too, for as long: so it is off
//! unless written, and said by an extended error, a metric and a condition.
//!
//! An entry knows since when its question has been answered without a break ([`Entry::good_since`]): it takes that over from the
//! one that it replaces, which therefore has to be in the cache yet when it is asked for again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::config::{
    CLIENT_WAIT, Config as CacheConfig, LastGood, RECHECK, Refresh, STALE_TTL, Stale,
};
use super::entry::{Entry, Kind};
use super::{Cache, Question};
use crate::clock::CoarseInstant;
use crate::config::{Args, ValueError, value};
use crate::corefile::{Diagnostic, Diagnostics, Directive};
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::request::Answer;

/// How long a name has to have been good unless the file says otherwise, seconds.
const AFTER: u32 = 3 * 86_400;
/// For how long its last good answer is given then, seconds.
const FOR: u32 = 3_600;
/// The longest of either.
const MOST: Duration = Duration::from_secs(30 * 86_400);
/// What clients are told, as text of an extended error.
pub(super) const TOLD: &str =
    "upstreams deny this name since a short time; this is its last good answer";

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config(LastGood);

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let mut config = LastGood { after: AFTER, seconds: FOR, zones: cx.zones.to_vec() };
        Args::of(directive, cx.diagnostics).end();
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, cx.diagnostics);
            match option.name.as_str() {
                "after" => config.after = args.value(A_TIME, time).unwrap_or(AFTER),
                "for" => config.seconds = args.value(A_TIME, time).unwrap_or(FOR),
                "zones" => config.zones = args.zones_or(cx.zones),
                _ => args.unknown_option(&["after", "for", "zones"]),
            }
            args.end();
        }
        Self(config)
    }
}

const A_TIME: &str = "a time as 3d, 12h or 30m";

/// Seconds, in days (`3d`) or as any other duration.
fn time(text: &str) -> Result<u32, ValueError> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let range = Duration::from_secs(1)..=MOST;
    let time = match days {
        Some(days) => value::duration_in(&format!("{}h", days.saturating_mul(24)), range)?,
        None => value::duration_in(text, range)?,
    };
    Ok(time.as_secs() as u32)
}

/// Gives the lines of a block to its caches. Without one they are an error.
pub fn apply(
    lines: &[Config],
    written: Option<&Directive>,
    caches: &mut [CacheConfig],
    diagnostics: &mut Diagnostics,
) {
    let (Some(line), Some(written)) = (lines.last(), written) else { return };
    if caches.is_empty() {
        let error =
            Diagnostic::error(written.at().clone(), "there is no cache that could keep answers");
        diagnostics.push(error.help("add `cache` to the block").directive("stale_on_denial"));
    }
    caches.iter_mut().for_each(|cache| cache.last_good = Some(line.0.clone()));
}

impl Cache {
    /// The rules by which an answer is given that upstreams deny now, if this is one.
    pub(super) fn denied(&self, entry: &Entry, now: CoarseInstant) -> Option<Stale> {
        let config = self.config.last_good.as_ref()?;
        let since = entry.denied_since()?;
        let left = config.seconds.saturating_sub(now.seconds_since(since));
        (left > 0).then_some(Stale {
            seconds: config.seconds,
            refresh: Refresh::Verify(CLIENT_WAIT),
            ttl: STALE_TTL.min(left),
            recheck: RECHECK,
        })
    }

    /// Whether an entry that has ended is still wanted: for its age, and in case that its question is denied. That a name has no
    /// records of a type is good, too: a client that asks for A and AAAA takes NXDOMAIN for either as the end of both.
    pub(super) fn may_be_last_good(&self, entry: &Entry) -> bool {
        let config = self.config.last_good.as_ref();
        let is_good = matches!(entry.kind(), Kind::Success | Kind::NoData);
        is_good && config.is_some_and(|config| config.covers(entry.name()))
    }

    /// Whether an entry has ended so lately that the next answer follows on it without a break.
    pub(super) fn ended_lately(&self, entry: &Entry, now: CoarseInstant) -> bool {
        let config = self.config.last_good.as_ref();
        config.is_some_and(|config| entry.is_stale_within(now, config.seconds))
    }

    /// Whether a denial of this kind is not to be believed yet.
    fn was_good_for_long(&self, entry: &Entry, denial: Kind, now: CoarseInstant) -> bool {
        let says_less = match denial {
            Kind::NxDomain => true,
            Kind::NoData => entry.kind() == Kind::Success,
            Kind::Success | Kind::Failure => false,
        };
        let denied = entry.denied_since().unwrap_or(now);
        let age = denied.min(entry.end()).seconds_since(entry.good_since());
        says_less
            && self.may_be_last_good(entry)
            && self.ended_lately(entry, denied)
            && self.config.last_good.as_ref().is_some_and(|config| age >= config.after)
    }

    /// The last good answer instead of a denial, unless that is to be believed.
    pub(super) fn instead_of_denial(
        &self,
        question: &Question<'_>,
        old: Option<&Arc<Entry>>,
        kind: Kind,
        now: CoarseInstant,
    ) -> Option<Answer> {
        let old = old.filter(|old| self.was_good_for_long(old, kind, now))?;
        old.set_denied(now);
        let rules = self.denied(old, now)?;
        self.stats.overruled.fetch_add(1, Relaxed);
        old.defer(now, rules.recheck);
        Some(match old.is_fresh(now) {
            true => self.fresh_answer(old, question.view),
            false => self.stale_answer(old, &rules, question.view),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_or_durations() {
        assert_eq!(time("3d").unwrap(), AFTER);
        assert_eq!(time("1h30m").unwrap(), 5_400);
        for wrong in ["d", "3", "-1d", "31d", "0s", "99999999999999999999d", "3 d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
