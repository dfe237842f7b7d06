//! Faults to order: which requests they hit and what goes wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is read and never answered; running watches fall silent. Answers go on once the fault is taken away.
    Stall,
    /// Connections are accepted, but not even the TLS handshake is answered.
    StallConnections,
    /// Running and new watches send no events and no bookmarks, and do not end; other requests are not touched.
    HangWatches,
    /// This status, such as 429, 500 or 503, with `Retry-After` in seconds if given.
    Status {
        /// The HTTP status.
        code: u16,
        /// Seconds in `Retry-After`.
        retry_after: Option<u64>,
    },
    /// 401, as for an expired token.
    Unauthorized,
    /// 403, as without the role.
    Forbidden,
    /// 410 for every watch, new and running, and for every further page of a list.
    Gone,
    /// A body that no client can read.
    Garbage(Garbage),
    /// Bodies trickle at this many bytes a second.
    Slow {
        /// Bytes a second.
        bytes_per_second: usize,
    },
    /// The connection is cut once this many bytes of a body were sent.
    CutAfter {
        /// Bytes of the body that still get through.
        bytes: usize,
    },
}

/// Kinds of unreadable answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// 200 with text that is not JSON.
    Json,
    /// 200 with the first half of a valid body, properly ended.
    Truncated,
    /// 200 with a JSON object of another kind.
    WrongKind,
    /// A proxy's HTML page with status 502.
    Html,
    /// Not HTTP: random bytes in place of the status line, on new connections.
    Http,
}

/// Which requests a fault hits; everything by default.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only `get`, `list` or `watch`.
    pub verb: Option<&'static str>,
    /// Only this resource, by plural name.
    pub resource: Option<&'static str>,
    /// Only so many requests; then the fault is gone.
    pub times: Option<usize>,
}

/// The faults in force.
#[derive(Debug)]
pub(crate) struct Faults {
    active: Mutex<Vec<(Scope, Fault)>>,
    changed: watch::Sender<u64>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { active: Mutex::new(Vec::new()), changed: watch::Sender::new(0) }
    }

    pub(crate) fn add(&self, scope: Scope, fault: Fault) {
        self.lock().push((scope, fault));
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn remove(&self, fault: Fault) {
        self.lock().retain(|(_, f)| *f != fault);
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.changed.send_modify(|n| *n += 1);
    }

    /// Tells of every change of the list.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The faults for a new request; uses up their counts.
    pub(crate) fn take(&self, verb: &str, resource: &str) -> Vec<Fault> {
        let mut active = self.lock();
        let mut hit = Vec::new();
        active.retain_mut(|(scope, fault)| {
            if !scope.hits(verb, resource) {
                return true;
            }
            hit.push(*fault);
            match &mut scope.times {
                None => true,
                Some(left) => {
                    *left -= 1;
                    *left > 0
                }
            }
        });
        hit
    }

    /// Whether this fault is in force for a request that is already being answered.
    pub(crate) fn holds(&self, verb: &str, resource: &str, fault: Fault) -> bool {
        self.lock().iter().any(|(s, f)| *f == fault && s.times.is_none() && s.hits(verb, resource))
    }

    pub(crate) fn garbles_connections(&self) -> bool {
        self.lock().iter().any(|(_, f)| *f == Fault::Garbage(Garbage::Http))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Scope, Fault)>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope {
    /// Only watches.
    #[must_use]
    pub fn watches() -> Self {
        Self { verb: Some("watch"), ..Self::default() }
    }

    /// Only lists.
    #[must_use]
    pub fn lists() -> Self {
        Self { verb: Some("list"), ..Self::default() }
    }

    /// The same, for one resource.
    #[must_use]
    pub fn of(self, resource: &'static str) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// The same, for so many requests.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    fn hits(&self, verb: &str, resource: &str) -> bool {
        self.times != Some(0)
            && self.verb.is_none_or(|v| v == verb)
            && self.resource.is_none_or(|r| r == resource)
    }
}
