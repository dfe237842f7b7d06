//! What a `limit` line says.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::clients::first_address;
use crate::cluster::object::{NodePod, ObjectId, Text};
use crate::config::value::namespace;
use crate::config::{Args, ServerBlock, ValueError, value};
use crate::corefile::{Diagnostics, Directive, Location, Token};
use crate::plugin::directive::{ReadContext, ReadDirective};
use crate::plugin::networks::Networks;
use crate::wire::Name;

use super::buckets::Rate;
use super::selector::Selector;

/// The most queries a second, and the most at once, that can be written.
const MAX: u32 = 1_000_000;
/// Rates of their own that a line has for some Pods.
const MAX_OWN: usize = 64;
const OPTIONS: [&str; 7] = ["drop", "refuse", "prefix4", "prefix6", "except", "namespace", "label"];

/// One `limit` line.
#[derive(Debug)]
pub struct Config {
    /// Which line it is, the same one after a reload: of the block's zones, addresses and view, and its place among
    /// their lines.
    pub id: u64,
    /// What each client may ask.
    pub rate: Rate,
    /// What it gets beyond that.
    pub action: Action,
    /// Bits of an IPv4 address that make a client.
    prefix4: u8,
    /// Bits of an IPv6 address that make a client.
    prefix6: u8,
    /// Clients without a limit.
    except: Networks,
    /// What some Pods may ask instead, each of them. The first that fits counts.
    own: Vec<Own>,
    /// Where it is written.
    at: Location,
}

/// A rate of their own.
#[derive(Debug)]
struct Own {
    pods: Pods,
    rate: Rate,
    at: Location,
}

/// Which Pods have a rate of their own.
#[derive(Debug)]
enum Pods {
    OfNamespace(Text),
    WithLabels { selector: Selector, written: Box<str> },
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::OfNamespace(one), Self::OfNamespace(other)) => one == other,
            (Self::WithLabels { selector: one, .. }, Self::WithLabels { selector: other, .. }) => {
                one == other
            }
            _ => false,
        }
    }
}

impl Pods {
    fn has(&self, pod: &NodePod) -> bool {
        match self {
            Self::OfNamespace(name) => pod.id.namespace == *name,
            Self::WithLabels { selector, .. } => selector.matches(&pod.labels),
        }
    }
}

impl fmt::Display for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfNamespace(name) => write!(f, "namespace {name}"),
            Self::WithLabels { written, .. } => write!(f, "label {written}"),
        }
    }
}

/// What becomes of a query beyond the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Action {
    /// It gets no answer.
    #[default]
    Drop,
    /// It is answered with REFUSED.
    Refuse,
}

