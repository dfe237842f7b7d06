//! Upstreams by name: what host names resolve to, asked of other servers than this one.
//!
//! Names are kept by their time to live and looked up again before it ends; what was good last is kept until there is something
//! better. All configurations of a process share what is known, so that a reload begins with it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join;
use hashbrown::{HashMap, HashSet};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use nix::libc;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;

use crate::metrics::{Scrape, Source, names};

/// For one query to one server.
const PATIENCE: Duration = Duration::from_secs(1);
/// An address is used for so long at least, and looked up again after so long at most.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3_600);
/// The first and the longest pause after a failure; it doubles until then.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// For a whole look-up.
const ALL: Duration = Duration::from_secs(8);
/// Addresses of a name that are used, and those of each family that are looked at.
const MAX_ADDRESSES: usize = 16;
const MAX_LOOKED_AT: usize = 64;
/// A name that was not asked for within this time is no longer in use.
const USED: Duration = Duration::from_secs(30);
/// Names that are known at a time; those that were not used for longest make room.
const MAX_NAMES: usize = 256;

/// A name, and who is asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The host, lower case, without a final dot.
    pub host: Arc<str>,
    /// The servers; empty: those of the node's resolv.conf.
    pub resolvers: Arc<[SocketAddr]>,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub struct Known {
    /// The addresses that were good last, sorted, each once; none before the first answer.
    pub addresses: Arc<[IpAddr]>,
    /// When they were learnt.
    pub learnt: Option<Instant>,
    /// Why the last look-up brought none.
    pub error: Option<Arc<str>>,
    /// When it is looked up again.
    pub due: Instant,
    /// Grows whenever addresses or error are others.
    pub generation: u64,
    failures: u64,
    in_a_row: u32,
    used: Instant,
}

/// The names of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Names(Arc<Inner>);

#[derive(Default)]
struct Inner {
    known: Mutex<HashMap<Asked, Known>>,
    /// Look-ups under way.
    asking: Mutex<HashSet<Asked>>,
    changed: Notify,
}

/// A look-up: however it ends, the next one may begin.
struct UnderWay<'n>(&'n Inner, &'n Asked);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(self.1);
    }
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known; `None` before the first look-up has ended.
    pub fn get(&self, asked: &Asked) -> Option<Known> {
        self.lock().get(asked).cloned()
    }

    /// Told whenever something has changed.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Has the name looked up if that is due and not under way, on the runtime of the caller. `servers` are those to ask. Returns
    /// what is known so far.
    pub fn follow(
        &self,
        asked: &Asked,
        servers: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Option<Known> {
        let now = Instant::now();
        let known = {
            let mut names = self.lock();
            let known = names.get_mut(asked);
            known.map(|known| {
                known.used = now;
                known.clone()
            })
        };
        let is_due = known.as_ref().is_none_or(|known| known.due <= now);
        let asking = || self.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if is_due && asking().insert(asked.clone()) {
            let (names, asked, servers) = (self.clone(), asked.clone(), servers());
            tokio::spawn(async move {
                let under_way = UnderWay(&names.0, &asked);
                let found = timeout(ALL, resolve(&asked.host, &servers)).await;
                let late = |_| Err("no server has answered in time".to_owned());
                names.learn(&asked, found.unwrap_or_else(late), Instant::now());
                drop(under_way);
                names.0.changed.notify_waiters();
            });
        }
        known
    }

    fn learn(&self, asked: &Asked, found: Result<Found, String>, now: Instant) {
        let mut names = self.lock();
        if names.len() >= MAX_NAMES && !names.contains_key(asked) {
            let unused = names.iter().min_by_key(|(_, known)| known.used);
            if let Some(unused) = unused.map(|(asked, _)| asked.clone()) {
                names.remove(&unused);
            }
        }
        let known = names.entry(asked.clone()).or_insert_with(|| Known {
            addresses: Arc::default(),
            learnt: None,
            error: None,
            due: now,
            generation: 0,
            failures: 0,
            in_a_row: 0,
            used: now,
        });
        let (found, kept) = match found {
            Ok(found) => {
                // Of a family that could not be asked for, the addresses stay.
                let stays = |ip: &&IpAddr| found.missing.is_some_and(|v6| ip.is_ipv6() == v6);
                let kept: Vec<IpAddr> = known.addresses.iter().filter(stays).copied().collect();
                (Ok((found.addresses, found.lifetime)), kept)
            }
            Err(error) => (Err(error), Vec::new()),
        };
        let before = (Arc::clone(&known.addresses), known.error.clone());
        let is_partial = !kept.is_empty();
        match found {
            Ok((mut addresses, lifetime)) => {
                addresses.extend(kept);
                addresses.sort_unstable();
                addresses.dedup();
                // Before its end, so that there is time to try again.
                let lifetime = lifetime.clamp(SHORTEST, LONGEST) * 4 / 5;
                known.due = now + if is_partial { lifetime.min(LAST_RETRY) } else { lifetime };
                (known.error, known.in_a_row, known.learnt) = (None, 0, Some(now));
                known.addresses = addresses.into();
            }
            Err(error) => {
                let pause = RETRY.saturating_mul(1 << known.in_a_row.min(8)).min(LAST_RETRY);
                known.due = now + pause;
                known.in_a_row += 1;
                known.failures += 1;
                known.error = Some(error.into());
            }
        }
        if known.generation == 0 || before != (Arc::clone(&known.addresses), known.error.clone()) {
            known.generation += 1;
        }
    }
}

