//! What is typed on the command line. NodeLocal DNSCache's flags are taken in Go's spelling too (`-localip a,b`,
//! `-setupinterface=false`), so that its manifest works with another image.

mod doctor;
mod explain;
mod generate;
mod kubectl;
mod lookup;
mod node;
mod observe;
mod page;
mod user_id;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

pub use self::doctor::{Category, Doctor};
pub use self::explain::ExplainFlags;
pub use self::generate::{completions, man};
pub use self::kubectl::Kubectl;
pub use self::lookup::Lookup;
use self::node::go_bool;
pub use self::node::{AddonFlags, MetricsAddress, NodeFlags, OwnNodeFlags};
pub use self::observe::{ObserveFlags, TopFlags};
pub use self::page::PageAddress;
use self::page::page_address;
pub use self::user_id::UserId;
use crate::version;

/// The DNS server of a Kubernetes node.
///
/// Answers cluster names from its own store, caches everything else, and forwards misses. It is configured by a Corefile;
/// the directives are CoreDNS's.
#[derive(Parser, Debug, Clone)]
#[command(name = "nodens", version = version::line(), max_term_width = 100, args_conflicts_with_subcommands = true)]
#[command(args_override_self = true)]
#[command(
    after_help = "NodeLocal DNSCache's flags may be written as there, with one dash and `-flag=true`."
)]
pub struct Cli {
    /// What to do; without a command: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// What to do instead of serving.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Check a configuration as a start would, and change nothing: print every mistake as FILE:LINE and exit with 1, or
    /// print the configuration in effect and exit with 0.
    Check(Box<Check>),
    /// Show or flush the cache of the running server.
    Cache {
        /// What to do with it.
        #[command(subcommand)]
        action: CacheAction,
        /// The running server's socket.
        #[arg(long, global = true, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
        socket: PathBuf,
    },
    /// Show, set up or take away the node's interface, addresses and notrack rules, with the flags of the server.
    Net(Box<Net>),
    /// Explain each query that a stub resolver sends for a name, what becomes of it and why, without changing anything.
    Explain(Box<ExplainFlags>),
    /// Show the queries that the running server answers, as they are answered.
    Observe(Box<ObserveFlags>),
    /// Show the most frequent names and clients of the last minute or two, who asks for names that do not exist, and what was slow.
    Top(TopFlags),
    /// Ask the running server what probes ask, and exit with 1 and the reasons if it says no.
    Probe {
        /// What to ask.
        probe: Probe,
        /// The running server's socket.
        #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
        socket: PathBuf,
    },
    /// Look for what is wrong on this node, or in the cluster with --cluster, and change nothing: exit with 0 if there is no
    /// problem, with 1 if there is, with 2 if nothing could be examined.
    Doctor(Box<Doctor>),
    /// Replace the running server by the program that is installed now, without losing a query; exit with 1 and the reason if the
    /// new one does not start.
    Upgrade {
        /// Even if the Corefile has mistakes for the running server, or is held back.
        #[arg(long)]
        force: bool,
        /// The running server's socket.
        #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
        socket: PathBuf,
    },
    /// Have the running server read its configuration again, and print what has changed; exit with 1 and the reason if the
    /// running configuration stays.
    Reload {
        /// Apply it even if it would silence the node.
        #[arg(long)]
        force: bool,
        /// The running server's socket.
        #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
        socket: PathBuf,
    },
    /// Ask a DNS server for a name, and exit with 1 if it has no such records.
    Lookup(Lookup),
    /// Print what makes a shell complete this command line.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command into a folder.
    Man {
        /// The folder; it has to be there.
        folder: Option<PathBuf>,
    },
    /// Show what the running server knows and waits for.
    Status {
        /// The running server's socket.
        #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
        socket: PathBuf,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
        /// Print it again every so many seconds, until it is interrupted.
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
              value_parser = clap::value_parser!(u64).range(1..=3_600))]
        watch: Option<u64>,
    },
}

/// A configuration to check.
#[derive(Args, Debug, Clone)]
pub struct Check {
    /// The Corefile; `-` for standard input. Without it: what the flags describe; without flags and a file `Corefile`
    /// here: what the running server serves.
    pub file: Option<PathBuf>,
    /// How to print the configuration.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The server's flags.
    #[command(flatten)]
    pub serve: Serve,
}

/// The node's network by hand.
#[derive(Args, Debug, Clone)]
pub struct Net {
    /// What to do.
    pub action: NetAction,
    /// What is wanted, as the server is told.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Accepted without effect.
    #[command(flatten)]
    pub addon: AddonFlags,
    /// The port of DNS, for the notrack rules.
    #[arg(long = "dns.port", value_name = "PORT", default_value_t = 53)]
    pub dns_port: u16,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What probes ask.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether its workers answer, as /health says: upstreams and API server do not count.
    Alive,
    /// Whether it waits for nothing, as /ready says.
    Ready,
}

