//! What the local socket answers: `nodens status`, `nodens cache show` and `nodens cache flush`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::admin::{self, Readiness, Tells};
use crate::assemble::Assembled;
use crate::clock::CoarseInstant;
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::conditions::{Holding, verdict};
use crate::config_state::ConfigState;
use crate::control::{Commands, Request, Stream};
use crate::detail::Detail;
use crate::explain::answer::{self, World};
use crate::explain::question::Question;
use crate::handover::Record;
use crate::observe::filter::{Filter, Matcher};
use crate::observe::record::plugins;
use crate::plots;
use crate::plugin::cache::inspect;
use crate::server::Dispatch;
use crate::shared::Shared;
use crate::supervisor::Link;
use crate::version;

/// Answers for a running server.
pub struct Status {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    begun: Instant,
    running: Mutex<Running>,
    supervisor: Option<Link>,
    /// The next instance can find this one.
    can_hand_over: AtomicBool,
    handovers: Arc<Record>,
    config: Arc<ConfigState>,
    /// Takes `nodens reload` once the server can.
    reloads: OnceLock<Box<dyn Reloads>>,
}

/// Reloads the configuration for `nodens reload`.
pub trait Reloads: Send + Sync {
    /// Does it, and returns what has changed. Blocks.
    ///
    /// # Errors
    /// Why the running configuration stays.
    fn reload(&self, force: bool) -> Result<Value, String>;
}

#[derive(Default)]
struct Running {
    blocks: Value,
    listeners: BTreeMap<SocketAddr, Arc<Dispatch>>,
    stores: Vec<Arc<Store<Index>>>,
    details: Vec<Arc<dyn Detail>>,
}

impl Status {
    /// For a server that is starting.
    pub fn new(
        shared: Arc<Shared>,
        readiness: Arc<Readiness>,
        config: Arc<ConfigState>,
        supervisor: Option<Link>,
        handovers: Arc<Record>,
    ) -> Arc<Self> {
        let (running, reloads, begun) = (Mutex::default(), OnceLock::new(), Instant::now());
        let can_hand_over = AtomicBool::new(false);
        Arc::new(Self {
            shared,
            readiness,
            begun,
            running,
            supervisor,
            can_hand_over,
            handovers,
            config,
            reloads,
        })
    }

    /// The next instance can find this one from now on.
    pub fn set_can_hand_over(&self) {
        self.can_hand_over.store(true, Relaxed);
    }

    /// Hands `nodens reload` on from now on; the first one stays.
    pub fn set_reloads(&self, reloads: impl Reloads + 'static) {
        let _ = self.reloads.set(Box::new(reloads));
    }

