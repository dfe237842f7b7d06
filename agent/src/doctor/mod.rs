//! `nodens doctor`: what is wrong on this node, or in the cluster. It changes nothing, and needs no running server but for
//! the checks that ask one.
//!
//! ```text
//! arguments -> facts (gathered once) -> checks of `table`, side by side, each with a deadline -> findings -> text or JSON
//! ```
//!
//! | module | what |
//! |---|---|
//! | `table` | the one list of checks: id, category, title, function |
//! | `finding` | what a check comes to |
//! | `facts` | what checks of a node look at: running server, flags, Corefile, kernel |
//! | `node` | the checks of a node |
//! | `fleet` | the checks of a cluster, by its API server |
//! | `procfs`, `exchange`, `certificate` | processes and sockets; one query and its answer; the dates of a certificate |
//! | `report` | what is printed |

mod certificate;
mod exchange;
mod facts;
pub mod finding;
mod fleet;
mod node;
pub(crate) mod procfs;
mod report;
pub mod table;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};

use self::finding::{Finding, Verdict};
use self::report::{Examined, Report};
use self::table::{Check, Scope};
use crate::args::{Category, Doctor};

/// How long a check of a node may take. With what is gathered before, all are done within three seconds.
const DEADLINE: Duration = Duration::from_millis(1_800);
/// How long one of a cluster may take: tens of thousands of pods are listed page by page.
const CLUSTER_DEADLINE: Duration = Duration::from_secs(30);
/// The exit status if nothing could be examined.
const COULD_NOT: u8 = 2;

/// Examines what the arguments name and prints the findings to `out`. The exit status is 0 without a problem, 1 with one, and
/// 2 if nothing could be examined.
pub fn run(args: &Doctor, out: &mut impl Write) -> ExitCode {
    let report = match examine(args) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("nodens doctor: {why}");
            return COULD_NOT.into();
        }
    };
    // A reader that has gone has seen enough; the exit status counts.
    let _ = report.print(args.output, out).and_then(|()| out.flush());
    match report.worst() {
        Verdict::Problem => ExitCode::FAILURE,
        Verdict::Skipped => COULD_NOT.into(),
        Verdict::Ok | Verdict::Warning => ExitCode::SUCCESS,
    }
}

fn examine(args: &Doctor) -> Result<Report, String> {
    let scope = if args.cluster { Scope::Cluster } else { Scope::Node };
    let chosen = chosen(scope, &args.categories)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("doctor")
        .enable_all()
        .build()
        .map_err(|error| format!("no thread can be started: {error}"))?;
    let begun = Instant::now();
    let examined = runtime.block_on(async {
        match scope {
            Scope::Node => {
                let facts = Arc::new(facts::Facts::gather(args).await);
                Ok(all(chosen, |check| check.of_node(Arc::clone(&facts))).await)
            }
            Scope::Cluster => {
                let cluster = Arc::new(fleet::Cluster::connect(args).await?);
                Ok(all(chosen, |check| check.of_cluster(Arc::clone(&cluster))).await)
            }
        }
    });
    // What is late is not waited for.
    runtime.shutdown_background();
    examined.map(|examined| Report::new(scope, examined, begun.elapsed()))
}

/// The checks of the scope and of these categories.
fn chosen(scope: Scope, categories: &[Category]) -> Result<Vec<&'static Check>, String> {
    let of_scope = || table::ALL.iter().filter(|check| check.scope() == scope);
    for category in categories {
        if !of_scope().any(|check| check.category == *category) {
            let other = match scope {
                Scope::Node => "with --cluster only",
                Scope::Cluster => "on a node only, without --cluster",
            };
            return Err(format!("checks of {} can be made {other}", category.name()));
        }
    }
    let is_chosen = |check: &&Check| categories.is_empty() || categories.contains(&check.category);
    Ok(of_scope().filter(is_chosen).collect())
}

/// Runs checks side by side.
async fn all(
    checks: Vec<&'static Check>,
    start: impl Fn(&Check) -> Option<BoxFuture<'static, Finding>>,
) -> Vec<Examined> {
    let started = checks.into_iter().filter_map(|check| Some((check, start(check)?)));
    join_all(started.map(|(check, running)| bounded(check, running))).await
}

async fn bounded(check: &'static Check, running: BoxFuture<'static, Finding>) -> Examined {
    let begun = Instant::now();
    let deadline = if check.scope() == Scope::Cluster { CLUSTER_DEADLINE } else { DEADLINE };
    // A task of its own, so that one that does not yield holds up no other.
    let finding = match tokio::time::timeout(deadline, tokio::spawn(running)).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(_)) => Finding::warning(
            "the check has failed itself",
            "report it with the output of `nodens doctor -o json`",
        ),
        Err(_) => Finding::warning(
            format!("the check was not done within {} ms", deadline.as_millis()),
            "run it alone (`nodens doctor CATEGORY`); if it is late again, what it asks does not answer",
        ),
    };
    Examined { check, finding, took: begun.elapsed() }
}
