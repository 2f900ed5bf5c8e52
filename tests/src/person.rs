//! A user with one device, as the raw client knows them.

use anyhow::Context as _;
use bytes::Bytes;
use kith_proto::{
    id::{ClientMsgId, ConversationId, DeviceRef},
    rest::Tokens,
    v1::{self, ErrorCode, Send, Slice, Welcome},
};

use crate::{
    identity::{Device, Identity, random},
    rest::Rest,
    socket::{Refusal, Socket},
};

/// One-time prekeys of either kind that a person registers with.
const ONE_TIME: usize = 2;

/// A registered user and what their device would keep on disk.
#[derive(Debug)]
pub struct Person {
    /// Where they are registered.
    pub rest: Rest,
    /// Their name.
    pub username: String,
    /// Their keys.
    pub identity: Identity,
    /// Their first device.
    pub device: Device,
    /// The newest tokens.
    pub tokens: Tokens,
    /// The connection epoch last used.
    pub epoch: u64,
    /// The send counter last used.
    pub counter: u64,
}

impl Person {
    /// Registers under a fresh name that begins with `name`.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn register(origin: &str, name: &str) -> anyhow::Result<Self> {
        Self::register_at(Rest::new(origin)?, name).await
    }

    /// The same, wherever that leads.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn register_at(rest: Rest, name: &str) -> anyhow::Result<Self> {
        let username = format!("{name}-{}", hex::encode(random::<6>()));
        let (mut identity, mut device) = (Identity::default(), Device::default());
        let registered = rest.register(&username, &mut identity, &mut device, ONE_TIME).await.with_context(|| format!("registering {name}"))?;
        anyhow::ensure!(registered.account == identity.account, "the server computed another account id");
        Ok(Self { rest, username, identity, device, tokens: registered.tokens, epoch: 0, counter: 0 })
    }

    /// The device as sessions name it.
    #[must_use]
    pub fn device_ref(&self) -> DeviceRef {
        self.identity.device_ref(&self.device)
    }

    /// The access token.
    #[must_use]
    pub fn token(&self) -> &str {
        self.tokens.access_token.as_str()
    }

    /// The conversation with somebody.
    #[must_use]
    pub fn conversation(&self, other: DeviceRef) -> ConversationId {
        ConversationId::direct(self.identity.account, other.account)
    }

    /// Connects with the next epoch; takes new tokens if the old ones have ended.
    ///
    /// # Errors
    /// If the server is not there or refuses.
    pub async fn connect(&mut self) -> anyhow::Result<(Socket, Welcome)> {
        self.epoch += 1;
        match Socket::hello(&self.rest.origin, self.token(), self.epoch).await {
            Err(error) if matches!(error.downcast_ref(), Some(Refusal(ErrorCode::TokenExpired | ErrorCode::Unauthenticated))) => {
                self.tokens = self.rest.login(self.identity.account, &self.device).await?;
                self.epoch += 1;
                Socket::hello(&self.rest.origin, self.token(), self.epoch).await
            }
            other => other,
        }
    }

    /// A new message for the one device of `to`.
    pub fn message(&mut self, to: DeviceRef, body: impl Into<Bytes>) -> Send {
        self.counter += 1;
        Send {
            conversation: self.conversation(to).to_bytes(),
            recipient: to.account.to_bytes(),
            client_msg_id: ClientMsgId(random()).to_bytes(),
            body: body.into(),
            slices: vec![Slice { device: to.device.to_bytes(), data: Bytes::from_static(b"slice") }],
            own_slices: Vec::new(),
            device_counter: self.counter,
            sender_list_version: self.identity.list_version(),
            recipient_list_version: 1,
            checkpoint: false,
            restart: false,
        }
    }
}

/// An acknowledgement of one conversation.
#[must_use]
pub fn ack(conversation: ConversationId, seq: u64) -> v1::client_frame::Kind {
    v1::client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.to_bytes(), seq }] })
}