    /// Reports this configuration from now on.
    pub fn set_running(&self, assembled: &Assembled) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Running {
            blocks: assembled.outline.to_json(),
            listeners: assembled.listeners.clone(),
            stores: assembled.stores.clone(),
            details: assembled.details.clone(),
        };
    }

    /// Explains a name by what runs. Blocks until upstreams have answered, if they are asked.
    fn explain(&self, question: &Question) -> Result<Value, String> {
        let world = {
            let running = self.running();
            World {
                listeners: running.listeners.clone(),
                stores: running.stores.clone(),
                zone: running.details.iter().find_map(cluster_zone),
            }
        };
        Handle::current().block_on(answer::explain(&world, question))
    }

    /// What the queries of the last minute or two have in common, and the upstreams.
    fn top(&self, rows: usize) -> Value {
        let mut shown = {
            let stores = self.running().stores.clone();
            let pod = |client| stores.iter().find_map(|store| store.sink().pod_at(client));
            self.shared.observed.top(rows.min(MAX_ROWS), pod)
        };
        let running = self.running();
        let forwards = running.details.iter().filter(|detail| detail.name() == "forward");
        let upstreams: Vec<Value> = forwards
            .filter_map(|forward| match forward.detail().get_mut("upstreams")?.take() {
                Value::Array(upstreams) => Some(upstreams),
                _ => None,
            })
            .flatten()
            .collect();
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("upstreams".to_owned(), upstreams.into());
        }
        shown
    }

    /// A filter for a Pod, with the Pod's address in its place.
    fn of_pod(&self, filter: &Filter) -> Result<Filter, String> {
        let mut filter = filter.clone();
        let Some((namespace, name)) = filter.pod() else { return Ok(filter) };
        let stores = self.running().stores.clone();
        let address = stores.iter().find_map(|store| store.sink().pod_address(namespace, name));
        let address = address.ok_or_else(|| {
            format!("Pod `{namespace}/{name}` is not known here (`pods verified` watches Pods); give its address")
        })?;
        filter.client = Some(address.to_string());
        Ok(filter)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Value {
        let running = self.running();
        let store = self.shared.cache.load();
        let config: Arc<dyn Detail> = Arc::clone(&self.config) as _;
        let details = admin::gather(running.details.iter().chain([&config]));
        let holding = self.shared.conditions.now();
        let (failed, why) = self.handovers.failures();
        json!({
            "version": version::VERSION,
            "revision": version::revision(),
            "build": version::build(),
            "pid": std::process::id(),
            "supervisor": self.supervisor.as_ref().map(|_| std::os::unix::process::parent_id()),
            "restarts": self.handovers.restarts(),
            "failed_takeovers": failed,
            "last_failed_takeover": why,
            "uptime_seconds": self.begun.elapsed().as_secs(),
            "configuration": self.config.short_hash(),
            "refused_configuration": self.config.problem(),
            "workers": self.shared.workers,
            "addresses": running.listeners.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "waiting": self.readiness.waits(),
            "stalled": self.readiness.trouble(),
            "state": verdict(&holding),
            "conditions": holding.iter().map(Holding::to_json).collect::<Vec<_>>(),
            "memory": self.shared.budget.to_json(),
            "cache": { "bytes": store.weight(), "limit_bytes": store.limit() },
            "blocks": running.blocks,
            "details": details,
        })
    }
}

impl Tells for Status {
    fn status(&self) -> Value {
        self.status()
    }

    fn history(&self) -> Value {
        plots::points(&self.shared.history)
    }
}

impl Commands for Status {
    fn run(&self, request: &Request) -> Result<Value, String> {
        let store = self.shared.cache.load();
        match request {
            Request::CacheShow { name } => {
                inspect::show(&store, name.as_deref(), CoarseInstant::now())
                    .map_err(|e| e.to_string())
            }
            Request::CacheFlush { name } => {
                inspect::flush(&store, name.as_deref()).map_err(|e| e.to_string())
            }
            Request::Status => Ok(self.status()),
            Request::Reload { force } => match self.reloads.get() {
                Some(reloads) => reloads.reload(*force),
                None => Err("the server is starting; try again when it serves".to_owned()),
            },
            Request::Arguments => Ok(arguments()),
            Request::Explain { question } => self.explain(question),
            Request::Top { rows } => Ok(self.top((*rows).into())),
            // Answered by a stream.
            Request::Observe { .. } => Err("a stream only".to_owned()),
            Request::Upgrade => match &self.supervisor {
                Some(_) if !self.can_hand_over.load(Relaxed) => {
                    Err("this server has no hand-over socket (--handover-socket), by which another instance could take over; the log says why".to_owned())
                }
                Some(link) => {
                    link.upgrade();
                    Ok(Value::Null)
                }
                None => Err("this server has no supervisor (--no-supervisor) that could start another; start one beside it with the same --socket".to_owned()),
            },
        }
    }

    fn stream(&self, request: &Request) -> Option<Result<Stream, String>> {
        let Request::Observe { filter } = request else { return None };
        let begin = || {
            let frames = self.shared.observed.observe(Matcher::new(&self.of_pod(filter)?)?)?;
            let head = json!({ "version": env!("CARGO_PKG_VERSION"), "plugins": plugins() });
            Ok(Stream { head, frames })
        };
        Some(begin())
    }
}

