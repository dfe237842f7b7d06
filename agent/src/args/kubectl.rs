//! The command line of `kubectl nodens`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use super::lookup::Patience;
use crate::version;

/// Runs a command of nodens in its pods, by `kubectl exec`, and prints what they say node by node.
///
/// Options of the plugin go before the command, `--node` may also follow it; everything else behind the command is its own.
#[derive(Parser, Debug, Clone)]
#[command(name = "kubectl-nodens", bin_name = "kubectl nodens", version = version::line(), max_term_width = 100)]
#[command(after_help = "Examples:
  kubectl nodens status
  kubectl nodens --node worker-3 explain web.shop.svc.cluster.local --namespace shop
  kubectl nodens observe --node worker-3 --rcode SERVFAIL
  kubectl nodens -n dns status -o json | jq 'map_values(.version)'")]
pub struct Kubectl {
    /// Only this node; may be given several times. Without it: all nodes.
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
    /// Where the pods are.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub namespace: String,
    /// Which pods they are.
    #[arg(
        short = 'l',
        long,
        value_name = "LABELS",
        default_value = "app.kubernetes.io/name=nodens"
    )]
    pub selector: String,
    /// As kubectl's.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// As kubectl's.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Nodes that are asked at the same time.
    #[arg(long, value_name = "N", default_value = "10")]
    pub parallel: NonZeroUsize,
    /// How long a node may take; `observe` has no limit.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: Patience,
    /// What to run in each pod, with its own options: status, doctor, explain, observe, top, cache, lookup, probe, reload, check or net.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,
}

impl Kubectl {
    /// Reads the command line, and exits with a message where it is wrong, as clap does.
    pub fn from_env() -> Self {
        let mut read = Self::parse();
        read.take_nodes();
        read
    }

    /// Takes `--node` out of the words of the command, behind which people write it, too.
    fn take_nodes(&mut self) {
        let mut words = std::mem::take(&mut self.command).into_iter();
        while let Some(word) = words.next() {
            if word == "--node" {
                self.node.extend(words.next());
            } else if let Some(node) = word.strip_prefix("--node=") {
                self.node.push(node.to_owned());
            } else {
                self.command.push(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn options_of_the_command_are_its_own() {
        Kubectl::command().debug_assert();
        let read = |line: &str| {
            let words = std::iter::once("kubectl-nodens").chain(line.split(' '));
            let mut read = Kubectl::try_parse_from(words)?;
            read.take_nodes();
            Ok::<_, clap::Error>(read)
        };
        let found =
            read("-n dns --node a explain web --namespace shop -o json --node=b --node c").unwrap();
        assert_eq!((found.namespace.as_str(), found.node.join(" ")), ("dns", "a b c".to_owned()));
        assert_eq!(found.command, ["explain", "web", "--namespace", "shop", "-o", "json"]);
        assert!(read("-n dns").is_err());
    }
}
