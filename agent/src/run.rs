//! The life of the server: read the configuration, listen, reload, drain.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Serve;
use crate::assemble::{Shared, assemble};
use crate::corefile::{self, Diagnostics};
use crate::plugin::{self, Block};
use crate::server::Pool;
use crate::server::pool::DRAIN;

/// More threads than this answer no faster on any node that we know of; `--workers` says otherwise.
const MAX_WORKERS: usize = 8;

/// A Corefile with errors; Display shows all of them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(Diagnostics);

/// Serves until a signal ends it.
pub fn run(args: &Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Serve) -> anyhow::Result<()> {
    let workers = match args.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        n => n,
    };
    let shared = Arc::new(Shared { workers });
    let blocks = load(args)?;
    let assembled = assemble(&blocks, &shared)?;
    let pool = Pool::start(workers).context("cannot start the worker threads")?;
    pool.apply(assembled.listeners)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::task::block_in_place(|| pool.stop(DRAIN));
    Ok(())
}

/// Reads the Corefile. Warnings are logged, errors are returned all at once.
fn load(args: &Serve) -> Result<Vec<Block>, BadConfig> {
    let (file, mut diagnostics) = corefile::load(&args.conf);
    let blocks = if diagnostics.has_errors() {
        Vec::new()
    } else {
        plugin::read(&file, args.dns_port, &mut diagnostics)
    };
    diagnostics.sort();
    if diagnostics.has_errors() {
        return Err(BadConfig(diagnostics));
    }
    for warning in diagnostics.iter() {
        tracing::warn!("{warning}");
    }
    Ok(blocks)
}
