use super::*;
use crate::testing::{NOW, Person, rng};
use proptest::prelude::*;

#[test]
fn ids_of_a_batch_increase_and_never_repeat() {
    let (secrets, next) = one_time_batch(&mut rng(1), PrekeyId::FIRST, 20, NOW).unwrap();
    let ids: Vec<u32> = secrets.iter().map(|secret| secret.id().get()).collect();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
    assert_eq!(next.get(), 41);
    assert!(secrets.iter().all(PrekeySecret::is_one_time));
    let last = PrekeyId::from_wire(u32::MAX).unwrap();
    assert_eq!(one_time_batch(&mut rng(1), last, 1, NOW).unwrap_err(), IdsExhausted);
    assert_eq!(PrekeyId::from_wire(0), None);
}

#[test]
fn every_kind_of_private_part_reads_back() {
    let mut rng = rng(1);
    let (account, device) = (AccountId::from_bytes([1; 16]), Person::new(1).keys);
    for secret in [
        PrekeySecret::signed(&mut rng, PrekeyId::FIRST, NOW),
        PrekeySecret::one_time(&mut rng, PrekeyId::FIRST, NOW),
        PrekeySecret::kem_one_time(&mut rng, PrekeyId::FIRST, NOW),
        PrekeySecret::kem_last_resort(&mut rng, PrekeyId::FIRST, NOW),
    ] {
        let bytes = secret.to_bytes();
        let read = PrekeySecret::from_bytes(&bytes).unwrap();
        assert_eq!(read.signed_public(account, &device), secret.signed_public(account, &device));
        assert_eq!(read.one_time_public(), secret.one_time_public());
        assert_eq!(read.is_one_time(), secret.is_one_time());
        assert_eq!(format!("{read:?}"), "PrekeySecret { .. }");
        for cut in 0..bytes.len() {
            assert!(PrekeySecret::from_bytes(&bytes[..cut]).is_err());
        }
    }
}

#[test]
fn weekly_kinds_are_replaced_and_erased_in_time() {
    let signed = PrekeySecret::signed(&mut rng(1), PrekeyId::FIRST, NOW);
    assert!(!signed.due_for_rotation(NOW + ROTATE_AFTER_MS - 1));
    assert!(signed.due_for_rotation(NOW + ROTATE_AFTER_MS));
    assert!(!PrekeySecret::one_time(&mut rng(1), PrekeyId::FIRST, NOW).due_for_rotation(u64::MAX));
    assert!(!due_for_erasure(NOW, NOW + ERASE_AFTER_MS - 1));
    assert!(due_for_erasure(NOW, NOW + ERASE_AFTER_MS));
}

#[test]
fn a04_other_kinds_and_lengths_are_refused() {
    for kind in [0, 4, 255] {
        assert!(PrekeyKind::from_u8(kind).is_err());
    }
    let signature = Signature::from_bytes([0; 64]);
    for (kind, len) in [(PrekeyKind::Signed, 31), (PrekeyKind::Signed, EK_LEN), (PrekeyKind::KemOneTime, 32)] {
        assert!(SignedPrekey::from_parts(kind, PrekeyId::FIRST, 0, vec![0; len], signature).is_err());
    }
}

proptest! {
    #[test]
    fn a49_prekey_parser_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        if let Ok(prekey) = SignedPrekey::from_bytes(&bytes) {
            prop_assert_eq!(prekey.to_bytes(), bytes);
        }
    }
}
