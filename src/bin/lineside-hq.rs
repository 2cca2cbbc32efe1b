//! The HQ tool and service.

use std::process::ExitCode;

fn main() -> ExitCode {
    lineside::hq::cli::main()
}
