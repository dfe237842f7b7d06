//! A configuration in outline: what of it clients and operators would miss. Two outlines tell what a reload changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::config::{Effect, Plugin, ServerBlock, table};
use crate::plugin::{Block, view};
use crate::wire::{Name, NameRef};

/// More changes of a kind are counted and not listed.
const MAX_LISTED: usize = 8;

/// All server blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    blocks: Vec<BlockOutline>,
}

/// One server block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockOutline {
    /// Zones and ports, as people write them, and the view.
    title: String,
    /// Each zone with its port.
    keys: Vec<String>,
    zones: Vec<Name>,
    /// Its name, if the block is for one.
    view: Option<String>,
    /// Whether every query of its zones fits it: it is for no view, or for one that takes all.
    catches: bool,
    addresses: Vec<SocketAddr>,
    /// The lines of each directive, as they were written.
    directives: BTreeMap<String, String>,
    upstreams: BTreeSet<String>,
    /// The zones of `kubernetes`.
    cluster: Vec<Name>,
    /// Whether any directive has answers of its own, if only to some names.
    answers: bool,
    /// Whether any directive may answer every name.
    answers_all: bool,
}

/// What is different between two configurations. Display is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<String>);

impl Outline {
    /// Adds a block that listens on these addresses.
    pub fn add(&mut self, block: &Block, addresses: &[IpAddr]) {
        let written = &block.written;
        let mut directives: BTreeMap<String, String> = BTreeMap::new();
        for line in &written.directives {
            let text = directives.entry(line.name.as_str().to_owned()).or_default();
            text.push_str(&line.to_string());
        }
        let to = written.named("forward").flat_map(|line| line.args.iter().skip(1));
        let kubernetes = block.kubernetes.iter().map(|config| &config.view);
        let cluster = kubernetes.flat_map(|view| view.zones.iter().chain(&view.reverse_zones));
        let forwards_all = block.forward.iter().flat_map(|config| &config.from);
        let others = [Plugin::Whoami, Plugin::Template, Plugin::File];
        let has = |plugins: &[Plugin]| {
            let mut entries =
                written.directives.iter().filter_map(|line| table::find(line.name.as_str()));
            entries.any(|entry| entry.plugin.is_some_and(|plugin| plugins.contains(&plugin)))
        };
        let mut ports: Vec<u16> = written.zones.iter().map(|zone| zone.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let on_port = |port: u16| addresses.iter().map(move |&ip| SocketAddr::new(ip, port));
        self.blocks.push(BlockOutline {
            title: title(written),
            keys: keys(written),
            zones: written.zone_names(),
            view: written.view().map(str::to_owned),
            catches: block.view.first().is_none_or(view::Config::takes_all),
            addresses: ports.into_iter().flat_map(on_port).collect(),
            upstreams: to.map(|word| word.as_str().to_owned()).collect(),
            cluster: cluster.cloned().collect(),
            answers: written.directives.iter().any(|line| answers(line.name.as_str())),
            answers_all: forwards_all.into_iter().any(|from| from.as_ref().is_root())
                || has(&others),
            directives,
        });
    }

    /// Each block with its zones, addresses and the names of its directives, for `nodens status` and the page.
    pub fn to_json(&self) -> Value {
        let block = |block: &BlockOutline| {
            let mut shown = json!({
                "zones": block.zones.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "addresses": block.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "directives": block.directives.keys().collect::<Vec<_>>(),
            });
            if let (Some(view), Some(shown)) = (&block.view, shown.as_object_mut()) {
                shown.insert("view".to_owned(), view.as_str().into());
            }
            shown
        };
        self.blocks.iter().map(block).collect()
    }

    /// Whether names of the whole of `zone`, asked at `address`, are answered by a `kubernetes` to which they belong, if only
    /// for some views.
    pub fn has_cluster_zone(&self, address: SocketAddr, zone: &Name) -> bool {
        let owns = |block: &BlockOutline, zone: NameRef<'_>| {
            block.cluster.iter().any(|own| zone.is_within(own.as_ref()))
        };
        let Some(address) = self.heard_at(address) else { return false };
        let mut asked = self.blocks_of(address, zone.as_ref());
        // A block for a part of it that holds Services or pods, and for all queries.
        let takes = |other: &&BlockOutline| {
            let part = |name: &Name| {
                let len = name.as_ref().prefix_len(zone.as_ref()).unwrap_or(0);
                len > 0 && holds_services(name, len)
            };
            other.addresses.contains(&address)
                && other.catches
                && other.zones.iter().any(|name| part(name) && !owns(other, name.as_ref()))
        };
        asked.any(|block| owns(block, zone.as_ref()))
            && !self.blocks.iter().any(|other| takes(&other))
    }

