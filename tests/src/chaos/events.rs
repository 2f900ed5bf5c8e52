//! Events beside the way of a message: whatever is revoked while something is wrong comes out of Kafka in the end.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use kith_chat_core::bus::{self, Bus, Event, Handler, HandlerError, KafkaOptions, Member, Retry, Subscription, Topic, What};
use kith_harness::Kafka;
use kith_proto::{
    id::DeviceId,
    rest::{DevicePrekeys, PublishListRequest},
};
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};

use crate::{identity::Device, person::Person, rest::Rest, wait};

/// An event is out by then: whoever relays may be in a pause after failures, or gone, so that another one has to notice.
const OUT_WITHIN: Duration = Duration::from_secs(60);
/// Between two attempts at something that the service refuses.
const PAUSE: Duration = Duration::from_millis(100);

/// A consumer of events, as anybody might run it.
#[derive(Debug)]
pub(super) struct Events {
    // Leaves before the bus goes.
    _member: Member,
    _bus: Arc<dyn Bus>,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen(Mutex<HashSet<DeviceId>>);

#[async_trait]
impl Handler for Seen {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        if let What::DeviceRevoked(device) = event.what {
            self.0.lock().insert(device.device);
        }
        Ok(())
    }
}

impl Events {
    /// Begins to listen.
    ///
    /// # Errors
    /// If Kafka cannot be used.
    pub(super) async fn listen(kafka: &Kafka) -> anyhow::Result<Self> {
        let bus = bus::attach(&KafkaOptions::new(&kafka.address().to_string()))?;
        let seen = Arc::<Seen>::default();
        let subscription = Subscription { topic: Topic::Accounts, group: "chaos", retry: Retry::default() };
        let member = bus.subscribe(subscription, Arc::<Seen>::clone(&seen)).await?;
        Ok(Self { _member: member, _bus: bus, seen })
    }

    /// Waits for what began with [`revoke`].
    ///
    /// # Errors
    /// If the device could not be revoked, or nothing is heard of it, within a time that begins now.
    pub(super) async fn out(&self, revoked: JoinHandle<DeviceId>) -> anyhow::Result<()> {
        let device = wait::within("a device is revoked", OUT_WITHIN, revoked).await??;
        let out = wait::until("its event is out", OUT_WITHIN, async || self.seen.0.lock().contains(&device).then_some(()));
        out.await.context("of Kafka")
    }
}

/// Somebody links a second device and revokes it, however often that has to be tried.
pub(super) fn revoke(rest: Rest) -> JoinHandle<DeviceId> {
    tokio::spawn(async move {
        loop {
            match attempt(&rest).await {
                Ok(device) => return device,
                Err(_) => sleep(PAUSE).await,
            }
        }
    })
}

async fn attempt(rest: &Rest) -> anyhow::Result<DeviceId> {
    let mut person = Person::register_at(rest.clone(), "owner").await?;
    let first = person.identity.certify(&person.device, 1);
    let mut second = Device::default();
    let certificate = person.identity.certify(&second, person.identity.list_version() + 1);
    let list = person.identity.sign_list(&[(&person.device, &first), (&second, &certificate)]);
    let prekeys = DevicePrekeys { device: second.id, name: None, prekeys: second.prekeys(person.identity.account, 1) };
    let link = PublishListRequest { list, certificates: vec![certificate], prekeys: vec![prekeys] };
    person.rest.publish(person.token(), &link).await?;
    let list = person.identity.sign_list(&[(&person.device, &first)]);
    person.rest.publish(person.token(), &PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() }).await?;
    Ok(second.id)
}
