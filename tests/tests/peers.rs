//! Nodens with other people's servers as its upstreams, and with upstreams that are dead, forged, looping or moving.
//!
//! Needs no root. Peers come from Debian's packages; a test whose peer is missing says SKIPPED, and fails where CI=true or
//! NODENS_REQUIRE_PEERS=1. Measured at length by environment: NODENS_FORGERIES=10000000.

#[path = "peers/answers.rs"]
mod answers;
#[path = "peers/forgeries.rs"]
mod forgeries;
#[path = "peers/loops.rs"]
mod loops;
#[path = "peers/outage.rs"]
mod outage;
#[path = "peers/resolv_conf.rs"]
mod resolv_conf;
