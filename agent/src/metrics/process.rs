//! `process_*`: what every Prometheus client says of its process, read from /proc at each scrape. What cannot be read is left
//! out.

use std::fs;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::names;
use super::scrape::{Scrape, Source};

/// The unit of times in /proc, 1/100 s on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// This process.
#[derive(Debug, Default)]
pub struct Process;

impl Source for Process {
    fn collect(&self, out: &mut Scrape) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = Stat::parse(&read("/proc/self/stat"));
        if let Some(ticks) = stat.cpu_ticks {
            out.count_f64(&names::PROCESS_CPU, &[], ticks as f64 / TICKS_PER_SECOND);
        }
        if let (Some(booted), Some(started)) = (boot_time(&read("/proc/stat")), stat.started_ticks)
        {
            out.gauge(
                &names::PROCESS_START_TIME,
                &[],
                booted as f64 + started as f64 / TICKS_PER_SECOND,
            );
        }
        let status = read("/proc/self/status");
        for (family, key, unit) in [
            (&names::PROCESS_RESIDENT_MEMORY, "VmRSS:", 1024.0),
            (&names::PROCESS_VIRTUAL_MEMORY, "VmSize:", 1024.0),
            (&names::PROCESS_THREADS, "Threads:", 1.0),
        ] {
            if let Some(value) = status_value(&status, key) {
                out.gauge(family, &[], value as f64 * unit);
            }
        }
        let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(limit, _)| limit as f64);
        let open = match fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            Ok(open) => Some(open.count().saturating_sub(1) as f64),
            // None is left to count them with.
            Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => limit,
            Err(_) => None,
        };
        for (family, value) in [(&names::PROCESS_OPEN_FDS, open), (&names::PROCESS_MAX_FDS, limit)]
        {
            if let Some(value) = value {
                out.gauge(family, &[], value);
            }
        }
    }
}

/// What we want of /proc/self/stat.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stat {
    cpu_ticks: Option<u64>,
    started_ticks: Option<u64>,
}

impl Stat {
    fn parse(text: &str) -> Self {
        // The command's name stands in parentheses and may hold anything, parentheses and spaces too.
        let Some((_, rest)) = text.rsplit_once(')') else { return Self::default() };
        let field =
            |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok();
        // Numbers as in proc(5): 14 and 15 are user and system time, 22 is the start.
        let cpu_ticks =
            field(14).zip(field(15)).and_then(|(user, system)| user.checked_add(system));
        Self { cpu_ticks, started_ticks: field(22) }
    }
}

fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn status_value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat =
            "7 (a) b) (c) S 1 7 7 0 -1 4194304 5 0 0 0 250 50 0 0 20 0 4 0 12345 1000 200 184 0";
        assert_eq!(Stat::parse(stat), Stat { cpu_ticks: Some(300), started_ticks: Some(12345) });
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
        assert_eq!(status_value("VmRSS:\t  7300 kB\nThreads:\t4\n", "VmRSS:"), Some(7_300));
    }

    #[test]
    fn this_process_has_them_all() {
        let metrics = crate::metrics::Metrics::new();
        let text = metrics.text(crate::metrics::Format::Prometheus);
        for family in names::ALL.iter().filter(|family| family.name.starts_with("process_")) {
            assert!(text.contains(&format!("\n{} ", family.name)), "{}", family.name);
        }
    }

    proptest::proptest! {
        #[test]
        fn odd_files_are_only_silent(text in "\\PC{0,200}", numbers in "(-?[0-9]{0,25} ?|\\)){0,40}") {
            let _ = (Stat::parse(&text), Stat::parse(&numbers), boot_time(&text), status_value(&text, "VmRSS:"));
        }
    }
}
