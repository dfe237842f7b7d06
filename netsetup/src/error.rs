//! Errors of the kernel, with what an operator can do about them.

use std::io;

use thiserror::Error;

use crate::spec::LinkKind;

/// A request to the kernel that failed.
///
/// Errors hold the kernel's errno as `source` where there is one; the message explains it.
#[derive(Debug, Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {source}")]
    Socket {
        /// The errno.
        source: io::Error,
    },
    /// EPERM.
    #[error(
        "{action}: not permitted: the process lacks CAP_NET_ADMIN in this network namespace (in \
         Kubernetes: add NET_ADMIN to securityContext.capabilities and set hostNetwork: true)"
    )]
    Permission {
        /// What was tried.
        action: String,
    },
    /// EOPNOTSUPP on making a link.
    #[error(
        "the kernel has no {kind} driver: load it on the node (modprobe {kind}), or choose \
         another kind of link, or set up the interface by other means and switch it off here"
    )]
    NoLinkDriver {
        /// The kind that is missing.
        kind: LinkKind,
    },
    /// The kernel has no IPv6, or it is switched off on the link.
    #[error(
        "{action}: IPv6 is switched off on this node: enable it (sysctl \
         net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.default.disable_ipv6, boot parameter \
         ipv6.disable) or remove the IPv6 addresses from the configuration"
    )]
    Ipv6Off {
        /// What was tried.
        action: String,
    },
    /// The kernel cannot do nftables.
    #[error(
        "{action}: the kernel has no nftables for the inet family: load it on the node (modprobe \
         nf_tables, modprobe nft_ct), or switch the notrack rules off"
    )]
    NoNftables {
        /// What was tried.
        action: String,
    },
    /// Any other errno.
    #[error("{action}: {source}")]
    Kernel {
        /// What was tried.
        action: String,
        /// The errno.
        source: io::Error,
    },
    /// A reply that makes no sense.
    #[error("{action}: cannot understand the kernel's reply: {reason}")]
    Reply {
        /// What was tried.
        action: String,
        /// What was wrong with it.
        reason: String,
    },
}

impl Error {
    /// Explains `source`, which came from trying `action`.
    pub(crate) fn kernel(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::Permission { action },
            _ => Self::Kernel { action, source },
        }
    }

    /// Whether the link that the request was about is not there.
    pub(crate) fn is_of_missing_link(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }

    /// The same as [`Error::kernel`] for an address, where EACCES and EOPNOTSUPP mean that IPv6 is off.
    pub(crate) fn address(action: impl Into<String>, is_ipv6: bool, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if is_ipv6 => {
                Self::Ipv6Off { action }
            }
            _ => Self::kernel(action, source),
        }
    }

    /// The same for making a link.
    pub(crate) fn link(kind: LinkKind, action: impl Into<String>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::NoLinkDriver { kind },
            _ => Self::kernel(action, source),
        }
    }

    /// The same for nftables. The generic layer answers EINVAL if no module serves the subsystem.
    pub(crate) fn nftables(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EINVAL) => {
                Self::NoNftables { action }
            }
            _ => Self::kernel(action, source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn errnos_become_explanations() {
        let e = Error::kernel("make link nodelocaldns", errno(libc::EPERM)).to_string();
        assert!(e.contains("CAP_NET_ADMIN") && e.contains("make link nodelocaldns"), "{e}");
        let e = Error::link(LinkKind::Dummy, "make link", errno(libc::EOPNOTSUPP)).to_string();
        assert!(e.contains("modprobe dummy"), "{e}");
        let e = Error::address("add fd00::10", true, errno(libc::EACCES)).to_string();
        assert!(e.contains("disable_ipv6"), "{e}");
        let e = Error::address("add 169.254.20.10", false, errno(libc::EACCES)).to_string();
        assert!(!e.contains("IPv6"), "{e}");
        let e = Error::nftables("write table", errno(libc::EPROTONOSUPPORT)).to_string();
        assert!(e.contains("modprobe nf_tables"), "{e}");
    }
}
