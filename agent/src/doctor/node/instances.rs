//! Who has the port, and whether instances of Nodens are at odds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::facts::{self, Facts};
use super::super::finding::{Finding, few};
use super::super::procfs::{self, Process, Socket};

/// Two instances side by side for longer than this are no roll-out any more.
const ROLL_OUT: Duration = Duration::from_secs(120);

/// Whether a socket takes what is sent to an address of ours.
fn takes(socket: &Socket, ours: SocketAddr) -> bool {
    let ip = socket.local.ip();
    ip == ours.ip() || ip.is_unspecified() && (ip.is_ipv6() || ours.is_ipv4())
}

/// The sockets at the ports of the server blocks.
fn all_sockets(facts: &Facts) -> Vec<Socket> {
    let mut ports: Vec<u16> = facts.setup.listening.iter().map(SocketAddr::port).collect();
    ports.push(facts.serve.dns_port);
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().take(MAX_PORTS).flat_map(procfs::sockets).collect()
}

/// The most ports that are looked at.
const MAX_PORTS: usize = 16;

/// Who has the port of DNS at our addresses.
pub fn port(facts: &Facts) -> Finding {
    let sockets = all_sockets(facts);
    let owners = procfs::owners(&sockets.iter().map(|socket| socket.inode).collect());
    // The one that answers is known even where there was no time to look at all processes.
    let answering = facts.pid().into_iter().chain(facts.supervisor());
    let seen = facts.instances.iter().map(|process| process.pid);
    let ours: HashSet<i32> = seen.chain(answering).collect();
    let (mut problems, mut others, mut held) = (BTreeSet::new(), BTreeSet::new(), 0);
    for socket in &sockets {
        let owners = owners.get(&socket.inode);
        if owners.is_some_and(|owners| owners.iter().any(|owner| ours.contains(&owner.pid))) {
            held += 1;
            continue;
        }
        let who = owners.map_or("a process that cannot be seen from here".to_owned(), |owners| {
            few(owners.iter().map(|owner| format!("{} (process {})", owner.name, owner.pid)))
        });
        let text = format!("{who} has {} over {}", socket.local, socket.protocol);
        let mut at = facts.setup.listening.iter();
        let is_hidden_self = owners.is_none() && facts.status.is_ok();
        match at.any(|ours| ours.port() == socket.local.port() && takes(socket, *ours)) {
            true if is_hidden_self => held += 1,
            true => drop(problems.insert(text)),
            false => drop(others.insert(text)),
        }
    }
    if !problems.is_empty() {
        return Finding::problem(
            few(problems),
            "stop it, give it another address, or write `bind` with addresses that it does not have; of two that share an \
             address, each gets a part of the queries",
        );
    }
    let others =
        if others.is_empty() { String::new() } else { format!("; beside it {}", few(others)) };
    match (held, facts.setup.listening.is_empty()) {
        (0, true) => Finding::skipped("no server block that could be read says where to listen"),
        (0, false) => Finding::ok(format!("the addresses are free{others}")),
        (held, _) => Finding::ok(format!("Nodens has {held} sockets there{others}")),
    }
}

/// Whether the kernel had to drop datagrams, since they were not read in time.
pub fn drops(facts: &Facts) -> Finding {
    let sockets = all_sockets(facts);
    let listening = &facts.setup.listening;
    let ours = sockets.iter().filter(|socket| {
        let mut at = listening.iter();
        at.any(|ours| ours.port() == socket.local.port() && takes(socket, *ours))
    });
    let (mut count, mut lost) = (0, 0);
    for socket in ours {
        count += 1;
        lost += socket.drops;
    }
    match (count, lost) {
        (0, _) => Finding::skipped("nothing listens at the server blocks' addresses"),
        (_, 0) => Finding::ok(format!("no datagram was dropped at {count} sockets")),
        (_, lost) => Finding::warning(
            format!("the kernel dropped {lost} queries that were not read in time"),
            "more workers (--workers) or CPU; a process that is stopped but holds its sockets drops all that it gets (see the \
             check instances)",
        ),
    }
}

