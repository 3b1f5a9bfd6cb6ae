//! A stolen connection that nobody takes goes to the target after all. The target sees it come from its own address.

use tokio::{io::copy_bidirectional_with_sizes, time::timeout};

use super::parking::Stolen;
use crate::{
    limits::{PASS_BUFFER, PASS_CONNECT},
    network::TargetNetwork,
    outgoing,
    relay::Socket,
};

/// Relays until both sides have ended. A side that breaks or refuses resets the other.
pub(super) async fn to_target(network: &TargetNetwork, stolen: Stolen) {
    let Stolen { socket: mut client, server, counted, .. } = stolen;
    counted.passed();
    let connected = timeout(PASS_CONNECT, outgoing::connect_tcp(network, server)).await;
    let Ok(Ok((mut target, own))) = connected else {
        Socket::Tcp(client).reset();
        return;
    };
    let copied = copy_bidirectional_with_sizes(&mut client, &mut target, PASS_BUFFER, PASS_BUFFER).await;
    if copied.is_err() {
        Socket::Tcp(client).reset();
        Socket::Tcp(target).reset();
    }
    drop((own, counted));
}
