//! Links and addresses, over rtnetlink.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::observed::{ObservedAddress, ObservedLink};
use crate::spec::{LinkKind, LinkSpec};

/// An rtnetlink connection and the task that drives it.
#[derive(Debug)]
pub(super) struct Route {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Route {
    pub(super) fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// All links with their addresses.
    pub(super) async fn observe(&self) -> Result<Vec<ObservedLink>, Error> {
        let failed = |what: &'static str| move |e| Error::kernel(what, to_io(e));
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("list the links"))?;
        let mut links: Vec<ObservedLink> = messages.iter().map(decode_link).collect();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) =
            addresses.try_next().await.map_err(failed("list the addresses"))?
        {
            let link = links.iter_mut().find(|link| link.index == message.header.index);
            if let (Some(link), Some(address)) = (link, decode_address(&message)) {
                link.addresses.push(address);
            }
        }
        Ok(links)
    }

    /// Makes the link as `kind`, up and without ARP, but not yet marked.
    pub(super) async fn create(&self, spec: &LinkSpec, kind: LinkKind) -> io::Result<()> {
        let kind = match kind {
            LinkKind::Dummy => InfoKind::Dummy,
            LinkKind::Ifb => InfoKind::Ifb,
            LinkKind::Bridge => InfoKind::Bridge,
        };
        let mut builder =
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(spec.name.as_str());
        if let Some(mtu) = spec.mtu {
            builder = builder.mtu(mtu);
        }
        let message = builder.up().arp(false).build();
        self.handle.link().add(message).execute().await.map_err(to_io)
    }

    pub(super) async fn mark(&self, link: &str, alias: &str) -> io::Result<()> {
        self.change(LinkUnspec::new_with_name(link).alias(alias).build()).await
    }

    pub(super) async fn set_mtu(&self, link: &str, mtu: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_name(link).mtu(mtu).build()).await
    }

    pub(super) async fn raise(&self, link: &str) -> io::Result<()> {
        self.change(LinkUnspec::new_with_name(link).up().arp(false).build()).await
    }

    pub(super) async fn delete(&self, link: &str) -> io::Result<()> {
        let index = self.index(link).await?;
        self.handle.link().del(index).execute().await.map_err(to_io)
    }

    pub(super) async fn add_address(&self, link: &str, address: IpAddr) -> io::Result<()> {
        let index = self.index(link).await?;
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            // Without it the address cannot be bound until duplicate-address detection is done (RFC
            // 4862, a second or more).
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(to_io)
    }

    pub(super) async fn remove_address(
        &self,
        link: &str,
        address: IpAddr,
        prefix: u8,
    ) -> io::Result<()> {
        let index = self.index(link).await?;
        let message = match address {
            IpAddr::V4(ip) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(ip, prefix)
                .build(),
            IpAddr::V6(ip) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(ip, prefix)
                .build(),
        };
        self.handle.address().del(message).execute().await.map_err(to_io)
    }

    async fn change(&self, message: LinkMessage) -> io::Result<()> {
        self.handle.link().change(message).execute().await.map_err(to_io)
    }

    async fn index(&self, link: &str) -> io::Result<u32> {
        let mut found = self.handle.link().get().match_name(link).execute();
        let message = found.try_next().await.map_err(to_io)?;
        message.map(|m| m.header.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }
}

fn decode_link(message: &LinkMessage) -> ObservedLink {
    let mut link = ObservedLink {
        index: message.header.index,
        name: String::new(),
        kind: None,
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        noarp: message.header.flags.contains(LinkFlags::Noarp),
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.clone(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// `None` for a message without an address.
fn decode_address(message: &AddressMessage) -> Option<ObservedAddress> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer's, so IFA_LOCAL counts where there
            // is one.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unusable = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        && !flags.contains(AddressFlags::Optimistic);
    Some(ObservedAddress { ip: local.or(peer)?, prefix: message.header.prefix_len, unusable })
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
