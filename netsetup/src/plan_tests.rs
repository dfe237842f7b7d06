//! Decisions, without a kernel.

use super::*;
use crate::spec::NotrackSpec;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn desired() -> Desired {
    Desired::new(LinkName::default(), vec![ip("169.254.20.10"), ip("fd00::10")])
}

fn address(text: &str, prefix: u8) -> ObservedAddress {
    ObservedAddress { ip: ip(text), prefix, unusable: false }
}

/// The link as it is after everything was applied.
fn settled() -> ObservedLink {
    ObservedLink {
        index: 7,
        name: "nodelocaldns".into(),
        kind: Some("dummy".into()),
        alias: Some("nodens node-local DNS".into()),
        mtu: 1500,
        up: true,
        noarp: true,
        addresses: vec![
            address("169.254.20.10", 32),
            address("fd00::10", 128),
            address("fe80::1", 64),
        ],
    }
}

fn with(link: ObservedLink) -> Observed {
    Observed { links: vec![link], ..Observed::default() }
}

fn texts(operations: &[Operation]) -> Vec<String> {
    operations.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_there() {
    let operations = plan(&desired(), &Observed::default()).unwrap();
    assert_eq!(
        texts(&operations),
        [
            "create dummy link nodelocaldns",
            "add address 169.254.20.10 to link nodelocaldns",
            "add address fd00::10 to link nodelocaldns",
        ]
    );
}

#[test]
fn everything_there() {
    assert_eq!(plan(&desired(), &with(settled())).unwrap(), []);
}

#[test]
fn mended_piece_by_piece() {
    let mut link = settled();
    link.up = false;
    link.addresses =
        vec![address("fd00::10", 128), address("169.254.20.11", 32), address("10.0.0.1", 24)];
    let mut want = desired();
    want.link.as_mut().unwrap().mtu = Some(9000);
    assert_eq!(
        texts(&plan(&want, &with(link)).unwrap()),
        [
            "set the MTU of link nodelocaldns to 9000",
            "set link nodelocaldns up, without ARP",
            "add address 169.254.20.10 to link nodelocaldns",
            "remove address 169.254.20.11/32 from link nodelocaldns",
        ]
    );
}

#[test]
fn an_address_stuck_in_duplicate_detection_is_added_anew() {
    let mut link = settled();
    link.addresses[1].unusable = true;
    assert_eq!(
        texts(&plan(&desired(), &with(link)).unwrap()),
        [
            "remove address fd00::10/128 from link nodelocaldns",
            "add address fd00::10 to link nodelocaldns"
        ]
    );
}

#[test]
fn node_caches_link_is_adopted_and_cleaned() {
    let mut link = settled();
    link.alias = None;
    link.up = false;
    link.addresses = vec![address("169.254.20.10", 32), address("10.96.0.10", 32)];
    assert_eq!(
        texts(&plan(&desired(), &with(link)).unwrap()),
        [
            "adopt link nodelocaldns (alias \"nodens node-local DNS\")",
            "set link nodelocaldns up, without ARP",
            "add address fd00::10 to link nodelocaldns",
            "remove address 10.96.0.10/32 from link nodelocaldns",
        ]
    );
}

#[test]
fn links_of_others_are_refused() {
    let refused = |want: &Desired, change: &dyn Fn(&mut ObservedLink)| {
        let mut link = settled();
        link.alias = None;
        change(&mut link);
        plan(want, &with(link)).unwrap_err().to_string()
    };
    let text = refused(&desired(), &|link| link.alias = Some("vips".into()));
    assert!(text.contains("its alias is \"vips\""), "{text}");
    let text = refused(&desired(), &|link| link.alias = Some("nodensity".into()));
    assert!(text.contains("alias"), "{text}");
    let text = refused(&desired(), &|link| link.addresses.push(address("192.0.2.1", 24)));
    assert!(text.contains("192.0.2.1/24"), "{text}");
    let text = refused(&desired(), &|link| link.kind = Some("veth".into()));
    assert!(text.contains("veth"), "{text}");
    // Service addresses on a dummy of some other name are foreign, though they are /32.
    let mut want = desired();
    want.link.as_mut().unwrap().name = "dummy0".parse().unwrap();
    let text = refused(&want, &|link| {
        link.name = "dummy0".into();
        link.addresses = vec![address("192.0.2.1", 32)];
    });
    assert!(text.contains("192.0.2.1/32"), "{text}");
}

#[test]
fn another_kind_or_name_of_ours_is_replaced() {
    let mut link = settled();
    link.kind = Some("ifb".into());
    let texts_of = |want: &Desired, link: ObservedLink| texts(&plan(want, &with(link)).unwrap());
    assert_eq!(
        texts_of(&desired(), link.clone())[..2],
        ["delete link nodelocaldns", "create dummy link nodelocaldns"]
    );
    let mut want = desired();
    want.link.as_mut().unwrap().fallback = Some(LinkKind::Ifb);
    assert_eq!(texts_of(&want, link), Vec::<String>::new());
    let mut link = settled();
    link.name = "old".into();
    assert_eq!(
        texts_of(&desired(), link)[..2],
        ["delete link old", "create dummy link nodelocaldns"]
    );
}

#[test]
fn ipvs_is_refused_for_cluster_ips_only() {
    let mut ipvs = settled();
    ipvs.name = IPVS_LINK.into();
    ipvs.alias = None;
    ipvs.addresses = vec![address("10.96.0.10", 32)];
    let observed = with(ipvs);
    let mut want = desired();
    assert!(plan(&want, &observed).is_ok());
    want.addresses.push(ip("10.96.0.10"));
    assert_eq!(plan(&want, &observed), Err(Refusal::Ipvs { address: ip("10.96.0.10") }));
    *want.addresses.last_mut().unwrap() = ip("10.96.0.11");
    assert!(plan(&want, &observed).is_ok());
    want.cluster_ips = vec![ip("10.96.0.11")];
    assert_eq!(plan(&want, &observed), Err(Refusal::Ipvs { address: ip("10.96.0.11") }));
}

#[test]
fn impossible_addresses_are_refused() {
    for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
        let want = Desired::new(LinkName::default(), vec![ip(bad)]);
        assert!(matches!(plan(&want, &Observed::default()), Err(Refusal::Address { .. })), "{bad}");
    }
}

