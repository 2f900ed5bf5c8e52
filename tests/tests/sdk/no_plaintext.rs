//! A40: nothing of what people say or are appears where it does not belong. Texts are in no file, log or metric of the server and in no file of a client's
//! store; names, ids, tokens and keys are in no log or metric, in whatever way bytes may have been printed.

use std::{fs, path::Path};

use anyhow::ensure;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use kith_proto::v1::{self, ClientFrame, client_frame};
use kith_tests::{
    Story,
    identity::random,
    person::Person,
    sdk::User,
    server::{Options, Server},
    socket::{SOON, Socket},
};
use prost::Message as _;
use reqwest::Method;
use tokio_tungstenite::tungstenite::Message;

/// Every level of our own crates.
const EVERYTHING: &str = "info,kith=trace,kith_gateway=trace,kith_chat_core=trace,kith_proto=trace,tower_http=debug";

/// What must not appear, in all its disguises.
struct Canary {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    fn new(name: &'static str, bytes: &[u8]) -> Self {
        let decimal = |separator: &str| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(separator);
        let mut forms = vec![bytes.to_vec(), hex::encode(bytes).into_bytes(), hex::encode_upper(bytes).into_bytes()];
        forms.extend([", ", ",", " "].map(|separator| decimal(separator).into_bytes()));
        // Wherever the bytes stand within something that was encoded, the characters between its first and last whole groups are the same.
        for before in 0..3 {
            let shifted = [&vec![0; before], bytes].concat();
            let text = STANDARD_NO_PAD.encode(&shifted);
            let middle = &text[4..text.len() - 4];
            forms.push(middle.as_bytes().to_vec());
            forms.push(middle.replace('+', "-").replace('/', "_").into_bytes());
        }
        forms.push(bytes.escape_ascii().to_string().into_bytes());
        Self { name, forms }
    }

    fn absent_from(&self, what: &str, haystack: &[u8]) -> Story {
        let found = self.forms.iter().find(|form| haystack.windows(form.len()).any(|window| window == form.as_slice()));
        ensure!(found.is_none(), "{} is in {what} as {:?}", self.name, found.map(|form| String::from_utf8_lossy(form)));
        Ok(())
    }
}

