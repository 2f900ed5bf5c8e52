//! Encrypting a queued message for every device that is to have it.

use super::people::ME;
use super::send::rings_nothing;
use super::{Engine, Fetch, Result, Sessions};
use crate::fault::FaultPoint;
use crate::model::NoticeKind;
use crate::store::records::OutboxRecord;
use crate::store::{SessionRow, StoreError};
use kith_crypto::chain::{ChainOwner, SenderChain};
use kith_crypto::content::{Content, ContentHead, KIND_CHECKPOINT, content_hash};
use kith_crypto::log_hash::LogView;
use kith_crypto::outgoing::{self, ComposeError, Draft, Outgoing, Recipient, Sender};
use kith_crypto::session_set::Pair;
use kith_crypto::trusted_list::TrustedList;
use kith_crypto::{AccountId, ClientMsgId, DeviceId};
use kith_proto::rest::Bundles;
use kith_proto::v1;
use prost::Message as _;
use rand_core::{CryptoRng, TryCryptoRng, TryRng};
use std::convert::Infallible;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What came of it.
pub(super) enum Composed {
    /// The frame, stored and ready to be sent.
    Frame(Vec<u8>),
    /// Something has to be fetched first, or the conversation has to wait.
    Waits,
    /// Nobody is to have it any more.
    Pointless,
}

/// An addressed device.
struct Target {
    row: SessionRow,
    list: Arc<TrustedList>,
    device: DeviceId,
}

/// What is needed of both sides.
struct Lists {
    own: Arc<TrustedList>,
    peer: Arc<TrustedList>,
    peer_no: i64,
}

impl Engine {
    /// Composes a message and stores everything that this changes.
    pub(super) fn compose(&mut self, no: i64, mut record: OutboxRecord) -> Result<Composed> {
        let Some(lists) = self.lists_for(no)? else { return Ok(Composed::Waits) };
        let targets = self.targets(no, &lists, &record)?;
        if targets.is_empty() {
            return Ok(Composed::Pointless);
        }
        if !self.have_sessions(no, &lists, &targets, &record)? {
            return Ok(Composed::Waits);
        }
        let owner =
            ChainOwner { conversation: self.conv(no)?.id, account: self.account, device: self.keys.device_id(), incarnation: self.incarnation()? };
        let before = self.conv(no)?.chain(owner)?;
        let kind = u8::try_from(record.kind).map_err(|_| StoreError::Malformed("outbox"))?;
        if kind == KIND_CHECKPOINT {
            record.body = self.checkpoint_body(no)?;
        }
        let mut chain = before.clone();
        let made = match self.seal(no, &mut chain, &lists, &targets, &record)? {
            Ok(made) => made,
            Err(error) => return self.compose_failed(no, &targets, error),
        };
        self.composed(no, &before, &chain, &lists, &targets, record, made).map(Composed::Frame)
    }

    fn lists_for(&mut self, no: i64) -> Result<Option<Lists>> {
        let peer_no = self.conv(no)?.record.peer;
        let (own, peer) = (self.people.list(ME), self.people.list(peer_no));
        if own.is_none() {
            self.want_lists(ME);
        }
        if peer.is_none() {
            self.want_lists(peer_no);
        }
        Ok(own.zip(peer).map(|(own, peer)| Lists { own, peer, peer_no }))
    }

    /// Every device of both newest lists but this one; for a checkpoint only those that need it.
    fn targets(&mut self, no: i64, lists: &Lists, record: &OutboxRecord) -> Result<Vec<Target>> {
        let this = self.keys.device_id();
        let mut targets = Vec::new();
        for (account, list) in [(lists.peer_no, &lists.peer), (ME, &lists.own)] {
            for device in list.devices().map(|device| device.device_id()).filter(|device| account != ME || *device != this) {
                let row = SessionRow { conversation: no, device: self.people.device(account, device) };
                if record.only.is_empty() || record.only.contains(&row.device) {
                    let pair = Pair { conversation: self.conv(no)?.id, account: list.account_id(), device };
                    self.load_sessions(row, pair)?;
                    targets.push(Target { row, list: Arc::clone(list), device });
                }
            }
        }
        Ok(targets)
    }

    /// Whether there is a session or a bundle for every target; what is missing is asked for.
    fn have_sessions(&mut self, no: i64, lists: &Lists, targets: &[Target], record: &OutboxRecord) -> Result<bool> {
        let needs = |engine: &Self, target: &Target| {
            let active = engine.sessions.get(&target.row).is_some_and(|sessions| sessions.set.has_active());
            let wanted = !active || record.renew.contains(&target.row.device);
            wanted && !engine.bundles.contains_key(&target.row)
        };
        let missing: Vec<&Target> = targets.iter().filter(|target| needs(self, target)).collect();
        for (account, list) in [(lists.peer_no, &lists.peer), (ME, &lists.own)] {
            let id = list.account_id();
            let devices: Vec<DeviceId> = missing.iter().filter(|target| target.list.account_id() == id).map(|target| target.device).collect();
            if !devices.is_empty() {
                self.want(Fetch::Bundles { conversation: no, account, id, devices });
            }
        }
        Ok(missing.is_empty())
    }