/// Of the names that are in use.
impl Source for Names {
    fn collect(&self, out: &mut Scrape) {
        for (asked, known) in self.lock().iter().filter(|(_, known)| known.used.elapsed() < USED) {
            let (name, addresses) = ([&*asked.host], known.addresses.len() as f64);
            out.gauge_least(&names::FORWARD_NAME_ADDRESSES, &name, addresses);
            out.count(&names::FORWARD_NAME_FAILURES, &name, known.failures);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// At least one, each once.
    addresses: Vec<IpAddr>,
    lifetime: Duration,
    /// The family of which nothing could be learnt; true for IPv6.
    missing: Option<bool>,
}

/// Asks for the addresses of a host. Of one that this host has no way to, as IPv6 on most nodes, none is taken.
async fn resolve(host: &str, servers: &[SocketAddr]) -> Result<Found, String> {
    if servers.is_empty() {
        return Err(
            "there is no server to ask for it but this one: `resolver ADDRESS` names another"
                .to_owned(),
        );
    }
    let resolver = resolver(servers).map_err(|error| error.to_string())?;
    let name = Name::from_ascii(format!("{host}.")).map_err(|error| error.to_string())?;
    let (v4, v6) =
        join(of_type(&resolver, &name, RecordType::A), of_type(&resolver, &name, RecordType::AAAA))
            .await;
    let missing = match (&v4, &v6) {
        (Err(_), Ok(_)) => Some(false),
        (Ok(_), Err(_)) => Some(true),
        _ => None,
    };
    let (mut addresses, mut lifetime) = (Vec::new(), LONGEST);
    for (found, life) in [&v4, &v6].into_iter().flatten() {
        addresses.extend(found.iter().take(MAX_LOOKED_AT));
        lifetime = lifetime.min(*life);
    }
    addresses.sort_unstable();
    addresses.dedup();
    let has_any = !addresses.is_empty();
    addresses.retain(|ip| has_way_to(*ip));
    addresses.truncate(MAX_ADDRESSES);
    match (addresses.is_empty(), v4, v6) {
        (false, ..) => Ok(Found { addresses, lifetime, missing }),
        (true, ..) if has_any => Err("this host has no route to any of its addresses".to_owned()),
        (true, Err(error), _) | (true, _, Err(error)) => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            Err(format!("{error} (asked of {})", servers.join(", ")))
        }
        (true, Ok(_), Ok(_)) => Err("it has no address".to_owned()),
    }
}

/// The addresses of one type, and how long they are good.
async fn of_type(
    resolver: &TokioResolver,
    name: &Name,
    kind: RecordType,
) -> Result<(Vec<IpAddr>, Duration), String> {
    match resolver.lookup(name.clone(), kind).await {
        Ok(found) => {
            let (mut addresses, mut lifetime) = (Vec::new(), LONGEST);
            for record in found.answers() {
                lifetime = lifetime.min(Duration::from_secs(record.ttl.into()));
                match &record.data {
                    RData::A(a) => addresses.push(IpAddr::V4(a.0)),
                    RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0).to_canonical()),
                    _ => {}
                }
            }
            Ok((addresses, lifetime))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            match none.response_code.to_string().as_str() {
                "No Error" => Ok((Vec::new(), LONGEST)),
                "Non-Existent Domain" => Err("it does not exist".to_owned()),
                code => Err(format!("the server says: {code}")),
            }
        }
        Err(NetError::Timeout) => Err("no server has answered in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let servers = servers.iter().map(|server| {
        let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

/// Whether the kernel has a route; no packet is sent. It has none where it has no IPv6, nor to a link-local address without an
/// interface. Where descriptors or memory are short, an address counts as reachable.
fn has_way_to(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    match UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, 53))) {
        Ok(()) => true,
        Err(error) => {
            let short = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
            error.raw_os_error().is_some_and(|code| short.contains(&code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> Asked {
        Asked { host: host.into(), resolvers: Arc::default() }
    }

    fn found(addresses: &[&str], seconds: u64, missing: Option<bool>) -> Result<Found, String> {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Ok(Found { addresses, lifetime: Duration::from_secs(seconds), missing })
    }

    #[test]
    fn what_was_good_is_kept_and_asked_again_before_its_end() {
        let (names, name, begun) = (Names::default(), asked("dns.example"), Instant::now());
        let known = || names.get(&name).unwrap();
        let due = || known().due - begun;
        let learn = |found| names.learn(&name, found, begun);
        assert!(names.get(&name).is_none());
        learn(Err("no".into()));
        assert_eq!((known().error.as_deref(), known().generation), (Some("no"), 1));
        assert!(known().addresses.is_empty() && due() == RETRY);
        learn(found(&["192.0.2.1"], 100, None));
        assert_eq!((due().as_secs(), known().generation), (80, 2));
        learn(found(&["192.0.2.1"], 0, None));
        assert_eq!((due(), known().generation), (SHORTEST * 4 / 5, 2));
        for (failures, pause) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30)] {
            learn(Err("no".into()));
            assert_eq!((known().addresses.len(), known().failures), (1, failures));
            assert_eq!((due().as_secs(), known().generation), (pause, 3));
        }
        learn(found(&["192.0.2.2"], 1 << 40, None));
        assert_eq!((due(), known().generation), (LONGEST * 4 / 5, 4));
        assert!(known().error.is_none());
    }

    #[test]
    fn a_family_that_cannot_be_asked_for_stays() {
        let (names, name, now) = (Names::default(), asked("dns.example"), Instant::now());
        let both = ["192.0.2.1", "2001:db8::1"];
        let learn = |addresses: &[&str], missing| {
            names.learn(&name, found(addresses, 3_600, missing), now);
            let known = names.get(&name).unwrap();
            let all: Vec<String> = known.addresses.iter().map(ToString::to_string).collect();
            (all.join(" "), (known.due - now).as_secs())
        };
        // Nothing is missed of a family that was never there.
        assert_eq!(learn(&both[..1], Some(true)), ("192.0.2.1".into(), 2_880));
        assert_eq!(learn(&both, None), (both.join(" "), 2_880));
        assert_eq!(learn(&["192.0.2.9"], Some(true)), ("192.0.2.9 2001:db8::1".into(), 30));
        assert_eq!(learn(&["2001:db8::1"], Some(false)), ("192.0.2.9 2001:db8::1".into(), 30));
        assert_eq!(learn(&["192.0.2.9"], None), ("192.0.2.9".into(), 2_880));
    }

    #[test]
    fn names_that_are_gone_make_room() {
        let (names, begun) = (Names::default(), Instant::now());
        for number in 0..3 * MAX_NAMES as u64 {
            let at = begun + Duration::from_secs(number);
            names.learn(&asked(&format!("n{number}")), found(&["192.0.2.1"], 600, None), at);
        }
        assert_eq!(names.lock().len(), MAX_NAMES);
        assert!(names.get(&asked(&format!("n{}", 3 * MAX_NAMES - 1))).is_some());
    }

    #[test]
    fn the_way_to_this_host_is_known() {
        assert!(has_way_to([127, 0, 0, 1].into()));
        assert!(!has_way_to("fe80::1".parse().unwrap()));
    }

    #[tokio::test]
    async fn one_look_up_at_a_time() {
        let (names, name) = (Names::default(), asked("dns.invalid"));
        let changed = names.changed();
        assert!(names.follow(&name, Vec::new).is_none());
        assert!(names.follow(&name, || panic!("it is looked up")).is_none());
        changed.await;
        let known = names.follow(&name, || panic!("it is not due")).unwrap();
        assert!(known.error.unwrap().contains("no server to ask"));
    }
}