fn files(folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else {
            all.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(all)
}

/// Everything that goes wrong with what an attacker, or a bug, sends.
async fn misbehave(server: &Server, person: &mut Person, peer: &Person) -> Story {
    let rest = server.rest()?;
    for (path, body) in [
        ("/v1/accounts", format!("{{\"username\":\"{}\"}}", person.username)),
        ("/v1/login", person.username.clone()),
        ("/v1/token/refresh", format!("{{\"refresh_token\":\"{}x\"}}", person.tokens.refresh_token.as_str())),
    ] {
        rest.raw(Method::POST, path, None, Some(body.into_bytes())).await?;
    }
    for path in
        [format!("/v1/users/{}", peer.username), format!("/v1/users/{}/x", peer.username), format!("/v1/accounts/{}/devices", peer.identity.account)]
    {
        rest.raw(Method::GET, &path, Some(person.token()), None).await?;
        rest.raw(Method::GET, &path, Some(&format!("{}x", person.token())), None).await?;
    }
    let (mut socket, _) = person.connect().await?;
    let mut bad = person.message(peer.device_ref(), person.username.clone());
    bad.slices.clear();
    socket.ask(client_frame::Kind::Send(bad)).await?;
    let mut good = person.message(peer.device_ref(), person.username.clone());
    good.restart = true;
    socket.ask(client_frame::Kind::Send(good)).await?;
    let mut socket = Socket::open(&server.origin()).await?;
    let hello = v1::Hello { token: format!("{}y", person.token()), version: 1, features: vec![person.username.clone()], epoch: 9 };
    let frame = ClientFrame { id: 1, kind: Some(client_frame::Kind::Hello(hello)) }.encode_to_vec();
    socket.send_message(Message::binary(frame)).await?;
    socket.ending(SOON).await?;
    let mut socket = Socket::open_as(&server.origin(), "kith.v1.json").await?;
    socket.send_message(Message::text(format!("{{\"hello\":\"{}\"}}", person.username))).await?;
    socket.ending(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a40_no_log_metric_or_file_holds_what_it_must_not() -> Story {
    let homes = tempfile::tempdir()?;
    let mut server = Options::new().set("KITH_LOG_FILTER", EVERYTHING).start().await?;
    let origin = server.origin();
    let tag = hex::encode(random::<6>());
    let (alice_name, bob_name) = (format!("canary-a-{tag}"), format!("canary-b-{tag}"));
    let (text, answer) = (format!("canary text {tag} of alice"), format!("canary text {tag} of bob"));
    let mut alice = User::register(&origin, &homes.path().join("alice"), &alice_name).await?;
    let mut bob = User::register(&origin, &homes.path().join("bob"), &bob_name).await?;
    let conversation = alice.say(&bob_name, &text).await?;
    let heard = bob.hears(&text).await?;
    bob.client.mark_read(heard.conversation, heard.seq.unwrap_or(1)).await?;
    bob.client.set_typing(heard.conversation, true).await?;
    bob.say(&alice_name, &answer).await?;
    let answered = alice.hears(&answer).await?;

    let (mut raw, peer) = (Person::register(&origin, "canary-raw").await?, Person::register(&origin, "canary-peer").await?);
    misbehave(&server, &mut raw, &peer).await?;
    let (_, _, metrics) = server.rest()?.raw(Method::GET, "/metrics", None, None).await?;
    ensure!(!metrics.is_empty());

    let spoken = [Canary::new("a text", text.as_bytes()), Canary::new("an answer", answer.as_bytes())];
    let me = alice.client.me();
    let personal = [
        Canary::new("a user name", alice_name.as_bytes()),
        Canary::new("another user name", raw.username.as_bytes()),
        Canary::new("a peer's user name", peer.username.as_bytes()),
        Canary::new("an account", me.account.as_bytes()),
        Canary::new("a device", me.device.as_bytes()),
        Canary::new("a conversation", conversation.as_bytes()),
        Canary::new("a client_msg_id", answered.client_msg_id.as_bytes()),
        Canary::new("another account", raw.identity.account.as_bytes()),
        Canary::new("another device", raw.device.id.as_bytes()),
        Canary::new("an identity key", &raw.identity.aik()),
        Canary::new("an access token", raw.token().as_bytes()),
        Canary::new("a refresh token", raw.tokens.refresh_token.as_str().as_bytes()),
    ];
    alice.client.shutdown().await;
    bob.client.shutdown().await;
    server.terminate()?;
    ensure!(server.ended().await?);
    let log = server.log()?;
    ensure!(log.lines().count() > 5, "nothing was logged, so nothing was tested:\n{log}");
    for canary in spoken.iter().chain(&personal) {
        canary.absent_from("the log", log.as_bytes())?;
        canary.absent_from("the metrics", &metrics)?;
    }
    for (path, bytes) in files(&server.data())?.into_iter().chain(files(homes.path())?) {
        for canary in &spoken {
            canary.absent_from(&path, &bytes)?;
        }
    }
    Ok(())
}

#[test]
fn a_canary_is_found_in_every_disguise() {
    let secret = b"canary text 0123456789 of alice";
    let canary = Canary::new("it", secret);
    let disguises = [
        format!("x{}y", hex::encode(secret)),
        format!("{:?}", secret),
        STANDARD_NO_PAD.encode([b"abcde", secret.as_slice(), b"fg"].concat()),
        format!("{:?}", bytes::Bytes::from_static(secret)),
    ];
    for text in disguises {
        assert!(canary.absent_from("a test", text.as_bytes()).is_err(), "{text}");
    }
    assert!(canary.absent_from("a test", b"canary text 0123456788 of alice").is_ok());
}
