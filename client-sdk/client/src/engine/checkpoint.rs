//! Checkpoints: telling the other, inside the encryption, what has really arrived (encryption specification §3, §9.34).
//!
//! They let a one-sided conversation ratchet and confirm its session, and make the server's ticks provable. Only in conversations that the user has
//! accepted, so that a stranger learns nothing.

use super::Result;
use super::open::From;
use super::people::ME;
use super::send::Draft;
use super::{Engine, calls};
use crate::model::Integrity;
use crate::store::records::PeerRecord;
use crate::store::{Role, SessionRow, StoreError};
use kith_crypto::chain::chain_hash;
use kith_crypto::checkpoint::{ChainHead, Checkpoint, checkpoint_due};
use kith_crypto::content::{CONTENT_HEAD_LEN, Content, KIND_CHECKPOINT};
use kith_crypto::log_hash::LogView;

impl Engine {
    /// Queues a checkpoint for the devices to which one is due.
    pub(super) fn checkpoints(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let linked = self.link.is_some();
        let conv = self.conv(no)?;
        if !linked || !conv.record.accepted || conv.checkpoint_queued() {
            return Ok(());
        }
        self.forget_unlisted(no)?;
        let conv = self.conv(no)?;
        let due = |peer: &&PeerRecord| checkpoint_due(peer.unanswered, peer.oldest_ms, peer.first, peer.jitter_ms, now);
        let only: Vec<i64> = conv.record.peers.iter().filter(due).map(|peer| peer.device).collect();
        if only.is_empty() {
            return Ok(());
        }
        let client_msg_id = calls::fresh_message_id(&mut self.store.rng).to_bytes();
        self.queue(no, Draft { kind: KIND_CHECKPOINT, client_msg_id, only, ..Draft::default() })
    }

    /// Nothing is owed to devices that are on no list any more.
    fn forget_unlisted(&mut self, no: i64) -> Result<()> {
        let owed: Vec<i64> = self.conv(no)?.record.peers.iter().filter(|peer| peer.unanswered > 0).map(|peer| peer.device).collect();
        let listed = |row: &i64| {
            let device = self.people.devices.get(row)?;
            self.people.list(device.account)?.device(device.id).ok().map(|_| ())
        };
        let gone: Vec<i64> = owed.into_iter().filter(|row| listed(row).is_none()).collect();
        let conv = self.conv(no)?;
        for peer in conv.record.peers.iter_mut().filter(|peer| gone.contains(&peer.device)) {
            (peer.unanswered, peer.first) = (0, false);
            conv.dirty = true;
        }
        Ok(())
    }

    /// What this device has received, as of now.
    pub(super) fn checkpoint_body(&mut self, no: i64) -> Result<Vec<u8>> {
        let conv = self.conv(no)?;
        let view = conv.view().unwrap_or_else(|| LogView::empty(conv.id));
        let devices: Vec<i64> = conv.record.peers.iter().map(|peer| peer.device).collect();
        let mut heads: Vec<ChainHead> = Vec::new();
        for device in devices {
            let chains = self.store.chains(SessionRow { conversation: no, device })?;
            heads.extend(chains.iter().map(|(_, chain)| chain.head()));
        }
        let checkpoint = Checkpoint::new(view, heads).map_err(|_| StoreError::Malformed("chain"))?;
        Ok(checkpoint.to_bytes())
    }

    /// Compares a checkpoint with what this device knows: the same log, and this device's own chain as it was sent.
    pub(super) fn checkpoint_arrived(&mut self, from: From, body: &[u8]) -> Result<()> {
        let Ok(checkpoint) = Checkpoint::from_bytes(body) else { return Ok(()) };
        let seq = checkpoint.view().seq;
        let agrees = self.compare_views(from.no, from.seq, from.device, *checkpoint.view())?;
        if from.account_no == ME || agrees != Some(true) {
            return Ok(());
        }
        let incarnation = self.incarnation()?;
        let mine = |head: &&ChainHead| head.account == self.account && head.device == self.keys.device_id() && head.incarnation == incarnation;
        let named = checkpoint.heads().iter().find(mine).copied();
        match self.has_received(from.no, seq, incarnation, named)? {
            Some(true) => {
                let conv = self.conv(from.no)?;
                (conv.record.proved, conv.dirty) = (conv.record.proved.max(seq), true);
                Ok(())
            }
            Some(false) => self.integrity(from.no, from.seq, from.device, Integrity::Fork),
            None => Ok(()),
        }
    }

    /// Whether the end of this device's chain that the other names is the true one, and covers all of this device's messages up to a place. `None` if the
    /// other has not received all of them.
    fn has_received(&self, no: i64, seq: u64, incarnation: kith_crypto::Incarnation, named: Option<ChainHead>) -> Result<Option<bool>> {
        const LOOKED_AT: i64 = 512;
        for entry in self.store.newest_of(no, Role::Mine, LOOKED_AT)? {
            let c_k = <[u8; 32]>::try_from(entry.record.c_k.as_slice());
            let (Ok(c_k), Ok(content)) = (c_k, Content::from_bytes(&entry.record.head)) else { continue };
            if entry.record.head.len() != CONTENT_HEAD_LEN || content.head.incarnation != incarnation {
                continue;
            }
            match named {
                Some(named) if named.k == content.head.k => return Ok(Some(named.h == chain_hash(&content.head.prev, &c_k))),
                Some(named) if named.k > content.head.k && entry.pos <= seq.cast_signed() => return Ok(Some(true)),
                _ if entry.pos <= seq.cast_signed() => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(true))
    }
}
