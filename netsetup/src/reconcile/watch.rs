//! The kernel's notifications about links, addresses and nftables, reduced to "something of ours
//! changed".
//!
//! A busy node has a lot of them that are not ours (every pod's veth, every rule of kube-proxy), so
//! each is looked at before anything is read from the kernel.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, NfTablesMessage, RuleAttribute, TableAttribute,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;

use crate::error::Error;
use crate::kernel::decode_link;
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

/// netlink-sys' socket says nothing about itself.
struct TokioSocketDebug(TokioSocket);

impl std::fmt::Debug for TokioSocketDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokioSocket").finish()
    }
}

impl Watch {
    /// Begins to listen.
    pub(super) fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let mask = groups
            .iter()
            .fold(0, |mask, &group| mask | 1 << (group as u32 - 1));
        let route = socket(NETLINK_ROUTE, mask).map_err(|source| Error::Socket { source })?;
        let netfilter = socket(NETLINK_NETFILTER, 1 << (NFNLGRP_NFTABLES - 1));
        if let Err(error) = &netfilter {
            tracing::warn!(%error, "cannot hear changes of nftables, looking at each interval only");
        }
        Ok(Self {
            route,
            netfilter: netfilter.ok(),
            index: None,
        })
    }

    /// Learns the number of the link, so that the addresses of other links can be told from those
    /// of ours.
    pub(super) fn follow(&mut self, desired: &Desired) {
        let name = desired.link.as_ref().map(|spec| spec.name.as_str());
        self.index = name.and_then(|name| nix::net::if_::if_nametoindex(name).ok());
    }

    /// Waits for a notification about something of ours. Notifications that were lost count as one.
    pub(super) async fn changed(&mut self, desired: &Desired) {
        loop {
            let ours = tokio::select! {
                datagram = self.route.0.recv_from_full() => match datagram {
                    Ok((bytes, _)) => self.is_our_route(&bytes, desired),
                    Err(error) => is_loss(&error),
                },
                datagram = receive(self.netfilter.as_ref()) => match datagram {
                    Ok(bytes) => is_our_table(&bytes),
                    Err(error) => is_loss(&error),
                },
            };
            if ours {
                return;
            }
        }
    }

    fn is_our_route(&mut self, datagram: &[u8], desired: &Desired) -> bool {
        let Some(name) = desired.link.as_ref().map(|spec| spec.name.as_str()) else {
            return false;
        };
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            // Better one look too many.
            return true;
        };
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            return false;
        };
        match message {
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
                let link = decode_link(&message);
                if link.name == name {
                    self.index = Some(link.index);
                }
                // By number as well: it may have been renamed.
                link.name == name || link.name == IPVS_LINK || self.index == Some(link.index)
            }
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                self.index.is_none_or(|index| index == message.header.index)
            }
            _ => false,
        }
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

/// The kernel drops notifications when the buffer is full and says so once.
fn is_loss(error: &io::Error) -> bool {
    if error.raw_os_error() == Some(libc::ENOBUFS) {
        return true;
    }
    tracing::debug!(%error, "cannot receive notifications");
    false
}

/// Every nftables notification begins with the name of its table.
fn is_our_table(mut datagram: &[u8]) -> bool {
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(datagram) else {
            return true;
        };
        if let NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::NfTables(inner),
            ..
        }) = &message.payload
            && mentions_our_table(inner)
        {
            return true;
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    false
}

fn mentions_our_table(message: &NfTablesMessage) -> bool {
    match message {
        NfTablesMessage::NewTable(m) | NfTablesMessage::DeleteTable(m) => m
            .attributes
            .iter()
            .any(|a| matches!(a, TableAttribute::Name(name) if name == TABLE)),
        NfTablesMessage::NewChain(m) | NfTablesMessage::DeleteChain(m) => m
            .attributes
            .iter()
            .any(|a| matches!(a, ChainAttribute::Table(name) if name == TABLE)),
        NfTablesMessage::NewRule(m) | NfTablesMessage::DeleteRule(m) => m
            .attributes
            .iter()
            .any(|a| matches!(a, RuleAttribute::Table(name) if name == TABLE)),
        _ => false,
    }
}

const NFNLGRP_NFTABLES: u32 = 7;
