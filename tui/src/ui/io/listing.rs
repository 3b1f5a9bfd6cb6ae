//! Looks for targets and sessions, again and again while they are shown.

use std::sync::Arc;

use mirrord_protocol::session::v1::{InfoRequest, SessionInfo};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

use crate::ui::{limits, model::notices::Level, services::Services, update::Msg};

pub(super) async fn targets(services: Arc<dyn Services>, msgs: mpsc::Sender<Msg>) {
    let mut tick = interval(limits::LISTING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let reader = Arc::clone(&services);
        let read = tokio::task::spawn_blocking(move || (reader.targets(), reader.place())).await;
        let Ok((found, place)) = read else { return };
        if msgs.send(Msg::Place(place)).await.is_err() {
            return;
        }
        for (source, found) in found {
            if msgs.send(Msg::Targets { source, found }).await.is_err() {
                return;
            }
        }
    }
}

pub(super) async fn sessions(services: Arc<dyn Services>, msgs: mpsc::Sender<Msg>) {
    let mut tick = interval(limits::LISTING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let reader = Arc::clone(&services);
        let listed = tokio::task::spawn_blocking(move || reader.sessions()).await;
        let ids = match listed {
            Ok(Ok(ids)) => ids,
            Ok(Err(reason)) => {
                drop(msgs.send(Msg::Notice(Level::Error, reason)).await);
                return;
            }
            Err(_) => return,
        };
        if msgs.send(Msg::Sessions(infos(services.as_ref(), ids).await)).await.is_err() {
            return;
        }
    }
}

/// What the sessions are now. One that does not answer is ending; the next listing shows the truth.
pub(super) async fn infos(services: &dyn Services, ids: Vec<String>) -> Vec<SessionInfo> {
    let mut infos = Vec::new();
    for id in ids {
        let asked = async {
            let mut client = services.connect(&id).await.ok()?;
            client.info(InfoRequest {}).await.ok()
        };
        if let Ok(Some(info)) = timeout(limits::CALL, asked).await {
            infos.push(info.into_inner());
        }
    }
    infos
}