impl Config {
    /// Reads the directive.
    pub fn parse(directive: &Directive, _: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let qps = args.integer("queries a second", 1..=MAX).unwrap_or(MAX);
        let burst = args.optional(|word| value::integer(word, 1..=MAX)).unwrap_or(qps);
        args.end();
        let (mut action, mut prefix4, mut prefix6) = (None, 32, 128);
        let (mut except, mut own) = (Vec::new(), Vec::<Own>::new());
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            match option.name.as_str() {
                "drop" | "refuse" if action.is_some() => {
                    args.error("what happens beyond the limit is said already", "drop or refuse");
                    args.rest();
                }
                "drop" => action = Some(Action::Drop),
                "refuse" => action = Some(Action::Refuse),
                "prefix4" => {
                    prefix4 = args.integer("bits of an address", 1..=32).unwrap_or(prefix4);
                }
                "prefix6" => {
                    prefix6 = args.integer("bits of an address", 1..=128).unwrap_or(prefix6);
                }
                "except" if args.is_empty() => args.error("a network is missing", "10.0.0.0/8"),
                "except" => {
                    for word in args.rest() {
                        except.extend(args.read(word, value::network));
                    }
                }
                "namespace" | "label" if own.len() >= MAX_OWN => {
                    args.error("there are too many rates", format!("at most {MAX_OWN}"));
                    args.rest();
                }
                "label" if option.args.get(1).is_some_and(is_no_number) => {
                    args.error(
                        "behind the selector stands no number",
                        "a selector with spaces in quotes, as \"app in (a, b)\"",
                    );
                    args.rest();
                }
                kind @ ("namespace" | "label") => {
                    let pods = match kind {
                        "namespace" => args.value("a namespace", namespace).map(Pods::OfNamespace),
                        _ => args.value("a label selector", with_labels),
                    };
                    let qps = args.integer("queries a second", 1..=MAX).unwrap_or(MAX);
                    let burst = args.optional(|word| value::integer(word, 1..=MAX)).unwrap_or(qps);
                    if pods.as_ref().is_some_and(|pods| own.iter().any(|own| own.pods == *pods)) {
                        args.error(format!("the {kind} has a rate already"), "one line for each");
                    }
                    let (rate, at) = (Rate::new(qps, burst), option.at().clone());
                    own.extend(pods.map(|pods| Own { pods, rate, at }));
                }
                _ => args.unknown_option(&OPTIONS),
            }
            args.end();
        }
        Self {
            id: 0,
            rate: Rate::new(qps, burst),
            action: action.unwrap_or_default(),
            prefix4,
            prefix6,
            except: Networks::new(except),
            own,
            at: directive.at().clone(),
        }
    }

    /// What this Pod may ask, if that is a rate of its own.
    pub fn rate_of(&self, pod: &NodePod) -> Option<Rate> {
        self.own.iter().find(|own| own.pods.has(pod)).map(|own| own.rate)
    }

    /// For people: what a client may ask, `is_exceeded` at this moment, and where that is written.
    pub fn describe(&self, address: IpAddr, pod: Option<&NodePod>, is_exceeded: bool) -> String {
        let own = pod.and_then(|pod| self.own.iter().find(|own| own.pods.has(pod)));
        let (rate, at) = own.map_or((self.rate, &self.at), |own| (own.rate, &own.at));
        let because = own.map_or(String::new(), |own| format!(" (`{}`)", own.pods));
        let who = self.sharer(address, pod);
        let verb = if is_exceeded { "has used up its" } else { "may ask" };
        format!("{who} {verb} {rate}{because}, by {at}")
    }

    /// Who has a rate for itself: a Pod, an address, or a network whose clients share it.
    pub fn sharer<'p>(&self, address: IpAddr, pod: Option<&'p NodePod>) -> Sharer<'p> {
        let is_alone = pod.is_some_and(|pod| self.rate_of(pod).is_some());
        let address = pod.map_or(address, |pod| first_address(pod, address)).to_canonical();
        let (bits, all) = if address.is_ipv4() { (self.prefix4, 32) } else { (self.prefix6, 128) };
        match pod {
            _ if bits < all && !is_alone => Sharer::Network(address, bits),
            Some(pod) => Sharer::Pod(&pod.id),
            None => Sharer::Address(address),
        }
    }

    /// Whether it depends on who the client is.
    pub fn names_clients(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether clients with this address have no limit.
    pub fn excepts(&self, address: IpAddr) -> bool {
        self.except.contain(address)
    }

    /// The client that an address belongs to, and whether it is IPv4. One with a rate of its own shares it with no other, since
    /// a bucket fills at one rate.
    pub fn client(&self, address: IpAddr, is_alone: bool) -> (bool, u128) {
        let (prefix4, prefix6) = if is_alone { (32, 128) } else { (self.prefix4, self.prefix6) };
        match address.to_canonical() {
            IpAddr::V4(ip) => (true, u128::from(ip.to_bits() >> (32 - prefix4))),
            IpAddr::V6(ip) => (false, ip.to_bits() >> (128 - prefix6)),
        }
    }
}

impl ReadDirective for Config {
    fn read(directive: &Directive, cx: &mut ReadContext<'_>) -> Self {
        let id = identity(cx.block, directive);
        Self { id, ..Self::parse(directive, cx.zones, cx.diagnostics) }
    }
}

/// Who has a rate for itself.
#[derive(Clone, Copy)]
pub enum Sharer<'p> {
    /// A Pod, with all its addresses.
    Pod(&'p ObjectId),
    /// An address.
    Address(IpAddr),
    /// All addresses that have so many bits in common with this one.
    Network(IpAddr, u8),
}

impl fmt::Display for Sharer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(ObjectId { namespace, name }) => write!(f, "Pod {namespace}/{name}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Network(address, bits) => {
                let address = match address {
                    IpAddr::V4(ip) => {
                        let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                        Ipv4Addr::from_bits(ip.to_bits() & mask).into()
                    }
                    IpAddr::V6(ip) => {
                        let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                        IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() & mask))
                    }
                };
                write!(f, "{address}/{bits}")
            }
        }
    }
}

fn is_no_number(word: &Token) -> bool {
    !word.as_str().starts_with(|c: char| c.is_ascii_digit()) && !word.is_placeholder()
}

fn with_labels(text: &str) -> Result<Pods, ValueError> {
    Ok(Pods::WithLabels { selector: Selector::parse(text)?, written: text.into() })
}

fn identity(block: &ServerBlock, directive: &Directive) -> u64 {
    let mut hasher = DefaultHasher::new();
    for zone in &block.zones {
        (zone.name.as_ref().as_bytes(), zone.port).hash(&mut hasher);
    }
    for word in block.named("bind").flat_map(|line| &line.args) {
        word.as_str().hash(&mut hasher);
    }
    // Another view's clients are others.
    for line in block.named("view") {
        line.to_string().hash(&mut hasher);
    }
    block.named("limit").position(|line| line.at() == directive.at()).hash(&mut hasher);
    hasher.finish()
}
