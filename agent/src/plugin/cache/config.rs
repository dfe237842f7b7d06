//! What the directive says: CoreDNS's options of today, and `size` and `nxdomain_cut`, which are ours.

use std::time::Duration;

use crate::config::{Args, ValueError, value};
use crate::corefile::{Diagnostics, Directive};
use crate::wire::{Name, NameRef};

/// The longest that a positive answer is kept unless the file says otherwise, seconds; as in CoreDNS.
pub const SUCCESS_CAP: u32 = 3_600;
/// The longest that a denial is kept unless the file says otherwise, seconds; as in CoreDNS.
pub const DENIAL_CAP: u32 = 1_800;
/// The shortest that an answer is kept unless the file says otherwise, seconds; as in CoreDNS.
pub const FLOOR: u32 = 5;
/// How long a failure is kept unless the file says otherwise: CoreDNS's 5 s, within RFC 9520 section 3.2's 1 s to 5 min.
pub const FAILURE: Duration = Duration::from_secs(5);
/// The longest that a failure may be kept (RFC 2308 section 7.1, RFC 9520 section 3.2).
pub const MAX_FAILURE: Duration = Duration::from_secs(300);
/// How long after its end an answer may still be used, with a bare `serve_stale`; as in CoreDNS.
pub const STALE: Duration = Duration::from_secs(3_600);
/// The time to live of stale records (RFC 8767 section 4).
pub const STALE_TTL: u32 = 30;
/// How soon after a failed refresh the next one may begin (RFC 8767 section 5).
pub const RECHECK: u32 = 30;
/// How long a client waits for a refresh before it gets the stale answer (RFC 8767 section 5).
pub const CLIENT_WAIT: Duration = Duration::from_millis(1_800);
/// Bytes that the whole process keeps unless the file says otherwise: about 65,000 answers of usual length.
pub const DEFAULT_SIZE: u64 = 32 << 20;
/// The smallest budget.
pub const MIN_SIZE: u64 = 1 << 20;
/// What one answer takes, as the `CAPACITY` of `success` and `denial` is turned into bytes.
pub const BYTES_PER_ANSWER: u64 = 512;

/// The longest time to live that means anything (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;
const OPTIONS: [&str; 11] = [
    "success",
    "denial",
    "prefetch",
    "serve_stale",
    "serve_stale_policy",
    "servfail",
    "disable",
    "keepttl",
    "prefer_positive",
    "size",
    "nxdomain_cut",
];

/// The size of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In bytes, overhead included.
    pub bytes: u64,
    /// Whether the Corefile says so.
    pub is_written: bool,
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self { bytes, is_written: true }
    }
}

/// One `cache` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names within one of these are kept.
    pub zones: Vec<Name>,
    /// How positive answers are kept.
    pub success: Side,
    /// How NXDOMAIN and NODATA are kept.
    pub denial: Side,
    /// How long failures are kept; zero: not at all.
    pub servfail: Duration,
    /// Refresh what is asked for often before it ends.
    pub prefetch: Option<Prefetch>,
    /// Use answers after their end.
    pub stale: Option<Stale>,
    /// Answer with the times to live that were kept, not counted down.
    pub keepttl: bool,
    /// A denial does not replace a positive answer that may still be used.
    pub prefer_positive: bool,
    /// Bytes for the whole process.
    pub size: Option<u64>,
    /// NXDOMAIN holds for all names below it (RFC 8020).
    pub nxdomain_cut: bool,
    /// What was good for long outlives a denial (`stale_on_denial` of the block).
    pub last_good: Option<LastGood>,
    capacity: u64,
}

/// When the last good answer is given instead of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood {
    /// Seconds for which a question has to have been answered without a break.
    pub after: u32,
    /// Seconds for which the last answer is given, from the first denial on.
    pub seconds: u32,
    /// Names within one of these.
    pub zones: Vec<Name>,
}

impl LastGood {
    /// Whether it is for this name.
    pub fn covers(&self, name: NameRef<'_>) -> bool {
        is_within(name, &self.zones)
    }
}

/// How one of the two sides is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The longest, seconds.
    pub cap: u32,
    /// The shortest, seconds; the cap wins.
    pub floor: u32,
    /// Zones whose answers of this side are not kept.
    pub disabled: Vec<Name>,
}

/// When an answer is refreshed early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// So many queries make it popular.
    pub amount: u32,
    /// A gap of so many seconds begins the count anew.
    pub gap: u32,
    /// It is refreshed once so many hundredths of its time are left.
    pub percent: u8,
}

