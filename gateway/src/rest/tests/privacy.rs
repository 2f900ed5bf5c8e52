//! What is logged holds no user data (A40).

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::json;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::rig::Rig;

/// Keeps everything that anybody in this process logs, at every level.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut Fields(&mut self.0.lock()));
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock()));
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock()));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a40_logs_and_debug_output_hold_no_user_data() {
    let logged = Everything::default();
    tracing::subscriber::set_global_default(logged.clone()).unwrap();
    let rig = Rig::new();
    let canary = rig.person("canary-name-of-a-user").await;
    rig.login(&canary.device).await.ok();
    rig.post("/v1/token/refresh", None, &json!({"refresh_token": canary.tokens.refresh_token})).await.ok();
    rig.get("/v1/users/canary-name-of-a-user", Some(canary.token())).await.ok();
    rig.get("/v1/users/canary-name-of-nobody", Some(canary.token())).await.refused("NOT_FOUND");
    rig.get("/v1/devices", Some("canary-token-forged")).await.refused("UNAUTHENTICATED");
    rig.post("/v1/keys", Some(canary.token()), &json!({"canary-field": 1})).await.refused("INVALID_FRAME");
    rig.post(&format!("/v1/accounts/{}/bundles", canary.owner.account), Some(canary.token()), &json!({})).await.ok();
    // Failures log more than success does.
    tracing::error!(error = %kith_chat_core::accounts::AccountsError::UsernameTaken, "the subscriber hears");
    let registration = rig.registration(&canary.owner, &canary.device, "canary-name-of-a-user").await;
    let debug = format!("{registration:?} {:?} {:?} {:?}", canary.tokens, rig.state.tokens, rig.state.config);
    let seen = format!("{}{debug}", logged.0.lock());
    assert!(seen.contains("the subscriber hears"));
    let aik = canary.owner.aik_public();
    let secrets = [
        "canary".to_owned(),
        canary.owner.account.to_string(),
        canary.device.at.device.to_string(),
        canary.token().to_owned(),
        canary.tokens.refresh_token.as_str().to_owned(),
        hex::encode(aik),
        // Decimal lists, as a derived Debug would print bytes.
        format!("{}, {}, {}", aik[0], aik[1], aik[2]),
        format!("{:?}", canary.owner.account.0),
    ];
    for secret in secrets {
        assert!(!seen.contains(&secret), "{secret} was logged");
    }
}
