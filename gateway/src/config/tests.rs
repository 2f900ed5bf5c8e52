use std::net::SocketAddr;

use super::{Config, ConfigError, Origins, RegistrationPolicy, Synchronous};

fn with(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_parts(Some(file), variables)
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(with("", &[("PATH", "/bin"), ("KITH_CONFIG", "x"), ("KITH_FAULT_SEED", "1")]).unwrap(), Config::default());
    let file = toml::to_string(&Config::default()).unwrap();
    assert_eq!(with(&file, &[]).unwrap(), Config::default(), "the defaults written down are the defaults");
}

#[test]
fn the_environment_is_above_the_file() {
    let file = "listen = \"127.0.0.1:1\"\n[tokens]\naccess_seconds = 7\nrefresh_seconds = 1000";
    let config = with(
        file,
        &[
            ("KITH_LISTEN", "127.0.0.1:2"),
            ("KITH_TOKENS_ACCESS_SECONDS", "9"),
            ("KITH_LIMITS__ENFORCED", "false"),
            ("KITH_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("KITH_STORAGE_SYNCHRONOUS", "off"),
        ],
    );
    let config = config.unwrap();
    assert_eq!((config.listen.port(), config.tokens.access_seconds, config.tokens.refresh_seconds), (2, 9, 1000));
    assert_eq!((config.limits.enforced, config.http.trusted_proxies.len()), (false, 2));
    assert_eq!(config.storage.synchronous, Synchronous::Off);
}

#[test]
fn errors_name_the_key() {
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
    const REDIS: (&str, &str) = ("KITH_REDIS_URL", "redis://:s3cret@redis.example");
    const POSTGRES: (&str, &str) = ("KITH_POSTGRES_URL", "postgres://db.example/kith");
    let cases: [Case; 26] = [
        ("lisen = \"127.0.0.1:1\"", &[], "lisen"),
        ("[tokens]\naccess = 1", &[], "access"),
        ("", &[("KITH_LISEN", "x")], "KITH_LISEN"),
        ("", &[("KITH_TOKENS_ACCESS", "1")], "KITH_TOKENS_ACCESS"),
        ("", &[("KITH_TOKENS_ACCESS_SECONDS", "soon")], "KITH_TOKENS_ACCESS_SECONDS"),
        ("", &[("KITH_LIMITS_ENFORCED", "maybe")], "KITH_LIMITS_ENFORCED"),
        ("[tokens]\naccess_seconds = 0", &[], "tokens.access_seconds"),
        ("listen = \"0.0.0.0:7400\"", &[], "public_url"),
        ("public_url = \"chat.example\"", &[], "public_url"),
        ("public_url = \"https://chat.example/kith\"", &[], "public_url"),
        ("[http]\ntrusted_proxies = [\"10.0.0.0/33\"]", &[], "http.trusted_proxies"),
        ("[tls]\ncertificate = \"c.pem\"", &[], "tls"),
        ("[postgres]\nurls = \"\"", &[], "urls"),
        ("", &[("KITH_POSTGRES_HOST", "db")], "KITH_POSTGRES_HOST"),
        ("", &[("KITH_POSTGRES_URL", "db.example")], "postgres.url"),
        ("", &[("KITH_POSTGRES_REPLICA_URL", "postgres://standby.example/kith")], "postgres.replica_url"),
        ("", &[POSTGRES, ("KITH_POSTGRES_REPLICA_URL", "standby.example")], "postgres.replica_url"),
        ("[postgres]\nconnections = 0", &[], "postgres.connections"),
        ("[storage]\nsynchronous = \"off\"", &[("KITH_POSTGRES_URL", "postgres://db.example/kith")], "storage.synchronous"),
        ("", &[("KITH_TELEMETRY_OTLP_ENDPOINT", "collector:4318")], "telemetry.otlp_endpoint"),
        ("[telemetry]\nsample_one_in = 0", &[], "telemetry.sample_one_in"),
        ("", &[REDIS], "postgres.url"),
        ("", &[("KITH_REDIS_URL", "redis.example:6379"), POSTGRES], "redis.url"),
        ("[cluster]\nlease_ms = 10", &[], "cluster.lease_ms"),
        ("[cluster]\nadvertise = \"gateway-1\"", &[], "cluster.advertise"),
        ("[cluster]\nlisten = \"0.0.0.0:7500\"", &[REDIS, POSTGRES], "cluster.advertise"),
    ];
    for (file, variables, key) in cases {
        let error = with(file, variables).unwrap_err().to_string();
        assert!(error.contains(key), "{error} does not name {key}");
    }
}

#[test]
fn registration_is_open_on_loopback_only() {
    let policy = |file: &str| with(file, &[]).unwrap().registration_policy();
    assert_eq!(policy(""), RegistrationPolicy::Open);
    assert_eq!(policy("public_url = \"https://chat.example\""), RegistrationPolicy::Invite, "behind a proxy on the same machine");
    assert_eq!(policy("listen = \"0.0.0.0:1\"\npublic_url = \"https://chat.example\""), RegistrationPolicy::Invite);
    assert_eq!(policy("[registration]\npolicy = \"closed\""), RegistrationPolicy::Closed);
}

#[test]
fn origins_are_those_that_clients_can_have_dialled() {
    let bound: SocketAddr = "127.0.0.1:7411".parse().unwrap();
    let origins = Origins::new(&Config::default(), bound);
    for origin in ["http://127.0.0.1:7411", "http://localhost:7411", "http://[::1]:7411"] {
        assert!(origins.contains(origin), "{origin}");
    }
    for origin in ["http://127.0.0.1:7400", "https://127.0.0.1:7411", "http://evil.example:7411", ""] {
        assert!(!origins.contains(origin), "{origin}");
    }
    let origins = Origins::new(&Config::default(), "127.0.0.2:7411".parse().unwrap());
    assert!(origins.contains("http://127.0.0.2:7411") && origins.contains("http://localhost:7411") && !origins.contains("http://127.0.0.3:7411"));
    let config = with("listen = \"0.0.0.0:7400\"\npublic_url = \"https://Chat.example/\"", &[]).unwrap();
    let origins = Origins::new(&config, "0.0.0.0:7400".parse().unwrap());
    assert!(origins.contains("https://chat.example:443") && !origins.contains("http://127.0.0.1:7400"));
}

#[test]
fn several_servers_are_a_matter_of_two_addresses() {
    let variables = [("KITH_POSTGRES_URL", "postgres://db.example/kith"), ("KITH_REDIS_URL", "redis://:s3cret@redis.example")];
    let config = with("[cluster]\nlisten = \"0.0.0.0:7500\"\nadvertise = \"gateway-1:7500\"", &variables).unwrap();
    assert_eq!((config.redis.url.reveal(), config.cluster.lease_ms), ("redis://:s3cret@redis.example", 10_000));
    for shown in [format!("{config:?}"), toml::to_string(&config).unwrap()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    with("[cluster]\nlisten = \"0.0.0.0:7500\"", &[]).expect("it is not used");
}

#[test]
fn the_password_of_a_database_is_shown_nowhere() {
    let config = with("[postgres]\nconnections = 4", &[("KITH_POSTGRES_URL", "postgres://kith:s3cret@db.example/kith")]).unwrap();
    let options = config.postgres.options().unwrap();
    assert_eq!((options.url.as_str(), options.connections), ("postgres://kith:s3cret@db.example/kith", 4));
    assert_eq!(options.address().unwrap().to_string(), "db.example:5432/kith");
    for shown in [format!("{config:?}"), format!("{options:?}"), toml::to_string(&config).unwrap()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    for wrong in ["postgres://kith:s3cret@db.example:x/kith", "mysql://kith:s3cret@db.example/kith"] {
        let error = with("", &[("KITH_POSTGRES_URL", wrong)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
    assert!(with("", &[]).unwrap().postgres.options().is_none());
    assert!(options.replica.is_none());
}

#[test]
fn the_password_of_a_replica_is_shown_nowhere() {
    const PRIMARY: (&str, &str) = ("KITH_POSTGRES_URL", "postgres://db.example/kith");
    let replica = |url| [PRIMARY, ("KITH_POSTGRES_REPLICA_URL", url)];
    let config = with("", &replica("postgres://kith:s3cret@standby.example/kith")).unwrap();
    let options = config.postgres.options().unwrap().replica.unwrap();
    assert_eq!(options.url, "postgres://kith:s3cret@standby.example/kith");
    assert_eq!(options.address().unwrap().to_string(), "standby.example:5432/kith");
    for shown in [format!("{config:?}"), format!("{options:?}"), format!("{:?}", config.postgres.options()), toml::to_string(&config).unwrap()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let error = with("", &replica("postgres://kith:s3cret@standby.example:x/kith")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}
