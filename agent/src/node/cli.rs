//! `nodens net show|apply|teardown`: the node's network by hand, with the flags of the server.

use std::fmt;
use std::io::Write;

use netsetup::observed::{Conntrack, ObservedLink, ObservedTable};
use netsetup::{Desired, Kernel, Observed, Operation, Refusal, Report};
use serde::Serialize;

use super::{FlagError, NodeConfig};
use crate::args::{Net, NetAction, NodeFlags, Output};
use crate::corefile::process_environment;

/// What `show` prints.
#[derive(Debug, Serialize)]
struct Shown {
    wanted: Desired,
    /// The link of the wanted name, all links marked as ours, and kube-proxy's IPVS link.
    links: Vec<ObservedLink>,
    table: ObservedTable,
    conntrack: Conntrack,
    /// What `apply` would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<Operation>>,
    /// Why it would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
}

/// Runs the command; false if something is not as it should be, which has been printed then.
///
/// # Errors
/// The flags make no sense, the kernel cannot be read, or the output cannot be written.
pub fn run(args: &Net, out: &mut impl Write) -> anyhow::Result<bool> {
    // Nothing is kept here, so it is of no consequence that nothing could be mended.
    let flags = NodeFlags { skipteardown: true, ..args.node.clone() };
    let config = NodeConfig::read(&flags, args.dns_port, process_environment)?;
    let output = args.output;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kernel = Kernel::connect()?;
        match args.action {
            NetAction::Show => {
                let shown = Shown::new(&config, kernel.observe().await?);
                print(&shown, output, out)?;
                Ok(shown.refusal.is_none())
            }
            NetAction::Apply if !config.is_any() => Err(FlagError::NoAddress.into()),
            NetAction::Apply => finish(&kernel.apply(&config.desired).await, output, out),
            NetAction::Teardown => finish(&kernel.teardown(&config.desired).await, output, out),
        }
    })
}

fn finish(report: &Report, output: Output, out: &mut impl Write) -> anyhow::Result<bool> {
    print(report, output, out)?;
    Ok(report.is_ok())
}

fn print(
    what: &(impl fmt::Display + Serialize),
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match output {
        Output::Text => write!(out, "{what}")?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, what).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

impl Shown {
    fn new(config: &NodeConfig, observed: Observed) -> Self {
        let name = config.desired.link.as_ref().map(|link| link.name.as_str());
        let of_interest = |link: &&ObservedLink| {
            link.is_ours()
                || Some(link.name.as_str()) == name
                || observed.ipvs().is_some_and(|ipvs| ipvs.name == link.name)
        };
        let links = observed.links.iter().filter(of_interest).cloned().collect();
        let planned = config.is_any().then(|| netsetup::plan(&config.desired, &observed));
        let (plan, refusal) = match planned {
            None => (None, None),
            Some(Ok(plan)) => (Some(plan), None),
            Some(Err(refusal)) => (None, Some(refusal)),
        };
        Self {
            wanted: config.desired.clone(),
            links,
            table: observed.table,
            conntrack: observed.conntrack,
            plan,
            refusal,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.links.is_empty() {
            writeln!(f, "link       none of ours")?;
        }
        for link in &self.links {
            let kind = link.kind.as_deref().unwrap_or("hardware");
            let state = if link.up { "up" } else { "down" };
            let owner = if link.is_ours() { "ours" } else { "not marked as ours" };
            writeln!(f, "link       {} {kind} {state} mtu {} ({owner})", link.name, link.mtu)?;
            for address in &link.addresses {
                let state = if address.unusable { " (cannot be used yet)" } else { "" };
                writeln!(f, "address    {}/{}{state}", address.ip, address.prefix)?;
            }
        }
        match &self.table {
            ObservedTable::Absent => writeln!(f, "notrack    no rules")?,
            ObservedTable::Present(table) => {
                writeln!(f, "notrack    {} rules in table inet nodens", table.rules())?;
            }
            ObservedTable::Unknown(why) => writeln!(f, "notrack    unknown: {why}")?,
        }
        match self.conntrack {
            Conntrack::InUse => writeln!(f, "conntrack  in use")?,
            Conntrack::Idle => writeln!(f, "conntrack  not in use")?,
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "refused    {refusal}")?;
        }
        match &self.plan {
            Some(plan) if plan.is_empty() => writeln!(f, "everything is as wanted"),
            Some(plan) => plan.iter().try_for_each(|step| writeln!(f, "to do      {step}")),
            None => Ok(()),
        }
    }
}