/// What to do with the node's network.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetAction {
    /// Print what is there, and what `apply` would do.
    Show,
    /// Set up what is missing, once.
    Apply,
    /// Take everything away that is ours.
    Teardown,
}

/// What to do with the cache.
#[derive(Subcommand, Debug, Clone)]
pub enum CacheAction {
    /// Print what is cached: a summary, or a name with everything below it.
    Show {
        /// The name, with everything below it.
        name: Option<String>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Forget what is kept: of one name and everything below it, or all.
    Flush {
        /// The name, with everything below it.
        name: Option<String>,
    },
}

/// How to print.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// How to write the log.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the running server listens for `nodens status` and `nodens cache`.
pub const DEFAULT_SOCKET: &str = "/run/nodens/nodens.sock";

/// How to serve.
#[derive(Args, Debug, Clone)]
pub struct Serve {
    /// The Corefile.
    #[arg(long, visible_alias = "corefile", value_name = "FILE", default_value = "Corefile")]
    pub conf: PathBuf,
    /// The port of server blocks that name none.
    #[arg(long = "dns.port", short = 'p', alias = "p", value_name = "PORT", default_value_t = 53)]
    pub dns_port: u16,
    /// Log warnings and errors only, as `--log-level warn`.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub quiet: bool,
    /// Print the directives that are served, and exit.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub plugins: bool,
    /// Write the process id to this file.
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Threads that answer; 0: one for each CPU that the process may use, 8 at most.
    #[arg(long, value_name = "N", default_value_t = 0, env = "NODENS_WORKERS", value_parser = workers,
          allow_negative_numbers = true)]
    pub workers: usize,
    /// How to write the log.
    #[arg(long, value_enum, default_value_t, env = "NODENS_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug or trace, also for single modules (`info,nodens::cluster=debug`).
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "NODENS_LOG", value_parser = log_level)]
    pub log_level: String,
    /// Where `nodens status` and `nodens cache` reach this server; empty: nowhere.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub socket: PathBuf,
    /// Where the next instance on this node finds this one, to take over its sockets, cache and store; empty: nowhere. Default:
    /// beside --socket, with the extension `handover`.
    #[arg(long, value_name = "FILE", env = "NODENS_HANDOVER_SOCKET",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub handover_socket: Option<PathBuf>,
    /// Where the page for people is, `/`; off: nowhere. Without it: wherever /metrics is.
    #[arg(long, value_name = "ADDRESS|off", default_value = "", hide_default_value = true, env = "NODENS_PAGE",
          value_parser = page_address)]
    pub page_listen_address: PageAddress,
    /// Serve in this process, without a supervisor that starts the server again after a crash.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub no_supervisor: bool,
    /// The node's network, as NodeLocal DNSCache sets it up.
    #[command(flatten)]
    pub node: NodeFlags,
    /// NodeLocal DNSCache's metrics and template.
    #[command(flatten)]
    pub addon: AddonFlags,
}

fn workers(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number, 0 for one worker for each CPU".to_owned())
}