    fn seal(
        &mut self,
        no: i64,
        chain: &mut SenderChain,
        lists: &Lists,
        targets: &[Target],
        record: &OutboxRecord,
    ) -> Result<Result<Made, ComposeError>> {
        let conv = self.conv(no)?;
        // After a hole nothing is claimed about the log.
        let view = conv.view().unwrap_or_else(|| LogView::empty(conv.id));
        let id = record.client_msg_id.as_slice().try_into().map_err(|_| StoreError::Malformed("outbox"))?;
        let kind = u8::try_from(record.kind).map_err(|_| StoreError::Malformed("outbox"))?;
        let draft = Draft { client_msg_id: ClientMsgId::from_bytes(id), kind, view, body: &record.body };
        let mut sets: Vec<(SessionRow, Sessions)> = Vec::with_capacity(targets.len());
        for target in targets {
            sets.extend(self.sessions.remove_entry(&target.row));
        }
        let mut recipients: Vec<Recipient<'_>> = sets
            .iter_mut()
            .zip(targets)
            .map(|((row, sessions), target)| {
                let wanted = !sessions.set.has_active() || record.renew.contains(&row.device);
                let bundle = if wanted { self.bundles.get(row) } else { None };
                Recipient { list: &target.list, sessions: &mut sessions.set, bundle }
            })
            .collect();
        let sender = Sender { keys: &self.keys, list: &lists.own };
        let (k, prev) = place(chain, kind);
        let mut rng = Recording { rng: &mut self.store.rng, drawn: Zeroizing::new(Vec::with_capacity(48)) };
        let made = outgoing::compose(&mut rng, sender, chain, draft, &mut recipients, self.now);
        let salt = rng.drawn.get(32..48).and_then(|salt| salt.try_into().ok()).unwrap_or([0; 16]);
        for (row, sessions) in sets {
            self.sessions.insert(row, sessions);
        }
        Ok(made.map(|outgoing| {
            let head = ContentHead {
                conversation: chain.owner().conversation,
                incarnation: chain.owner().incarnation,
                k,
                prev,
                client_msg_id: draft.client_msg_id,
                salt,
                view,
                list_version: lists.own.version(),
                list_hash: *lists.own.hash(),
                kind,
            };
            Made { head: head_bytes(head, &record.body, &outgoing.c_k), outgoing }
        }))
    }

    fn compose_failed(&mut self, no: i64, targets: &[Target], error: ComposeError) -> Result<Composed> {
        tracing::warn!(%error, "a message could not be composed");
        match error {
            ComposeError::TooLong(_) => return Ok(Composed::Pointless),
            // A bundle or session of a device whose keys have changed meanwhile: begin again with fresh ones.
            _ => {
                for target in targets {
                    self.bundles.remove(&target.row);
                }
            }
        }
        let now = self.now;
        self.conv(no)?.hold_until = now + 5_000;
        Ok(Composed::Waits)
    }

    #[allow(clippy::too_many_arguments)]
    fn composed(
        &mut self,
        no: i64,
        before: &SenderChain,
        chain: &SenderChain,
        lists: &Lists,
        targets: &[Target],
        mut record: OutboxRecord,
        made: Made,
    ) -> Result<Vec<u8>> {
        if record.counter == 0 {
            self.me.counter += 1;
            self.me_dirty = true;
            record.counter = self.me.counter;
        }
        let Made { head, outgoing } = made;
        self.tell_freshness(no, &outgoing)?;
        record.chain_before = before.to_bytes().to_vec();
        (record.head, record.c_k) = (head, outgoing.c_k.to_vec());
        (record.sender_list, record.recipient_list) = (lists.own.version(), lists.peer.version());
        let frame = frame(outgoing, lists, &record).encode_to_vec();
        record.frame.clone_from(&frame);
        let conv = self.conv(no)?;
        (conv.record.chain, conv.dirty) = (chain.to_bytes().to_vec(), true);
        for target in targets {
            let peer = conv.peer(target.row.device);
            (peer.unanswered, peer.first) = (0, false);
        }
        let out = conv.queue.iter_mut().find(|out| !out.in_flight && !out.composed).map(|out| {
            out.composed = true;
            out.no
        });
        for target in targets {
            self.bundles.remove(&target.row);
            if let Some(sessions) = self.sessions.get_mut(&target.row) {
                // A session that began may have retired another, and its skipped keys with it.
                (sessions.dirty, sessions.skipped_dirty) = (true, sessions.skipped_dirty || sessions.set.skipped_count() > 0);
            }
        }
        self.store.set_outbox(out.ok_or(StoreError::Malformed("outbox"))?, &record)?;
        self.effects.points.push(FaultPoint::Composed);
        Ok(frame)
    }

