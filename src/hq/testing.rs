//! A sample fleet directory for tests.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::init::{InitOptions, init};
use super::lint;
use ids::UnixTime;
use repository::layout::Layout;

/// 2026-11-20.
pub(super) const NOW: UnixTime = UnixTime(1_795_132_800);

pub(super) struct Sample {
    pub layout: Layout,
    _dir: tempfile::TempDir,
}

/// What `init` makes.
pub(super) fn sample() -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    let options = InitOptions { name: "Test".into(), url: "https://hq.example.net:8443".into(), now: NOW };
    init(&fleet, &options).unwrap();
    Sample { layout: Layout::new(fleet), _dir: dir }
}

impl Sample {
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.layout.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.layout.dir().join(name)).unwrap()
    }

    pub fn append(&self, name: &str, text: &str) -> &Self {
        let old = self.read(name);
        self.write(name, old + text)
    }

    /// Replaces text that must be there.
    pub fn replace(&self, name: &str, from: &str, to: &str) -> &Self {
        let old = self.read(name);
        assert!(old.contains(from), "{name} has no {from:?}");
        self.write(name, old.replace(from, to))
    }

    /// The problems as `file:line: message`, without hints.
    pub fn problems(&self) -> Vec<String> {
        let report = lint::check(&self.layout);
        let first = |problem: &settings::Problem| problem.to_string().lines().next().unwrap().to_owned();
        report.problems.iter().map(first).collect()
    }
}
