//! The kernel's notifications about links, addresses and nftables, reduced to "something that Nodens owns
//! changed".
//!
//! A busy node has a lot of others (every pod's veth, every rule of kube-proxy), so
//! each is looked at before anything is read from the kernel.

use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;

use crate::error::Error;
use crate::nft::TABLE;
use crate::observed::IPVS_LINK;
use crate::spec::Desired;

/// The two sockets that hear of changes.
#[derive(Debug)]
pub(super) struct Watch {
    route: TokioSocketDebug,
    /// `None` without CAP_NET_ADMIN or nftables; rules are then looked after at the interval only.
    netfilter: Option<TokioSocketDebug>,
    /// The number of our link as last heard, since address messages carry no name.
    index: Option<u32>,
}

/// netlink-sys' socket has no `Debug`.
struct TokioSocketDebug(TokioSocket);

impl std::fmt::Debug for TokioSocketDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokioSocket").finish()
    }
}

impl Watch {
    /// Begins to listen.
    pub(super) fn open() -> Result<Self, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let mask = groups.iter().fold(0, |mask, &group| mask | 1 << (group as u32 - 1));
        let route = socket(NETLINK_ROUTE, mask).map_err(|source| Error::Socket { source })?;
        let netfilter = socket(NETLINK_NETFILTER, 1 << (NFNLGRP_NFTABLES - 1));
        if let Err(error) = &netfilter {
            tracing::warn!(%error, "changes of nftables are not reported; they are noticed at each interval only");
        }
        Ok(Self { route, netfilter: netfilter.ok(), index: None })
    }

    /// Learns the number of the link, so that its addresses can be distinguished from those
    /// of other links.
    pub(super) fn follow(&mut self, desired: &Desired) {
        let name = desired.link.as_ref().map(|spec| spec.name.as_str());
        self.index = name.and_then(|name| nix::net::if_::if_nametoindex(name).ok());
    }

    /// Waits for a notification about something that Nodens owns. Lost notifications count as one.
    pub(super) async fn changed(&mut self, desired: &Desired) {
        loop {
            let ours = tokio::select! {
                datagram = self.route.0.recv_from_full() => match datagram {
                    Ok((bytes, _)) => self.is_our_route(&bytes, desired),
                    Err(error) => lost(&error),
                },
                datagram = receive(self.netfilter.as_ref()) => match datagram {
                    Ok(bytes) => is_our_table(&bytes),
                    Err(error) => lost(&error),
                },
            };
            if ours {
                return;
            }
        }
    }

    fn is_our_route(&mut self, datagram: &[u8], desired: &Desired) -> bool {
        let Some(spec) = &desired.link else {
            return false;
        };
        let name = spec.name.as_str();
        let mut ours = false;
        for notice in Notices(datagram) {
            match notice.kind {
                RTM_NEWLINK | RTM_DELLINK => {
                    let index = notice.link_index();
                    let named = notice.contains(LINK_HEADER, IFLA_IFNAME, name);
                    if named {
                        self.index = index;
                    }
                    // By number as well: it may have been renamed.
                    ours |= named
                        || (index.is_some() && index == self.index)
                        || notice.contains(LINK_HEADER, IFLA_IFNAME, IPVS_LINK);
                }
                RTM_NEWADDR | RTM_DELADDR => {
                    ours |= self.index.is_none() || notice.link_index() == self.index;
                }
                _ => {}
            }
        }
        ours
    }
}

async fn receive(socket: Option<&TokioSocketDebug>) -> io::Result<Vec<u8>> {
    match socket {
        Some(socket) => socket.0.recv_from_full().await.map(|(bytes, _)| bytes),
        None => std::future::pending().await,
    }
}

fn socket(protocol: isize, groups: u32) -> io::Result<TokioSocketDebug> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(TokioSocketDebug(socket))
}

/// The kernel drops notifications when the buffer is full and says so once (ENOBUFS). Whatever the
/// error is, something may have been missed.
fn lost(error: &io::Error) -> bool {
    tracing::debug!(%error, "notifications were lost");
    true
}

