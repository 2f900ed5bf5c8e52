//! Keys of messages that were skipped and may still come (§3, §9.20).
//!
//! The collection is shared, not copied, between a session set and its successor; only the chain that changes is rebuilt,
//! which also leaves no copy of a removed key behind.

use super::header::SessionId;
use super::keys::MessageKey;
use super::{MAX_SKIPPED, SKIPPED_LIFETIME_MS};
use crate::bytes::{FormatError, Reader, StateError, StateKind, StateWriter, read_state};
use crate::secret::{Secret, opaque_debug};
use crate::x25519::DhPublic;
use std::sync::Arc;
use zeroize::Zeroizing;

const KEY_LEN: usize = 4 + 8 + 32;
const CHAIN_HEAD_LEN: usize = 8 + 32 + 2;
/// Five sessions of five receiving chains each.
const MAX_CHAINS: usize = 25;

/// One skipped key.
#[derive(Clone)]
pub(crate) struct SkippedKey {
    pub(crate) n: u32,
    pub(crate) stored_ms: u64,
    pub(crate) key: MessageKey,
}

/// The skipped keys of one receiving chain, ascending by n.
#[derive(Clone)]
struct SkippedChain {
    session: SessionId,
    dh: DhPublic,
    keys: Vec<SkippedKey>,
}

/// All skipped keys of a pair of devices, oldest chain first.
#[derive(Clone, Default)]
pub(crate) struct SkippedKeys {
    /// Counts changes, so that the two stored halves of a session set can be told to belong together.
    generation: u64,
    chains: Vec<Arc<SkippedChain>>,
}

opaque_debug!(SkippedKeys);

impl SkippedKeys {
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.chains.iter().map(|chain| chain.keys.len()).sum()
    }

    /// The key of a late message, and the collection without it. `None` if it was used, evicted, too old or never there.
    pub(crate) fn take(&self, session: SessionId, dh: &DhPublic, n: u32, now_ms: u64) -> Option<(MessageKey, Self)> {
        let at = self.position(session, dh)?;
        let chain = &self.chains[at];
        let place = chain.keys.binary_search_by_key(&n, |key| key.n).ok()?;
        let found = &chain.keys[place];
        if is_old(found, now_ms) {
            return None;
        }
        let key = found.key.clone();
        let mut next = self.clone();
        next.generation += 1;
        if chain.keys.len() == 1 {
            next.chains.remove(at);
        } else {
            let rest = chain.keys.iter().filter(|key| key.n != n).cloned().collect();
            next.chains[at] = Arc::new(SkippedChain { session, dh: *dh, keys: rest });
        }
        Some((key, next))
    }

    /// Adds keys of one chain (all above those already there), then evicts what is too old or too many.
    pub(crate) fn add(&mut self, session: SessionId, dh: &DhPublic, keys: Vec<SkippedKey>, now_ms: u64) {
        if keys.is_empty() {
            return;
        }
        self.generation += 1;
        match self.position(session, dh) {
            Some(at) => {
                let mut all = Vec::with_capacity(self.chains[at].keys.len() + keys.len());
                all.extend(self.chains[at].keys.iter().cloned());
                all.extend(keys);
                self.chains[at] = Arc::new(SkippedChain { session, dh: *dh, keys: all });
            }
            None => self.chains.push(Arc::new(SkippedChain { session, dh: *dh, keys })),
        }
        self.prune(now_ms);
    }

    /// Drops the keys of every chain that `keep` refuses.
    pub(crate) fn retain(&mut self, keep: impl Fn(SessionId, &DhPublic) -> bool) {
        let before = self.chains.len();
        self.chains.retain(|chain| keep(chain.session, &chain.dh));
        if self.chains.len() != before {
            self.generation += 1;
        }
    }

    /// Evicts keys past their lifetime, and the oldest while there are more than the limit. Tells whether any went.
    pub(crate) fn prune(&mut self, now_ms: u64) -> bool {
        let mut excess = self.len().saturating_sub(MAX_SKIPPED);
        let mut changed = false;
        for chain in &mut self.chains {
            let expired = chain.keys.iter().take_while(|key| is_old(key, now_ms)).count();
            // Chains are in order of creation and keys in order of n, so the front of the first chain is the oldest.
            let drop = expired.max(excess.min(chain.keys.len()));
            excess = excess.saturating_sub(drop);
            if drop > 0 {
                let keys = chain.keys[drop..].to_vec();
                *chain = Arc::new(SkippedChain { session: chain.session, dh: chain.dh, keys });
                changed = true;
            }
        }
        self.chains.retain(|chain| !chain.keys.is_empty());
        self.generation += u64::from(changed);
        changed
    }

    fn position(&self, session: SessionId, dh: &DhPublic) -> Option<usize> {
        self.chains.iter().position(|chain| chain.session == session && chain.dh == *dh)
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let payload = 8 + 2 + self.chains.iter().map(|chain| CHAIN_HEAD_LEN + chain.keys.len() * KEY_LEN).sum::<usize>();
        let mut writer = StateWriter::new(StateKind::Skipped, payload);
        writer.put_u64(self.generation).put_count(self.chains.len());
        for chain in &self.chains {
            writer.put(chain.session.as_bytes()).put(chain.dh.as_bytes()).put_count(chain.keys.len());
            for key in &chain.keys {
                writer.put_u32(key.n).put_u64(key.stored_ms).put(key.key.0.expose());
            }
        }
        writer.finish()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::Skipped, bytes)?;
        let generation = reader.u64()?;
        let count = reader.count(MAX_CHAINS, CHAIN_HEAD_LEN, "skipped chains")?;
        let mut chains = Vec::with_capacity(count);
        for _ in 0..count {
            chains.push(Arc::new(read_chain(&mut reader)?));
        }
        reader.finish()?;
        let skipped = Self { generation, chains };
        if skipped.len() > MAX_SKIPPED {
            return Err(FormatError::OutOfRange("skipped keys").into());
        }
        Ok(skipped)
    }
}

fn read_chain(reader: &mut Reader<'_>) -> Result<SkippedChain, FormatError> {
    let (session, dh) = (SessionId::from_bytes(reader.array()?), DhPublic::from_bytes(reader.array()?));
    let count = reader.count(MAX_SKIPPED, KEY_LEN, "skipped keys")?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let (n, stored_ms) = (reader.u32()?, reader.u64()?);
        keys.push(SkippedKey { n, stored_ms, key: MessageKey(Secret::from_bytes(reader.array()?)) });
    }
    if keys.is_empty() || !keys.is_sorted_by(|a, b| a.n < b.n) {
        return Err(FormatError::OutOfRange("skipped keys"));
    }
    Ok(SkippedChain { session, dh, keys })
}

const fn is_old(key: &SkippedKey, now_ms: u64) -> bool {
    now_ms.saturating_sub(key.stored_ms) >= SKIPPED_LIFETIME_MS
}
