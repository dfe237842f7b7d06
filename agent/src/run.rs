//! The life of the server: read the configuration, listen, reload, drain.
//!
//! ```text
//! start   Corefile -> blocks -> assemble -> wait (bounded) for what is needed -> listen
//! reload  the same, aside; only when all of it has worked does it take the place of what runs
//! hand-over  another instance has taken sockets, cache and store, and serves: what is under way is answered, exit
//! stop    lameduck: /ready says so, everything is answered; then queues are emptied, what waits is answered, exit
//! ```

mod background;
mod configuration;
mod giving;
mod losses;
mod pidfile;
mod reload;
mod signals;
mod takeover;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netsetup::LinkName;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::args::Serve;
use crate::assemble::{Assembled, assemble};
use crate::budget::Budget;
use crate::cluster::Clusters;
use crate::config_state::ConfigState;
use crate::corefile::Diagnostics;
use crate::descriptors;
use crate::handover::{Channel, Listening, Record};
use crate::logging::{self, Logs};
use crate::memory;
use crate::metrics::{Metrics, Source};
use crate::node::{self, Node, Origin};
use crate::plan::Plan;
use crate::probe;
use crate::server::pool::DRAIN;
use crate::server::source::SocketSource;
use crate::server::{Liveness, Pool};
use crate::shared::Shared;
use crate::status::{Parts, Status};
use crate::supervisor::Start;
use crate::systemd::{Systemd, Tell};
use background::{
    KeptControl, keep_house, network, serve_control, serve_pages, show, until, watch_conditions,
};
use giving::{Giver, Giving, keep_memory, wait_for_successor};
use reload::{Seen, Wish};
use signals::Signals;
use takeover::{Before, End, Running, end, show_life, supervisor_ended};

/// More threads than this answer no faster on any node that we know of; `--workers` overrides it.
const MAX_WORKERS: usize = 8;
/// How often it is looked at what the start still waits for.
const START_POLL: Duration = Duration::from_millis(1);

/// How long an instance that was told to end serves on while another one starts with its sockets.
const SUCCESSOR: Duration = Duration::from_secs(15);
/// How often it is looked at what clients use.
const LOOK_AT_USE: Duration = Duration::from_secs(20);
/// How often a configuration that is held back is tried without `reload`.
const RETRY_HELD_BACK: Duration = Duration::from_secs(30);

/// A Corefile with errors; Display shows all of them.
#[derive(Debug, thiserror::Error)]
#[error("the Corefile has errors; nothing was started\n{0}")]
pub struct BadConfig(Diagnostics);

/// The running server.
struct Server {
    args: Serve,
    origin: Origin,
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    liveness: Arc<Liveness>,
    admin: Admin,
    status: Arc<Status>,
    _control: Option<KeptControl>,
    _successor: Option<Listening>,
    around: Running,
    giving: Arc<Giving>,
    record: Arc<Record>,
    running: Assembled,
    hash: String,
    seen: Seen,
    config: Arc<ConfigState>,
    used: losses::Used,
}

/// Serves until a signal ends it. `start` is what the child of a supervisor begins with. The log has been started.
pub fn run(args: &Serve, start: Option<Start>) -> anyhow::Result<()> {
    let before = Before::take(start);
    let mut node = Node::from_flags(&args.node, args.dns_port)?;
    // While there is one thread: privileges are a thread's own.
    node.drop_privileges()?;
    let metrics = Metrics::new();
    let logs = Logs::start(&metrics)?;
    metrics.register(node.counts());
    let shared = Arc::new(Shared {
        stacktrace: logging::watch_panics(&metrics),
        metrics,
        log_format: args.log_format.into(),
        budget: Budget::of_this_process(),
        clusters: Clusters::new(Arc::clone(&before.inherited)),
        ..Shared::new(workers(args))
    });
    watch_conditions(&shared, node.counts());
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    before.log();
    let result = run_on(&mut node, args, before, shared, &logs);
    logs.finish(Duration::from_secs(1));
    result
}

