//! The data path with a real session netns, real rules and a fake agent, as root and as an ordinary user.
//!
//! Each test runs in a process of its own; nothing of it touches the machine's network but loopback. What a machine does not allow is
//! printed as `skipped: NAME: reason`. `cargo test -p mirrord-session --test network measure` prints figures.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::exit,
    reason = "a test program"
)]

mod cut;
mod dns;
mod incoming;
mod measure;
mod mirror;
mod owners;
mod ports;
mod real_agent;
mod runner;
mod tcp;
mod udp;
mod unheld;
mod world;

use runner::Test;

/// All tests; the names are what a filter on the command line is compared with.
const TESTS: &[Test] = &[
    Test::new("connect_results", tcp::connect_results),
    Test::new("connect_times_out", tcp::connect_times_out),
    Test::new("connect_long_held", tcp::connect_long_held),
    Test::new("connect_given_up", tcp::connect_given_up),
    Test::new("connect_many_at_once", tcp::connect_many_at_once),
    Test::new("connect_one_port_two_destinations", tcp::one_port_two_destinations),
    Test::new("stream_half_close", tcp::half_close),
    Test::new("stream_whole", tcp::stream_whole),
    Test::new("stream_resets", tcp::resets),
    Test::new("stream_deaf_peer_stalls_itself_only", tcp::deaf_peer),
    Test::new("outgoing_local_rule", tcp::local_rule),
    Test::new("outgoing_loopback", tcp::loopback),
    Test::new("events_name_the_process", owners::events_name_the_process),
    Test::new("udp_unconnected", udp::unconnected),
    Test::new("udp_connected", udp::connected),
    Test::new("udp_refused", udp::refused),
    Test::new("udp_local_rule", udp::local_rule),
    Test::new("udp_loopback_stays_inside", udp::loopback_stays_inside),
    Test::new("dns_over_udp", dns::over_udp),
    Test::new("dns_over_tcp", dns::over_tcp),
    Test::new("dns_failures", dns::failures),
    Test::new("dns_names_decide", dns::names_decide),
    Test::new("without_a_queue", unheld::outgoing),
    Test::new("without_a_queue_incoming", unheld::incoming),
    Test::new("steal_shows_the_client", incoming::shows_the_client),
    Test::new("steal_ends", incoming::ends),
    Test::new("steal_refused", incoming::refused),
    Test::new("steal_loopback_listener", incoming::loopback_listener),
    Test::new("mirror_delivers", mirror::delivers),
    Test::new("mirror_gap_ends_delivery", mirror::gap_ends_delivery),
    Test::new("mirror_deaf_process", mirror::deaf_process),
    Test::new("mirror_without_listener", mirror::without_listener),
    Test::new("ports_toggle", ports::toggle),
    Test::new("ports_by_listening", ports::by_listening),
    Test::new("ports_survive_a_broken_link", ports::survive_a_broken_link),
    Test::new("link_cut_open_streams_end", cut::open_streams_end),
    Test::new("publish", ports::publish),
    Test::new("shutdown_leaves_nothing", ports::shutdown_leaves_nothing),
    Test::new("real_agent_outgoing", real_agent::outgoing),
    Test::new("real_agent_stealing", real_agent::stealing),
    Test::new("real_agent_link_cut", real_agent::link_cut),
    Test::new("measure_connect", measure::connect),
    Test::new("measure_throughput", measure::throughput),
    Test::new("measure_dns", measure::dns),
    Test::new("measure_real_agent", real_agent::measure),
];

fn main() {
    runner::main(TESTS);
}
