//! What is done now and then while the server runs, and what it opens beside DNS.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::admin::{Admin, Pages};
use crate::args::{PageAddress, Serve};
use crate::assemble::Assembled;
use crate::clock::CoarseInstant;
use crate::conditions::recent::Recent;
use crate::conditions::{Conditions, table};
use crate::config::ListenAddress;
use crate::config_state::ConfigState;
use crate::control::{self, Commands, Control};
use crate::memory;
use crate::metrics::Source;
use crate::node::{self, Counts};
use crate::shared::Shared;
use crate::status::{Network, Status};

/// How often the cache's store learns what is in use.
const MAINTAIN: Duration = Duration::from_secs(1);
/// After so long a start is over: lists have come, and clients have asked.
const START: Duration = Duration::from_secs(5);
/// How often it is looked whether the local socket can be reached.
const LOOK_AT_SOCKET: Duration = Duration::from_secs(1);
/// How often the cache is swept.
const SWEEP: Duration = Duration::from_secs(60);

/// Has everything that is there from the start tell what is wrong with it.
pub(super) fn watch_conditions(shared: &Shared, network: Arc<Counts>) {
    let conditions = &shared.conditions;
    conditions.register(network);
    conditions.register(Arc::clone(&shared.budget) as _);
    conditions.register(Arc::new(Recent(Arc::clone(&shared.history))));
    shared.metrics.register(Arc::clone(conditions) as Arc<dyn Source>);
}

/// The node's network, for `nodens status`.
pub(super) fn network(args: &Serve, counts: Arc<Counts>) -> Network {
    let machine = node::machine(&args.node, true);
    let link = machine.link.map(|link| link.as_str().to_owned());
    Network { counts, link, addresses: args.node.localip.clone() }
}

/// Does from now on what is due now and then.
pub(super) fn keep_house(shared: &Arc<Shared>) {
    tokio::spawn(sweep(Arc::clone(shared)));
    tokio::spawn(maintain(Arc::clone(shared)));
    tokio::spawn(give_back_program());
}

/// Tells the cache's store what the workers have used, and takes in the queries that they have written down.
async fn maintain(shared: Arc<Shared>) {
    let mut often = tokio::time::interval(MAINTAIN);
    loop {
        often.tick().await;
        shared.cache.load().maintain();
        shared.observed.gather();
    }
}

/// Gives back pages of the program that only the start needed, once that is over.
async fn give_back_program() {
    tokio::time::sleep(START).await;
    // If it is not run, pages stay mapped.
    let _ = tokio::task::spawn_blocking(memory::give_back_program).await;
}

/// Lets go of what the cache may not serve any more, now and then.
async fn sweep(shared: Arc<Shared>) {
    let mut often = tokio::time::interval(SWEEP);
    loop {
        often.tick().await;
        let store = shared.cache.load_full();
        let (stale, last_good) = (shared.stale.load(Relaxed), shared.last_good.load(Relaxed));
        // It walks every entry: not on a thread that others wait for.
        let _ = tokio::task::spawn_blocking(move || {
            store.sweep(CoarseInstant::now(), stale, last_good)
        })
        .await;
    }
}

/// Opens what the configuration wants over HTTP. An address that cannot be had is an error in the log and no more, as in
/// CoreDNS: answering queries is worth more than being watched.
pub(super) fn serve_pages(admin: &Admin, assembled: &Assembled, args: &Serve) {
    let pages = assembled.pages.iter().copied().chain(node::pages(args));
    for error in admin.apply(with_page(pages, args.page_listen_address)) {
        tracing::error!("{error}");
    }
}

/// Adds the page for people to what is served over HTTP. Its links lead to the same address.
fn with_page(
    pages: impl Iterator<Item = (ListenAddress, Pages)>,
    page: PageAddress,
) -> Vec<(ListenAddress, Pages)> {
    let linked = Pages::PAGE.and(Pages::READY);
    let with = |(address, pages): (ListenAddress, Pages)| match page {
        PageAddress::WithMetrics if pages.has(Pages::METRICS) => (address, pages.and(linked)),
        _ => (address, pages),
    };
    let mut all: Vec<_> = pages.map(with).collect();
    if let PageAddress::At(address) = page {
        all.push((address, linked.and(Pages::METRICS)));
    }
    all
}

/// Lets `/ready` and `nodens status` report this configuration, which is served now.
pub(super) fn show(
    admin: &Admin,
    status: &Status,
    conditions: &Conditions,
    config: &Arc<ConfigState>,
    assembled: &Assembled,
) {
    status.set_running(assembled);
    let mut details = assembled.details.clone();
    details.push(Arc::clone(config) as _);
    conditions.replace(details.iter().map(|detail| Arc::clone(detail) as _).collect());
    admin.readiness().set_running(assembled.chains.clone(), details, assembled.monitor);
}

/// The local socket, made anew if its file goes; dropped, it closes.
pub(super) struct KeptControl(JoinHandle<()>);

impl Drop for KeptControl {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens the local socket. Without it the server serves all the same, and tries again.
pub(super) fn serve_control(
    path: &Path,
    status: &Arc<Status>,
    conditions: &Arc<Conditions>,
) -> Option<KeptControl> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let (path, status, conditions) = (path.to_owned(), Arc::clone(status), Arc::clone(conditions));
    let mut is_said = false;
    let mut listen = move || match control::serve(&path, Arc::clone(&status) as Arc<dyn Commands>) {
        Ok(control) => {
            is_said = false;
            conditions.set(&table::SOCKET_MISSING, Vec::new());
            Some(control)
        }
        Err(error) => {
            if !is_said {
                tracing::warn!("`nodens status` and `nodens cache` will not work: {error}");
            }
            is_said = true;
            conditions.set(&table::SOCKET_MISSING, vec![error.to_string()]);
            None
        }
    };
    let mut control = listen();
    let keep = async move {
        let mut often = tokio::time::interval(LOOK_AT_SOCKET);
        loop {
            often.tick().await;
            if control.as_ref().is_none_or(Control::is_missing) {
                if control.is_some() {
                    tracing::warn!("the local socket's file was removed; it is made anew");
                }
                control = listen();
            }
        }
    };
    Some(KeptControl(tokio::spawn(keep)))
}

/// Returns at a moment, or never.
pub(super) async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
