//! What the fuzz targets of `fuzz/` reach beyond the crate's interface. Compiled for them alone.

pub use crate::engine::fuzzing::{Planted, Rows, repair_messages};

use crate::statements::{AccountHistory, Step, bundle_from_wire, certificate_to_wire, list_to_wire, prekey_to_wire};
use kith_proto::rest::{Bundle, History, Statement};

/// Reads a server's answer about an account. What is read says the same in the form in which it came.
///
/// # Panics
/// If it does not.
#[must_use]
pub fn account_history(pages: &[History]) -> bool {
    let Ok(history) = AccountHistory::from_pages(pages) else { return false };
    let statements: Vec<&Statement> = pages.iter().flat_map(|page| &page.statements).collect();
    assert_eq!(history.steps.len(), statements.len());
    for (step, statement) in history.steps.iter().zip(statements) {
        match (step, statement) {
            (Step::List(list, certificates), Statement::Devices { list: signed, certificates: signed_certificates, .. }) => {
                assert_eq!(list_to_wire(list), *signed);
                assert_eq!(certificates.iter().map(certificate_to_wire).collect::<Vec<_>>(), *signed_certificates);
            }
            (Step::Rotation(_), Statement::Rotate { .. }) => {}
            other => panic!("read as another kind: {other:?}"),
        }
    }
    true
}

/// Reads a bundle of prekeys. What is read says the same in the form in which it came.
///
/// # Panics
/// If it does not.
#[must_use]
pub fn bundle(from: &Bundle) -> bool {
    let Ok(read) = bundle_from_wire(from) else { return false };
    assert_eq!(prekey_to_wire(&read.signed), from.signed);
    assert_eq!(prekey_to_wire(&read.kem), from.kem);
    assert_eq!(read.one_time.is_some(), from.one_time.is_some());
    true
}
