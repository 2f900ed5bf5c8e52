//! Compiles the .proto files with protox (no protoc) into prost types and their protobuf JSON mapping; with the feature `services` also what servers say to
//! one another.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 3] = ["kith/v1/errors.proto", "kith/v1/frames.proto", "kith/v1/content.proto"];
const SERVICES: [&str; 1] = ["kith/peer/v1/peer.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=kith");
    let with_services = cfg!(feature = "services");
    let files = FILES.iter().chain(SERVICES.iter().filter(|_| with_services));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let bytes = descriptors.encode_to_vec();
    fs::write(out.join("descriptors.bin"), &bytes)?;
    let mut config = prost_build::Config::new();
    // Payloads are slices of the received frame, not copies of it.
    config.bytes(["."]);
    #[cfg(feature = "services")]
    config.service_generator(tonic_prost_build::configure().service_generator());
    config.compile_fds(descriptors)?;
    // A newer client's fields are no reason to refuse its frame, in JSON as in binary.
    pbjson_build::Builder::new().register_descriptors(&bytes)?.ignore_unknown_fields().build(&[".kith.v1"])?;
    Ok(())
}
