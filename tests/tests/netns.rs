//! The node's network with the real binary: pods as network namespaces, real nftables, real connection tracking, and the real
//! systemd-resolved.
//!
//! Needs root, says SKIPPED without it, and fails instead where CI=true or NODENS_REQUIRE_ROOT=1. The scenarios of
//! `node` with a real dummy driver: `guest.rs`.

mod node;
mod resolved;
mod resolvers;

#[test]
fn netns_everybody_reaches_every_address() {
    node::everybody_reaches_every_address();
}

#[test]
fn netns_connections_are_tracked_only_without_the_rules() {
    node::connections_are_tracked_only_without_the_rules();
}

#[test]
fn netns_what_is_removed_is_back_within_a_second() {
    node::what_is_removed_is_back_within_a_second();
}

#[test]
fn netns_a_crash_is_adopted_and_a_stop_leaves_nothing() {
    node::a_crash_is_adopted_and_a_stop_leaves_nothing();
}

#[test]
fn netns_a_crash_while_an_address_is_away_is_no_outage() {
    node::a_crash_while_an_address_is_away_is_no_outage();
}

#[test]
fn netns_without_the_capability_the_error_explains() {
    node::without_the_capability_the_error_explains();
}

#[test]
fn netns_a_failed_set_up_leaves_nothing() {
    node::a_failed_set_up_leaves_nothing();
}

#[test]
fn netns_an_ipvs_node_is_told_why() {
    node::an_ipvs_node_is_told_why();
}

#[test]
fn netns_privileges_are_given_away() {
    node::privileges_are_given_away();
}

#[test]
fn netns_the_add_on_answers_with_only_the_image_changed() {
    node::the_add_on_answers_with_only_the_image_changed();
}

#[test]
fn netns_every_overlay_runs_as_written() {
    node::every_overlay_runs_as_written();
}

#[test]
fn netns_two_pods_change_places_without_losing_a_query() {
    node::two_pods_change_places_without_losing_a_query();
}

#[test]
fn netns_liveness_goes_through_the_data_path() {
    node::liveness_goes_through_the_data_path();
}

#[test]
fn netns_the_unit_runs_as_written() {
    node::the_unit_runs_as_written();
}

#[test]
fn netns_the_stub_is_seen_through_and_its_servers_followed() {
    resolved::the_stub_is_seen_through_and_its_servers_followed();
}

#[test]
fn netns_a_loop_through_resolved_is_found_and_forgotten() {
    resolved::a_loop_through_resolved_is_found_and_forgotten();
}

#[test]
fn netns_a_mounted_resolv_conf_is_followed() {
    resolved::a_mounted_resolv_conf_is_followed();
}

#[test]
fn netns_resolvers_find_the_same_in_fewer_queries() {
    resolvers::every_resolver_finds_the_same_in_fewer_queries();
}

#[test]
fn netns_resolvers_know_a_short_list_and_what_looks_like_one() {
    resolvers::a_short_list_and_what_looks_like_one();
}