/// The zone of a cluster's names, if this is what a `kubernetes` tells of itself.
fn cluster_zone(detail: &Arc<dyn Detail>) -> Option<String> {
    if detail.name() != "kubernetes" {
        return None;
    }
    let detail = detail.detail();
    let mut zones = detail.get("zones")?.as_array()?.iter().filter_map(Value::as_str);
    zones.find(|zone| !zone.ends_with(".arpa.")).map(str::to_owned)
}

fn arguments() -> Value {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let folder = std::env::current_dir().unwrap_or_default();
    json!({ "arguments": words.collect::<Vec<_>>(), "folder": folder.to_string_lossy() })
}

/// The status as text for people: one thing a line, nested things indented.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    lines(value, 0, &mut out);
    out
}

fn lines(value: &Value, depth: usize, out: &mut String) {
    let Value::Object(fields) = value else { return };
    for (name, value) in in_order(fields) {
        let name = format!("{}{}", "  ".repeat(depth), name.replace('_', " "));
        if let Some(plain) = plain(value) {
            // Written to a string: cannot fail.
            let _ = writeln!(out, "{name:<WIDTH$} {plain}");
            continue;
        }
        out.push_str(&name);
        out.push('\n');
        match value {
            Value::Array(items) => items.iter().for_each(|item| listed(item, depth + 1, out)),
            other => lines(other, depth + 1, out),
        }
    }
}

/// One of several things of a kind, marked by a dash.
fn listed(item: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    if let Some(plain) = plain(item) {
        let _ = writeln!(out, "{indent}- {plain}");
        return;
    }
    let mut text = String::new();
    lines(item, depth + 1, &mut text);
    // The dash takes the place of the first line's last indentation.
    let rest = text.strip_prefix(&format!("{indent}  ")).unwrap_or(&text);
    out.push_str(&format!("{indent}- {rest}"));
}

/// Something that fits one line: a value, several, or named ones.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some("-".to_owned()),
        Value::Bool(true) => Some("yes".to_owned()),
        Value::Bool(false) => Some("no".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) => {
            let flat = items.iter().all(|item| !item.is_object() && !item.is_array());
            let items: Vec<String> = items.iter().filter_map(plain).collect();
            flat.then(|| items.join(", "))
        }
        Value::Object(fields) => {
            let flat = fields.values().all(|value| !value.is_object() && !value.is_array());
            let fields: Vec<String> = in_order(fields)
                .into_iter()
                .filter_map(|(name, value)| {
                    Some(format!("{} {}", name.replace('_', " "), plain(value)?))
                })
                .collect();
            flat.then(|| fields.join(", "))
        }
    }
}

/// The fields as people want to read them: what it is, how it is, and then the rest.
fn in_order(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    const FIRST: [&str; 6] = ["version", "zones", "from", "to", "state", "objects"];
    let mut fields: Vec<_> = fields.iter().collect();
    // Stable: what is not named stays in the order of its letters.
    fields.sort_by_key(|(name, _)| {
        FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len())
    });
    fields
}

/// Rows of a kind that `nodens top` may ask for.
const MAX_ROWS: usize = 50;

/// Of the names' column.
const WIDTH: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_things_are_readable() {
        let value = json!({
            "workers": 2,
            "waiting": [],
            "cache": { "bytes": 1, "limit_bytes": null },
            "details": { "forward": [{
                "from": ["."],
                "upstreams": [{ "to": "192.0.2.1:53", "up": true }, { "to": "192.0.2.2:53", "up": false }],
            }] },
        });
        let wanted = "\
cache                        bytes 1, limit bytes -
details
  forward
    - from                   .
      upstreams
        - to 192.0.2.1:53, up yes
        - to 192.0.2.2:53, up no
waiting                      none
workers                      2
";
        assert_eq!(text(&value), wanted);
    }
}
