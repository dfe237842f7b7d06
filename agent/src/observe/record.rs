//! One answered query, in a ring and on the way to a reader.
//!
//! In a ring it is a row of words: [`HEAD`] of them, then the name. To a reader it goes as bytes, integers in network order:
//!
//! ```text
//! unix time in ms: u64   client: 16, IPv4 as ::ffff:a.b.c.d   port: u16   duration in us: u32
//! size of the reply: u16   type: u16   code: u16   plugin: u8   cache: u8   bits: u8   length of the name: u8   name
//! length: u16   namespace/name of the Pod that asked, empty if it is not known
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::clock::CoarseInstant;
use crate::cluster::object::ObjectId;
use crate::request::{CacheUse, Outcome, Plugin, Request, Transport};
use crate::wire::name::MAX_NAME;
use crate::wire::{NameRef, Rcode, RecordType};

/// Grows with every change of what a reader gets.
pub const FORMAT: u32 = 2;
/// Words of a record before its name.
pub const HEAD: usize = 5;
/// Words of the longest record.
pub const MAX_WORDS: usize = HEAD + MAX_NAME.div_ceil(8);
/// Bytes of a record before its name, as it goes to a reader.
const SENT: usize = 40;

const TCP: u8 = 1;
const SILENT: u8 = 2;

/// A query that was answered, or that got silence.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it was received.
    pub at: CoarseInstant,
    /// Who asked; IPv4 as such.
    pub client: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// The type asked for.
    pub qtype: RecordType,
    /// The response code.
    pub rcode: Rcode,
    /// Who answered.
    pub plugin: Plugin,
    /// What the cache had to do with it.
    pub cache: CacheUse,
    /// True if the client got silence.
    pub is_silent: bool,
    /// How long it waited, in microseconds; 0 if it was answered at once.
    pub micros: u32,
    /// Octets of the reply.
    pub size: u16,
    /// How many queries it stands for; 0 if it is in no sample.
    pub weight: u16,
    name_len: u8,
    name: [u8; MAX_WORDS * 8 - HEAD * 8],
}

/// A record as a reader gets it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The query.
    pub record: Record,
    /// When it was received, in milliseconds since 1970.
    pub at: u64,
    /// `namespace/name` of the Pod that asked.
    pub pod: Option<&'a str>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            at: CoarseInstant::from_millis(0),
            client: (Ipv6Addr::UNSPECIFIED, 0).into(),
            transport: Transport::Udp,
            qtype: RecordType::A,
            rcode: Rcode::NOERROR,
            plugin: Plugin::Server,
            cache: CacheUse::Not,
            is_silent: false,
            micros: 0,
            size: 0,
            weight: 0,
            name_len: 1,
            name: [0; MAX_WORDS * 8 - HEAD * 8],
        }
    }
}

/// The words before the name, and the name.
pub(super) fn words<'a>(
    request: &'a Request<'_>,
    outcome: &Outcome,
    size: usize,
    micros: u64,
    weight: u16,
) -> ([u64; HEAD], &'a [u8]) {
    let name = request.query.name().as_bytes();
    let client = address_bits(request.origin.client.ip());
    let tcp = u64::from(request.origin.transport == Transport::Tcp);
    let head = [
        (name.len() as u64) << 8
            | u64::from(request.query.qtype().0) << 16
            | u64::from(outcome.rcode.0) << 32
            | (outcome.plugin as u64) << 48
            | (outcome.cache as u64) << 56
            | tcp << 60
            | u64::from(outcome.silent) << 61,
        request.origin.received.as_millis() & MILLIS | u64::from(weight) << 48,
        (client >> 64) as u64,
        client as u64,
        micros.min(u64::from(u32::MAX))
            | u64::from(request.origin.client.port()) << 32
            | (size.min(usize::from(u16::MAX)) as u64) << 48,
    ];
    (head, name)
}

const MILLIS: u64 = (1 << 48) - 1;

fn address_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(bits: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical()
}

/// Adds a client to a key: its address in 16 octets, IPv4 as `::ffff:a.b.c.d`, the length (u16) of `namespace/name` of the Pod that
/// had it, which is 0 if it is unknown, and that.
pub(super) fn push_client(key: &mut Vec<u8>, ip: IpAddr, pod: Option<&ObjectId>) {
    key.extend_from_slice(&address_bits(ip).to_be_bytes());
    push_pod(key, pod);
}

