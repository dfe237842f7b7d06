//! What the local socket answers: `nodens status`, `nodens cache show` and `nodens cache flush`.

pub mod plain;
mod report;
pub mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::admin::{Readiness, Tells};
use crate::assemble::Assembled;
use crate::clock::CoarseInstant;
use crate::cluster::Store;
use crate::cluster::index::Index;
use crate::config_state::ConfigState;
use crate::control::{Commands, Request, Stream};
use crate::detail::Detail;
use crate::explain::answer::{self, World};
use crate::explain::question::Question;
use crate::handover::Record;
use crate::node::Counts;
use crate::observe::filter::{Filter, Matcher};
use crate::observe::record::{FORMAT, plugins};
use crate::plots;
use crate::plugin::cache::inspect;
use crate::server::Dispatch;
use crate::shared::Shared;
use crate::supervisor::Link;

/// What a status is made of.
pub struct Parts {
    /// What outlives a reload.
    pub shared: Arc<Shared>,
    /// Whether queries can be answered.
    pub readiness: Arc<Readiness>,
    /// Which configuration runs.
    pub config: Arc<ConfigState>,
    /// The file that it comes from.
    pub file: PathBuf,
    /// The supervisor, if there is one.
    pub supervisor: Option<Link>,
    /// Of hand-overs and restarts.
    pub handovers: Arc<Record>,
    /// The node's network.
    pub network: Network,
}

/// The node's network, as far as this process keeps it.
pub struct Network {
    /// What went wrong, and what was mended.
    pub counts: Arc<Counts>,
    /// The interface; `None` if none is to be there.
    pub link: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Answers for a running server.
pub struct Status {
    parts: Parts,
    begun: Instant,
    running: Mutex<Running>,
    /// The next instance can find this one.
    can_hand_over: AtomicBool,
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
    /// Where else it listens, over TLS and HTTPS.
    encrypted: Vec<String>,
    /// Who answers at all of these addresses.
    dispatches: BTreeMap<SocketAddr, Arc<Dispatch>>,
    stores: Vec<Arc<Store<Index>>>,
    details: Vec<Arc<dyn Detail>>,
}

impl Status {
    /// For a server that is starting.
    pub fn new(parts: Parts) -> Arc<Self> {
        let (running, reloads, begun) = (Mutex::default(), OnceLock::new(), Instant::now());
        let can_hand_over = AtomicBool::new(false);
        Arc::new(Self { parts, begun, running, can_hand_over, reloads })
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
            encrypted: assembled.encrypted_addresses().collect(),
            dispatches: assembled.dispatches().map(|(at, of)| (at, Arc::clone(of))).collect(),
            stores: assembled.stores.clone(),
            details: assembled.details.clone(),
        };
    }

    /// Explains a name by what runs. Blocks until upstreams have answered, if they are asked.
    fn explain(&self, question: &Question) -> Result<Value, String> {
        let world = {
            let running = self.running();
            World {
                listeners: running.dispatches.clone(),
                stores: running.stores.clone(),
                zone: running.details.iter().find_map(cluster_zone),
            }
        };
        Handle::current().block_on(answer::explain(&world, question))
    }

    /// What the queries of the last minute or two have in common, and the upstreams.
    fn top(&self, rows: usize) -> Value {
        let mut shown = self.parts.shared.observed.top(rows.min(MAX_ROWS));
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

    /// What search lists cost.
    fn waste(&self, rows: usize) -> Value {
        let has_autopath = self.running().listeners.values().any(|all| all.has_autopath());
        self.parts.shared.observed.waste(rows.min(MAX_ROWS), has_autopath)
    }

    /// A filter for a Pod, with the Pod's addresses in its place.
    fn of_pod(&self, filter: &Filter) -> Result<Filter, String> {
        let mut filter = filter.clone();
        let Some((namespace, name)) = filter.pod() else { return Ok(filter) };
        let stores = self.running().stores.clone();
        let mut all = stores.iter().map(|store| store.sink().pod_addresses(namespace, name));
        let addresses = all.find(|addresses| !addresses.is_empty()).ok_or_else(|| {
            format!("Pod `{namespace}/{name}` is not known here (`pods node` and `pods verified` watch Pods); give its address")
        })?;
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        filter.client = Some(addresses.join(","));
        Ok(filter)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Value {
        report::report(self, &self.running())
    }

    /// The status with who asks most, which the page does not tell: it may be read by anybody.
    fn whole_status(&self) -> Value {
        let mut status = self.status();
        let mut top = self.top(TOP_CLIENTS);
        if let Some(Value::Object(clients)) = status.get_mut("clients") {
            let top = top.get_mut("clients").map(Value::take);
            clients.insert("top".to_owned(), top.unwrap_or_default());
        }
        status
    }
}

impl Tells for Status {
    fn status(&self) -> Value {
        self.status()
    }

    fn history(&self) -> Value {
        plots::points(&self.parts.shared.history)
    }
}

impl Commands for Status {
    fn run(&self, request: &Request) -> Result<Value, String> {
        let store = self.parts.shared.cache.load();
        match request {
            Request::CacheShow { name } => {
                inspect::show(&store, name.as_deref(), CoarseInstant::now())
                    .map_err(|e| e.to_string())
            }
            Request::CacheFlush { name } => {
                inspect::flush(&store, name.as_deref()).map_err(|e| e.to_string())
            }
            Request::Status => Ok(self.whole_status()),
            Request::Reload { force } => match self.reloads.get() {
                Some(reloads) => reloads.reload(*force),
                None => Err("the server is starting; try again when it serves".to_owned()),
            },
            Request::Arguments => Ok(arguments()),
            Request::Explain { question } => self.explain(question),
            Request::Top { rows } => Ok(self.top((*rows).into())),
            Request::Waste { rows } => Ok(self.waste((*rows).into())),
            // Answered by a stream.
            Request::Observe { .. } => Err("a stream only".to_owned()),
            Request::Upgrade => match &self.parts.supervisor {
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
            let frames =
                self.parts.shared.observed.observe(Matcher::new(&self.of_pod(filter)?)?)?;
            let head = json!({
                "version": env!("CARGO_PKG_VERSION"), "format": FORMAT, "plugins": plugins(),
            });
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

/// Rows of a kind that `nodens top` may ask for.
const MAX_ROWS: usize = 50;
/// Clients that `nodens status` names.
const TOP_CLIENTS: usize = 3;
