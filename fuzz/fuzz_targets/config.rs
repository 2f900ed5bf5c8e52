//! Configuration: any file and any variables give a valid configuration or an error, and a configuration written out is read back as it was.
#![no_main]

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
    let Ok(mut config) = Config::from_parts(Some(file), variables) else { return };
    config.validate().expect("it was read as valid");
    // A secret is not written out.
    config.postgres.url = Default::default();
    let written = toml::to_string(&config).expect("a configuration has a TOML form");
    let again = Config::from_parts(Some(&written), []).expect("own text");
    assert_eq!(again, config);
    let origins = Origins::new(&config, config.listen);
    assert!(!origins.contains(""), "a login is for some origin");
    let local = config.listen.ip().is_loopback() && !config.has_tls();
    assert!(!local || origins.contains(&format!("http://127.0.0.1:{}", config.listen.port())), "on this machine everybody may log in");
});
