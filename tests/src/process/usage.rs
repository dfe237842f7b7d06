//! What a running binary takes of the machine, as `/proc` says of its server.

use std::time::Duration;

use super::Nodens;

impl Nodens {
    /// Resident memory now, in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    /// The most resident memory so far, in bytes.
    #[must_use]
    pub fn peak_resident(&self) -> u64 {
        self.status_field("VmHWM:")
    }

    /// Open file descriptors.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.server())).map_or(0, Iterator::count)
    }

    /// CPU time used so far, user and system.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.server())).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 =
            after.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that this runs on.
        Duration::from_millis(ticks * 10)
    }

    fn status_field(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.server())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}
