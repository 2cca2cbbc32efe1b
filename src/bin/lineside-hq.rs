//! The HQ tool and service.

fn main() -> std::process::ExitCode {
    telemetry::start("lineside=info");
    hq::cli::main()
}
