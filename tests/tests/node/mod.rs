//! The scenarios of the node's network, run in namespaces of this machine by `netns` and in a virtual machine with a real
//! dummy driver by `guest`.

mod daemonset;
mod deployed;
mod life;
mod reach;
pub mod world;

pub use daemonset::the_add_on_answers_with_only_the_image_changed;
pub use deployed::{
    every_overlay_runs_as_written, liveness_goes_through_the_data_path, the_unit_runs_as_written,
    two_pods_change_places_without_losing_a_query,
};
pub use life::{
    a_crash_is_adopted_and_a_stop_leaves_nothing, a_crash_while_an_address_is_away_is_no_outage,
    a_failed_set_up_leaves_nothing, an_ipvs_node_is_told_why, privileges_are_given_away,
    what_is_removed_is_back_within_a_second, without_the_capability_the_error_explains,
};
pub use reach::{connections_are_tracked_only_without_the_rules, everybody_reaches_every_address};

use tests::process::{Nodens, Ready, Setup};

/// A server that answers everything, at the local addresses and at those of the Service.
const COREFILE: &str = ".:53 {
    bind 169.254.20.10 fd00::10 10.96.0.10 fd01::a
    whoami
    prometheus 127.0.0.1:@metrics@
}
";

/// The real binary on the calling thread's node, taking over the ClusterIPs.
fn setup(arguments: &[&str]) -> Setup {
    Setup::new(COREFILE)
        .arguments(&[
            "-localip",
            "169.254.20.10,fd00::10,10.96.0.10,fd01::a",
            "--clusterip=10.96.0.10,fd01::a",
            &format!("--link-kind={}", world::kind()),
            "--socket=@folder@/socket",
            "-metrics-listen-address=127.0.0.1:0",
        ])
        .arguments(arguments)
        .ready(Ready::AnswerAt("169.254.20.10:53".parse().unwrap()))
}

/// Started, and its rules written, which come once it listens.
fn started(arguments: &[&str]) -> Nodens {
    let nodens = setup(arguments).start();
    if !arguments.contains(&"--notrack=off") {
        nodens.wait_for_log("write nftables table", tests_deadline());
    }
    nodens
}

/// How long anything may take before a test gives up.
pub fn tests_deadline() -> std::time::Duration {
    std::time::Duration::from_secs(20)
}
