//! Reading the kernel and changing it, over netlink.
//!
//! The kernel serves netlink requests inside `sendmsg`, under locks that kube-proxy and the
//! container runtime hold for long at times. So a [`Kernel`] belongs on a runtime that answers no
//! queries.

mod conntrack;
pub(crate) mod nfnetlink;
mod route;

use std::io;

use tokio::task::spawn_blocking;

use crate::error::Error;
use crate::nft::{self, Table};
use crate::observed::{Conntrack, Observed, ObservedTable};
use crate::plan::{Operation, Refusal, plan, plan_teardown};
use crate::report::{Outcome, Report, Step};
use crate::spec::{Desired, LinkSpec, Mode};

/// How often one call reads the kernel and plans.
const ROUNDS: usize = 3;

/// A connection to the kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Kernel {
    route: route::Route,
}

impl Kernel {
    /// Opens the connection. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]. Privileges are not needed before something is to be changed.
    pub fn connect() -> Result<Self, Error> {
        Ok(Self { route: route::Route::connect().map_err(|source| Error::Socket { source })? })
    }

    /// Reads the links, the addresses and the table. Without CAP_NET_ADMIN the table is
    /// [`ObservedTable::Unknown`].
    ///
    /// # Errors
    ///
    /// Links or addresses cannot be read.
    pub async fn observe(&self) -> Result<Observed, Error> {
        let links = self.route.observe().await?;
        let read = || (read_table(), conntrack::observe(), read_input_drops());
        let (table, conntrack, input_drops) = spawn_blocking(read).await.unwrap_or_else(|error| {
            (ObservedTable::Unknown(error.to_string()), Conntrack::Idle, Vec::new())
        });
        Ok(Observed { links, table, conntrack, input_drops })
    }

    /// What [`Kernel::apply`] would do.
    ///
    /// # Errors
    ///
    /// The kernel cannot be read. A refusal is in the `Ok`.
    pub async fn plan(&self, desired: &Desired) -> Result<Result<Vec<Operation>, Refusal>, Error> {
        Ok(plan(desired, &self.observe().await?))
    }

    /// Brings the kernel to what is desired, and looks again whether it is so. What other software changes meanwhile, a
    /// link that it deletes between two requests for example, is read and planned anew, at most [`ROUNDS`] times in all; only
    /// what is wrong after the last is a problem.
    pub async fn apply(&self, desired: &Desired) -> Report {
        let mut report = self.apply_once(desired, Vec::new()).await;
        for _ in 1..ROUNDS {
            if !report.is_overtaken() {
                break;
            }
            let done = report.steps.into_iter().filter(Step::is_done).collect();
            report = self.apply_once(desired, done).await;
        }
        report
    }

    /// One reading of the kernel and what follows from it, after the steps that are `done`.
    async fn apply_once(&self, desired: &Desired, done: Vec<Step>) -> Report {
        let before = done.len();
        let mut report = Report { steps: done, ..Report::default() };
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                return Report { unreadable: Some(error), ..report };
            }
        };
        report.notes = notes(desired, &observed);
        match plan(desired, &observed) {
            Ok(operations) => self.run(operations, &mut report).await,
            Err(refusal) => report.refusal = Some(refusal),
        }
        if report.steps.len() > before {
            match self.plan(desired).await {
                Ok(Ok(rest)) => report.unsettled = rest,
                Ok(Err(refusal)) => report.refusal = Some(refusal),
                Err(error) => report.unreadable = Some(error),
            }
        }
        report
    }

    /// Removes everything that Nodens owns. An error does not stop it.
    pub async fn teardown(&self, desired: &Desired) -> Report {
        let mut report = Report::default();
        match self.observe().await {
            Ok(observed) => self.run(plan_teardown(desired, &observed), &mut report).await,
            Err(error) => {
                // Who owns the link cannot be known now, but the table is Nodens' by its name.
                report.unreadable = Some(error);
                self.run(vec![Operation::RemoveTable], &mut report).await;
                return report;
            }
        }
        if !report.steps.is_empty() {
            match self.observe().await {
                Ok(observed) => report.unsettled = plan_teardown(desired, &observed),
                Err(error) => report.unreadable = Some(error),
            }
        }
        report
    }

    /// Does the operations in order. After a failed link its addresses make no sense; all else is
    /// tried regardless.
    async fn run(&self, operations: Vec<Operation>, report: &mut Report) {
        let mut lost_link = false;
        for operation in operations {
            let needs_link =
                !matches!(operation, Operation::ReplaceTable { .. } | Operation::RemoveTable);
            let outcome = if lost_link && needs_link {
                Outcome::Skipped { because: "the link could not be made".into() }
            } else {
                match self.perform(&operation).await {
                    Ok(()) => Outcome::Done,
                    Err(error) => {
                        lost_link |= matches!(operation, Operation::CreateLink { .. });
                        Outcome::Failed { error }
                    }
                }
            };
            match &outcome {
                Outcome::Done => tracing::info!(%operation, "network set up"),
                // Either the next round makes the link, or its failure is reported.
                Outcome::Failed { error } if error.is_of_missing_link() => {
                    tracing::info!(%error, "the link went away meanwhile");
                }
                Outcome::Failed { error } => tracing::error!(%error, "network set-up failed"),
                Outcome::Skipped { because } => {
                    tracing::warn!(%operation, because, "network set-up skipped")
                }
            }
            report.steps.push(Step { operation, outcome });
        }
    }

    async fn perform(&self, operation: &Operation) -> Result<(), Error> {
        let action = operation.to_string();
        match operation {
            Operation::CreateLink { spec } => self.create_link(spec).await,
            Operation::MarkLink { link, alias } => {
                self.route.mark(link, alias).await.map_err(|e| Error::kernel(action, e))
            }
            Operation::SetMtu { link, mtu } => {
                self.route.set_mtu(link, *mtu).await.map_err(|e| Error::kernel(action, e))
            }
            Operation::RaiseLink { link } => {
                self.route.raise(link).await.map_err(|e| Error::kernel(action, e))
            }
            Operation::AddAddress { link, address } => {
                let added = self.route.add_address(link, *address).await;
                tolerate(added, &[libc::EEXIST])
                    .map_err(|e| Error::address(action, address.is_ipv6(), e))
            }
            Operation::RemoveAddress { link, address, prefix } => {
                let removed = self.route.remove_address(link, *address, *prefix).await;
                tolerate(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV])
                    .map_err(|e| Error::kernel(action, e))
            }
            Operation::DeleteLink { link } => {
                tolerate(self.route.delete(link).await, &[libc::ENODEV])
                    .map_err(|e| Error::kernel(action, e))
            }
            Operation::ReplaceTable { table, .. } => transact(action, nft::replace(table)).await,
            Operation::RemoveTable => transact(action, nft::remove()).await,
        }
    }

    async fn create_link(&self, spec: &LinkSpec) -> Result<(), Error> {
        let action = || format!("create {} link {}", spec.kind, spec.name);
        let mut made = self.route.create(spec, spec.kind).await;
        let unsupported = |made: &io::Result<()>| errno(made) == Some(libc::EOPNOTSUPP);
        if let Some(kind) = spec.fallback.filter(|_| unsupported(&made)) {
            tracing::warn!(wanted = %spec.kind, instead = %kind, "no driver for this kind of link, using another");
            made = self.route.create(spec, kind).await;
        }
        tolerate(made, &[libc::EEXIST]).map_err(|e| Error::link(spec.kind, action(), e))?;
        // The kernel takes no alias while it makes a link. A crash here leaves a link that is
        // adopted by its looks.
        self.route
            .mark(spec.name.as_str(), &spec.full_alias())
            .await
            .map_err(|e| Error::kernel(action(), e))
    }
}

