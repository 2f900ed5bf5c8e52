use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
    middleware,
    routing::get,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    super::guard,
    owner::Owner,
    rig::{ORIGIN, Rig},
};

#[tokio::test]
async fn limits_are_published_with_what_is_left() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let bucket = |body: &Value, name: &str| body["buckets"].as_array().unwrap().iter().find(|b| b["name"] == name).unwrap().clone();
    let anonymous = rig.get("/v1/limits", None).await.ok();
    assert_eq!(bucket(&anonymous, "lookup_per_device"), json!({"name": "lookup_per_device", "capacity": 30, "per_minute": 15}));
    for _ in 0..3 {
        rig.get("/v1/users/alice", Some(alice.token())).await.ok();
    }
    let own = rig.get("/v1/limits", Some(alice.token())).await.ok();
    assert_eq!(bucket(&own, "lookup_per_device")["remaining"], 27);
    assert_eq!(bucket(&own, "lookup_per_account")["remaining"], 57);
    rig.get("/v1/limits", Some("forged")).await.refused("UNAUTHENTICATED");
}

#[tokio::test]
async fn lookups_are_limited_and_refill() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    for _ in 0..30 {
        rig.get("/v1/users/nobody", Some(alice.token())).await.refused("NOT_FOUND");
    }
    rig.get("/v1/users/nobody", Some(alice.token())).await.refused("RATE_LIMITED");
    rig.pass(4_000);
    rig.get("/v1/users/nobody", Some(alice.token())).await.refused("NOT_FOUND");
}

#[tokio::test]
async fn addresses_are_limited_but_not_this_machine() {
    let rig = Rig::with(|c| {
        c.http.trusted_proxies = vec!["10.0.0.0/8".to_owned()];
        (c.limits.login_address_burst, c.limits.login_address_per_minute) = (3, 60);
        (c.limits.register_address_burst, c.limits.register_address_per_minute) = (1, 60);
    });
    let ask = json!({"account": Owner::new("alice").account, "device": "00000000000000000000000000000001"});
    for _ in 0..100 {
        rig.post_from("127.0.0.1", "/v1/login/challenge", None, &ask).await.ok();
    }
    for _ in 0..3 {
        rig.post_from("8.8.8.8", "/v1/login/challenge", None, &ask).await.ok();
    }
    let refused = rig.post_from("8.8.8.8", "/v1/login/challenge", None, &ask).await;
    refused.refused("RATE_LIMITED");
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    rig.post_from("8.8.4.4", "/v1/login/challenge", None, &ask).await.ok();
    // Behind a proxy that is trusted it is the client that counts, whatever the client itself claims.
    let through = |claimed: &str| {
        let request = Request::post("/v1/login/challenge").header(header::CONTENT_TYPE, "application/json");
        let request = request.header("x-forwarded-for", format!("{claimed}, 9.9.9.9"));
        rig.send_from("10.0.0.1", request.body(Body::from(ask.to_string())).unwrap())
    };
    for n in 0..3 {
        through(&format!("1.1.1.{n}")).await.ok();
    }
    through("1.1.1.9").await.refused("RATE_LIMITED");
    let alice = Owner::new("alice");
    let request = rig.registration(&alice, &alice.device("alice"), "alice").await;
    rig.post_from("8.8.1.1", "/v1/accounts", None, &request).await.ok();
    rig.post_from("8.8.1.1", "/v1/accounts", None, &request).await.refused("RATE_LIMITED");
    rig.pass(1_000);
    rig.post_from("8.8.8.8", "/v1/login/challenge", None, &ask).await.ok();
}

#[tokio::test]
async fn health_and_metrics() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    rig.get(&format!("/v1/accounts/{}/devices", alice.owner.account), Some(alice.token())).await.ok();
    assert_eq!(rig.get("/healthz", None).await.ok(), "ok");
    assert_eq!(rig.get("/readyz", None).await.ok(), json!({"ready": true, "missing": []}));
    rig.state.health.absent("database");
    assert_eq!(rig.get("/readyz", None).await.ok(), json!({"ready": true, "missing": ["database"]}));
    let page = rig.get("/metrics", None).await.ok();
    let page = page.as_str().unwrap();
    assert!(page.contains("kith_ws_connections 0") && page.contains("kith_accept_seconds_count 0"), "{page}");
    assert!(page.contains("route=\"/v1/accounts/{account}/devices\""), "labels are routes, not paths");
    assert!(!page.contains(&alice.owner.account.to_string()) && !page.contains("alice"));
    let from_outside = rig.send_from("8.8.8.8", Request::get("/metrics").body(Body::empty()).unwrap()).await;
    from_outside.refused("NOT_FOUND");
    rig.state.health.drain();
    let draining = rig.get("/readyz", None).await;
    assert_eq!((draining.status, &draining.body["missing"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(["database", "draining"])));
}

#[tokio::test]
async fn the_openapi_document_holds_every_path() {
    let rig = Rig::new();
    let document = rig.get("/v1/openapi.json", None).await.ok();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let expected = [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/accounts",
        "/v1/accounts/{account}/bundles",
        "/v1/accounts/{account}/devices",
        "/v1/accounts/{account}/rotate",
        "/v1/devices",
        "/v1/devices/leave",
        "/v1/devices/list",
        "/v1/devices/{device}",
        "/v1/keys",
        "/v1/limits",
        "/v1/login",
        "/v1/login/challenge",
        "/v1/token/refresh",
        "/v1/users/{username}",
    ];
    for path in expected {
        assert!(paths.iter().any(|p| p == path), "{path} is missing from {paths:?}");
    }
    assert_eq!(paths.len(), expected.len());
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(!document["components"]["schemas"][reference].is_null(), "{reference} is not defined");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let rig = Rig::new();
    rig.get("/v1/nothing", None).await.refused("NOT_FOUND");
    rig.get("/v1/login", None).await.refused("METHOD_NOT_ALLOWED");
    let answer = rig.send_from("127.0.0.1", Request::get("/v1/ws").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    // No CORS: a browser's page elsewhere gets no permission.
    let preflight = Request::options("/v1/login").header("origin", "https://evil.example").header("access-control-request-method", "POST");
    let answer = rig.send_from("127.0.0.1", preflight.body(Body::empty()).unwrap()).await;
    assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn a_panic_or_an_endless_request_is_one_failed_request() {
    let rig = Rig::with(|c| c.http.request_timeout_ms = 100);
    async fn panics() -> &'static str {
        panic!("on purpose")
    }
    async fn never_ends() -> &'static str {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        "late"
    }
    let router: Router = Router::new()
        .route("/panics", get(panics))
        .route("/never", get(never_ends))
        .layer(middleware::from_fn_with_state(Arc::clone(&rig.state), guard::guard));
    for path in ["/panics", "/never"] {
        let response = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    // A body that never comes is cut off too.
    let trickle = Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
    let request = Request::post("/v1/login").header(header::CONTENT_TYPE, "application/json").body(trickle).unwrap();
    rig.send_from("127.0.0.1", request).await.refused("INTERNAL");
    assert!(rig.state.origins.contains(ORIGIN));
}
