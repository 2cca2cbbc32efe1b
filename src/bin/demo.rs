//! The product shown in one process.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    lineside::demo::cli::main().await
}
