//! The life of the server: read the configuration, listen, reload, drain.
//!
//! ```text
//! start   Corefile -> blocks -> assemble -> wait (bounded) for what is needed -> listen
//! reload  the same, aside; only when all of it has worked does it take the place of what runs
//! stop    lameduck: /ready says so, everything is answered; then queues are emptied, what waits is answered, exit
//! ```

mod losses;
mod reload;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::Admin;
use crate::admission::Shares;
use crate::args::Serve;
use crate::assemble::{Assembled, assemble};
use crate::budget::Budget;
use crate::clock::CoarseInstant;
use crate::cluster::{Clusters, WatchThread};
use crate::config_state::ConfigState;
use crate::control::{self, Commands, Control};
use crate::corefile::Diagnostics;
use crate::descriptors;
use crate::logging::{self, Logs};
use crate::metrics::{Metrics, Source};
use crate::node::{self, Node, Origin};
use crate::plan::Plan;
use crate::plugin::cache;
use crate::server::pool::DRAIN;
use crate::server::worker::MAX_FORWARDED;
use crate::server::{Liveness, Pool};
use crate::shared::Shared;
use crate::status::Status;
use crate::systemd::Systemd;
use reload::{Asked as ReloadAsked, Seen};

/// More threads than this answer no faster on any node that we know of; `--workers` overrides it.
const MAX_WORKERS: usize = 8;
/// How often it is looked at what the start still waits for.
const START_POLL: Duration = Duration::from_millis(5);

/// How often the cache's store learns what is in use.
const TEND: Duration = Duration::from_secs(1);
/// How often it is looked at what clients use.
const LOOK_AT_USE: Duration = Duration::from_secs(20);
/// How often a configuration that is held back is tried without `reload`.
const RETRY_HELD_BACK: Duration = Duration::from_secs(30);
/// How often the cache is swept.
const SWEEP: Duration = Duration::from_secs(60);

/// A Corefile with errors; Display shows all of them.
#[derive(Debug, thiserror::Error)]
#[error("the Corefile has errors; nothing was started\n{0}")]
pub struct BadConfig(Diagnostics);

/// The running server.
struct Server {
    args: Serve,
    origin: Origin,
    shared: Arc<Shared>,
    pool: Pool,
    liveness: Arc<Liveness>,
    admin: Admin,
    status: Arc<Status>,
    _control: Option<Control>,
    running: Assembled,
    hash: String,
    seen: Seen,
    config: Arc<ConfigState>,
    used: losses::Used,
}

/// Serves until a signal ends it.
pub fn run(args: &Serve) -> anyhow::Result<()> {
    let mut node = Node::from_flags(&args.node, args.dns_port)?;
    // While there is one thread: privileges are a thread's own.
    node.drop_privileges()?;
    let metrics = Metrics::new();
    let level = if args.quiet { "warn" } else { &args.log_level };
    let logs = Logs::start(args.log_format.into(), level, &metrics)?;
    metrics.register(node.counts());
    let shared = Arc::new(Shared {
        workers: workers(args),
        stacktrace: logging::watch_panics(&metrics),
        metrics,
        log_format: args.log_format.into(),
        budget: Budget::of_this_process(),
        cache: ArcSwap::from_pointee(cache::Store::new(cache::Config::budget([]))),
        stale: AtomicU32::new(0),
        clusters: Clusters::default(),
        health_registry: Arc::default(),
        upstream_places: Shares::new(MAX_FORWARDED),
        watching: WatchThread::default(),
        limits: Default::default(),
        loops: Arc::default(),
    });
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    let result = run_on(&mut node, args, shared, &logs);
    logs.finish(Duration::from_secs(1));
    result
}

fn run_on(node: &mut Node, args: &Serve, shared: Arc<Shared>, logs: &Logs) -> anyhow::Result<()> {
    // Everything is read and checked before anything of the node is touched.
    let origin = Origin::from_flags(args, node.counts())?;
    let plan = load(args, &origin);
    if plan.diagnostics.has_errors() {
        return Err(BadConfig(plan.diagnostics).into());
    }
    reload::log(&plan.diagnostics);
    node.set_up()?;
    logs.drop_privileges();
    give_memory_back();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let result = runtime.block_on(async {
        let result = serve(node, args, (origin, plan), shared).await;
        node.tear_down().await;
        result
    });
    // A look-up of the file system that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Has a thread of the allocator give unused memory back to the kernel some 10 s later. Without it only a thread that
/// allocates does so, and a worker that answers hits does not: what a flood took would stay. Called once privileges are dropped,
/// since the thread inherits them.
fn give_memory_back() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "unused memory is given back late");
    }
}

