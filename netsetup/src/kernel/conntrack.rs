//! Is connection tracking in use here?
//!
//! Loaded modules prove little: in each network namespace the kernel registers its
//! hooks only when a rule (`ct state`, NAT, `-m conntrack`) or IPVS asks for them. So the hooks are
//! looked for: nfnetlink lists them (Linux 5.14, `CONFIG_NETFILTER_NETLINK_HOOK`). Without that
//! list the number of tracked connections decides, which is zero only as long as nothing at all was
//! said on a node.

use std::fs;

use netlink_packet_core::DefaultNla;
use netlink_packet_core::Nla;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};

use super::nfnetlink::exchange;
use crate::nft::Request;
use crate::observed::Conntrack;

pub(super) fn observe() -> Conntrack {
    // No IPv6 in the kernel is no reason to fall back.
    let v6 = || is_hooked(NetfilterProtoFamily::IPv6).unwrap_or(false);
    let hooked = is_hooked(NetfilterProtoFamily::IPv4).map(|v4| v4 || v6());
    if hooked.unwrap_or_else(has_entries) { Conntrack::InUse } else { Conntrack::Idle }
}

/// Whether connection tracking has a hook at prerouting; `None` if the kernel does not report it.
fn is_hooked(family: NetfilterProtoFamily) -> Option<bool> {
    let hook = DefaultNla::new(
        NFNLA_HOOK_HOOKNUM,
        (libc::NF_INET_PRE_ROUTING as u32).to_be_bytes().to_vec(),
    );
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Other(NFNL_SUBSYS_HOOK),
        message_type: NFNL_MSG_HOOK_GET,
        attributes: vec![hook],
    };
    let replies = exchange(vec![Request::dump(NetfilterMessage::new(
        NetfilterHeader::new(family, 0, 0),
        inner,
    ))])
    .ok()?;
    Some(replies.iter().any(is_conntrack))
}

fn is_conntrack(reply: &NetfilterMessage) -> bool {
    let NetfilterMessageInner::Other { attributes, .. } = &reply.inner else {
        return false;
    };
    let value = |kind: u16| {
        let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut bytes = vec![0; attribute.value_len()];
        attribute.emit_value(&mut bytes);
        Some(bytes)
    };
    let named = |kind: u16| {
        value(kind).is_some_and(|text| String::from_utf8_lossy(&text).contains("conntrack"))
    };
    // Defragmentation has "conntrack" in its name too, but another priority, and others use it.
    let priority =
        value(NFNLA_HOOK_PRIORITY).is_some_and(|bytes| bytes == NF_IP_PRI_CONNTRACK.to_be_bytes());
    priority && (named(NFNLA_HOOK_FUNCTION_NAME) || named(NFNLA_HOOK_MODULE_NAME))
}

fn has_entries() -> bool {
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok();
    count.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
}

// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_hook.h
const NFNL_SUBSYS_HOOK: u8 = 12;
const NFNL_MSG_HOOK_GET: u8 = 0;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_PRIORITY: u16 = 2;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;
const NFNLA_HOOK_MODULE_NAME: u16 = 5;
const NF_IP_PRI_CONNTRACK: i32 = -200;
