//! The scenarios of `netns.rs` in a virtual machine whose kernel has a dummy driver: `scripts/guest/run` builds the machine,
//! puts these tests and the binary into it, and runs them there.

mod clock;
mod node;
mod walk;

use std::io::Write as _;

/// Only where the script has said which kind of link to test with; on a machine of their own the tests find what they need.
fn in_the_guest(scenario: fn()) {
    if std::env::var_os("NODENS_TEST_LINK_KIND").is_some() {
        return scenario();
    }
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: run it by scripts/guest/run ***");
}

#[test]
fn guest_everybody_reaches_every_address() {
    in_the_guest(node::everybody_reaches_every_address);
}

#[test]
fn guest_connections_are_tracked_only_without_the_rules() {
    in_the_guest(node::connections_are_tracked_only_without_the_rules);
}

#[test]
fn guest_what_is_removed_is_back_within_a_second() {
    in_the_guest(node::what_is_removed_is_back_within_a_second);
}

#[test]
fn guest_a_crash_while_an_address_is_away_is_no_outage() {
    in_the_guest(node::a_crash_while_an_address_is_away_is_no_outage);
}

#[test]
fn guest_a_crash_is_adopted_and_a_stop_leaves_nothing() {
    in_the_guest(node::a_crash_is_adopted_and_a_stop_leaves_nothing);
}

#[test]
fn guest_without_the_capability_the_error_explains() {
    in_the_guest(node::without_the_capability_the_error_explains);
}

#[test]
fn guest_a_failed_set_up_leaves_nothing() {
    in_the_guest(node::a_failed_set_up_leaves_nothing);
}

#[test]
fn guest_an_ipvs_node_is_told_why() {
    in_the_guest(node::an_ipvs_node_is_told_why);
}

#[test]
fn guest_privileges_are_given_away() {
    in_the_guest(node::privileges_are_given_away);
}

#[test]
fn guest_the_add_on_answers_with_only_the_image_changed() {
    in_the_guest(node::the_add_on_answers_with_only_the_image_changed);
}

#[test]
fn guest_every_overlay_runs_as_written() {
    in_the_guest(node::every_overlay_runs_as_written);
}

#[test]
fn guest_two_pods_change_places_without_losing_a_query() {
    in_the_guest(node::two_pods_change_places_without_losing_a_query);
}

#[test]
fn guest_liveness_goes_through_the_data_path() {
    in_the_guest(node::liveness_goes_through_the_data_path);
}

#[test]
fn guest_the_unit_runs_as_written() {
    in_the_guest(node::the_unit_runs_as_written);
}

#[test]
fn guest_the_page_for_kubectl_leads_to_answers() {
    in_the_guest(walk::the_page_for_kubectl_leads_to_answers);
}

#[test]
fn guest_the_page_for_systemd_leads_to_answers() {
    in_the_guest(walk::the_page_for_systemd_leads_to_answers);
}

#[test]
fn guest_a_clock_that_jumps_is_no_trouble() {
    in_the_guest(clock::jumps);
}
