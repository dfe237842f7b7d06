//! What is counted for the process as a whole, and not by one of its parts.

use std::sync::{Mutex, PoisonError};

use super::scrape::{Scrape, Source};
use super::{Counter, names};
use crate::version;

/// Numbers of the process as a whole.
#[derive(Debug, Default)]
pub struct Common {
    /// Panics.
    pub panics: Counter,
    /// Reloads that failed.
    pub reload_failed: Counter,
    setup_errors: [Counter; SetupError::ALL.len()],
    /// Of the running configuration: the name of the hash, and its value.
    version: Mutex<Option<(&'static str, String)>>,
}

/// What can go wrong when the node's network is set up; the labels are those of NodeLocal DNSCache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The rules that keep queries out of connection tracking.
    Rules,
    /// Waiting for another process's lock on the rules; never, since none is taken.
    RulesLock,
    /// Making the interface, or giving it its addresses.
    InterfaceAdd,
    /// Looking the interface up.
    InterfaceCheck,
    /// Reading the configuration that is rendered into the Corefile.
    ConfigMap,
}

impl SetupError {
    const ALL: [Self; 5] =
        [Self::Rules, Self::RulesLock, Self::InterfaceAdd, Self::InterfaceCheck, Self::ConfigMap];

    fn label(self) -> &'static str {
        match self {
            Self::Rules => "iptables",
            Self::RulesLock => "iptables_lock",
            Self::InterfaceAdd => "interface_add",
            Self::InterfaceCheck => "interface_check",
            Self::ConfigMap => "configmap",
        }
    }
}

impl Common {
    /// Counts a failure to set the node's network up.
    pub fn setup_error(&self, kind: SetupError) {
        if let Some(counter) = self.setup_errors.get(kind as usize) {
            counter.add(1);
        }
    }

    /// Sets which configuration runs: the name of a hash, as `sha512`, and its value in hexadecimal digits.
    pub fn set_version(&self, hash: &'static str, value: String) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some((hash, value));
    }
}

impl Source for Common {
    fn collect(&self, out: &mut Scrape) {
        // CoreDNS has its compiler here, and dashboards print it.
        let compiler = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
        out.gauge(&names::BUILD_INFO, &[version::VERSION, version::revision(), compiler], 1.0);
        out.count(&names::PANICS, &[], self.panics.value());
        out.count(&names::RELOAD_FAILED, &[], self.reload_failed.value());
        for (kind, counter) in SetupError::ALL.into_iter().zip(&self.setup_errors) {
            out.count(&names::NODECACHE_SETUP_ERRORS, &[kind.label()], counter.value());
        }
        let version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((hash, value)) = version.as_ref() {
            out.gauge(&names::RELOAD_VERSION_INFO, &[hash, value], 1.0);
        }
    }
}
