//! The flags of `nodens observe` and `nodens top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{DEFAULT_SOCKET, Output};
use crate::observe::filter::{self, Filter};

/// Which queries to show. All that is given has to hold.
#[derive(Args, Debug, Clone)]
pub struct ObserveFlags {
    /// Names that match this pattern, such as `*.svc.cluster.local`; `*` stands for any text, dots included.
    #[arg(long, value_name = "GLOB")]
    pub name: Option<String>,
    /// Queries of this client, of the clients of this network, or of this Pod, where Pods are watched (`pods node`, `pods verified`).
    #[arg(long, value_name = "IP|CIDR|NS/POD")]
    pub client: Option<String>,
    /// Answers with this response code, such as NXDOMAIN.
    #[arg(long, value_name = "CODE")]
    pub rcode: Option<String>,
    /// Answers that took longer, such as 10ms.
    #[arg(long, value_name = "DURATION", value_parser = filter::slower)]
    pub slower: Option<Duration>,
    /// Answers from there: cache, stale, store, upstream, server, or a directive.
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// End after so many queries.
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
    /// How to print them; JSON is one object a line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The running server's socket.
    #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
    pub socket: PathBuf,
}

impl ObserveFlags {
    /// What the server is asked for.
    pub fn filter(&self) -> Filter {
        Filter {
            name: self.name.clone(),
            client: self.client.clone(),
            rcode: self.rcode.clone(),
            slower_than_micros: self.slower.map(|slower| slower.as_micros() as u64),
            source: self.source.clone(),
        }
    }
}

/// How to show the top.
#[derive(Args, Debug, Clone)]
pub struct TopFlags {
    /// What search lists cost: the names that most queries are sent for in vain, and what would save them.
    #[arg(long)]
    pub waste: bool,
    /// Rows of each kind.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub rows: u16,
    /// Seconds from one print to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub every: u64,
    /// Print once and exit.
    #[arg(long)]
    pub once: bool,
    /// How to print it; JSON is printed once.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The running server's socket.
    #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
    pub socket: PathBuf,
}
