//! How a session is stored: some 400 bytes, without its skipped keys, because it is written with every message.

use super::MAX_RECEIVING_CHAINS;
use super::header::{FIRST_LEN, FirstContact};
use super::keys::{ChainKey, RootKey};
use super::post_quantum::PqState;
use super::session::{FirstFlight, ListVersions, Receiving, Role, Session, Turn};
use crate::bytes::{FormatError, Reader, StateWriter};
use crate::secret::Secret;
use crate::x25519::{DhPublic, DhSecret};

impl Session {
    pub(crate) fn stored_len(&self) -> usize {
        let turn = match self.turn {
            Turn::Due => 0,
            Turn::Sending { .. } => 32 * 3 + 8,
        };
        let receiving = self.receiving.as_ref().map_or(0, |_| 36);
        let first = self.first.as_ref().map_or(0, |_| FIRST_LEN + 16);
        32 + 2 + 32 * 2 + 1 + turn + 4 + 1 + receiving + 2 + self.past.len() * 32 + 1 + first + self.pq.stored_len()
    }

    pub(crate) fn write(&self, writer: &mut StateWriter) {
        writer.put(&self.th).put_bool(self.role == Role::Responder).put_bool(self.confirmed);
        writer.put(self.root.0.expose()).put(self.their.as_bytes());
        match &self.turn {
            Turn::Due => writer.put_u8(0),
            Turn::Sending { own, chain, n, mix_epoch } => {
                writer.put_u8(1).put(own.secret().expose()).put(own.public().as_bytes()).put(chain.0.expose());
                writer.put_u32(*n).put_u32(*mix_epoch)
            }
        };
        writer.put_u32(self.pn).put_bool(self.receiving.is_some());
        if let Some(receiving) = &self.receiving {
            writer.put(receiving.chain.0.expose()).put_u32(receiving.n);
        }
        writer.put_count(self.past.len());
        for dh in &self.past {
            writer.put(dh.as_bytes());
        }
        writer.put_bool(self.first.is_some());
        if let Some(first) = &self.first {
            let mut contact = Vec::with_capacity(FIRST_LEN);
            first.contact.write(&mut contact);
            writer.put(&contact).put_u64(first.versions.sender).put_u64(first.versions.recipient);
        }
        self.pq.write(writer);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let th = reader.array()?;
        let role = if reader.bool("role")? { Role::Responder } else { Role::Initiator };
        let confirmed = reader.bool("confirmed")?;
        let root = RootKey(Secret::from_bytes(reader.array()?));
        let their = DhPublic::from_bytes(reader.array()?);
        let turn = read_turn(reader)?;
        let pn = reader.u32()?;
        let receiving = if reader.bool("receiving chain")? {
            Some(Receiving { chain: ChainKey(Secret::from_bytes(reader.array()?)), n: reader.u32()? })
        } else {
            None
        };
        let mut past = Vec::with_capacity(MAX_RECEIVING_CHAINS);
        for _ in 0..reader.count(MAX_RECEIVING_CHAINS - 1, 32, "past ratchet keys")? {
            past.push(DhPublic::from_bytes(reader.array()?));
        }
        let first = if reader.bool("first contact")? { Some(Box::new(read_first(reader)?)) } else { None };
        let pq = PqState::read(reader)?;
        Ok(Self { th, role, confirmed, root, their, turn, pn, receiving, past, first, pq })
    }
}

fn read_turn(reader: &mut Reader<'_>) -> Result<Turn, FormatError> {
    if !reader.bool("turn")? {
        return Ok(Turn::Due);
    }
    let secret = Secret::from_bytes(reader.array()?);
    let own = DhSecret::from_parts(secret, DhPublic::from_bytes(reader.array()?));
    let chain = ChainKey(Secret::from_bytes(reader.array()?));
    Ok(Turn::Sending { own, chain, n: reader.u32()?, mix_epoch: reader.u32()? })
}

fn read_first(reader: &mut Reader<'_>) -> Result<FirstFlight, FormatError> {
    let contact = FirstContact::read(reader)?;
    let versions = ListVersions { sender: reader.u64()?, recipient: reader.u64()? };
    Ok(FirstFlight { contact, versions })
}