fn run_on(
    node: &mut Node,
    args: &Serve,
    mut before: Before,
    shared: Arc<Shared>,
    logs: &Logs,
) -> anyhow::Result<()> {
    // Everything is read and checked before anything of the node is touched, or anything is asked of another instance.
    let origin = Origin::from_flags(args, node.counts())?;
    let plan = before.configuration(args, &origin);
    if plan.diagnostics.has_errors() {
        return Err(BadConfig(plan.diagnostics).into());
    }
    reload::log(&plan.diagnostics);
    let link = node::machine(&args.node, true).link.map(LinkName::as_str);
    before.ask(args.handover_socket(), &plan, link)?;
    node.set_up(before.is_shared()).inspect_err(|error| before.failed(&format!("{error:#}")))?;
    logs.drop_privileges();
    memory::give_back_later();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let result = runtime.block_on(async {
        let result = serve(node, args, (origin, plan), before, shared).await;
        node.tear_down().await;
        result
    });
    // A look-up of the file system that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
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
    before: Before,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    let (mut signals, mut reloads) = Signals::new()?;
    let link = before.link.clone();
    let tell = link.clone().map(|link| Box::new(move |text: &str| link.notify(text)) as Tell);
    let systemd = Arc::new(Systemd::from_env(tell));
    let (sender, mut handed_over) = mpsc::channel(1);
    let mut server = tokio::select! {
        started = Server::start(args, origin, plan, before, shared, sender) => started?,
        () = signals.stop() => {
            tracing::info!("stopped before it served");
            return Ok(());
        }
    };
    let supervisor_ended = supervisor_ended(link.as_ref(), Arc::clone(&server.record));
    tokio::pin!(supervisor_ended);
    node.keep();
    systemd.ready("serving");
    let (commands, mut inbox) = reload::Commands::new();
    server.status.set_reloads(commands);
    let mut looks = tokio::time::interval(LOOK_AT_USE);
    let mut due = server.next_look();
    let (watched, liveness) = (Arc::clone(&systemd), Arc::clone(&server.liveness));
    tokio::spawn(async move { watched.watchdog(liveness).await });
    let ended = loop {
        let wish = tokio::select! {
            ended = end(&mut signals, &mut handed_over, supervisor_ended.as_mut()) => break ended,
            () = reloads.next() => Wish::of_signal(),
            Some(command) = inbox.recv() => command.into(),
            () = until(due) => Wish::look("the file has changed"),
            () = server.origin.changed() => {
                Wish::look("the template or the kube-dns ConfigMap has changed")
            }
            _ = looks.tick() => {
                server.used.update(&server.running, Instant::now());
                continue;
            }
        };
        // Dropped before it is applied, a reload changes nothing.
        tokio::select! {
            ended = end(&mut signals, &mut handed_over, supervisor_ended.as_mut()) => break ended,
            () = server.fulfil(wish, &systemd) => {}
        }
        due = server.next_look();
    };
    if matches!(ended, End::Supervisor) {
        tracing::error!("the supervisor has ended");
        // Nothing can be expected to wait for this process.
        server.running.lameduck = Duration::ZERO;
    }
    let successor = match ended {
        End::Successor(successor) => Some(successor),
        End::Stop | End::Supervisor => server.successor(&mut handed_over, &mut signals).await,
    };
    if let Some(successor) = successor {
        node.give_away();
        let ends_container = server.around.ends_container();
        let taps = server.running.taps.clone();
        server.hand_over(successor);
        Assembled::end_taps(taps).await;
        if ends_container {
            tracing::info!("another instance serves; this one waits for the end of its container");
            signals.stop().await;
        }
        return Ok(());
    }
    systemd.stopping();
    if server.around.is_awaited() {
        tracing::info!("the instance before this one takes over again");
        node.give_away();
    }
    node.leave();
    server.stop(&mut signals).await;
    Ok(())
}

