//! What the local socket answers: `nodens status`, `nodens cache show` and `nodens cache flush`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::admin::{Detail, Readiness};
use crate::assemble::{Assembled, Shared};
use crate::clock::Tick;
use crate::control::{Commands, Request};
use crate::plugin::cache::inspect;

/// Answers for a running server.
pub struct Status {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    begun: Instant,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    addresses: Vec<SocketAddr>,
    hash: String,
    details: Vec<Arc<dyn Detail>>,
}

impl Status {
    /// For a server that is starting.
    pub fn new(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Arc<Self> {
        let running = Mutex::default();
        Arc::new(Self { shared, readiness, begun: Instant::now(), running })
    }

    /// Tells of this configuration from now on.
    pub fn set_running(&self, assembled: &Assembled, hash: &str) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Running {
            addresses: assembled.listeners.keys().copied().collect(),
            hash: hash.to_owned(),
            details: assembled.details.clone(),
        };
    }

    fn status(&self) -> Value {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.shared.cache.load();
        let details: serde_json::Map<_, _> =
            running.details.iter().map(|d| (d.name().to_owned(), d.detail())).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.begun.elapsed().as_secs(),
            "configuration": running.hash.get(..16),
            "workers": self.shared.workers,
            "addresses": running.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "waiting": self.readiness.waits(),
            "cache": { "bytes": store.weight(), "limit_bytes": store.limit() },
            "details": details,
        })
    }
}

impl Commands for Status {
    fn run(&self, request: &Request) -> Result<Value, String> {
        let store = self.shared.cache.load();
        match request {
            Request::CacheShow { name } => {
                inspect::show(&store, name.as_deref(), Tick::now()).map_err(|e| e.to_string())
            }
            Request::CacheFlush { name } => {
                inspect::flush(&store, name.as_deref()).map_err(|e| e.to_string())
            }
            Request::Status => Ok(self.status()),
        }
    }
}

/// The status as text for people: one thing a line, nested things indented.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    lines(value, 0, &mut out);
    out
}

fn lines(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = name.replace('_', " ");
        let _ = match value {
            Value::Object(_) => {
                let written = writeln!(out, "{indent}{name}");
                lines(value, depth + 1, out);
                written
            }
            Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
                let written = writeln!(out, "{indent}{name}");
                for item in items {
                    lines(item, depth + 1, out);
                }
                written
            }
            Value::Array(items) if items.is_empty() => writeln!(out, "{indent}{name:<16} none"),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(plain).collect();
                writeln!(out, "{indent}{name:<16} {}", items.join(", "))
            }
            other => writeln!(out, "{indent}{name:<16} {}", plain(other)),
        };
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
