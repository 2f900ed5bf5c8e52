//! Pages.

use super::*;
use crate::log::{LogError, Payload};

pub(crate) async fn a_page_holds_what_the_device_may_see<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 1).await;
    bed.send(append_from(device(2, 1), 1, 7, &[device(1, 1)])).await;
    for flush in [false, true] {
        if flush {
            bed.log().flush().await.unwrap();
        }
        let page = bed.page(device(2, 1), 0).await;
        let entry = &page.entries[0];
        assert_eq!((entry.seq, entry.at_ms, entry.sender, entry.checkpoint), (1, START_MS, device(1, 1), false));
        assert_eq!((entry.client_msg_id, entry.sender_list_version, entry.recipient_list_version), (append(1).client_msg_id, 3, 4));
        let slice = Bytes::from(format!("for {}", device(2, 1).device));
        assert_eq!(entry.payload, Payload::Sealed { body: Bytes::from("body 1"), slice });
        assert_eq!(page.entries[1].payload, Payload::Absent(v1::AbsentReason::Own));
        assert_eq!(page.head, 2);
    }
}

pub(crate) async fn pages_are_contiguous_under_limits<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    for first in [1, 6, 11, 16, 21] {
        bed.send_many(first, first + 4).await;
    }
    for flush in [false, true] {
        if flush {
            bed.log().flush().await.unwrap();
        }
        for limit in [PageLimit { entries: 7, bytes: usize::MAX }, PageLimit { entries: 100, bytes: 150 }, PageLimit { entries: 0, bytes: 0 }] {
            let (mut after, mut seen) = (0, Vec::new());
            while after < 25 {
                let page = bed.log().page(device(2, 1), between(1, 2), after, limit).await.unwrap();
                assert!(page.absent.is_empty() && !page.entries.is_empty() && page.entries.len() <= limit.entries.max(1));
                after = page.entries.last().unwrap().seq;
                seen.extend(seqs(&page));
            }
            assert_eq!(seen, (1..=25).collect::<Vec<_>>());
        }
    }
    let beyond = bed.page(device(2, 1), 25).await;
    assert!(beyond.entries.is_empty() && beyond.absent.is_empty());
}

pub(crate) async fn a_page_is_for_members_only<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 1).await;
    let page = |d, conversation| {
        let log = bed.log();
        async move { log.page(d, conversation, 0, ALL).await }
    };
    assert!(matches!(page(device(3, 1), between(1, 2)).await, Err(LogError::NotAMember)));
    assert!(matches!(page(device(3, 1), between(3, 1)).await, Err(LogError::NotAMember)));
    let foreign = DeviceRef { account: account(1), ..device(3, 1) };
    assert!(matches!(page(foreign, between(1, 2)).await, Err(LogError::NotAMember)));
}

pub(crate) async fn a_page_spans_summary_and_journal<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 20).await;
    bed.log().flush().await.unwrap();
    bed.send_many(21, 40).await;
    assert_eq!(seqs(&bed.page(device(2, 1), 15).await), (16..=40).collect::<Vec<_>>());
    bed = bed.reopen(Reopen::Died).await;
    bed.send_many(41, 50).await;
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), (1..=50).collect::<Vec<_>>());
}
