//! What the store promises, whatever happens to its files.

use super::records::{ConversationRecord, EntryRecord, SelfRecord};
use super::{NewEntry, PENDING, Role, SessionRow, Store, StoreError};
use crate::builder::Passphrase;
use crate::error::OpenError;
use kith_crypto::session_set::{Pair, SessionSet};
use kith_crypto::{AccountId, ConversationId, DeviceId};
use std::path::{Path, PathBuf};

fn home() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    (folder, home)
}

fn entry(text: &[u8]) -> EntryRecord {
    EntryRecord { kind: 1, body: text.to_vec(), ..EntryRecord::default() }
}

const NEW: NewEntry = NewEntry { conversation: 1, pos: PENDING, role: Role::Mine, change: 1, arrival: None, place: None, broken: false };

fn files(home: &Path) -> Vec<u8> {
    std::fs::read_dir(home).unwrap().flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn what_is_committed_is_there_again_and_what_is_not_is_not() {
    let (_folder, home) = home();
    let mut store = Store::create(&home, None).unwrap();
    let me = SelfRecord { username: "alice".to_owned(), counter: 7, ..SelfRecord::default() };
    store.set_self_record(&me).unwrap();
    let no = store.add_entry(NEW, &entry(b"kept")).unwrap();
    assert!(store.commit().unwrap());
    store.add_entry(NEW, &entry(b"lost")).unwrap();
    drop(store);
    let store = Store::open(&home, None).unwrap();
    assert_eq!(store.self_record().unwrap().unwrap(), me);
    assert_eq!(store.entry(no).unwrap().unwrap().record.body, b"kept");
    assert!(store.entry(no + 1).unwrap().is_none());
}

#[test]
fn a19_one_process_at_a_time_by_lock_and_by_writer_epoch() {
    let (_folder, home) = home();
    let mut first = Store::create(&home, None).unwrap();
    assert!(matches!(Store::open(&home, None), Err(OpenError::InUse)));
    // A file system without locks: the lock is there and says nothing.
    std::fs::remove_file(home.join("store.lock")).unwrap();
    let mut second = Store::open(&home, None).unwrap();
    second.add_entry(NEW, &entry(b"second")).unwrap();
    second.commit().unwrap();
    assert!(matches!(first.add_entry(NEW, &entry(b"first")), Err(StoreError::OtherWriter)));
    first.rollback();
}

#[test]
fn a20_a_session_that_exists_and_cannot_be_read_is_an_error() {
    let (_folder, home) = home();
    let mut store = Store::create(&home, None).unwrap();
    let row = SessionRow { conversation: 1, device: 2 };
    let pair =
        Pair { conversation: ConversationId::from_bytes([1; 16]), account: AccountId::from_bytes([2; 16]), device: DeviceId::from_bytes([3; 16]) };
    assert!(store.sessions(row).unwrap().is_none());
    store.set_sessions(row, &SessionSet::new(pair), true).unwrap();
    store.commit().unwrap();
    assert_eq!(*store.sessions(row).unwrap().unwrap().pair(), pair);
    // Moved to the row of another device: sealed for its place.
    store.conn.execute("UPDATE session SET device = 9", []).unwrap();
    assert!(matches!(store.sessions(SessionRow { device: 9, ..row }), Err(StoreError::Sealed("session", _))));
    store.conn.execute("UPDATE session SET device = 2, state = zeroblob(length(state))", []).unwrap();
    assert!(matches!(store.sessions(row), Err(StoreError::Sealed("session", _))));
}

#[test]
fn a_passphrase_or_the_right_key_opens_and_nothing_else() {
    let (_folder, home) = home();
    let passphrase = Passphrase::from("correct horse");
    let mut store = Store::create(&home, Some(&passphrase)).unwrap();
    store.set_self_record(&SelfRecord::default()).unwrap();
    store.commit().unwrap();
    drop(store);
    assert!(matches!(Store::open(&home, None), Err(OpenError::PassphraseNeeded)));
    assert!(matches!(Store::open(&home, Some(&Passphrase::from("wrong"))), Err(OpenError::WrongKey)));
    assert!(Store::open(&home, Some(&passphrase)).unwrap().self_record().unwrap().is_some());
    assert!(!super::is_bare(&home));
}

#[test]
#[cfg(unix)]
fn only_this_user_may_read_folder_and_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, home) = home();
    drop(Store::create(&home, None).unwrap());
    assert!(super::is_bare(&home));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&home), mode(&home.join("store.key"))), (0o700, 0o600));
}

#[test]
fn a14_a40_no_plaintext_reaches_the_disk_and_what_is_erased_is_gone() {
    let (_folder, home) = home();
    let mut store = Store::create(&home, None).unwrap();
    let record = ConversationRecord { id: b"conversationcana".to_vec(), ..ConversationRecord::default() };
    store.set_conversation(1, &record).unwrap();
    let no = store.add_entry(NEW, &entry(b"plaintext canary")).unwrap();
    store.commit().unwrap();
    let sealed: Vec<u8> = store.conn.query_row("SELECT value FROM entry WHERE no = ?", [no], |row| row.get(0)).unwrap();
    let holds = |needle: &[u8]| files(&home).windows(needle.len()).any(|window| window == needle);
    assert!(!holds(b"plaintext canary") && !holds(b"conversationcana"));
    assert!(holds(&sealed[..32]), "the search would find what is there");
    store.conn.execute("DELETE FROM entry", []).unwrap();
    store.truncate_wal();
    assert!(!holds(&sealed[..32]), "erased values leave no trace");
}