impl Server {
    async fn start(
        args: &Serve,
        origin: Origin,
        plan: Plan,
        before: Before,
        shared: Arc<Shared>,
        handed_over: mpsc::Sender<Channel>,
    ) -> anyhow::Result<Self> {
        let (source, giving) = (before.source(), Arc::<Giving>::default());
        match Self::prepare(args, plan, &before, &source, &shared).await {
            Ok(prepared) => {
                let shared_too = Arc::clone(&shared);
                let link = node::machine(&args.node, true).link;
                let link = link.map(|link| link.as_str().to_owned());
                let (from, giving_too) = (Arc::clone(&source), Arc::clone(&giving));
                let giver = |record| Giver {
                    link,
                    shared: shared_too,
                    source: from,
                    giving: giving_too,
                    handed_over,
                    record,
                };
                let prepared = (prepared, giving);
                Self::serve(args, origin, prepared, before, shared, giver)
            }
            Err(error) => {
                before.failed(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    /// Everything up to the moment when queries are answered.
    async fn prepare(
        args: &Serve,
        plan: Plan,
        before: &Before,
        source: &Arc<SocketSource>,
        shared: &Arc<Shared>,
    ) -> anyhow::Result<Prepared> {
        let begun = Instant::now();
        let (seen, hash) = (Seen::of(&plan), plan.hash());
        before.fill_health(shared);
        let running = assemble(plan.blocks, shared)?;
        tokio::task::block_in_place(|| before.fill_cache(&running));
        running.show(shared, &hash);
        let (slots, refused) = before.crash_record(shared.workers);
        refused.iter().for_each(|known| shared.conditions.register(Arc::clone(known) as _));
        let pool = Pool::start(shared.workers, &shared.clients, Arc::clone(source), slots, refused);
        let pool = Arc::new(pool.context("cannot start the worker threads")?);
        shared.metrics.register(pool.metrics());
        shared.metrics.register(Arc::clone(&shared.budget) as Arc<dyn Source>);
        shared.metrics.register(Arc::new(shared.names.clone()));
        shared.metrics.register(Arc::clone(&shared.observed) as Arc<dyn Source>);
        shared.budget.govern(Arc::clone(shared) as _);
        shared.budget.govern(pool.places(Arc::clone(shared.upstream_places.groups())));
        tokio::spawn(Arc::clone(&shared.budget).watch());
        tokio::spawn(Arc::clone(&shared.history).keep(Arc::clone(&shared.metrics)));
        let (metrics, conditions) = (Arc::clone(&shared.metrics), Arc::clone(&shared.conditions));
        let admin = Admin::new(Handle::current(), metrics, conditions, Arc::clone(source));
        let liveness = Liveness::new(pool.workers());
        admin.readiness().set_liveness(Arc::clone(&liveness));
        serve_pages(&admin, &running, args);
        wait_until_known(&running, Duration::MAX).await;
        before.wait_until_live(&running).await;
        if !running.is_known() {
            let waiting = running.waiting_for().join("; ");
            tracing::warn!(waiting, "serving before everything is there");
        }
        pool.apply(running.listeners.clone(), running.encrypted.clone())?;
        liveness.set_addresses(running.listeners.keys().copied());
        tokio::spawn(Arc::clone(&liveness).watch());
        if let Some(path) = &args.pidfile {
            pidfile::write(path, before.link.is_some())?;
        }
        before.keep_configuration(&plan.file);
        let source = Arc::clone(source);
        Ok(Prepared { begun, source, pool, liveness, admin, running, hash, seen })
    }

    fn serve(
        args: &Serve,
        origin: Origin,
        (prepared, giving): (Prepared, Arc<Giving>),
        before: Before,
        shared: Arc<Shared>,
        giver: impl FnOnce(Arc<Record>) -> Giver,
    ) -> anyhow::Result<Self> {
        let Prepared { begun, source, pool, liveness, admin, running, hash, seen } = prepared;
        let (link, record) = (before.link.clone(), before.record());
        shared.metrics.register(Arc::clone(&record) as Arc<dyn Source>);
        shared.conditions.register(Arc::clone(&record) as _);
        let readiness = Arc::clone(admin.readiness());
        let (socket, handover) = before.sockets(args);
        let around = before.serving(&pool, &source, &shared.conditions);
        let config = ConfigState::new();
        config.set_loaded(&hash, None);
        shared.metrics.register(Arc::clone(&config) as Arc<dyn Source>);
        let status = Status::new(Parts {
            shared: Arc::clone(&shared),
            readiness,
            config: Arc::clone(&config),
            file: origin.path().to_owned(),
            supervisor: link.clone(),
            handovers: Arc::clone(&record),
            network: network(args, origin.counts()),
        });
        show(&admin, &status, &shared.conditions, &config, &running);
        admin.tell(Arc::clone(&status) as _);
        let control = serve_control(&socket, &status, &shared.conditions);
        probe::remove_mark(&args.socket);
        keep_house(&shared);
        if let Some(link) = link {
            tokio::spawn(keep_memory(Arc::clone(&shared), link.clone()));
            tokio::spawn(show_life(link, Arc::clone(&liveness)));
        }
        let used = around.used(&running);
        let giver = giver(Arc::clone(&record));
        let successor = wait_for_successor(handover, giver, &shared.conditions);
        if successor.is_some() {
            status.set_can_hand_over();
        }
        let addresses: Vec<_> = running
            .listeners
            .keys()
            .map(ToString::to_string)
            .chain(running.encrypted_addresses())
            .collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = shared.workers,
            took_ms = begun.elapsed().as_millis(),
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
            _successor: successor,
            around,
            giving,
            record,
            running,
            hash,
            seen,
            config,
            used,
        })
    }

    /// The instance that takes over although this one was told to end. If one has begun to, it is given some time for that.
    async fn successor(
        &self,
        handed_over: &mut mpsc::Receiver<Channel>,
        signals: &mut Signals,
    ) -> Option<Channel> {
        signals.settle().await;
        let until = Instant::now() + SUCCESSOR;
        if self.giving.stop() {
            tracing::info!("another instance starts; this one serves until that one does");
        }
        while self.giving.is_given() && Instant::now() < until {
            tokio::select! {
                Some(successor) = handed_over.recv() => return Some(successor),
                () = signals.stop() => break,
                () = tokio::time::sleep(START_POLL) => {}
            }
        }
        handed_over.try_recv().ok()
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
        Assembled::end_taps(self.running.taps).await;
        if let Some(path) = &self.args.pidfile {
            pidfile::remove(path, self.around.has_supervisor());
        }
        tracing::info!("stopped");
    }

    /// Leaves the sockets to `successor`, which serves, and answers what is under way.
    fn hand_over(self, successor: Channel) {
        let begun = Instant::now();
        self.around.leave(&successor, &self.args.socket);
        self.admin.hand_over();
        let successor = Arc::new(successor);
        let to = Arc::clone(&successor);
        let pass_on = move |address, connection| Running::pass_on(&to, address, connection);
        tokio::task::block_in_place(|| self.pool.hand_over(DRAIN, Arc::new(pass_on)));
        let took_ms = begun.elapsed().as_millis();
        tracing::info!(
            took_ms,
            "another instance has taken over; everything under way was answered"
        );
    }
}

/// What is there before queries are answered.
struct Prepared {
    begun: Instant,
    source: Arc<SocketSource>,
    pool: Arc<Pool>,
    liveness: Arc<Liveness>,
    admin: Admin,
    running: Assembled,
    hash: String,
    seen: Seen,
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
