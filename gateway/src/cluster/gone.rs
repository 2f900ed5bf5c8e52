//! A gateway that has died has told nobody who was connected to it. Those that watch accounts that were there are told by their own gateways.

use std::sync::Arc;

use kith_chat_core::sessions::{AT_ONCE, GatewayId, Place};

use super::Cluster;
use crate::sessions::Sessions;

impl Cluster {
    /// Finds, among the accounts that are watched here, those that stand in the directory only where nobody is any more. A gateway that drains leaves
    /// nothing there.
    pub(super) async fn tell_who_is_gone(self: Arc<Self>, sessions: Arc<Sessions>, gone: Vec<GatewayId>) {
        let was_there = |places: &[Place]| {
            let is_gone = |place: &Place| gone.contains(&place.gateway);
            places.iter().any(is_gone)
                && places.iter().all(|place| is_gone(place) || self.links.get(place.gateway).is_none() && place.gateway != self.me())
        };
        for watched in sessions.watched_elsewhere().chunks(AT_ONCE) {
            match self.directory.find(watched).await {
                Ok(found) => {
                    let left = watched.iter().zip(&found).filter(|(_, places)| was_there(places));
                    let left =
                        left.filter_map(|(account, places)| Some((*account, places.iter().find(|place| gone.contains(&place.gateway))?.gateway)));
                    sessions.gone_with_their_gateway(&left.collect::<Vec<_>>()).await;
                }
                // Then they show as online until somebody asks: presence is a courtesy.
                Err(error) => return self.failed(&error),
            }
        }
    }
}