    /// The zones that are answered by `kubernetes` as a whole, and where.
    pub fn cluster_zones(&self) -> Vec<(SocketAddr, Name)> {
        let all = self.blocks.iter().flat_map(|block| {
            let zones = block.cluster.iter();
            zones.flat_map(|zone| block.addresses.iter().map(move |at| (*at, zone.clone())))
        });
        all.filter(|(address, zone)| self.has_cluster_zone(*address, zone)).collect()
    }

    /// The titles of blocks without any directive that answers, where `before` has answered these names.
    pub fn mute<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        let spoke = |block: &BlockOutline| {
            let heard = |address: &&SocketAddr| {
                self.heard_at(**address).is_some_and(|at| block.addresses.contains(&at))
            };
            let addresses = before.blocks.iter().flat_map(|old| &old.addresses).filter(heard);
            let mut asked = addresses.flat_map(|address| {
                block.zones.iter().flat_map(|zone| before.blocks_of(*address, zone.as_ref()))
            });
            asked.any(|old| old.answers)
        };
        let mute = self.blocks.iter().filter(move |block| !block.answers && spoke(block));
        mute.map(|block| block.title.as_str())
    }

    /// The zones of which `before` answers every query at one of these addresses, and this only those that fit a view.
    pub fn narrowed<'a>(
        &'a self,
        before: &'a Self,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> BTreeSet<&'a Name> {
        let mut narrowed = BTreeSet::new();
        for address in addresses {
            let Some(at) = self.heard_at(address) else { continue };
            let open = before.blocks.iter().filter(|block| {
                block.catches && block.answers && block.addresses.contains(&address)
            });
            for zone in open.flat_map(|block| &block.zones) {
                let mut left = self.blocks_of(at, zone.as_ref()).peekable();
                if left.peek().is_some() && left.all(|block| !block.catches) {
                    narrowed.insert(zone);
                }
            }
        }
        narrowed
    }

    /// Whether a name that is in no zone of its own, asked at `address`, may get an answer, if only for some views.
    pub fn answers_all(&self, address: SocketAddr) -> bool {
        let root = Name::root();
        let heard_at = self.heard_at(address);
        heard_at.is_some_and(|at| self.blocks_of(at, root.as_ref()).any(|block| block.answers_all))
    }

    /// At which of its addresses what is sent to `address` arrives: at the same one, or at an unspecified one.
    pub fn heard_at(&self, address: SocketAddr) -> Option<SocketAddr> {
        let all = || self.blocks.iter().flat_map(|block| &block.addresses).copied();
        if all().any(|own| own == address) {
            return Some(address);
        }
        // The kernel prefers a socket of the same family.
        all().filter(|own| covers(*own, address)).min_by_key(SocketAddr::is_ipv6)
    }

    /// What is different in `new`.
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        let words = |outline: &Self, of: fn(&BlockOutline) -> Vec<String>| -> BTreeSet<String> {
            outline.blocks.iter().flat_map(of).collect()
        };
        let zones = |block: &BlockOutline| -> Vec<String> {
            let of = block.view.as_ref().map_or(String::new(), |view| format!(" (view {view})"));
            block.keys.iter().map(|key| format!("{key}{of}")).collect()
        };
        let listeners = |block: &BlockOutline| -> Vec<String> {
            block.addresses.iter().map(ToString::to_string).collect()
        };
        let upstreams =
            |block: &BlockOutline| -> Vec<String> { block.upstreams.iter().cloned().collect() };
        changes.add("zones", &words(self, zones), &words(new, zones));
        changes.add("listeners", &words(self, listeners), &words(new, listeners));
        changes.add("upstreams", &words(self, upstreams), &words(new, upstreams));
        let (old, new) = (self.by_title(), new.by_title());
        let mut differences = Vec::new();
        for (title, lines) in &new {
            let Some(before) = old.get(title) else { continue };
            let names: BTreeSet<&String> = before.keys().chain(lines.keys()).copied().collect();
            for name in names {
                let sign = match (before.get(name), lines.get(name)) {
                    (None, _) => '+',
                    (_, None) => '-',
                    (one, other) if one == other => continue,
                    _ => '~',
                };
                differences.push(format!("{sign}{name} ({title})"));
            }
        }
        changes.list("directives", differences);
        changes
    }

    /// The blocks that may answer for a name at an address: of the longest zone those with a view and the first without;
    /// if all of them have one, those of the next zone as well, and so on.
    fn blocks_of(
        &self,
        address: SocketAddr,
        name: NameRef<'_>,
    ) -> impl Iterator<Item = &BlockOutline> {
        let listening = self.blocks.iter().filter(|block| block.addresses.contains(&address));
        let zones = listening.flat_map(|block| block.zones.iter().map(move |zone| (zone, block)));
        let mut within: Vec<_> = zones.filter(|(zone, _)| name.is_within(zone.as_ref())).collect();
        // Stable: those of one zone stay in the order of the file.
        within.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.as_ref().len()));
        let catching = within.iter().position(|(_, block)| block.catches);
        within.truncate(catching.map_or(within.len(), |at| at + 1));
        within.into_iter().map(|(_, block)| block)
    }

    /// The lines of all blocks of one title.
    fn by_title(&self) -> BTreeMap<&str, BTreeMap<&String, String>> {
        let mut all: BTreeMap<&str, BTreeMap<&String, String>> = BTreeMap::new();
        for block in &self.blocks {
            let lines = all.entry(&block.title).or_default();
            for (name, text) in &block.directives {
                lines.entry(name).or_default().push_str(text);
            }
        }
        all
    }
}

