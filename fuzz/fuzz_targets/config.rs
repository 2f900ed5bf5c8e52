//! Configuration and properties of Kafka's clients: any file and any variables give a valid configuration or an error, and a configuration written out is read back as it was.
#![no_main]

use kith_chat_core::bus::ClientProperties;
use kith_fuzz::Plan;
use kith_gateway::{Config, fuzzing::Origins};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    let mut variables = Vec::new();
    for _ in 0..plan.u8() % 4 {
        variables.push((format!("KITH_{}", plan.text()), plan.text().to_owned()));
    }
    let Ok(file) = std::str::from_utf8(plan.0) else { return };
    if let Ok(properties) = ClientProperties::parse(file) {
        let written: String = properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        assert_eq!(ClientProperties::parse(&written).expect("own text"), properties);
    }
    let Ok(mut config) = Config::from_parts(Some(file), variables) else { return };
    config.validate().expect("it was read as valid");
    // Secrets are not written out.
    config.postgres.url = Default::default();
    config.postgres.replica_url = Default::default();
    config.redis.url = Default::default();
    // Without a database for several, one process does everything.
    config.role = Config::default().role;
    let written = toml::to_string(&config).expect("a configuration has a TOML form");
    let again = Config::from_parts(Some(&written), []).expect("own text");
    assert_eq!(again, config);
    let origins = Origins::new(&config, config.listen);
    assert!(!origins.contains(""), "a login is for some origin");
    let local = config.listen.ip().is_loopback() && !config.has_tls();
    assert!(!local || origins.contains(&format!("http://127.0.0.1:{}", config.listen.port())), "on this machine everybody may log in");
});