/// A level, or a list for modules. A single word that is no level would be taken for the name of a module, and turn the
/// log off.
fn log_level(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected error, warn, info, debug, trace or off, or a list such as info,nodens::cluster=debug";
    let known = |level: &str| {
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        levels.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    let is_level = |part: &str| known(part.rsplit_once('=').map_or(part, |(_, level)| level));
    match text.trim() {
        "" => Ok("info".to_owned()),
        text if text.eq_ignore_ascii_case("warning") => Ok("warn".to_owned()),
        text if text.split(',').all(|part| is_level(part.trim())) => Ok(text.to_owned()),
        _ => Err(EXPECTED.to_owned()),
    }
}

impl Serve {
    /// Where the next instance finds this one; `None`: nowhere.
    pub fn handover_socket(&self) -> Option<PathBuf> {
        let beside = || self.socket.with_extension("handover");
        let path = match &self.handover_socket {
            None if self.socket.as_os_str().is_empty() => return None,
            other => other.clone().unwrap_or_else(beside),
        };
        (!path.as_os_str().is_empty()).then_some(path)
    }
}

impl Cli {
    /// Reads the command line, Go's spelling included; exits with a message where it is wrong, as clap does.
    pub fn from_env() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads the words behind the program's name, and exits as [`Cli::from_env`] does.
    pub fn from_words(words: &[String]) -> Self {
        let all = std::iter::once("nodens".into()).chain(words.iter().map(OsString::from));
        Self::read(all).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line that begins with the program's name.
    ///
    /// # Errors
    /// It is not one of this program.
    pub fn read(words: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(normalise(words))?;
        Self::from_arg_matches(&matches)
    }
}

/// The command line, in whose help `net` shows the flags that it heeds. It takes all of the server's, so that a
/// deployment's arguments can be used as they are.
fn command() -> clap::Command {
    let of_others = AddonFlags::augment_args(clap::Command::new(""));
    let is_of_others = |id: &clap::Id| of_others.get_arguments().any(|arg| arg.get_id() == id);
    Cli::command().mut_subcommand("net", |net| {
        net.mut_args(|arg| {
            let hidden = is_of_others(arg.get_id());
            if hidden { arg.hide(true) } else { arg }
        })
    })
}

/// Turns Go's single-dash flags into double-dash ones, and leaves out node-cache's `-tls-...`, since metrics are served in
/// the clear; what follows `--` is left alone.
fn normalise(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut verbatim = false;
    without_tls(args)
        .map(|arg| {
            verbatim |= arg == "--";
            match arg.to_str() {
                Some(text)
                    if !verbatim
                        && text.len() > 2
                        && text.starts_with('-')
                        && !text.starts_with("--") =>
                {
                    format!("-{text}").into()
                }
                _ => arg,
            }
        })
        .collect()
}

/// Without flags such as `-tls-cert-file=FILE` or `-tls-cert-file FILE`.
fn without_tls(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut args = args.peekable();
    std::iter::from_fn(move || {
        loop {
            let arg = args.next()?;
            let text = arg.to_str().unwrap_or_default();
            if !text.trim_start_matches('-').starts_with("tls-") || !text.starts_with('-') {
                return Some(arg);
            }
            if !text.contains('=') {
                // Its value is the next word, unless that is a flag.
                let is_flag = |next: &OsString| next.to_string_lossy().starts_with('-');
                args.next_if(|next| !is_flag(next));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_add_ons_arguments_are_taken() {
        let cli = parse(
            "nodens -localip 169.254.20.10,10.96.0.10 -conf /etc/Corefile -upstreamsvc kube-dns-upstream \
             -setupinterface=false -skipteardown -syncinterval=60 -health-port 8080 -dns.port=53",
        )
        .unwrap();
        assert_eq!(cli.serve.node.localip.len(), 2);
        assert!(
            !cli.serve.node.setupinterface
                && cli.serve.node.setupiptables
                && cli.serve.node.skipteardown
        );
        assert_eq!(cli.serve.node.syncinterval.as_secs(), 60);
        assert_eq!(cli.serve.conf, PathBuf::from("/etc/Corefile"));
        assert_eq!(parse("nodens -corefile x").unwrap().serve.conf, PathBuf::from("x"));
        assert_eq!(
            parse("nodens -syncinterval 90s").unwrap().serve.node.syncinterval.as_secs(),
            90
        );
    }

    #[test]
    fn gos_spellings_are_taken() {
        let serve = |line: &str| parse(&format!("nodens {line}")).unwrap().serve;
        let node = |line: &str| serve(line).node;
        for no in ["False", "FALSE", "0", "f"] {
            assert!(!node(&format!("-setupinterface={no}")).setupinterface);
        }
        assert!(node("-setupinterface=false -setupinterface=T").setupinterface);
        assert_eq!(serve("-metrics-listen-address 0").addon.metrics_listen_address.0, None);
        assert_eq!(serve("-metrics-listen-address=").addon.metrics_listen_address.0, None);
        assert_eq!(node("-localip 10.0.0.1 -localip 10.0.0.2").localip.len(), 1);
        node("-initialdelay 10 -tls-cert-file /a -tls-key-file=/b -skipteardown");
        let quiet = serve("-quiet -p 1053");
        assert!(quiet.quiet && quiet.dns_port == 1053);
        assert_eq!(parse("nodens -p=1054").unwrap().serve.dns_port, 1054);
        assert!(parse("nodens -plugins").unwrap().serve.plugins);
    }

    #[test]
    fn log_levels_are_checked() {
        for (level, meant) in [("warning", "warn"), ("info,hyper=off", "info,hyper=off")] {
            assert_eq!(log_level(level).unwrap(), meant);
        }
        assert_eq!(log_level("").unwrap(), "info");
        for bad in ["verbose", "loud", "info,nodens=loud"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
        assert!(parse("nodens --workers=-1").unwrap_err().to_string().contains("whole number"));
    }

    #[test]
    fn commands_and_flags_do_not_mix() {
        assert!(matches!(
            parse("nodens check x -o json").unwrap().command,
            Some(Command::Check(_))
        ));
        assert!(parse("nodens -syncinterval 0").is_err());
        let net = parse("nodens net show -localip 169.254.20.10 --notrack auto -o json");
        assert!(matches!(net.unwrap().command, Some(Command::Net(net)) if net.dns_port == 53));
        assert!(parse("nodens -nonsense").is_err());
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
        let help = parse("nodens net --help").unwrap_err().to_string();
        assert!(help.contains("--link-kind") && !help.contains("--basecorefile"), "{help}");
        assert!(parse("nodens net show -localip 10.0.0.1 -basecorefile x").is_ok());
    }
}