/// How answers are used after their end (RFC 8767).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// For so many seconds.
    pub seconds: u32,
    /// Before or after an attempt to refresh them.
    pub refresh: Refresh,
    /// With this time to live, seconds.
    pub ttl: u32,
    /// Seconds after a failed refresh until the next.
    pub recheck: u32,
}

/// When a stale answer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// At once; it is refreshed meanwhile.
    Immediate,
    /// When the refresh has failed or has taken so long.
    Verify(Duration),
}

impl Config {
    /// What a bare `cache` means in a block with these zones.
    pub fn new(zones: Vec<Name>) -> Self {
        Self {
            zones,
            success: Side { cap: SUCCESS_CAP, floor: FLOOR, disabled: Vec::new() },
            denial: Side { cap: DENIAL_CAP, floor: FLOOR, disabled: Vec::new() },
            servfail: FAILURE,
            prefetch: None,
            stale: None,
            keepttl: false,
            prefer_positive: false,
            size: None,
            nxdomain_cut: false,
            last_good: None,
            capacity: 0,
        }
    }

    /// Reads the directive of a block with `zones`.
    pub fn parse(directive: &Directive, zones: &[Name], diagnostics: &mut Diagnostics) -> Self {
        let mut args = Args::of(directive, diagnostics);
        let ttl = match args.peek() {
            Some(word) if word.as_str().parse::<i64>().is_ok() => {
                args.integer("seconds", 1..=MAX_TTL)
            }
            _ => None,
        };
        let mut config = Self::new(args.zones_or(zones));
        args.end();
        if let Some(ttl) = ttl {
            config.success.cap = ttl;
            config.denial.cap = ttl;
        }
        for option in directive.options() {
            let mut args = Args::of_option(directive, option, diagnostics);
            config.read_option(option.name.as_str(), &mut args);
            args.end();
        }
        if config.prefer_positive && config.stale.is_none() {
            Args::of(directive, diagnostics).warning(
                "prefer_positive has little effect without serve_stale, since answers are dropped when they expire",
                "add serve_stale",
            );
        }
        config
    }

    /// The size of the cache of a process with these directives: the largest `size` that one of them says; without any, the
    /// default or what all written CAPACITYs together take, whichever is more.
    pub fn budget<'c>(configs: impl IntoIterator<Item = &'c Self>) -> Size {
        let (mut size, mut capacity) = (None, 0u64);
        for config in configs {
            size = size.max(config.size);
            capacity = capacity.saturating_add(config.capacity);
        }
        let capacity = capacity.saturating_mul(BYTES_PER_ANSWER);
        Size {
            bytes: size.unwrap_or(capacity.max(DEFAULT_SIZE)),
            is_written: size.is_some() || capacity > DEFAULT_SIZE,
        }
    }

    /// True for names that are kept.
    pub fn covers(&self, name: NameRef<'_>) -> bool {
        is_within(name, &self.zones)
    }

    fn read_option(&mut self, name: &str, args: &mut Args<'_, '_>) {
        match name {
            "success" => self.capacity = self.capacity.saturating_add(self.success.read(args)),
            "denial" => self.capacity = self.capacity.saturating_add(self.denial.read(args)),
            "prefetch" => self.prefetch = Prefetch::read(args),
            "serve_stale" => self.stale = Stale::read(args),
            "servfail" => {
                if let Some(time) = args.duration_in("a duration", Duration::ZERO..=MAX_FAILURE) {
                    self.servfail = time;
                }
            }
            "disable" => self.read_disable(args),
            "keepttl" => self.keepttl = true,
            "prefer_positive" => self.prefer_positive = true,
            // CoreDNS's form.
            "serve_stale_policy" => {
                self.prefer_positive |= args.value("prefer_positive", stale_policy).is_some();
            }
            "size" => self.size = args.value("bytes, as 64Mi", bytes).or(self.size),
            "nxdomain_cut" => {
                self.nxdomain_cut = args.value("on or off", value::on_off).unwrap_or(false)
            }
            _ => args.unknown_option(&OPTIONS),
        }
    }

    fn read_disable(&mut self, args: &mut Args<'_, '_>) {
        let denial = args.value("success or denial", |word| match word {
            "success" => Ok(false),
            "denial" => Ok(true),
            _ => Err(ValueError::new(
                format!("{word:?} is neither success nor denial"),
                "success or denial",
            )),
        });
        let zones = args.zones_or(&[Name::root()]);
        match denial {
            Some(true) => self.denial.disabled = zones,
            Some(false) => self.success.disabled = zones,
            None => {}
        }
    }
}

