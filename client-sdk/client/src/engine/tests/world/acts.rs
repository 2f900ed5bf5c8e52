//! What tests do to phones and accounts beyond what an app does, and what they look at.

use super::World;
use crate::engine::send::Draft;
use crate::engine::{Command, Input};
use crate::statements::{AccountHistory, Step};
use kith_crypto::identity::{AccountIdentity, RecoveryKey};
use kith_crypto::prekey::PrekeyId;
use kith_crypto::sign::SigningKey;
use kith_proto::id::ConversationId;
use kith_proto::v1::{self, server_frame};
use rand::SeedableRng as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

impl World {
    /// By an app that has no connection, and is ended then.
    pub(in crate::engine::tests) fn say_offline(&mut self, phone: usize, conversation: ConversationId, text: &str) {
        self.kill(phone);
        self.start(phone);
        let mut answer = self.text(phone, conversation, text);
        let inputs = self.phones[phone].inbox.drain(..).collect();
        self.round(phone, inputs);
        answer.try_recv().unwrap().unwrap();
        self.kill(phone);
    }

    /// A copy of the store of a phone whose process is gone.
    pub(in crate::engine::tests) fn back_up(&self, at: usize) -> PathBuf {
        let backup = self.phones[at].home.with_file_name("backup");
        std::fs::create_dir(&backup).unwrap();
        for file in ["store.db", "store.db-wal"] {
            let _ = std::fs::copy(self.phones[at].home.join(file), backup.join(file));
        }
        backup
    }

    pub(in crate::engine::tests) fn copy_back(&self, at: usize, backup: &Path) {
        for file in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(self.phones[at].home.join(file));
            let _ = std::fs::copy(backup.join(file), self.phones[at].home.join(file));
        }
    }

    /// Publishes another history for a phone's account, as a lying server does.
    pub(in crate::engine::tests) fn forge(&mut self, at: usize, history: AccountHistory) {
        self.phones[at].history = history;
    }

    pub(in crate::engine::tests) fn honest_history(&self, at: usize) -> AccountHistory {
        self.phones[at].history.clone()
    }

    pub(in crate::engine::tests) fn push_to(&mut self, at: usize, kind: server_frame::Kind) {
        self.push(at, kind);
    }

    pub(in crate::engine::tests) fn delivered_to(&self, at: usize, id: ConversationId, seq: u64) -> v1::Deliver {
        self.row_for(at, id, seq)
    }

    /// A content that no app call makes, as a client that was changed can send it.
    pub(in crate::engine::tests) fn silent(&mut self, at: usize, conversation: ConversationId, kind: u8, body: Vec<u8>) {
        let engine = self.phones[at].engine.as_mut().unwrap();
        let no = engine.of[&crate::ids::conversation(conversation)];
        let client_msg_id = crate::engine::calls::fresh_message_id(&mut engine.store.rng).to_bytes();
        engine.queue(no, Draft { kind, client_msg_id, body, ..Draft::default() }).unwrap();
        engine.store.commit().unwrap();
        self.run();
    }

    /// The recovery key of an account replaces its identity key, and the server tells everybody who is there.
    pub(in crate::engine::tests) fn rotate_identity(&mut self, at: usize) {
        let rng = &mut rand::rngs::StdRng::seed_from_u64(self.now);
        let phone = &mut self.phones[at];
        let engine = phone.engine.as_ref().unwrap();
        let before = engine.people.list(1).unwrap();
        let (key, recovery) = (SigningKey::random(rng), RecoveryKey::random(rng));
        let rotation = phone.recovery.rotate(&before, key.public(), Some(recovery.public()));
        let identity = AccountIdentity::rotated(before.account_id(), key, Some(recovery.public()));
        let between = before.rotate(&rotation).unwrap();
        let request = engine.keys.request_certificate(before.account_id(), identity.public(), between.version() + 1);
        let certificate = identity.certify(&request).unwrap();
        let list = identity.sign_list(Some(&between), &[certificate], self.now);
        phone.history.newest_version = list.version();
        phone.history.steps.extend([Step::Rotation(rotation), Step::List(list, vec![certificate])]);
        phone.recovery = recovery;
        let (account, version) = (phone.account.to_bytes(), phone.history.newest_version);
        for other in 0..self.phones.len() {
            self.push(other, server_frame::Kind::DeviceListChanged(v1::DeviceListChanged { account: account.clone(), version }));
        }
        self.run();
    }

    pub(in crate::engine::tests) fn safety_number(&mut self, at: usize, conversation: ConversationId) -> String {
        let (reply, mut answer) = oneshot::channel();
        self.input(at, Input::Command(Command::SafetyNumber { conversation, reply }));
        self.run();
        answer.try_recv().unwrap().unwrap().digits
    }

    /// A device says that it leaves its account, and another phone learns of it.
    pub(in crate::engine::tests) fn leave(&mut self, at: usize, told: usize) {
        let phone = &mut self.phones[at];
        let account = crate::ids::account(phone.account);
        let leave = phone.engine.as_ref().unwrap().keys.leave(account, phone.history.newest_version);
        phone.history.leaves.push(leave);
        let engine = self.phones[told].engine.as_mut().unwrap();
        let no = engine.people.account(account);
        engine.want_lists(no);
        self.run();
    }

    /// Overwrites every stored session of a phone that is not running.
    pub(in crate::engine::tests) fn damage_sessions(&self, at: usize) {
        let database = rusqlite::Connection::open(self.phones[at].home.join("store.db")).unwrap();
        let damaged = database.execute("UPDATE session SET state = zeroblob(length(state))", []).unwrap();
        assert!(damaged > 0);
    }

    pub(in crate::engine::tests) fn verify(&mut self, at: usize, conversation: ConversationId) {
        let (reply, _answer) = oneshot::channel();
        self.input(at, Input::Command(Command::SetVerified { conversation, verified: true, reply }));
        self.run();
    }

    /// How many sessions were ever used.
    pub(in crate::engine::tests) fn sessions(&self) -> usize {
        self.slices.keys().map(|(session, ..)| session).collect::<BTreeSet<_>>().len()
    }

    /// The ids of the signed and the last-resort prekey that the server hands out.
    pub(in crate::engine::tests) fn weekly_keys(&self, at: usize) -> [u32; 2] {
        let stock = &self.phones[at].stock;
        [stock.signed.as_ref().unwrap().id, stock.last_resort_kem.as_ref().unwrap().id]
    }

    /// Whether a phone still has the private part of a prekey.
    pub(in crate::engine::tests) fn holds(&self, at: usize, id: u32) -> bool {
        let store = &self.phones[at].engine.as_ref().unwrap().store;
        store.prekey(PrekeyId::from_wire(id).unwrap()).unwrap().is_some()
    }

    pub(in crate::engine::tests) fn drain_keys(&mut self, at: usize) {
        self.phones[at].stock.one_time.clear();
        self.phones[at].stock.one_time_kem.clear();
    }

    pub(in crate::engine::tests) fn stock(&self, at: usize) -> usize {
        self.phones[at].stock.one_time_kem.len()
    }
}
