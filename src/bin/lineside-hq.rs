//! The HQ tool and service.

fn main() -> std::process::ExitCode {
    lineside::hq::cli::main()
}
