//! What to do with each append of a batch: pure.
//!
//! Whether an append is a duplicate only the database knows. One that would be refused unless it is a duplicate is looked up, and whatever follows it in its
//! conversation waits for the answer, since a refusal shuts the gate.

use std::collections::HashSet;

use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};

use super::roster::{Roster, Rosters};
use crate::{
    domain::IdSet,
    log::{Admission, Append, Refusal},
};

/// An append on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) append: Box<Append>,
    /// Batches in which its conversation turned out to have other devices than were remembered.
    pub(super) attempts: u8,
}

impl From<Box<Append>> for Waiting {
    fn from(append: Box<Append>) -> Self {
        Self { append, attempts: 0 }
    }
}

/// What to do with an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Append it, unless it is a duplicate.
    Append,
    /// Refuse it with this, unless it is a duplicate.
    Check(Refusal),
    /// Leave it to the next batch.
    Hold,
}

enum Verdict {
    Admit,
    Refuse(Refusal),
    /// These must be read first.
    Unsure(Vec<AccountId>),
}

/// Decides on appends in the order in which they came. An error names accounts to be read before anything can be decided; `fresh` are those that have been
/// read since the appends came.
pub(super) fn plan(waiting: &[Waiting], rosters: &Rosters, fresh: &HashSet<AccountId>) -> Result<Vec<Step>, Vec<AccountId>> {
    let mut steps = Vec::with_capacity(waiting.len());
    let mut seen: IdSet<(ConversationId, DeviceId, ClientMsgId)> = IdSet::with_capacity_and_hasher(waiting.len(), Default::default());
    let mut closed: IdSet<ConversationId> = IdSet::default();
    let mut unsure = Vec::new();
    for Waiting { append, .. } in waiting {
        let again = !seen.insert((append.conversation, append.sender.device, append.client_msg_id));
        if again || closed.contains(&append.conversation) {
            closed.insert(append.conversation);
            steps.push(Step::Hold);
            continue;
        }
        if append.restart {
            append.gate.open();
        }
        let step = match judge(append, rosters, fresh) {
            Verdict::Admit => Step::Append,
            Verdict::Refuse(refusal) => Step::Check(refusal),
            Verdict::Unsure(accounts) => {
                unsure.extend(accounts);
                Step::Hold
            }
        };
        if step != Step::Append {
            closed.insert(append.conversation);
        }
        steps.push(step);
    }
    if unsure.is_empty() {
        return Ok(steps);
    }
    unsure.sort_unstable();
    unsure.dedup();
    Err(unsure)
}

fn judge(append: &Append, rosters: &Rosters, fresh: &HashSet<AccountId>) -> Verdict {
    if append.gate.is_shut() {
        return Verdict::Refuse(Refusal::EarlierRefused);
    }
    if let Admission::DuplicateOnly(refusal) = &append.admission {
        return Verdict::Refuse(refusal.clone());
    }
    if append.recipient == append.sender.account {
        return Verdict::Refuse(Refusal::UnknownRecipient);
    }
    let refusal = match (rosters.get(append.sender.account), rosters.get(append.recipient)) {
        (_, None) => Refusal::UnknownRecipient,
        (None, _) => Refusal::SenderRevoked,
        (Some(sender), _) if !sender.devices.contains(&append.sender.device) => Refusal::SenderRevoked,
        (Some(sender), Some(recipient)) => match check_devices(append, sender, recipient) {
            Ok(()) => return Verdict::Admit,
            Err(refusal) => refusal,
        },
    };
    let stale: Vec<_> = [append.sender.account, append.recipient].into_iter().filter(|account| !fresh.contains(account)).collect();
    if stale.is_empty() { Verdict::Refuse(refusal) } else { Verdict::Unsure(stale) }
}

/// Compares the slices with the devices of both accounts.
fn check_devices(append: &Append, sender: &Roster, recipient: &Roster) -> Result<(), Refusal> {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    compare(append.recipient, &append.slices, recipient.devices.iter().copied(), &mut missing, &mut extra);
    let others = sender.devices.iter().copied().filter(|d| *d != append.sender.device);
    compare(append.sender.account, &append.own_slices, others, &mut missing, &mut extra);
    if append.checkpoint {
        missing.clear();
    }
    if missing.is_empty() && extra.is_empty() { Ok(()) } else { Err(Refusal::DevicesChanged { missing, extra }) }
}

fn compare(
    account: AccountId,
    slices: &[v1::Slice],
    wanted: impl Iterator<Item = DeviceId> + Clone,
    missing: &mut Vec<DeviceRef>,
    extra: &mut Vec<DeviceRef>,
) {
    for (n, slice) in slices.iter().enumerate() {
        let twice = slices[..n].iter().any(|earlier| earlier.device == slice.device);
        if twice || !wanted.clone().any(|d| slice.device[..] == d.0) {
            extra.extend(slice.device[..].try_into().map(|device| DeviceRef { account, device }));
        }
    }
    let unnamed = wanted.filter(|d| slices.iter().all(|slice| slice.device[..] != d.0));
    missing.extend(unnamed.map(|device| DeviceRef { account, device }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::{account, append, append_from, device};

    fn rosters() -> Rosters {
        let mut rosters = Rosters::default();
        for n in 1..=3 {
            rosters.insert(account(n), Roster { version: 1, devices: vec![device(n, 1).device] });
        }
        rosters
    }

    fn planned(appends: Vec<Append>, fresh: &[AccountId]) -> Result<Vec<Step>, Vec<AccountId>> {
        let waiting: Vec<_> = appends.into_iter().map(|append| Waiting::from(Box::new(append))).collect();
        plan(&waiting, &rosters(), &fresh.iter().copied().collect())
    }

    #[test]
    fn what_follows_a_doubtful_append_of_its_conversation_waits() {
        let limited = Refusal::RateLimited { after_ms: 1 };
        let doubtful = Append { admission: Admission::DuplicateOnly(limited.clone()), ..append(2) };
        let elsewhere = append_from(device(1, 1), 3, 9, &[device(3, 1)]);
        let steps = planned(vec![append(1), doubtful, append(3), elsewhere], &[]).unwrap();
        assert_eq!(steps, [Step::Append, Step::Check(limited), Step::Hold, Step::Append]);
    }

    #[test]
    fn the_second_of_two_alike_waits_for_the_first() {
        assert_eq!(planned(vec![append(1), append(1), append(2)], &[]).unwrap(), [Step::Append, Step::Hold, Step::Hold]);
    }

    #[test]
    fn memory_alone_refuses_nobody() {
        let to_a_new_device = || vec![append_from(device(1, 1), 2, 1, &[device(2, 1), device(2, 2)])];
        assert_eq!(planned(to_a_new_device(), &[]), Err(vec![account(1), account(2)]));
        assert_eq!(planned(to_a_new_device(), &[account(1)]), Err(vec![account(2)]));
        let refusal = Refusal::DevicesChanged { missing: vec![], extra: vec![device(2, 2)] };
        assert_eq!(planned(to_a_new_device(), &[account(1), account(2)]), Ok(vec![Step::Check(refusal)]));
    }
}
