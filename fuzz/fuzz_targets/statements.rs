//! Signed statements, as the server takes them apart and as clients do. What one side reads, the other reads too, but for keys that only the client checks.
#![no_main]

use kith_chat_core::domain::statement;
use kith_crypto::{
    device::SignedCertificate,
    device_list::{SignedDeviceList, SignedLeave, SignedRotation},
    prekey::SignedPrekey,
};
use libfuzzer_sys::fuzz_target;

/// The fields of a statement with this label.
fn labelled(label: &str, fields: &[u8]) -> Vec<u8> {
    let length = u8::try_from(label.len()).expect("short");
    [&[length], label.as_bytes(), fields].concat()
}

fuzz_target!(|data: &[u8]| {
    let _ = statement::DeviceList::parse(data);
    let _ = statement::Rotation::parse(data);
    let _ = statement::Leave::parse(data);

    if let Ok(certificate) = SignedCertificate::from_bytes(data) {
        assert_eq!(certificate.to_bytes().as_slice(), data);
        let _ = certificate.verify();
    }
    if let Ok(prekey) = SignedPrekey::from_bytes(data) {
        assert_eq!(prekey.to_bytes().as_slice(), data);
    }
    let Some((fields, _)) = data.split_last_chunk::<64>() else { return };
    if let Ok(leave) = SignedLeave::from_bytes(data) {
        assert_eq!(leave.to_bytes().as_slice(), data);
        statement::Leave::parse(&labelled("kith/v1/leave", fields)).expect("the client reads it");
    }
    if let Ok(rotation) = SignedRotation::from_bytes(data) {
        assert_eq!(rotation.to_bytes().as_slice(), data);
        statement::Rotation::parse(&labelled("kith/v1/rotate", fields)).expect("the client reads it");
    }
    if let Ok(list) = SignedDeviceList::from_bytes(data) {
        assert_eq!(list.to_bytes().as_slice(), data);
        let _ = statement::DeviceList::parse(&labelled("kith/v1/devices", fields));
    }
});
