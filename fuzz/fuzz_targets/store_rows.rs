//! The rows of a client's store: whatever stands in one, it is read as a value that is written as it was read, or it is an error. Everything that the
//! engine makes of the rows when it starts, and what a timeline shows of them, is made of these as well.
#![no_main]

use std::cell::RefCell;

use kith_client::fuzzing::{Planted, Rows};
use kith_fuzz::Plan;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static ROWS: RefCell<(Rows, tempfile::TempDir)> = RefCell::new({
        let folder = tempfile::tempdir().expect("a folder");
        (Rows::new(folder.path()).expect("a store"), folder)
    });
}

/// Row numbers are small, columns may be anything.
fn column(plan: &mut Plan<'_>) -> i64 {
    plan.number().cast_signed()
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    let which = plan.u8();
    let (place, sealed) = (which & 0x7f, which & 0x80 == 0);
    let no = column(&mut plan);
    let columns = [column(&mut plan), column(&mut plan), column(&mut plan)];
    ROWS.with_borrow_mut(|(rows, _)| rows.read(Planted { place, no, columns, value: plan.0, sealed }));
});
