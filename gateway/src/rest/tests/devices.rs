use ed25519_dalek::SigningKey;
use serde_json::json;

use super::{
    owner::{Device, Owner},
    rig::{Rig, certificate, first_keys, list_request, statement},
};

#[tokio::test]
async fn publishes_and_revokes() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let (phone, laptop) = (alice.device.clone(), alice.owner.device("laptop"));
    assert_eq!(rig.publish(&mut alice, &[&phone, &laptop], &[&laptop]).await.ok()["version"], 2);
    let tokens = rig.login(&laptop).await.ok();
    let token = tokens["access_token"].as_str().unwrap().to_owned();
    let devices = rig.get("/v1/devices", Some(&token)).await.ok();
    let own: Vec<_> = devices["devices"].as_array().unwrap().iter().map(|d| d["own"].as_bool().unwrap()).collect();
    assert_eq!((own.len(), own.iter().filter(|own| **own).count()), (2, 1));
    let path = format!("/v1/devices/{}", laptop.at.device);
    let mut attempt = alice.owner.clone();
    let still_there = list_request(&mut attempt, &[&phone, &laptop], &[]);
    rig.delete(&path, alice.token(), &still_there).await.refused("INVALID_FRAME");
    let gone = list_request(&mut alice.owner, &[&phone], &[]);
    rig.delete(&path, alice.token(), &gone).await.ok();
    rig.get("/v1/devices", Some(&token)).await.refused("DEVICE_REVOKED");
    rig.get("/v1/users/alice", Some(&token)).await.refused("DEVICE_REVOKED");
    rig.post("/v1/token/refresh", None, &json!({"refresh_token": tokens["refresh_token"]})).await.refused("UNAUTHENTICATED");
    rig.login(&laptop).await.refused("SIGNATURE_INVALID");
}

#[tokio::test]
async fn a23_a_ghost_device_gets_on_no_list() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let (phone, ghost) = (alice.device.clone(), alice.owner.device("ghost"));
    let mallory = SigningKey::from_bytes(&[9; 32]);
    let entries = |certificate: &super::owner::Certificate| {
        let phones = Owner::certificate_hash(&alice.owner.certificate(&phone));
        vec![(phone.at.device, phones), (ghost.at.device, Owner::certificate_hash(certificate))]
    };
    let right = alice.owner.certificate(&ghost);
    let forged = alice.owner.certificate_by(&ghost, &mallory, &ghost.key);
    let unaccepted = alice.owner.certificate_by(&ghost, &alice.owner.aik, &mallory);
    // The list not signed by the identity key; the certificate not signed by it; the device never agreed.
    let lists = [
        (alice.owner.list_by(&mallory, 2, alice.owner.hash, entries(&right)), &right),
        (alice.owner.list_by(&phone.key, 2, alice.owner.hash, entries(&right)), &right),
        (alice.owner.list_by(&alice.owner.aik, 2, alice.owner.hash, entries(&forged)), &forged),
        (alice.owner.list_by(&alice.owner.aik, 2, alice.owner.hash, entries(&unaccepted)), &unaccepted),
    ];
    for (list, with) in lists {
        let request = json!({
            "list": statement(list),
            "certificates": [certificate(with.clone())],
            "prekeys": [{"device": ghost.at.device, "prekeys": first_keys(&ghost, 0)}],
        });
        rig.post("/v1/devices/list", Some(alice.token()), &request).await.refused("SIGNATURE_INVALID");
    }
    let without = json!({"list": statement(alice.owner.list(2, alice.owner.hash, &[&phone, &ghost]))});
    rig.post("/v1/devices/list", Some(alice.token()), &without).await.refused("INVALID_FRAME");
    let keyless = json!({
        "list": statement(alice.owner.list(2, alice.owner.hash, &[&phone, &ghost])),
        "certificates": [certificate(right)],
    });
    rig.post("/v1/devices/list", Some(alice.token()), &keyless).await.refused("PREKEY_INVALID");
    assert_eq!(rig.get("/v1/devices", Some(alice.token())).await.ok()["devices"].as_array().unwrap().len(), 1);
    rig.publish(&mut alice, &[&phone, &ghost], &[&ghost]).await.ok();
}

