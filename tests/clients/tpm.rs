//! A board's TPM, in software.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::net::{text, wait_for};

/// What it needs.
pub const PROGRAMS: &[&str] = &["swtpm", "swtpm_setup"];

/// A TPM of its own seed; gone when dropped, its state stays in its folder.
pub struct Tpm {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Tpm {
    /// One for programs, which name it by [`Tpm::device`].
    pub fn new(dir: &Path) -> Self {
        // Two free ports that follow each other: where its clients look for the second.
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = (20_000..30_000).step_by(2).find(|port| free(*port) && free(port + 1)).unwrap();
        let tpm = Self::start(
            dir,
            port,
            &[
                "--flags",
                "not-need-init,startup-clear",
                "--server",
                &format!("type=tcp,port={port}"),
                "--ctrl",
                &format!("type=tcp,port={}", port + 1),
            ],
        );
        wait_for(Duration::from_secs(10), || (!free(port + 1)).then_some(())).expect("swtpm does not listen");
        tpm
    }

    /// One for a virtual machine, which is given [`Tpm::socket`].
    pub fn of_machine(dir: &Path) -> Self {
        let control = format!("type=unixio,path={}", dir.join("socket").display());
        let tpm = Self::start(dir, 0, &["--ctrl", &control]);
        wait_for(Duration::from_secs(10), || tpm.socket().exists().then_some(())).expect("swtpm does not listen");
        tpm
    }

    fn start(dir: &Path, port: u16, words: &[&str]) -> Self {
        fs::create_dir(dir).unwrap();
        let made = Command::new("swtpm_setup").args(["--tpm2", "--tpmstate"]).arg(dir).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        let state = format!("dir={}", dir.display());
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", &state])
            .args(words)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir: dir.to_owned(), port }
    }

    /// What systemd's programs call it.
    pub fn device(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Where a virtual machine finds it.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