/// Whether a table, chain or rule of our table is in the notifications. Sets and their elements, of
/// which kube-proxy announces thousands, do not matter here.
fn is_our_table(datagram: &[u8]) -> bool {
    Notices(datagram).any(|notice| {
        let [message, subsystem] = notice.kind.to_le_bytes();
        subsystem == libc::NFNL_SUBSYS_NFTABLES as u8
            && message <= NFT_MSG_DELRULE
            && notice.contains(NFGEN_HEADER, NFTA_TABLE_NAME, TABLE)
    })
}

/// The messages of a datagram, as far as they have to be understood here. Others' objects have
/// attributes that the packet crates may not know, and a notification that cannot be decoded would
/// cost a look at the kernel each time; so only the attribute that names the owner is read.
struct Notices<'a>(&'a [u8]);

struct Notice<'a> {
    kind: u16,
    payload: &'a [u8],
}

impl<'a> Iterator for Notices<'a> {
    type Item = Notice<'a>;

    fn next(&mut self) -> Option<Notice<'a>> {
        let message = self.0;
        let length = u32_at(message, 0)? as usize;
        let kind = message.get(4..6)?.try_into().map(u16::from_ne_bytes).ok()?;
        let payload = message.get(NETLINK_HEADER..length)?;
        self.0 = message.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Notice { kind, payload })
    }
}

impl Notice<'_> {
    /// The link's number, which has the same place in the headers of link and address messages.
    fn link_index(&self) -> Option<u32> {
        u32_at(self.payload, 4)
    }

    /// Whether the attribute `kind` after a header of `header` bytes is `text`.
    fn contains(&self, header: usize, kind: u16, text: &str) -> bool {
        let attributes = self.payload.get(header..).unwrap_or_default();
        NlasIterator::new(attributes).map_while(Result::ok).any(|attribute| {
            let value = attribute.value();
            attribute.kind() == kind && value.strip_suffix(&[0]).unwrap_or(value) == text.as_bytes()
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().map(u32::from_ne_bytes).ok()
}

const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
const RTM_DELADDR: u16 = libc::RTM_DELADDR;
const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
/// The first attribute of tables, chains and rules alike is the name of the table.
const NFTA_TABLE_NAME: u16 = 1;
/// The last of the message types that concern tables (0 to 2), chains and rules.
const NFT_MSG_DELRULE: u8 = 8;
/// Bytes of `nlmsghdr`, `ifinfomsg` and `nfgenmsg`.
const NETLINK_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of type `kind` with `header` bytes and one text attribute.
    fn message(kind: u16, header: &[u8], attribute: u16, text: &str) -> Vec<u8> {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        let mut payload = header.to_vec();
        payload.extend((value.len() as u16 + 4).to_ne_bytes());
        payload.extend(attribute.to_ne_bytes());
        payload.extend(&value);
        let mut bytes = (NETLINK_HEADER as u32 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(NETLINK_HEADER, 0);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn nft(message_type: u8, table: &str) -> Vec<u8> {
        let kind = u16::from_le_bytes([message_type, libc::NFNL_SUBSYS_NFTABLES as u8]);
        message(kind, &[1, 0, 0, 0], NFTA_TABLE_NAME, table)
    }

    #[test]
    fn only_our_table_counts() {
        assert!(is_our_table(&nft(2, "nodens")));
        assert!(is_our_table(&[nft(6, "kube-proxy"), nft(8, "nodens")].concat()));
        assert!(!is_our_table(&nft(6, "kube-proxy")));
        assert!(!is_our_table(&nft(12, "nodens")), "a set element");
        assert!(!is_our_table(&nft(6, "nodens-2")));
    }

    #[test]
    fn torn_datagrams_are_no_danger() {
        let whole = [nft(6, "kube-proxy"), nft(8, "nodens")].concat();
        for length in 0..whole.len() {
            is_our_table(&whole[..length]);
        }
        assert_eq!(Notices(&[0; 64]).count(), 0);
        assert_eq!(Notices(&[0xff; 64]).count(), 0);
    }

    #[test]
    fn a_links_name_is_found() {
        let bytes = message(RTM_NEWLINK, &[0; LINK_HEADER], IFLA_IFNAME, "nodelocaldns");
        let notice = Notices(&bytes).next().unwrap();
        assert!(notice.contains(LINK_HEADER, IFLA_IFNAME, "nodelocaldns"));
        assert!(!notice.contains(LINK_HEADER, IFLA_IFNAME, "nodelocaldn"));
        assert_eq!(notice.link_index(), Some(0));
    }
}
