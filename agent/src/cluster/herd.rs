//! All agents of a cluster together, in virtual time: [`Pace`] and [`Recovery`] as they are, before a model of an API server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

use super::body::ReadError;
use super::client::RequestError;
use super::object::Kind;
use super::pace::Pace;
use super::recovery::{Failure, Recovery, Situation, start_pause};
use super::server_view::ServerView;
use super::spec::Timing;

const AGENTS: usize = 500;
/// That of the figures in docs/scale.md.
const SERVICES: usize = 10_000;
const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];

/// The server: away until `back`, and then without the versions that it had before. It writes down what is asked of it.
struct Server {
    back: Instant,
    forgotten: bool,
    lists: Mutex<Vec<(usize, Kind, Duration)>>,
    watching: Mutex<Vec<Duration>>,
}

impl Server {
    fn new(back: Instant, forgotten: bool) -> Arc<Self> {
        Arc::new(Self { back, forgotten, lists: Mutex::default(), watching: Mutex::default() })
    }

    fn is_away(&self) -> Result<(), Failure> {
        let (server, reason) = (String::new(), "connection refused".into());
        let refused = RequestError::Unreachable { server, reason };
        if Instant::now() < self.back { Err(refused.into()) } else { Ok(()) }
    }

    /// One attempt of an agent: as `Watcher::session`.
    async fn attempt(&self, agent: usize, kind: Kind, pace: &mut Pace) -> Result<(), Failure> {
        sleep(Duration::from_millis(1)).await;
        let listed = !pace.recovery.is_resumable();
        if listed {
            self.is_away()?;
            self.lists.lock().unwrap().push((agent, kind, self.back.elapsed()));
            pace.answered();
            sleep(Duration::from_millis(200)).await;
            pace.recovery.listed();
        }
        self.is_away()?;
        pace.answered();
        if self.forgotten && !listed {
            return Err(Failure::Expired(1));
        }
        pace.recovery.progress();
        self.watching.lock().unwrap().push(self.back.elapsed());
        Ok(())
    }
}

/// Runs all agents until all watch. `first`: what ends their watches at the beginning, if they had any.
async fn run(server: &Arc<Server>, first: fn() -> Option<Failure>, start: fn() -> Duration) {
    let mut tasks = Vec::new();
    for agent in 0..AGENTS {
        let (view, pause) = (Arc::new(ServerView::default()), start());
        for kind in KINDS {
            let (server, view) = (server.clone(), view.clone());
            tasks.push(tokio::spawn(async move {
                let mut pace = Pace::new(view, Recovery::new(kind, Timing::default(), true));
                let mut now =
                    Situation { was_live: true, is_known: true, encoded: true, services: SERVICES };
                sleep(pause).await;
                let mut end = match first() {
                    Some(failure) => Err(failure),
                    None => server.attempt(agent, kind, &mut pace).await,
                };
                while let Err(failure) = end {
                    let next = pace.decide(&failure, now);
                    now.was_live = false;
                    pace.wait(next).await;
                    pace.begin();
                    end = server.attempt(agent, kind, &mut pace).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// No one lists twice, and the lists do not come together: between the first and the last is `least`, and in no quarter of
/// a second more than a third. Returns when the slowest hundredth watched.
fn check(server: &Server, lists_of_each: usize, least: f64) -> f64 {
    let lists = server.lists.lock().unwrap();
    let mut who: Vec<_> = lists.iter().map(|&(agent, kind, _)| (agent, kind as u8)).collect();
    who.sort_unstable();
    who.dedup();
    assert_eq!((who.len(), lists.len()), (AGENTS * KINDS.len() * lists_of_each, who.len()));
    let mut times: Vec<f64> = lists.iter().map(|(_, _, at)| at.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        assert!(last - first >= least, "all lists within {} s", last - first);
        let most = times
            .iter()
            .map(|from| times.iter().filter(|&at| (*from..from + 0.25).contains(at)).count());
        let most = most.max().unwrap_or_default();
        assert!(most * 3 < times.len(), "{most} of {} lists in a quarter of a second", times.len());
    }
    let mut watching = server.watching.lock().unwrap().clone();
    watching.sort_unstable();
    watching[watching.len() * 99 / 100].as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_agents_return_one_by_one_and_within_seconds() {
    for (outage, forgotten) in [(5, false), (60, false), (5, true), (60, true), (600, true)] {
        let server = Server::new(Instant::now() + Duration::from_secs(outage), forgotten);
        let cut = || Some(Failure::Read(ReadError::Cut(String::new())));
        run(&server, cut, || Duration::ZERO).await;
        let slow = check(&server, usize::from(forgotten), 2.0);
        assert!(slow < 3.0, "the slowest hundredth after {slow} s");
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_together_are_not_followed_by_lists_together() {
    let server = Server::new(Instant::now(), true);
    run(&server, || Some(Failure::Expired(1)), || Duration::ZERO).await;
    let slow = check(&server, 1, 1.9);
    assert!(slow < 2.5, "{slow}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_start_together_from_old_snapshots_do_not_ask_together() {
    let server = Server::new(Instant::now(), true);
    let start = || start_pause(Some(SystemTime::now() - Duration::from_secs(60)), SERVICES);
    run(&server, || None, start).await;
    check(&server, 1, 1.9);
    // A process that replaces one of a moment ago asks at once, and so does one that knows nothing.
    sleep_until(Instant::now()).await;
    assert_eq!(start_pause(Some(SystemTime::now()), SERVICES), Duration::ZERO);
    assert_eq!(start_pause(None, 0), Duration::ZERO);
}
