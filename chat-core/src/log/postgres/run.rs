//! Runs: what one device sends to a conversation while a batch gathers, in one row.
//!
//! A run of one message is a row as messages were before there were runs: named by its `client_msg_id`, with body and slices as data. The data of a longer one
//! are a pack: for each message `client_msg_id ‖ counter u64 ‖ length u32`, big-endian, because the database reads it as well; then for each its body and slices.

use kith_proto::id::ClientMsgId;

use crate::log::{Append, row};

/// Bytes of a pack: two to a page of 8 KiB, with what else is in a row.
const PACK_BYTES: usize = 3_900;
/// Of each message in a pack, besides its body and slices.
const ENTRY: usize = 28;
/// Of each row in a statement, besides its data: ids and numbers, each with its length.
const ROW: usize = 370;

/// Appends that become one row, as a range of those of their batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The first of them.
    pub(super) start: usize,
    pub(super) count: usize,
    /// The number of its conversation in the batch.
    pub(super) group: usize,
    /// Which of the conversation's messages in the batch is its last one, from 1.
    pub(super) last: usize,
    /// Which of them its sender has sent before it, 0 if none; `None` if it goes on no chain.
    pub(super) after: Option<usize>,
    bytes: usize,
}

impl Run {
    /// Of one message, the nth of its conversation in the batch.
    pub(super) fn new(append: &Append, start: usize, group: usize, nth: usize, after: Option<usize>) -> Self {
        Self { start, count: 1, group, last: nth, after, bytes: ENTRY + encoded_len(append) }
    }

    /// Takes in what follows the last message of the run, if it belongs there.
    pub(super) fn extend(&mut self, last: &Append, next: &Append) -> bool {
        let bytes = self.bytes + ENTRY + encoded_len(next);
        let alike = last.sender == next.sender
            && last.checkpoint == next.checkpoint
            && last.sender_list_version == next.sender_list_version
            && last.recipient_list_version == next.recipient_list_version;
        // By its counter a retry is found.
        let fits = alike && last.device_counter < next.device_counter && bytes <= PACK_BYTES;
        if fits {
            (self.count, self.last, self.bytes) = (self.count + 1, self.last + 1, bytes);
        }
        fits
    }

    /// What it takes in a statement, with its part of its conversation and of its sender; about.
    pub(super) fn statement_bytes(&self) -> usize {
        self.bytes + ROW
    }

    /// Its messages.
    pub(super) fn of<'a, 'b>(&self, appends: &'b [&'a Append]) -> &'b [&'a Append] {
        &appends[self.start..self.start + self.count]
    }
}

fn slices(append: &Append) -> impl Iterator<Item = ([u8; 16], &[u8])> + Clone {
    // The plan has compared them with device ids, which have 16 bytes.
    let slices = append.slices.iter().chain(&append.own_slices);
    slices.map(|slice| (<[u8; 16]>::try_from(&slice.device[..]).unwrap_or_default(), &slice.data[..]))
}

fn encoded_len(append: &Append) -> usize {
    row::encoded_len(&append.body, slices(append))
}

/// The data of a row. `None` if lengths do not fit, which limits on frames exclude.
pub(super) fn encode(out: &mut Vec<u8>, appends: &[&Append]) -> Option<()> {
    if let [append] = appends {
        return row::encode(out, &append.body, slices(append));
    }
    for append in appends {
        out.extend_from_slice(&append.client_msg_id.0);
        out.extend_from_slice(&append.device_counter.to_be_bytes());
        out.extend_from_slice(&u32::try_from(encoded_len(append)).ok()?.to_be_bytes());
    }
    appends.iter().try_for_each(|append| row::encode(out, &append.body, slices(append)))
}