impl Changes {
    /// No difference that an outline shows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, kind: &str, old: &BTreeSet<String>, new: &BTreeSet<String>) {
        let added = new.difference(old).map(|word| format!("+{word}"));
        let gone = old.difference(new).map(|word| format!("-{word}"));
        self.list(kind, added.chain(gone).collect());
    }

    fn list(&mut self, kind: &str, mut words: Vec<String>) {
        if words.is_empty() {
            return;
        }
        let more = words.len().saturating_sub(MAX_LISTED);
        words.truncate(MAX_LISTED);
        if more > 0 {
            words.push(format!("and {more} more"));
        }
        self.0.push(format!("{kind}: {}", words.join(" ")));
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("nothing") } else { f.write_str(&self.0.join("; ")) }
    }
}

/// The zones and ports of a block, as people write them, and its view.
pub fn title(written: &ServerBlock) -> String {
    let view = written.view().map(|view| format!("(view {view})"));
    keys(written).into_iter().chain(view).collect::<Vec<_>>().join(" ")
}

fn keys(written: &ServerBlock) -> Vec<String> {
    written.zones.iter().map(|zone| format!("{}:{}", zone.name, zone.port)).collect()
}

/// Whether a socket at `wide` takes what is sent to `address`: it is the same, or unspecified with the same port. The
/// unspecified IPv6 address takes both families.
pub fn covers(wide: SocketAddr, address: SocketAddr) -> bool {
    let takes_all = wide.ip().is_unspecified() && (wide.is_ipv6() || address.is_ipv4());
    wide == address || wide.port() == address.port() && takes_all
}

/// Whether a directive has answers of its own; some only turn queries away.
fn answers(name: &str) -> bool {
    let turns_away = [Plugin::Local, Plugin::Acl, Plugin::Any, Plugin::SpecialNames];
    table::find(name).is_some_and(|entry| {
        entry.effect == Effect::Answers
            && entry.plugin.is_some_and(|plugin| !turns_away.contains(&plugin))
    })
}