fn workers(args: &Serve) -> usize {
    match args.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        n => n,
    }
}

async fn serve(
    node: &mut Node,
    args: &Serve,
    (origin, plan): (Origin, Plan),
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut server = Server::start(args, origin, plan, shared).await?;
    node.keep();
    let systemd = Arc::new(Systemd::from_env());
    systemd.ready("serving");
    let (commands, mut inbox) = reload::Commands::new();
    server.status.set_reloads(commands);
    let mut looks = tokio::time::interval(LOOK_AT_USE);
    let mut due = server.next_look();
    let (watched, liveness) = (Arc::clone(&systemd), Arc::clone(&server.liveness));
    tokio::spawn(async move { watched.watchdog(liveness).await });
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => {
                    systemd.reloading();
                    let _ = server.reload("a signal", ReloadAsked::Person).await;
                    systemd.ready("serving");
                }
            },
            Some(command) = inbox.recv() => {
                let asked =
                    if command.force { ReloadAsked::Force } else { ReloadAsked::Person };
                systemd.reloading();
                let result = server.reload("nodens reload", asked).await;
                systemd.ready("serving");
                // Whoever has asked may have gone.
                let _ = command.answer.send(reload::answer(result));
            }
            () = until(due) => {
                let _ = server.reload("the file has changed", ReloadAsked::Look).await;
            }
            () = server.origin.changed() => {
                let why = "the template or the kube-dns ConfigMap has changed";
                let _ = server.reload(why, ReloadAsked::Look).await;
            }
            _ = looks.tick() => {
                server.used.update(&server.running, Instant::now());
                continue;
            }
        }
        due = server.next_look();
    }
    systemd.stopping();
    node.leave();
    server.stop(&mut signals).await;
    Ok(())
}

impl Server {
    async fn start(
        args: &Serve,
        origin: Origin,
        plan: Plan,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let (seen, hash) = (Seen::of(&plan), plan.hash());
        let running = assemble(plan.blocks, &shared)?;
        running.show(&shared, &hash);
        let pool = Pool::start(shared.workers).context("cannot start the worker threads")?;
        shared.metrics.register(pool.metrics());
        shared.metrics.register(Arc::clone(&shared.budget) as Arc<dyn Source>);
        shared.budget.govern(Arc::clone(&shared) as _);
        shared.budget.govern(pool.places(Arc::clone(&shared.upstream_places)));
        tokio::spawn(Arc::clone(&shared.budget).watch());
        let admin = Admin::new(Handle::current(), Arc::clone(&shared.metrics));
        let liveness = Liveness::new(pool.workers());
        admin.readiness().set_liveness(Arc::clone(&liveness));
        serve_pages(&admin, &running, args);
        wait_until_known(&running, Duration::MAX).await;
        if !running.is_known() {
            let waiting = running.waiting_for().join("; ");
            tracing::warn!(waiting, "serving before everything is there");
        }
        pool.apply(running.listeners.clone())?;
        liveness.set_addresses(running.listeners.keys().copied());
        tokio::spawn(Arc::clone(&liveness).watch());
        let config = ConfigState::new();
        config.set_loaded(&hash, None);
        shared.metrics.register(Arc::clone(&config) as Arc<dyn Source>);
        let status =
            Status::new(Arc::clone(&shared), Arc::clone(admin.readiness()), Arc::clone(&config));
        show(&admin, &status, &config, &running);
        let control = serve_control(&args.socket, &status);
        tokio::spawn(sweep(Arc::clone(&shared)));
        tokio::spawn(tend(Arc::clone(&shared)));
        if let Some(path) = &args.pidfile {
            write_pid(path)?;
        }
        let took = begun.elapsed().as_millis();
        let addresses: Vec<_> = running.listeners.keys().map(ToString::to_string).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = shared.workers,
            took_ms = took,
            addresses = addresses.join(" "),
            "serving"
        );
        Ok(Self {
            args: args.clone(),
            origin,
            shared,
            pool,
            liveness,
            admin,
            status,
            _control: control,
            running,
            hash,
            seen,
            config,
            used: losses::Used::default(),
        })
    }

    /// When the file is due to be read again (`reload`); never without that directive, unless what was read last is held back.
    fn next_look(&self) -> Option<tokio::time::Instant> {
        let now = tokio::time::Instant::now();
        let Some(reload) = self.running.reload else {
            return self.config.is_held_back().then(|| now + RETRY_HELD_BACK);
        };
        let mut random = [0];
        // Without randomness all nodes look at once, and that is all.
        let _ = getrandom::fill(&mut random);
        Some(now + reload.wait(random[0]))
    }

    async fn stop(self, signals: &mut Signals) {
        self.admin.readiness().set_stopping();
        let lameduck = self.running.lameduck;
        if !lameduck.is_zero() {
            tracing::info!(seconds = lameduck.as_secs_f64(), "lameduck: still answering");
            tokio::select! {
                () = tokio::time::sleep(lameduck) => {}
                () = signals.stop() => tracing::info!("second signal: no more lameduck"),
            }
        }
        tokio::task::block_in_place(|| {
            self.pool.stop(DRAIN);
            for store in self.shared.clusters.running() {
                store.save();
            }
        });
        if let Some(path) = &self.args.pidfile {
            // It may be gone already; then there is nothing to remove.
            let _ = std::fs::remove_file(path);
        }
        tracing::info!("stopped");
    }
}