/// The names of the messages of a pack, each with its body and slices. `None` if it is damaged.
pub(super) fn unpack(pack: &[u8], count: usize) -> Option<Vec<(ClientMsgId, &[u8])>> {
    let (index, mut content) = pack.split_at_checked(count.checked_mul(ENTRY)?)?;
    let mut messages = Vec::with_capacity(count);
    for entry in index.chunks_exact(ENTRY) {
        let length = u32::from_be_bytes(entry[ENTRY - 4..].try_into().ok()?);
        let (data, rest) = content.split_at_checked(usize::try_from(length).ok()?)?;
        messages.push((ClientMsgId(entry[..16].try_into().ok()?), data));
        content = rest;
    }
    content.is_empty().then_some(messages)
}

/// What is taken out of a pack lies in it, in order and without gaps.
#[cfg(fuzzing)]
pub(super) fn check(data: &[u8], count: usize) {
    let Some(messages) = unpack(data, count) else { return };
    assert_eq!(messages.len(), count);
    let content: Vec<u8> = messages.iter().flat_map(|(_, data)| data.iter().copied()).collect();
    assert_eq!(content, data[count * ENTRY..]);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::log::conformance::{append, append_from, device};

    fn runs(appends: &[Append]) -> Vec<usize> {
        let mut runs = vec![Run::new(&appends[0], 0, 0, 1, None)];
        for (n, pair) in appends.windows(2).enumerate() {
            if !runs.last_mut().unwrap().extend(&pair[0], &pair[1]) {
                runs.push(Run::new(&pair[1], n + 1, 0, n + 2, None));
            }
        }
        runs.iter().map(|run| run.count).collect()
    }

    #[test]
    fn a_run_has_one_sender_and_one_kind_and_counters_that_rise() {
        assert_eq!(runs(&[append(1), append(2), append(3)]), [3]);
        assert_eq!(runs(&[append(1), append_from(device(2, 1), 1, 2, &[device(1, 1)]), append(3)]), [1, 1, 1]);
        assert_eq!(runs(&[append(1), append(2), Append { checkpoint: true, ..append(3) }]), [2, 1]);
        assert_eq!(runs(&[append(1), Append { sender_list_version: 9, ..append(2) }]), [1, 1]);
        assert_eq!(runs(&[append(1), Append { recipient_list_version: 9, ..append(2) }]), [1, 1]);
        assert_eq!(runs(&[append(2), append(1), append(3), append(3)]), [1, 2, 1]);
    }

    #[test]
    fn a_run_ends_where_half_a_page_does() {
        let large = |id| Append { body: vec![0; 1_200].into(), ..append(id) };
        assert_eq!(runs(&[large(1), large(2), large(3), large(4)]), [3, 1]);
        let huge = |id| Append { body: vec![0; 10_000].into(), ..append(id) };
        assert_eq!(runs(&[append(1), huge(2), append(3), append(4)]), [1, 1, 2]);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out(bodies in proptest::collection::vec(any::<Vec<u8>>(), 2..9)) {
            let appends: Vec<_> = (1..).zip(&bodies).map(|(id, body)| Append { body: Bytes::from(body.clone()), ..append(id) }).collect();
            let appends: Vec<_> = appends.iter().collect();
            let mut pack = Vec::new();
            encode(&mut pack, &appends).unwrap();
            let messages = unpack(&pack, appends.len()).unwrap();
            for ((name, data), append) in messages.iter().zip(&appends) {
                let mut single = Vec::new();
                encode(&mut single, &[append]).unwrap();
                prop_assert_eq!((*name, *data), (append.client_msg_id, &single[..]));
            }
            prop_assert_eq!(messages.len(), appends.len());
            prop_assert_eq!(unpack(&pack[..pack.len() - 1], appends.len()), None);
            prop_assert_eq!(unpack(&pack, appends.len() + 1).filter(|more| more.len() == appends.len()), None);
        }

        #[test]
        fn damage_is_no_panic(pack: Vec<u8>, count: usize) {
            let _ = unpack(&pack, count);
        }
    }
}
