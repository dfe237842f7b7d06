//! The flags of `nodens explain`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::lookup::ServerAddress;
use super::{DEFAULT_SOCKET, Output};
use crate::explain::question::Question;

/// What to explain.
#[derive(Args, Debug, Clone)]
pub struct ExplainFlags {
    /// The name, as an application gives it to its resolver; with a trailing dot it is not searched for.
    pub name: String,
    /// As a Pod of this namespace asks: with the search list that the kubelet writes.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// As this Pod asks.
    #[arg(long, value_name = "NS/POD", conflicts_with = "namespace")]
    pub pod: Option<String>,
    /// The type to ask for; more than once, or separated by commas. Without it: A and AAAA.
    #[arg(short, long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// The client's address, by which `acl` and `limit` decide.
    #[arg(long, value_name = "IP")]
    pub client: Option<IpAddr>,
    /// Other search domains than those of the namespace.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub search: Option<Vec<String>>,
    /// Another `ndots` than 5.
    #[arg(long, value_name = "N")]
    pub ndots: Option<u8>,
    /// At which of the server's addresses; without it at one that pods ask: at port 53, and not at a loopback address.
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<ServerAddress>,
    /// Ask upstreams too, beside the traffic.
    #[arg(long)]
    pub ask: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The running server's socket.
    #[arg(long, default_value = DEFAULT_SOCKET, env = "NODENS_SOCKET")]
    pub socket: PathBuf,
}

impl ExplainFlags {
    /// What the server is asked.
    pub fn question(&self) -> Question {
        Question {
            name: self.name.clone(),
            types: self.types.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            client: self.client,
            search: self.search.clone(),
            ndots: self.ndots,
            server: self.server.map(|server| server.0),
            ask: self.ask,
        }
    }
}