impl Side {
    /// True for names whose answers of this side are not kept.
    pub fn is_disabled(&self, name: NameRef<'_>) -> bool {
        is_within(name, &self.disabled)
    }

    /// `CAPACITY [TTL] [MINTTL]`; returns the capacity.
    fn read(&mut self, args: &mut Args<'_, '_>) -> u64 {
        let capacity = args.integer("a number of answers", 0..=u64::from(u32::MAX)).unwrap_or(0);
        if !args.is_empty()
            && let Some(cap) = args.integer("seconds", 1..=MAX_TTL)
        {
            self.cap = cap;
        }
        if !args.is_empty()
            && let Some(floor) = args.integer("seconds", 0..=MAX_TTL)
        {
            self.floor = floor;
        }
        capacity
    }
}

impl Prefetch {
    /// `AMOUNT [DURATION [PERCENTAGE%]]`; zero switches it off.
    fn read(args: &mut Args<'_, '_>) -> Option<Self> {
        let amount = args.integer("a number of queries", 0..=u32::MAX);
        let gap = if args.is_empty() { None } else { args.duration("a duration") };
        let percent = if args.is_empty() { None } else { args.percentage("a percentage", 10..=90) };
        let amount = amount.filter(|amount| *amount > 0)?;
        let gap = seconds(gap.unwrap_or(Duration::from_secs(60))).max(1);
        Some(Self { amount, gap, percent: percent.unwrap_or(10) })
    }
}

impl Stale {
    /// What a bare `serve_stale` means.
    pub const DEFAULT: Self = Self {
        seconds: STALE.as_secs() as u32,
        refresh: Refresh::Immediate,
        ttl: STALE_TTL,
        recheck: RECHECK,
    };

    /// `[DURATION [immediate [TTL [RECHECK]] | verify [WAIT [TTL [RECHECK]]]]]`; a duration of zero switches it off.
    fn read(args: &mut Args<'_, '_>) -> Option<Self> {
        const MAX_STALE: Duration = Duration::from_secs(MAX_TTL as u64);
        let mut stale = Self::DEFAULT;
        if !args.is_empty() {
            let time = args.duration_in("a duration", Duration::ZERO..=MAX_STALE)?;
            stale.seconds = seconds(time);
        }
        if !args.is_empty() {
            stale.refresh = args.value("immediate or verify", |word| {
                match word.to_ascii_lowercase().as_str() {
                    "immediate" => Ok(Refresh::Immediate),
                    "verify" => Ok(Refresh::Verify(CLIENT_WAIT)),
                    _ => Err(ValueError::new(
                        format!("{word:?} is no way to refresh"),
                        "immediate or verify",
                    )),
                }
            })?;
        }
        if stale.refresh != Refresh::Immediate && !args.is_empty() {
            let wait = args.duration_in("a duration", Duration::ZERO..=Duration::from_secs(30))?;
            stale.refresh = Refresh::Verify(wait);
        }
        if !args.is_empty() {
            stale.ttl = seconds(args.duration_in("a duration", Duration::ZERO..=MAX_FAILURE)?);
        }
        if !args.is_empty() {
            stale.recheck = seconds(args.duration_in("a duration", Duration::ZERO..=MAX_FAILURE)?);
        }
        (stale.seconds > 0).then_some(stale)
    }
}

fn is_within(name: NameRef<'_>, zones: &[Name]) -> bool {
    zones.iter().any(|zone| zone.as_ref().is_root() || name.is_within(zone.as_ref()))
}

/// Whole seconds, rounded up so that no time that was asked for becomes none.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// A number of bytes, with `Ki`, `Mi`, `Gi` or `k`, `M`, `G` as Kubernetes writes them.
fn bytes(word: &str) -> Result<u64, ValueError> {
    let wrong =
        || ValueError::new(format!("{word:?} is not a number of bytes"), "1Mi to 1Ti, as in 64Mi");
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match word.get(digits.len()..) {
        Some("") => 1,
        Some("Ki") => 1 << 10,
        Some("Mi") => 1 << 20,
        Some("Gi") => 1 << 30,
        Some("k") => 1_000,
        Some("M") => 1_000_000,
        Some("G") => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|size| (MIN_SIZE..=1 << 40).contains(size)).ok_or_else(wrong)
}

