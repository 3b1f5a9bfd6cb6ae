//! The library against the running kernel, as root and as an ordinary user.
//!
//! Each test runs in a process of its own, some of them in fresh user and network namespaces; nothing of it touches the machine's
//! own network, and all of it is gone when the process ends. What a machine does not allow is printed as `skipped: NAME: reason`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::exit,
    reason = "a test program"
)]

mod bridge;
mod capture;
mod diagnosis;
mod hold;
mod holder;
mod loopback;
mod network;
mod probes;
mod runner;
mod session;
mod steal;
mod udp;

use runner::{Place, Test};

/// All tests; the names are what a filter on the command line is compared with.
const TESTS: &[Test] = &[
    Test::new("holder_serves_endpoints", Place::Plain, holder::serves_endpoints),
    Test::new("holder_ends_with_its_control", Place::Plain, holder::ends_with_its_control),
    Test::new("holder_lets_ports_be_bound", Place::Plain, holder::lets_ports_be_bound),
    Test::new("holder_without_ipv6", Place::Plain, holder::has_no_ipv6_when_the_target_has_none),
    Test::new("hold_accepted", Place::Plain, hold::accepted),
    Test::new("hold_denied_blocking", Place::Plain, hold::denied_blocking),
    Test::new("hold_denied_nonblocking", Place::Plain, hold::denied_nonblocking),
    Test::new("hold_dropped_packet_comes_again", Place::Plain, hold::dropped_packet_comes_again),
    Test::new("hold_sees_through_a_program_s_own_mark", Place::Plain, hold::own_mark),
    Test::new("hold_many_at_once", Place::Plain, hold::many_at_once),
    Test::new("redirect_only", Place::Plain, hold::redirect_only),
    Test::new("session_table_goes_with_its_socket", Place::Plain, hold::table_goes_with_its_socket),
    Test::new("pings_are_answered_by_own_addresses_only", Place::Plain, hold::pings),
    Test::new("loopback_listener_stays_inside", Place::Plain, loopback::listener_stays_inside),
    Test::new("loopback_udp_stays_inside", Place::Plain, loopback::udp_stays_inside),
    Test::new("udp_relay_per_destination", Place::Plain, udp::relay_per_destination),
    Test::new("udp_refused", Place::Plain, udp::refused),
    Test::new("udp_forgotten_flow_is_held_again", Place::Plain, udp::forgotten_flow_is_held_again),
    Test::new("dial_from_client_address", Place::Plain, diagnosis::dial_from_client_address),
    Test::new("destroy_events", Place::Plain, diagnosis::destroy_events),
    Test::new("steal_new_connections_only", Place::Fresh, steal::new_connections_only),
    Test::new("steal_inside_the_pod", Place::Fresh, steal::inside_the_pod),
    Test::new("steal_one_agent_per_port", Place::Fresh, steal::one_agent_per_port),
    Test::new("steal_table_goes_with_its_socket", Place::Fresh, steal::table_goes_with_its_socket),
    Test::new("capture_both_directions", Place::Fresh, capture::both_directions),
    Test::new("capture_loopback_once", Place::Fresh, capture::loopback_once),
    Test::new("capture_ports_change", Place::Fresh, capture::ports_change),
    Test::new("probes_agree_with_what_works", Place::Plain, probes::agree_with_what_works),
    Test::new("bridge_routes", Place::Fresh, bridge::routes),
];

fn main() {
    runner::main(TESTS);
}
