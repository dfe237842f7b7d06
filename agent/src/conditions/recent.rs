//! Conditions that consist of events: they hold as long as the events are recent.

use std::sync::Arc;

use super::{Found, Watched, table};
use crate::history::{History, Level, Span, Total};

/// Events that should never be count for so long, in seconds.
const LONG: u64 = 900;
/// Those that come and go count for so long.
const SHORT: u64 = 300;
/// Repairs of the network within [`LONG`] from which on something else is at work. One flush of a firewall's tables is one.
const REPAIRS: u64 = 4;
/// The part of SERVFAIL that is too much, and the least number of them: one failed name on an idle node is not trouble.
const FAILING: (f64, u64) = (0.03, 30);
/// Requests to `/health` that may fail within [`SHORT`].
const HEALTH_FAILURES: u64 = 5;
/// The part of the file descriptors that may be open.
const FILES: f64 = 0.8;

/// What the ring of samples tells.
pub struct Recent(pub Arc<History>);

impl Watched for Recent {
    fn look(&self, found: &mut Found) {
        if let Some(span) = self.0.last(LONG) {
            long(&span, found);
        }
        if let Some(span) = self.0.last(SHORT) {
            short(&span, found);
        }
    }
}

fn long(span: &Span, found: &mut Found) {
    for (total, least, condition, what) in [
        (Total::Panics, 1, &table::PANICKED, "panics"),
        (Total::Skipped, 1, &table::OBJECTS_SKIPPED, "objects were skipped"),
        (Total::Repairs, REPAIRS, &table::NETWORK_REPAIRED, "parts were restored"),
        (Total::LogDropped, 1, &table::LOG_LOST, "lines were dropped"),
    ] {
        let count = span.increase(total);
        if count >= least {
            found.add(condition, format!("{count} {what} in the last 15 minutes"));
        }
    }
}

fn short(span: &Span, found: &mut Found) {
    let mut say = |condition, count: u64, what: &str| {
        if count > 0 {
            found.add(condition, format!("{count} {what} in the last 5 minutes"));
        }
    };
    let refused = [Total::ConcurrentRejects, Total::ShareRejects].map(|total| span.increase(total));
    say(&table::QUERIES_DROPPED, span.increase(Total::Overflow), "queries were dropped");
    say(&table::QUERIES_DROPPED, refused.iter().sum(), "queries were refused by forward");
    say(&table::REPLIES_UNSENT, span.increase(Total::Unsent), "replies were refused by the kernel");
    say(&table::CLIENTS_LIMITED, span.increase(Total::Limited), "queries exceeded limit");
    say(&table::CLIENTS_LIMITED, span.increase(Total::TcpRefused), "TCP connections were refused");
    say(&table::DENIALS_OVERRULED, span.increase(Total::Overruled), "denials were not believed");
    let failures = span.increase(Total::HealthFailures);
    if failures > HEALTH_FAILURES {
        say(&table::OVERLOADED, failures, "requests to /health had no answer");
    }
    let (failed, all) = (span.increase(Total::ServFail), span.increase(Total::Responses));
    let (part, least) = FAILING;
    if failed >= least && failed as f64 > part * all as f64 {
        found.add(&table::ANSWERS_FAIL, format!("{failed} of {all} in the last 5 minutes"));
    }
    let (open, most) = (span.to.level(Level::OpenFiles), span.to.level(Level::MaxFiles));
    if most > 0.0 && open > FILES * most {
        found.add(&table::FILES_SHORT, format!("{open} of {most} are open"));
    }
}