fn read_table() -> ObservedTable {
    match try_read_table() {
        Ok(Some(table)) => ObservedTable::Present(table),
        Ok(None) => ObservedTable::Absent,
        Err(error) => ObservedTable::Unknown(error.to_string()),
    }
}

fn try_read_table() -> Result<Option<Table>, Error> {
    let action = "read nftables table inet nodens";
    let ask = |request| nfnetlink::exchange(vec![request]).map_err(|e| Error::nftables(action, e));
    let table = match nfnetlink::exchange(vec![nft::get_table()]) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        replies => replies.map_err(|e| Error::nftables(action, e))?,
    };
    let Some(dormant) = table.iter().find_map(nft::decode_table) else {
        return Ok(None);
    };
    let mut chains: Vec<_> =
        ask(nft::dump_chains())?.iter().filter_map(nft::decode_chain).collect();
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, rule) in ask(nft::dump_rules())?.iter().filter_map(nft::decode_rule) {
        if let Some(chain) = chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.push(rule);
        }
    }
    Ok(Some(Table { dormant, chains }))
}

/// Without the permission to read them there is nothing to report.
fn read_input_drops() -> Vec<String> {
    let chains = nfnetlink::exchange(vec![nft::dump_every_chain()]).unwrap_or_default();
    chains.iter().filter_map(nft::decode_input_drop).collect()
}

async fn transact(action: String, requests: Vec<nft::Request>) -> Result<(), Error> {
    match spawn_blocking(move || nfnetlink::exchange(requests)).await {
        Ok(result) => result.map(drop).map_err(|e| Error::nftables(action, e)),
        Err(error) => Err(Error::Reply { action, reason: error.to_string() }),
    }
}

/// Turns the errors that say "it is so already" into success.
fn tolerate(result: io::Result<()>, errnos: &[i32]) -> io::Result<()> {
    match errno(&result) {
        Some(code) if errnos.contains(&code) => Ok(()),
        _ => result,
    }
}

fn errno(result: &io::Result<()>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}

/// Things that are no error but explain surprises.
fn notes(desired: &Desired, observed: &Observed) -> Vec<String> {
    let name = desired.link.as_ref().map(|spec| spec.name.as_str());
    let mut notes = Vec::new();
    for link in
        observed.links.iter().filter(|link| Some(link.name.as_str()) != name && name.is_some())
    {
        for address in link.addresses.iter().filter(|a| desired.addresses.contains(&a.ip)) {
            notes.push(format!("{} is on link {} as well", address.ip, link.name));
        }
    }
    if !desired.cluster_ips.is_empty() && desired.notrack.mode == Mode::Off {
        let text =
            "without notrack rules kube-proxy's address translation takes the ClusterIP first";
        notes.push(text.into());
    }
    if !desired.addresses.is_empty() {
        notes.extend(observed.input_drops.iter().map(|chain| {
            format!(
                "nftables chain {chain} has policy drop, which no other table can overrule: \
                 without a rule there that accepts port 53 (UDP and TCP) of the local addresses, \
                 pods get no answer"
            )
        }));
    }
    if let (ObservedTable::Unknown(reason), false) =
        (&observed.table, desired.notrack.addresses.is_empty())
    {
        notes.push(reason.clone());
    }
    notes
}