#[test]
fn notrack_modes() {
    let mut want = desired();
    want.link = None;
    want.notrack = NotrackSpec {
        mode: Mode::On,
        addresses: want.addresses.clone(),
        ports: vec![53],
        health_port: None,
    };
    let table = Table::notrack(&want.notrack);
    let replace = vec![Operation::ReplaceTable { rules: table.rules(), table: table.clone() }];
    let absent = Observed::default();
    let present = Observed { table: ObservedTable::Present(table.clone()), ..Observed::default() };
    let mut edited = table.clone();
    edited.chains[0].rules.pop();
    let edited = Observed { table: ObservedTable::Present(edited), ..Observed::default() };
    let in_use = Observed { conntrack: Conntrack::InUse, ..Observed::default() };
    for (mode, observed, expected) in [
        (Mode::On, &absent, replace.clone()),
        (Mode::On, &present, vec![]),
        (Mode::On, &edited, replace.clone()),
        (Mode::Off, &absent, vec![]),
        (Mode::Off, &present, vec![Operation::RemoveTable]),
        (Mode::Keep, &in_use, vec![]),
        (Mode::Keep, &present, vec![]),
        (Mode::Keep, &edited, vec![]),
        (Mode::Auto, &absent, vec![]),
        (Mode::Auto, &in_use, replace.clone()),
        (Mode::Auto, &present, vec![]),
        (Mode::Auto, &edited, replace.clone()),
    ] {
        want.notrack.mode = mode;
        assert_eq!(plan(&want, observed).unwrap(), expected, "{mode:?}");
    }
}

#[test]
fn teardown_takes_only_what_is_ours() {
    let mut foreign = settled();
    foreign.alias = None;
    assert_eq!(plan_teardown(&desired(), &with(foreign)), []);
    let mut observed = with(settled());
    observed.table = ObservedTable::Present(Table { dormant: true, chains: vec![] });
    assert_eq!(
        texts(&plan_teardown(&desired(), &observed)),
        ["delete nftables table inet nodens", "delete link nodelocaldns"]
    );
}
