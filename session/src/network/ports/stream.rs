//! The stream of port subscriptions of one agent: opened, read, and opened anew when it breaks.
//!
//! ```text
//! agent --replies--> follow --Said--> driver
//! ```

use mirrord_protocol::agent::v1 as agent;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    agent_link::{AgentLink, LinkError, LinkState},
    limits::AGENT_RETRY_MIN,
    network::source::{Source, SourceId},
};

/// What an agent has said, or what became of its stream.
#[derive(Debug)]
pub(in crate::network) struct Said {
    pub(super) source: SourceId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The stream is open; requests go there.
    Linked(mpsc::Sender<agent::SubscriptionRequest>),
    Reply(agent::SubscriptionReply),
    /// The stream broke.
    Unlinked,
}

/// Runs until the link is closed or the driver has ended.
pub(super) async fn follow(source: Source, said_tx: mpsc::Sender<Said>) {
    let id = source.id;
    let say = async |what| said_tx.send(Said { source: id, what }).await.is_ok();
    loop {
        match source.agent.subscriptions().await {
            Ok((requests_tx, mut replies)) => {
                if !say(What::Linked(requests_tx)).await {
                    return;
                }
                while let Ok(Some(reply)) = replies.message().await {
                    if !say(What::Reply(reply)).await {
                        return;
                    }
                }
                if !say(What::Unlinked).await {
                    return;
                }
            }
            Err(LinkError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, pod = ?source.pod, "subscriptions cannot be opened");
                if !link_is_up(&source.agent).await {
                    return;
                }
            }
        }
    }
}

/// Waits a little, then until the link is up. False: it never will be.
async fn link_is_up(agent: &AgentLink) -> bool {
    let mut status = agent.status();
    // The heartbeat may not have noticed yet.
    sleep(AGENT_RETRY_MIN).await;
    status.wait_for(|status| status.state == LinkState::Up).await.is_ok()
}
