//! The appliance.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    lineside::appliance::cli::main().await
}