    fn tell_freshness(&mut self, no: i64, outgoing: &Outgoing) -> Result<()> {
        let begun: Vec<_> = outgoing.slices.iter().filter_map(|slice| slice.freshness).collect();
        if begun.iter().any(|fresh| fresh.one_time_missing) {
            self.notice(no, NoticeKind::NoOneTimeKey)?;
        }
        if begun.iter().any(|fresh| fresh.last_resort_kem) {
            self.notice(no, NoticeKind::LastResortKey)?;
        }
        Ok(())
    }

    /// Verifies bundles against the pinned lists. One that does not verify is not used; its device stays without a slice, so the message waits.
    pub(super) fn bundles_arrived(&mut self, no: i64, account: i64, bundles: &Bundles) -> Result<()> {
        if self.people.accounts.get(&account).is_some_and(|known| known.version() < bundles.list_version) {
            self.want_lists(account);
        }
        let Some(list) = self.people.list(account) else { return Ok(()) };
        for bundle in &bundles.bundles {
            let id = crate::ids::device(bundle.device);
            let Ok(device) = list.device(id) else { continue };
            let row = SessionRow { conversation: no, device: self.people.device(account, id) };
            let Some(known) = self.people.devices.get_mut(&row.device) else { continue };
            let newest = kith_crypto::prekey::PrekeyId::from_wire(known.record.newest_signed);
            let verified = crate::statements::bundle_from_wire(bundle).ok().and_then(|bundle| bundle.verify(&device.party(), newest).ok());
            match verified {
                Some(verified) => {
                    known.record.newest_signed = verified.signed_prekey_id().get();
                    known.dirty = true;
                    self.bundles.insert(row, verified);
                }
                None => self.bad_bundle(no)?,
            }
        }
        self.awake.insert(no);
        Ok(())
    }

    /// Forged or old prekeys: wait for good ones, and say so once.
    fn bad_bundle(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let conv = self.conv(no)?;
        conv.hold_until = now + 60_000;
        if conv.blocked().is_none() {
            conv.set_blocked(Some(crate::model::Blocked::ListRefused));
            self.notice(no, NoticeKind::ListRefused)?;
        }
        Ok(())
    }
}

/// A composed message with the head of its content.
struct Made {
    outgoing: Outgoing,
    head: Vec<u8>,
}

/// k and prev that the next content of a chain gets.
fn place(chain: &SenderChain, kind: u8) -> (u64, [u8; 32]) {
    let k = if kind == KIND_CHECKPOINT { chain.k() } else { chain.k() + 1 };
    (k, *chain.h())
}

/// The head of a content as it was composed, so that the very same content can be sent again to a device that could not read it. Empty if it cannot be told
/// for certain.
fn head_bytes(head: ContentHead, body: &[u8], c_k: &[u8; 32]) -> Vec<u8> {
    let content = Content { head, body: Zeroizing::new(body.to_vec()) };
    let bytes = content.to_bytes();
    if content_hash(&bytes) == *c_k { bytes[..bytes.len() - body.len()].to_vec() } else { Vec::new() }
}

fn frame(outgoing: Outgoing, lists: &Lists, record: &OutboxRecord) -> v1::Send {
    let own: AccountId = lists.own.account_id();
    let slice = |slice: outgoing::OutgoingSlice| v1::Slice { device: super::calls::bytes(slice.device.as_bytes()), data: slice.bytes.into() };
    let (own_slices, slices): (Vec<_>, Vec<_>) = outgoing.slices.into_iter().partition(|slice| slice.account == own);
    let conversation = kith_proto::id::ConversationId::direct(crate::ids::wire_account(own), crate::ids::wire_account(lists.peer.account_id()));
    v1::Send {
        conversation: super::calls::bytes(conversation.as_bytes()),
        recipient: super::calls::bytes(lists.peer.account_id().as_bytes()),
        client_msg_id: super::calls::bytes(outgoing.client_msg_id.as_bytes()),
        body: outgoing.body.into(),
        slices: slices.into_iter().map(slice).collect(),
        own_slices: own_slices.into_iter().map(slice).collect(),
        device_counter: record.counter,
        sender_list_version: record.sender_list,
        recipient_list_version: record.recipient_list,
        checkpoint: u8::try_from(record.kind).is_ok_and(rings_nothing),
        restart: false,
    }
}

/// Passes randomness through and keeps the first 48 bytes: the content key, which is wiped, and the salt of the content, which is part of what a repair
/// sends again. `compose` documents the order in which it draws.
struct Recording<'a> {
    rng: &'a mut rand::rngs::StdRng,
    drawn: Zeroizing<Vec<u8>>,
}

impl TryRng for Recording<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.rng.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.rng.try_next_u64()
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.rng.try_fill_bytes(out)?;
        let room = 48 - self.drawn.len();
        self.drawn.extend_from_slice(&out[..room.min(out.len())]);
        Ok(())
    }
}

impl TryCryptoRng for Recording<'_> {}

const fn assert_crypto_rng<R: CryptoRng>() {}
const _: () = assert_crypto_rng::<Recording<'static>>();