/// Appends the length (u16) of `namespace/name`, 0 if there is no Pod, and that.
fn push_pod(out: &mut Vec<u8>, pod: Option<&ObjectId>) {
    let pod: [&[u8]; 3] = match pod {
        Some(pod) => [pod.namespace.as_bytes(), b"/", pod.name.as_bytes()],
        None => [&[]; 3],
    };
    let len: usize = pod.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(len as u16).to_be_bytes());
    pod.iter().for_each(|part| out.extend_from_slice(part));
}

/// The address of a client's key, and what stands behind the client; the unspecified address for what is none.
pub(super) fn client_of(key: &[u8]) -> (IpAddr, &[u8]) {
    let read = || {
        let (bits, rest) = key.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let behind = rest.get(usize::from(u16::from_be_bytes(*len))..)?;
        Some((address(u128::from_be_bytes(*bits)), behind))
    };
    read().unwrap_or((Ipv6Addr::UNSPECIFIED.into(), &[]))
}

fn cache_use(number: u8) -> CacheUse {
    const ALL: [CacheUse; 5] =
        [CacheUse::Not, CacheUse::Success, CacheUse::Denial, CacheUse::Miss, CacheUse::Stale];
    ALL.get(usize::from(number)).copied().unwrap_or(CacheUse::Not)
}

fn plugin(number: u8) -> Plugin {
    Plugin::ALL.get(usize::from(number)).copied().unwrap_or(Plugin::Server)
}

impl Record {
    /// Takes over the words before the name; returns how many words of name follow.
    pub(super) fn set_head(&mut self, [kind, time, high, low, rest]: [u64; HEAD]) -> usize {
        self.name_len = (kind >> 8) as u8;
        self.qtype = RecordType((kind >> 16) as u16);
        self.rcode = Rcode((kind >> 32) as u16);
        self.plugin = plugin((kind >> 48) as u8);
        self.cache = cache_use((kind >> 56) as u8 & 0xf);
        self.transport = if kind >> 60 & 1 == 1 { Transport::Tcp } else { Transport::Udp };
        self.is_silent = kind >> 61 & 1 == 1;
        self.at = CoarseInstant::from_millis(time & MILLIS);
        self.weight = (time >> 48) as u16;
        let ip = address(u128::from(high) << 64 | u128::from(low));
        self.client = SocketAddr::new(ip, (rest >> 32) as u16);
        self.micros = rest as u32;
        self.size = (rest >> 48) as u16;
        usize::from(self.name_len).div_ceil(8)
    }

    /// Takes over word `number` of the name.
    pub(super) fn set_name_word(&mut self, number: usize, word: u64) {
        if let Some(to) = self.name.get_mut(number * 8..number * 8 + 8) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The name asked for, lower-cased, in wire form.
    pub fn name_bytes(&self) -> &[u8] {
        self.name.get(..usize::from(self.name_len)).unwrap_or(&[0])
    }

    /// The name asked for, lower-cased.
    pub fn name(&self) -> NameRef<'_> {
        NameRef::parse(self.name_bytes()).unwrap_or(NameRef::ROOT)
    }

    /// Where the answer came from: `store`, `cache`, `stale`, `upstream`, `server`, or the directive that made it.
    pub fn source(&self) -> &'static str {
        source(self.plugin, self.cache)
    }

    /// Appends it as a reader gets it; `unix_millis` is when it was received, `pod` who asked.
    pub(super) fn write(&self, unix_millis: u64, pod: Option<&ObjectId>, out: &mut Vec<u8>) {
        out.extend_from_slice(&unix_millis.to_be_bytes());
        out.extend_from_slice(&address_bits(self.client.ip()).to_be_bytes());
        out.extend_from_slice(&self.client.port().to_be_bytes());
        out.extend_from_slice(&self.micros.to_be_bytes());
        for short in [self.size, self.qtype.0, self.rcode.0] {
            out.extend_from_slice(&short.to_be_bytes());
        }
        let tcp = if self.transport == Transport::Tcp { TCP } else { 0 };
        let silent = if self.is_silent { SILENT } else { 0 };
        let name = self.name_bytes();
        let last = [self.plugin as u8, self.cache as u8, tcp | silent, name.len() as u8];
        out.extend_from_slice(&last);
        out.extend_from_slice(name);
        push_pod(out, pod);
    }

    /// Reads one from the start of `bytes` as a reader gets it, and what follows. `None` if it is cut off or has no name.
    pub fn read(bytes: &[u8]) -> Option<(Sent<'_>, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<SENT>()?;
        let (time, head) = head.split_first_chunk()?;
        let (client, head) = head.split_first_chunk()?;
        let (port, head) = head.split_first_chunk()?;
        let (micros, head) = head.split_first_chunk()?;
        let &[s0, s1, t0, t1, r0, r1, by, cache, bits, name_len] = head else { return None };
        let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
        if NameRef::parse(name).ok()?.len() != name.len() {
            return None;
        }
        let (len, rest) = rest.split_first_chunk()?;
        let (pod, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        let pod = str::from_utf8(pod).ok()?;
        let ip = address(u128::from_be_bytes(*client));
        let mut record = Self {
            client: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            transport: if bits & TCP == 0 { Transport::Udp } else { Transport::Tcp },
            qtype: RecordType(u16::from_be_bytes([t0, t1])),
            rcode: Rcode(u16::from_be_bytes([r0, r1])),
            plugin: plugin(by),
            cache: cache_use(cache),
            is_silent: bits & SILENT != 0,
            micros: u32::from_be_bytes(*micros),
            size: u16::from_be_bytes([s0, s1]),
            name_len,
            ..Self::default()
        };
        record.name.get_mut(..name.len())?.copy_from_slice(name);
        let pod = Some(pod).filter(|pod| !pod.is_empty());
        Some((Sent { record, at: u64::from_be_bytes(*time), pod }, rest))
    }
}

