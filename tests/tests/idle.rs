//! What a query finds when it wakes a worker: no timer to take away, and no event but its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::poll::wait_for;
use tests::process::{Nodens, Setup};

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    whoami
}
";
const DEADLINE: Duration = Duration::from_secs(20);
/// `EPOLLOUT` of Linux.
const WRITABLE: u32 = 4;

fn start() -> Nodens {
    let nodens = Setup::new(COREFILE).start();
    nodens.client().ask("www.test.", RecordType::A).expect("an answer");
    nodens
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The time-out of the call that a thread waits in, if that is `epoll_wait` or `epoll_pwait`: both have it in fourth place.
fn time_out(thread: &Path) -> Option<i32> {
    let text = fs::read_to_string(thread.join("syscall")).ok()?;
    let word = text.split_whitespace().nth(4)?.trim_start_matches("0x").to_owned();
    Some(u64::from_str_radix(&word, 16).ok()? as i32)
}

#[test]
fn a_worker_that_waits_for_queries_sets_no_timer() {
    let nodens = start();
    let process = PathBuf::from(format!("/proc/{}", nodens.server()));
    let workers: Vec<PathBuf> = entries(&process.join("task"))
        .filter(|thread| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("dns-"))
        })
        .collect();
    assert!(!workers.is_empty());
    if fs::read_to_string(process.join("syscall")).is_err() {
        eprintln!("SKIPPED: this kernel does not show what a thread waits for");
        return;
    }
    for worker in workers {
        wait_for("a worker that waits without a time-out", DEADLINE, || {
            time_out(&worker) == Some(-1)
        });
    }
}

#[test]
fn a_reply_that_has_left_wakes_nobody() {
    let nodens = start();
    let process = PathBuf::from(format!("/proc/{}", nodens.server()));
    let port = format!(":{:04X}", nodens.dns().port());
    let table = fs::read_to_string("/proc/net/udp").expect("the kernel's table of sockets");
    let sockets: BTreeSet<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1).is_some_and(|local| local.ends_with(&port)))
        .map(|words| format!("socket:[{}]", words[9]))
        .collect();
    let mut watched = BTreeSet::new();
    for descriptor in entries(&process.join("fd")) {
        let number = descriptor.file_name().unwrap_or_default().to_owned();
        // Of an epoll descriptor: `tfd: 9 events: 80002001 ...` for each that it watches; of any other, no such line.
        let info = fs::read_to_string(process.join("fdinfo").join(number)).unwrap_or_default();
        for line in info.lines().filter(|line| line.starts_with("tfd:")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let target = fs::read_link(process.join("fd").join(words[1])).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            if sockets.contains(&target) {
                watched.insert(target);
                let events = u32::from_str_radix(words[3], 16).expect("events");
                assert_eq!(events & WRITABLE, 0, "{line}");
            }
        }
    }
    assert!(!sockets.is_empty());
    assert_eq!(watched, sockets, "every socket is watched by its worker");
}