/// Whether a zone whose first `len` octets are below a cluster zone is `svc` or `pod` of it, or within these.
fn holds_services(name: &Name, len: usize) -> bool {
    let below = name.as_bytes().get(..len).unwrap_or(&[]);
    below.ends_with(b"\x03svc") || below.ends_with(b"\x03pod")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline {
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", text, &|_| None);
        let blocks = crate::plugin::read(&file, 53, &mut diagnostics);
        assert!(!diagnostics.has_errors(), "{diagnostics}");
        let mut outline = Outline::default();
        for block in &blocks {
            outline.add(block, &[[127, 0, 0, 1].into()]);
        }
        outline
    }

    const CLUSTER: &str = ".:53 {
        kubernetes cluster.local in-addr.arpa {
            objects /x
            fallthrough
        }
        forward . 192.0.2.1
        cache
    }\n";

    #[test]
    fn a_line_says_what_changes() {
        let old = outline(CLUSTER);
        assert!(old.changes(&old).is_empty());
        for (new, wanted) in [
            (
                CLUSTER.replace("192.0.2.1", "192.0.2.2 192.0.2.3"),
                "upstreams: +192.0.2.2 +192.0.2.3 -192.0.2.1; directives: ~forward (.:53)",
            ),
            (CLUSTER.replace("cache", "errors"), "directives: -cache (.:53) +errors (.:53)"),
            (
                format!("{CLUSTER}corp.test:5353 {{\n whoami\n}}"),
                "zones: +corp.test.:5353; listeners: +127.0.0.1:5353",
            ),
            (CLUSTER.replace(".:53", "a.test b.test"), "zones: +a.test.:53 +b.test.:53 -.:53"),
        ] {
            assert_eq!(old.changes(&outline(&new)).to_string(), wanted);
        }
        assert_eq!(Changes::default().to_string(), "nothing");
        let many: String = (0..20).map(|n| format!("z{n}.test {{\n whoami\n}}\n")).collect();
        let changes = old.changes(&outline(&format!("{CLUSTER}{many}"))).to_string();
        assert!(changes.ends_with("and 12 more"), "{changes}");
    }

    #[test]
    fn a_cluster_zone_is_its_own_or_lost() {
        let address = ([127, 0, 0, 1], 53).into();
        let zone = Name::from_text("cluster.local").unwrap();
        let has = |text: &str| outline(text).has_cluster_zone(address, &zone);
        assert!(has(CLUSTER));
        let more = |block: &str| has(&format!("{CLUSTER}{block}"));
        assert!(more("corp.test {\n forward . 192.0.2.9\n}"));
        assert!(more("consul.cluster.local {\n forward . 192.0.2.9\n}"), "a stub zone below it");
        for lost in [
            CLUSTER.replace("cluster.local", "cluster.locl"),
            CLUSTER.replace("cluster.local in", "other.local in"),
            format!("{CLUSTER}cluster.local {{\n forward . 192.0.2.9\n}}"),
            format!("{CLUSTER}local {{\n whoami\n}}"),
            format!("{CLUSTER}svc.cluster.local {{\n whoami\n}}"),
            format!("{CLUSTER}default.svc.cluster.local {{\n whoami\n}}"),
            CLUSTER.replace(":53", ":54"),
        ] {
            assert!(!has(&lost), "{lost}");
        }
        let split = CLUSTER.replace(" in-addr.arpa", "").replace(".:53", "cluster.local");
        assert!(has(&split), "a block of its own");
    }

    #[test]
    fn views_are_named_and_count_as_blocks_that_may_answer() {
        let view = |name: &str, lines: &str| {
            format!(".:53 {{\n view {name} {{\n expr do()\n }}\n {lines}\n}}\n")
        };
        let old = outline(&format!("{}{CLUSTER}", view("office", "whoami")));
        let new = outline(&format!("{}{CLUSTER}", view("home", "whoami")));
        assert_eq!(old.changes(&new).to_string(), "zones: +.:53 (view home) -.:53 (view office)");
        assert_eq!(
            old.changes(&outline(&format!("{}{CLUSTER}", view("office", "whoami\n log"))))
                .to_string(),
            "directives: +log (.:53 (view office))"
        );
        assert_eq!(old.to_json()[0]["view"], "office");
        assert!(old.to_json()[1].get("view").is_none());
        let address = ([127, 0, 0, 1], 53).into();
        let zone = Name::from_text("cluster.local").unwrap();
        assert!(old.has_cluster_zone(address, &zone) && old.answers_all(address));
        let part = "svc.cluster.local {\n view v {\n expr do()\n }\n whoami\n}\n";
        assert!(outline(&format!("{part}{CLUSTER}")).has_cluster_zone(address, &zone));
        let without = CLUSTER.replace("cluster.local in", "other.local in");
        let inside = CLUSTER.replace(".:53 {", ".:53 {\n view v {\n expr do()\n }");
        assert!(outline(&format!("{inside}{without}")).has_cluster_zone(address, &zone));
        let before = CLUSTER.replace(".:53", "local");
        assert!(!outline(&format!("{before}{inside}")).has_cluster_zone(address, &Name::root()));
        // All blocks of the longer zone are for views, so that the shorter one counts too.
        let longer = view("v", "whoami").replace(".:53", "local");
        assert!(outline(&format!("{longer}{CLUSTER}")).has_cluster_zone(address, &zone));
        assert!(!outline(&format!("{without}{inside}")).has_cluster_zone(address, &zone));
    }

    #[test]
    fn an_unspecified_address_takes_what_is_sent_to_others() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (wide, address, is_covered) in [
            ("[::]:53", "127.0.0.1:53", true),
            ("[::]:53", "[::1]:53", true),
            ("[::]:53", "127.0.0.1:54", false),
            ("0.0.0.0:53", "127.0.0.1:53", true),
            ("0.0.0.0:53", "[::1]:53", false),
            ("127.0.0.1:53", "0.0.0.0:53", false),
            ("127.0.0.1:53", "127.0.0.1:53", true),
        ] {
            assert_eq!(covers(at(wide), at(address)), is_covered, "{wide} {address}");
        }
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", CLUSTER, &|_| None);
        let mut wide = Outline::default();
        for block in &crate::plugin::read(&file, 53, &mut diagnostics) {
            wide.add(block, &["::".parse().unwrap()]);
        }
        let zone = Name::from_text("cluster.local").unwrap();
        let address = at("127.0.0.1:53");
        assert_eq!(wide.heard_at(address), Some(at("[::]:53")));
        assert!(wide.has_cluster_zone(address, &zone) && wide.answers_all(address));
        let mut mute = Outline::default();
        let (file, _) = crate::corefile::parse("Corefile", ".:53 {\n errors\n}", &|_| None);
        for block in &crate::plugin::read(&file, 53, &mut diagnostics) {
            mute.add(block, &["::".parse().unwrap()]);
        }
        assert_eq!(mute.mute(&outline(CLUSTER)).collect::<Vec<_>>(), [".:53"]);
    }

    #[test]
    fn blocks_that_answer_nothing_are_found() {
        let old = outline(&format!("{CLUSTER}quiet.test:54 {{\n errors\n}}"));
        let mute = |text: &str| outline(text).mute(&old).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(mute(CLUSTER), [""; 0]);
        assert_eq!(mute(".:53 {\n cache\n errors\n}"), [".:53"]);
        assert_eq!(mute(".:53 {\n acl {\n block\n }\n}"), [".:53"]);
        assert_eq!(mute(&format!("{CLUSTER}a.test {{\n log\n}}")), ["a.test.:53"]);
        assert_eq!(mute(&format!("{CLUSTER}quiet.test:54 {{\n log\n}}")), [""; 0]);
        let address = ([127, 0, 0, 1], 53).into();
        assert!(old.answers_all(address));
        assert!(!outline(".:53 {\n hosts\n}").answers_all(address));
        assert!(!outline(".:53 {\n forward a.test 192.0.2.1\n}").answers_all(address));
        assert!(outline(".:53 {\n whoami\n}").answers_all(address));
    }
}