/// The names of the directives by their numbers in a record: what a reader has to agree on.
pub fn plugins() -> Vec<&'static str> {
    Plugin::ALL.iter().map(|plugin| plugin.name()).collect()
}

/// Where an answer came from, in a word.
pub fn source(plugin: Plugin, cache: CacheUse) -> &'static str {
    match (cache, plugin) {
        (CacheUse::Success | CacheUse::Denial, _) => "cache",
        (CacheUse::Stale, _) => "stale",
        (_, Plugin::Forward) => "upstream",
        (_, Plugin::Kubernetes) => "store",
        (_, Plugin::Server | Plugin::Chaos) => "server",
        (_, plugin) => plugin.name(),
    }
}

/// Every word that [`source`] returns.
pub fn sources() -> impl Iterator<Item = &'static str> {
    let plugins = Plugin::ALL.into_iter().map(|plugin| source(plugin, CacheUse::Not));
    plugins.filter(|word| !word.is_empty()).chain(["stale"])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Name;

    /// A record of a query by 192.0.2.7.
    pub(in crate::observe) fn record(name: &str, rcode: Rcode, micros: u32) -> Record {
        let name = Name::from_text(name).unwrap();
        let mut record = Record {
            client: ([192, 0, 2, 7], 5353).into(),
            rcode,
            micros,
            weight: 1,
            plugin: Plugin::Forward,
            name_len: name.as_bytes().len() as u8,
            ..Record::default()
        };
        record.name[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
        record
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let mut bytes = Vec::new();
        let pod = ObjectId { namespace: "shop".into(), name: "web-1".into() };
        record("www.example.", Rcode::NXDOMAIN, 7_000).write(1_234, Some(&pod), &mut bytes);
        record(".", Rcode(3_841), u32::MAX).write(1_235, None, &mut bytes);
        let (Sent { record: first, at, pod }, rest) = Record::read(&bytes).unwrap();
        assert_eq!((first.name().to_string(), at), ("www.example.".to_owned(), 1_234));
        assert_eq!(pod, Some("shop/web-1"));
        assert_eq!((first.client, first.micros), (([192, 0, 2, 7], 5353).into(), 7_000));
        assert_eq!((first.rcode, first.source()), (Rcode::NXDOMAIN, "upstream"));
        let (Sent { record: second, pod, .. }, rest) = Record::read(rest).unwrap();
        assert!(
            pod.is_none()
                && second.name().is_root()
                && second.rcode == Rcode(3_841)
                && rest.is_empty()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut rest = &bytes[..];
            while let Some((Sent { record, .. }, behind)) = Record::read(rest) {
                prop_assert!(behind.len() < rest.len());
                prop_assert_eq!(record.name().as_bytes(), record.name_bytes());
                rest = behind;
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let mut bytes = Vec::new();
        record("www.example.", Rcode::NOERROR, 0).write(1, None, &mut bytes);
        for end in 0..bytes.len() {
            assert!(Record::read(&bytes[..end]).is_none(), "{end}");
        }
        // A label that runs over the end of the name.
        bytes[SENT] = 60;
        assert!(Record::read(&bytes).is_none());
    }
}