/// Returns at a moment, or never.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Tells the cache's store what the workers have used.
async fn tend(shared: Arc<Shared>) {
    let mut often = tokio::time::interval(TEND);
    loop {
        often.tick().await;
        shared.cache.load().tend();
    }
}

/// Lets go of what the cache may not serve any more, now and then.
async fn sweep(shared: Arc<Shared>) {
    let mut often = tokio::time::interval(SWEEP);
    loop {
        often.tick().await;
        let store = shared.cache.load_full();
        let stale = shared.stale.load(Relaxed);
        // It walks every entry: not on a thread that others wait for.
        let _ = tokio::task::spawn_blocking(move || store.sweep(CoarseInstant::now(), stale)).await;
    }
}

/// Opens what the configuration wants over HTTP. An address that cannot be had is an error in the log and no more, as in
/// CoreDNS: answering queries is worth more than being watched.
fn serve_pages(admin: &Admin, assembled: &Assembled, args: &Serve) {
    let pages = assembled.pages.iter().copied().chain(node::pages(args));
    for error in admin.apply(pages) {
        tracing::error!("{error}");
    }
}

/// Lets `/ready` and `nodens status` report this configuration, which is served now.
fn show(admin: &Admin, status: &Status, config: &Arc<ConfigState>, assembled: &Assembled) {
    status.set_running(assembled);
    let mut details = assembled.details.clone();
    details.push(Arc::clone(config) as _);
    admin.readiness().set_running(assembled.chains.clone(), details, assembled.monitor);
}

/// Opens the local socket. Without it the server serves all the same.
fn serve_control(path: &Path, status: &Arc<Status>) -> Option<Control> {
    if path.as_os_str().is_empty() {
        return None;
    }
    match control::serve(path, Arc::clone(status) as Arc<dyn Commands>) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!("`nodens status` and `nodens cache` will not work: {error}");
            None
        }
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot take signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            user1: on(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

/// What a signal asks for.
#[derive(PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

/// Waits for the clusters' objects, but no longer than `startup_timeout` and `most`; true once there is nothing to wait
/// for: a snapshot is as good, and with a fallback, or a wait of zero, there is no wait.
async fn wait_until_known(assembled: &Assembled, most: Duration) -> bool {
    let begun = Instant::now();
    let patience = assembled.startup_timeout.min(most);
    while !assembled.is_known() {
        if begun.elapsed() >= patience {
            return patience.is_zero();
        }
        tokio::time::sleep(START_POLL).await;
    }
    true
}

/// Reads the configuration as it is now.
fn load(args: &Serve, origin: &Origin) -> Plan {
    let (file, diagnostics) = origin.load();
    Plan::new(file, diagnostics, args.dns_port, &node::machine(&args.node, true))
}

fn write_pid(path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, format!("{}\n", std::process::id()))
        .with_context(|| format!("cannot write the process id to {}", path.display()))
}
