//! The OCI runtime that the engine is given where CAP_SYS_RESOURCE cannot be had: edits the
//! request (see `hodei_harness::engine::oci`), then becomes runc.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use hodei_harness::engine::oci;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Err(error) = oci::edit_for(&args) {
        eprintln!("hodei-oci-runtime: could not edit the container's configuration: {error}");
        return ExitCode::FAILURE;
    }
    let error = std::process::Command::new(oci::runtime()).args(&args).exec();
    eprintln!("hodei-oci-runtime: could not start {}: {error}", oci::RUNTIME);
    ExitCode::FAILURE
}
