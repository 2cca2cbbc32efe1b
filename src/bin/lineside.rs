//! The appliance.

use std::process::ExitCode;
use std::time::Duration;

/// TFTP has a thread of its own; what is left for these is little. Each thread costs memory of its own.
const WORKERS: usize = 2;

/// Threads for what waits for the disk: polling, statistics, leases.
const BLOCKING: usize = 4;

/// How long such a thread stays without work.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    lineside::appliance::heap::share();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(WORKERS).max_blocking_threads(BLOCKING).thread_keep_alive(KEEP_ALIVE).enable_all();
    match runtime.build() {
        Ok(runtime) => runtime.block_on(lineside::appliance::cli::main()),
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            ExitCode::FAILURE
        }
    }
}
