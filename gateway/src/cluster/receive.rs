//! What comes from another gateway goes the way of what happens here: a message to the inboxes of live devices, a push likewise, a cut as a signal.

use std::sync::Arc;

use kith_chat_core::{log::Course, sessions::GatewayId};
use kith_proto::{
    id::{AccountId, DeviceId},
    peer::v1::{Cut, Frame, Item, Presence, Tell, item::Kind},
    v1,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    Cluster,
    links::Link,
    now_us,
    wire::{self, Sort},
};
use crate::sessions::{Awake, Sessions};

impl Cluster {
    /// Takes what comes over a proven stream until it ends, or another takes its place.
    pub(super) async fn serve_link(&self, sessions: &Arc<Sessions>, link: &Arc<Link>, mut incoming: Streaming<Frame>, over: &CancellationToken) {
        let _up = link.up();
        self.counters.connects.one();
        tracing::info!(peer = %link.gateway, "linked to another gateway");
        // What the other side had for devices here while there was no stream, it has dropped.
        self.recheck.notify_one();
        let receiving = async {
            loop {
                match incoming.message().await {
                    Ok(Some(frame)) => self.received(sessions, link.gateway, frame),
                    Ok(None) => break None,
                    Err(status) => break Some(status),
                }
            }
        };
        let ended = over.run_until_cancelled(receiving).await.flatten();
        // Its other direction ends as well.
        over.cancel();
        // What was under way is lost, and the other gateway may never come back to say so.
        self.recheck.notify_one();
        tracing::info!(peer = %link.gateway, reason = ended.as_ref().map(|status| tracing::field::display(status.code())), "the link to another gateway has ended");
    }

    fn received(&self, sessions: &Arc<Sessions>, from: GatewayId, frame: Frame) {
        let mut awake = sessions.awaken();
        let mut measured = false;
        for item in frame.items {
            let Ok(item) = Item::decode(item) else {
                // Whatever it was about, the log has it.
                self.counters.received(Sort::Unknown);
                self.recheck.notify_one();
                continue;
            };
            self.counters.received(Sort::from(&item));
            // One message of a frame is measured: the first, which has waited longest.
            if let Some(Kind::Deliver(deliver)) = &item.kind
                && !std::mem::replace(&mut measured, true)
            {
                self.counters.latency.record(now_us().saturating_sub(deliver.accepted_us));
            }
            self.item(sessions, from, item, &mut awake);
        }
        awake.wake();
    }

    /// Whatever cannot be understood is passed over: the other gateway may be newer.
    fn item(&self, sessions: &Arc<Sessions>, from: GatewayId, item: Item, awake: &mut Awake) {
        match item.kind {
            Some(Kind::Deliver(deliver)) => {
                let trace = self.tracer.as_ref().zip(deliver.trace.as_ref()).and_then(|(tracer, trace)| tracer.arrived(trace));
                if let Some(message) = wire::resolved(deliver, Course { commit: None, trace }) {
                    sessions.deliver_from_peer(&Arc::new(message), awake);
                }
            }
            Some(Kind::Behind(behind)) => match AccountId::try_from(&behind.account[..]) {
                Ok(account) => sessions.look_into_log(account),
                Err(_) => self.recheck.notify_one(),
            },
            Some(Kind::Tell(tell)) => told(sessions, tell),
            Some(Kind::Cut(cut)) => cut_off(sessions, &cut),
            Some(Kind::Presence(presence)) => self.presence(sessions, from, &presence),
            None => {}
        }
    }

    fn presence(&self, sessions: &Sessions, from: GatewayId, presence: &Presence) {
        let Ok(account) = AccountId::try_from(&presence.account[..]) else { return };
        let last_seen_ms = (presence.last_seen_ms > 0).then_some(presence.last_seen_ms);
        if sessions.presence_changed_at(from, account, last_seen_ms, presence.setting) {
            self.forget_places(std::iter::once(account));
        }
    }
}

fn told(sessions: &Sessions, tell: Tell) {
    let Ok(account) = AccountId::try_from(&tell.account[..]) else { return };
    let Some(kind) = tell.push.and_then(|push| push.kind) else { return };
    sessions.tell_here(account, DeviceId::try_from(&tell.device[..]).ok(), &kind);
}

fn cut_off(sessions: &Sessions, cut: &Cut) {
    let Some(device) = wire::device(&cut.account, &cut.device) else { return };
    let reason = match cut.reason() {
        v1::ErrorCode::Unspecified => v1::ErrorCode::Replaced,
        reason => reason,
    };
    sessions.cut_through(device, cut.through_epoch, reason);
}
