//! Addresses that are ours: an upstream among them would be asked by itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The addresses that this process answers on, shared by all who choose upstreams. Cheap to clone.
///
/// The server sets what it listens on whenever that changes: addresses and ports of sockets, link-local addresses that we
/// create, and a ClusterIP that we have taken over.
#[derive(Clone, Default)]
pub struct OwnAddresses {
    listening: Arc<ArcSwap<Vec<SocketAddr>>>,
}

impl OwnAddresses {
    /// No addresses yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all. Port 0 stands for every port, an unspecified address for every address of this host.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        self.listening.store(Arc::new(addresses));
    }

    /// What was set.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.listening.load_full()
    }

    /// True where a query to `address` would come back to us without leaving the host.
    pub fn contains(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let mut local = None;
        self.listening.load().iter().any(|own| {
            let port = own.port() == 0 || own.port() == address.port();
            let own = own.ip().to_canonical();
            let same =
                own == ip || own.is_unspecified() && *local.get_or_insert_with(|| is_local(ip));
            port && same
        })
    }
}

/// True where no answer can ever come from: unspecified, broadcast and multicast addresses.
pub fn is_nowhere(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255])
}

/// True for loopback addresses and those of the host's interfaces.
fn is_local(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
        v4 == Some(ip) || v6 == Some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_addresses_are_found() {
        let own = OwnAddresses::new();
        let is_own = |text: &str| own.contains(text.parse().unwrap());
        assert!(!is_own("169.254.20.10:53"));
        own.set(["169.254.20.10:53", "10.96.0.10:0"].map(|text| text.parse().unwrap()).to_vec());
        assert!(
            is_own("169.254.20.10:53")
                && is_own("10.96.0.10:5353")
                && is_own("[::ffff:169.254.20.10]:53")
        );
        assert!(!is_own("169.254.20.10:54") && !is_own("127.0.0.1:53"));
        own.set(vec!["0.0.0.0:53".parse().unwrap()]);
        assert!(is_own("127.0.0.53:53") && is_own("127.0.0.1:53") && !is_own("127.0.0.1:54"));
        assert!(!is_own("198.51.100.1:53"));
    }
}
