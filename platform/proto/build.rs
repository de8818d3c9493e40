//! Compiles the .proto files with protox, so that no protoc has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 3] = ["hodei/v1/job.proto", "hodei/v1/log.proto", "hodei/v1/worker.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("hodei.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".hodei.v1.LogFrame.data")
        // Hardly any frame has one, and there are many frames.
        .boxed(".hodei.v1.LogFrame.gap")
        .skip_debug([
            ".hodei.v1.JobSpec",
            ".hodei.v1.RegisterRequest",
            ".hodei.v1.RegisterResponse",
            ".hodei.v1.Hello",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