#[tokio::test]
async fn a_list_cannot_be_rolled_back_or_forked() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let phone = alice.device.clone();
    let first = alice.owner.hash;
    rig.publish(&mut alice, &[&phone], &[]).await.ok();
    let newest = alice.owner.hash;
    let lists = [
        alice.owner.list(1, [0; 32], &[&phone]),
        alice.owner.list(2, first, &[&phone]),
        alice.owner.list(3, first, &[&phone]),
        alice.owner.list(4, newest, &[&phone]),
        alice.owner.list(u64::MAX, newest, &[&phone]),
    ];
    for list in lists {
        let request = json!({"list": statement(list)});
        let answer = rig.post("/v1/devices/list", Some(alice.token()), &request).await;
        answer.refused("DEVICE_LIST_CONFLICT");
        assert_eq!(answer.body["retry"], "refresh");
    }
    let bob = rig.person("bob").await;
    let theirs = json!({"list": statement(bob.owner.list(2, bob.owner.hash, &[&bob.device]))});
    rig.post("/v1/devices/list", Some(alice.token()), &theirs).await.refused("DEVICE_LIST_CONFLICT");
}

#[tokio::test]
async fn a_device_keeps_its_keys_and_a_revoked_id_stays_revoked() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let (phone, laptop) = (alice.device.clone(), alice.owner.device("laptop"));
    let swapped = Device { at: phone.at, key: laptop.key.clone() };
    let mut attempt = alice.owner.clone();
    let request = list_request(&mut attempt, &[&swapped], &[&swapped]);
    rig.post("/v1/devices/list", Some(alice.token()), &request).await.refused("DEVICE_LIST_CONFLICT");
    rig.publish(&mut alice, &[&phone, &laptop], &[&laptop]).await.ok();
    rig.publish(&mut alice, &[&phone], &[]).await.ok();
    rig.publish(&mut alice, &[&phone, &laptop], &[&laptop]).await.refused("DEVICE_LIST_CONFLICT");
}

#[tokio::test]
async fn history_is_what_a_client_verifies() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    let (phone, laptop) = (alice.device.clone(), alice.owner.device("laptop"));
    rig.publish(&mut alice, &[&phone, &laptop], &[&laptop]).await.ok();
    let path = format!("/v1/accounts/{}/devices", alice.owner.account);
    let history = rig.get(&path, Some(bob.token())).await.ok();
    let statements = history["statements"].as_array().unwrap();
    assert_eq!((history["username"].as_str(), history["newest_version"].as_u64(), statements.len()), (Some("alice"), Some(2), 2));
    assert_eq!(statements[1]["certificates"].as_array().unwrap().len(), 1);
    let newer = rig.get(&format!("{path}?since_version=1"), Some(bob.token())).await.ok();
    assert_eq!(newer["statements"][0]["version"], 2);
    let newest = rig.get(&format!("{path}?since_version=2"), Some(bob.token())).await.ok();
    assert_eq!(newest["statements"], json!([]));
    rig.get(&path, None).await.refused("UNAUTHENTICATED");
    rig.get(&format!("/v1/accounts/{}/devices", Owner::new("nobody").account), Some(bob.token())).await.refused("UNKNOWN_ACCOUNT");
    rig.get("/v1/accounts/xyz/devices", Some(bob.token())).await.refused("NOT_FOUND");
    rig.get(&format!("{path}?since=1"), Some(bob.token())).await.refused("INVALID_FRAME");
    rig.get(&format!("{path}?since_version=-1"), Some(bob.token())).await.refused("INVALID_FRAME");
}

#[tokio::test]
async fn a_device_leaves_by_its_own_signature_only() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let (phone, laptop) = (alice.device.clone(), alice.owner.device("laptop"));
    rig.publish(&mut alice, &[&phone, &laptop], &[&laptop]).await.ok();
    let tokens = rig.login(&laptop).await.ok();
    let token = tokens["access_token"].as_str().unwrap();
    rig.post("/v1/devices/leave", Some(alice.token()), &statement(laptop.leave(2))).await.refused("INVALID_FRAME");
    rig.post("/v1/devices/leave", Some(token), &statement(laptop.leave(1))).await.refused("DEVICE_LIST_CONFLICT");
    let forged = Device { at: laptop.at, key: phone.key.clone() };
    rig.post("/v1/devices/leave", Some(token), &statement(forged.leave(2))).await.refused("SIGNATURE_INVALID");
    rig.post("/v1/devices/leave", Some(token), &statement(laptop.leave(2))).await.ok();
    rig.post("/v1/devices/leave", Some(token), &statement(laptop.leave(2))).await.refused("DEVICE_REVOKED");
    let history = rig.get(&format!("/v1/accounts/{}/devices?since_version=2", alice.owner.account), Some(alice.token())).await.ok();
    assert_eq!(history["leaves"], json!([statement(laptop.leave(2))]));
}
