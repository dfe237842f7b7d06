//! A node's DNS network: the dummy link that carries the local addresses, the addresses themselves
//! and, if they are desired, the rules that keep DNS out of connection tracking.
//!
//! Everything goes one way, for set-up, repair and tear-down alike:
//!
//! ```text
//! Desired ──┐
//!           ├─> plan() ─> [Operation] ─> Kernel::apply ─> observed again ─> Report
//! Observed ─┘      (pure)               (one netlink request each)
//! ```
//!
//! * [`spec`]: the desired state ([`Desired`]); the types refuse what the kernel or common sense
//!   would.
//! * [`observed`]: what the kernel has ([`Observed`]).
//! * [`plan`](mod@plan): the difference, as idempotent [`Operation`]s. Pure, so all the decisions
//!   about ownership are unit-tested.
//! * [`kernel`]: reading and writing over netlink. Nothing is executed: no `ip`, no `nft`, no
//!   `iptables`.
//! * [`nft`]: the nftables table `inet nodens`, its rules and their wire form.
//! * [`firewall`]: what other tables do to a query.
//! * [`reconcile`]: keeps it so: each interval, and at once when a notification reports a change of
//!   something that Nodens owns.
//! * [`privileges`]: gives away what the process does not need.
//!
//! # Ownership
//!
//! Nodens owns a link if its alias begins with `nodens`. Such a link is adopted whatever state a
//! crash left it in. One of the right name without any alias is adopted if it looks as NodeLocal
//! DNSCache leaves it (see [`plan`](mod@plan)); any other is foreign and is refused. The
//! table is Nodens' by its name.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test fails by a panic"
    )
)]

pub mod error;
pub mod firewall;
pub mod kernel;
pub mod nft;
pub mod observed;
pub mod plan;
pub mod privileges;
pub mod reconcile;
pub mod report;
pub mod spec;

pub use error::Error;
pub use kernel::Kernel;
pub use observed::Observed;
pub use plan::{Operation, Refusal, plan, plan_teardown};
pub use reconcile::{Event, Reconciler};
pub use report::{Outcome, Report, Step};
pub use spec::{Desired, LinkKind, LinkName, LinkSpec, Mode, NotrackSpec};