fn stale_policy(word: &str) -> Result<(), ValueError> {
    if word == "prefer_positive" {
        return Ok(());
    }
    Err(ValueError::new(format!("there is no policy {word:?}"), "prefer_positive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Config, String) {
        let (file, mut diagnostics) =
            crate::corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &|_| None);
        let directive = &file.blocks[0].directives[0];
        let config = Config::parse(directive, &[Name::root()], &mut diagnostics);
        (config, diagnostics.to_string())
    }

    fn sound(text: &str) -> Config {
        let (config, errors) = parse(text);
        assert_eq!(errors, "", "{text}");
        config
    }

    #[test]
    fn defaults_are_coredns_s() {
        let config = sound("cache");
        assert_eq!(config, Config::new(vec![Name::root()]));
        assert_eq!(Config::budget([&config]), Size { bytes: DEFAULT_SIZE, is_written: false });
        let config = sound("cache 30");
        assert_eq!((config.success.cap, config.denial.cap, config.success.floor), (30, 30, 5));
    }

    #[test]
    fn zones_and_sides_are_read() {
        let config = sound(
            "cache 160 skydns.local example.org {\n success 5000 3600 10\n denial 2500 5\n disable denial a.org\n keepttl\n}",
        );
        assert_eq!(config.zones.len(), 2);
        assert!(config.covers(Name::from_text("x.example.org").unwrap().as_ref()));
        assert!(!config.covers(Name::from_text("org").unwrap().as_ref()));
        assert_eq!((config.success.cap, config.success.floor), (3600, 10));
        assert_eq!((config.denial.cap, config.denial.floor), (5, 5));
        assert!(config.denial.is_disabled(Name::from_text("b.a.org").unwrap().as_ref()));
        assert!(config.keepttl);
        assert_eq!(Config::budget([&config]), Size { bytes: DEFAULT_SIZE, is_written: false });
        let large = sound("cache {\n success 100000\n}");
        assert_eq!(Config::budget([&config, &large]), (107_500 * BYTES_PER_ANSWER).into());
        let sized = sound("cache {\n success 100000\n size 48Mi\n}");
        assert_eq!(Config::budget([&sized, &large]), (48 << 20).into());
    }

    #[test]
    fn refreshing_is_read() {
        assert_eq!(sound("cache {\n prefetch 0\n}").prefetch, None);
        let prefetch = |text| sound(&format!("cache {{\n prefetch {text}\n}}")).prefetch.unwrap();
        assert_eq!(prefetch("2"), Prefetch { amount: 2, gap: 60, percent: 10 });
        assert_eq!(prefetch("1 10m 80%"), Prefetch { amount: 1, gap: 600, percent: 80 });
        let stale = |text: &str| sound(&format!("cache {{\n serve_stale {text}\n}}")).stale;
        assert_eq!(stale(""), Some(Stale::DEFAULT));
        assert_eq!(stale("0"), None);
        assert_eq!(stale("3600s immediate"), Some(Stale::DEFAULT));
        assert_eq!(
            stale("1h20m VERIFY 100ms 10s 5s"),
            Some(Stale {
                seconds: 4800,
                refresh: Refresh::Verify(Duration::from_millis(100)),
                ttl: 10,
                recheck: 5
            })
        );
        assert_eq!(
            stale("1h immediate 15s 0s"),
            Some(Stale { ttl: 15, recheck: 0, ..Stale::DEFAULT })
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        for (text, wanted) in [
            ("cache 0", "cache: "),
            ("cache -1 a.org", "cache: "),
            ("cache {\n success\n}", "success: an argument is missing"),
            ("cache {\n success aaa\n}", "success: "),
            ("cache {\n denial 1 0\n}", "denial: "),
            ("cache {\n positive 0\n}", "there is no option \"positive\""),
            ("cache {\n prefetch -1\n}", "prefetch: "),
            ("cache {\n prefetch 1 10m 5%\n}", "prefetch: "),
            ("cache {\n prefetch 1 10m 50% x\n}", "prefetch: there is an argument too many"),
            ("cache {\n serve_stale 20\n}", "serve_stale: "),
            ("cache {\n serve_stale 1m after\n}", "serve_stale: \"after\" is no way to refresh"),
            ("cache {\n servfail\n}", "servfail: an argument is missing"),
            ("cache {\n servfail 6m\n}", "servfail: "),
            ("cache {\n disable nothing a.org\n}", "disable: \"nothing\" is neither"),
            ("cache {\n size 12\n}", "size: \"12\" is not a number of bytes"),
            ("cache {\n nxdomain_cut perhaps\n}", "nxdomain_cut: "),
        ] {
            let (_, errors) = parse(text);
            assert!(errors.contains(wanted), "{text}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{text}: {errors}");
        }
    }
}