/// Whether several instances run that do not hand over to each other.
pub fn instances(facts: &Facts) -> Finding {
    let groups = groups(&facts.instances);
    if groups.is_empty() {
        return Finding::skipped("no process of Nodens can be seen from here");
    }
    let mut found = Vec::new();
    for processes in groups.values() {
        for process in processes.iter().filter(|process| process.is_stopped()) {
            found.push(Finding::problem(
                format!("process {} is stopped by a signal, and keeps its share of the queries unanswered", process.pid),
                "let it continue (kill -CONT PID), or end it (kill -KILL PID)",
            ));
        }
    }
    let told: Vec<(i32, facts::Flags)> = groups
        .iter()
        .filter_map(|(leader, processes)| Some((*leader, facts::Flags::of(processes.first()?)?)))
        .collect();
    for (at, (leader, flags)) in told.iter().enumerate() {
        for (other, theirs) in told.iter().skip(at + 1) {
            if flags.link == theirs.link && flags.addresses != theirs.addresses {
                found.push(Finding::problem(
                    format!(
                        "processes {leader} and {other} want different addresses on {}: {} and {}",
                        flags.link,
                        listed(&flags.addresses),
                        listed(&theirs.addresses)
                    ),
                    "end the one that is not wanted: each takes the other's addresses away",
                ));
            }
        }
    }
    found.extend(shared(facts, &groups));
    if found.is_empty() {
        return Finding::ok(match groups.len() {
            1 => "one instance".to_owned(),
            many => format!("{many} instances, which do not get into each other's way"),
        });
    }
    Finding::worst(found, "")
}

fn listed(addresses: &[IpAddr]) -> String {
    match addresses.is_empty() {
        true => "none".to_owned(),
        false => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// Processes by the first of them: a supervisor and its servers are one instance.
fn groups(instances: &[Process]) -> BTreeMap<i32, Vec<Process>> {
    let mut groups: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in instances {
        let leader = instances.iter().find(|other| other.pid == process.parent);
        groups
            .entry(leader.map_or(process.pid, |leader| leader.pid))
            .or_default()
            .push(process.clone());
    }
    // The supervisor first: its flags are the instance's.
    groups.iter_mut().for_each(|(leader, all)| all.sort_by_key(|one| one.pid != *leader));
    groups
}

/// Instances that have sockets at the same address for longer than a roll-out takes.
fn shared(facts: &Facts, groups: &BTreeMap<i32, Vec<Process>>) -> Vec<Finding> {
    let sockets = all_sockets(facts);
    let owners = procfs::owners(&sockets.iter().map(|socket| socket.inode).collect());
    let mut at: BTreeMap<SocketAddr, BTreeSet<i32>> = BTreeMap::new();
    for socket in &sockets {
        let mine = owners.get(&socket.inode).into_iter().flatten();
        let leaders = mine.filter_map(|owner| {
            let has = |all: &Vec<Process>| all.iter().any(|one| one.pid == owner.pid);
            groups.iter().find(|(_, all)| has(all)).map(|(leader, _)| *leader)
        });
        // A socket that was handed over is open in both, and read by one.
        let leaders: BTreeSet<i32> = leaders.collect();
        if leaders.len() == 1 {
            at.entry(socket.local).or_default().extend(leaders);
        }
    }
    let uptime = procfs::uptime().unwrap_or_default();
    let mut found = Vec::new();
    for (address, leaders) in at.into_iter().filter(|(_, leaders)| leaders.len() > 1) {
        let started = groups.iter().filter(|(leader, _)| leaders.contains(leader));
        let youngest = started.filter_map(|(_, all)| Some(all.first()?.started)).max();
        let age = uptime.saturating_sub(youngest.unwrap_or_default());
        let who = few(leaders.iter().map(ToString::to_string));
        let evidence = format!(
            "instances {who} both have sockets at {address}, the younger for {} s",
            age.as_secs()
        );
        let cure = "give both the same --handover-socket, so that one takes over from the other, or end one";
        found.push(match age > ROLL_OUT {
            true => Finding::problem(evidence, cure),
            false => Finding::warning(evidence, cure),
        });
    }
    found
}
