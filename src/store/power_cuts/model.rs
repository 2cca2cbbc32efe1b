//! A disk in memory that knows what is durable, and what a power cut can make of the rest.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use durable::{Hook, Op};

/// What a run promised, or is about to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) active: u64,
    pub(super) trust: i64,
    pub(super) journal: u8,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    CreateDir(PathBuf),
    CreateFile(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    SyncFile(PathBuf),
    SyncDir(PathBuf),
    SyncAll,
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Begins(State),
    Promised(State),
}

#[derive(Debug)]
pub(super) struct Recorder {
    root: PathBuf,
    steps: Mutex<Vec<Step>>,
}

impl Recorder {
    pub(super) fn of(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), steps: Mutex::default() })
    }

    pub(super) fn say(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.steps.lock().unwrap().clone()
    }
}

impl Hook for Recorder {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let inside = |path: &Path| path.strip_prefix(&self.root).unwrap().to_owned();
        let step = match op {
            Op::CreateDir(path) => Step::CreateDir(inside(path)),
            Op::CreateFile(path) => Step::CreateFile(inside(path)),
            Op::Write { path, offset, bytes } => Step::Write(inside(path), *offset, bytes.to_vec()),
            Op::Truncate { path, bytes } => Step::Truncate(inside(path), *bytes),
            Op::SyncFile(path) => Step::SyncFile(inside(path)),
            Op::SyncDir(path) => Step::SyncDir(inside(path)),
            Op::SyncAll => Step::SyncAll,
            Op::Rename { from, to } => Step::Rename(inside(from), inside(to)),
            Op::RemoveFile(path) | Op::RemoveDir(path) => Step::Remove(inside(path)),
        };
        self.steps.lock().unwrap().push(step);
        Ok(())
    }
}

impl Cruelty {
    pub(super) const BOTH: [Self; 2] = [Self::Ordered, Self::Anything];
}

/// How unkind the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cruelty {
    /// A journalling file system: changes of names persist in order, data as a torn prefix.
    Ordered,
    /// Only what was synced is certain: any subset of the rest, sectors of 512 bytes torn apart.
    Anything,
}

#[derive(Debug, Clone)]
enum Data {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Debug, Clone)]
enum Node {
    File { durable: Vec<u8>, pending: Vec<Data> },
    Dir { durable: BTreeMap<String, usize>, live: BTreeMap<String, usize> },
}

/// A change of names that is not durable yet: what goes away, what comes.
#[derive(Debug, Clone)]
struct Change {
    gone: Option<(usize, String)>,
    come: Option<(usize, String)>,
    node: usize,
}

/// A disk in memory that knows what is durable.
#[derive(Debug, Clone)]
pub(super) struct Model {
    nodes: Vec<Node>,
    pending: Vec<Change>,
    pub(super) cruelty: Cruelty,
}

const ROOT: usize = 0;

impl Model {
    /// All of a real directory, durable.
    pub(super) fn load(root: &Path, cruelty: Cruelty) -> Self {
        let mut model = Self { nodes: Vec::new(), pending: Vec::new(), cruelty };
        model.load_dir(root);
        model
    }

    fn load_dir(&mut self, path: &Path) -> usize {
        let number = self.nodes.len();
        self.nodes.push(Node::Dir { durable: BTreeMap::new(), live: BTreeMap::new() });
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            let child = if entry.path().is_dir() {
                self.load_dir(&entry.path())
            } else {
                self.nodes.push(Node::File { durable: fs::read(entry.path()).unwrap(), pending: Vec::new() });
                self.nodes.len() - 1
            };
            names.insert(entry.file_name().into_string().unwrap(), child);
        }
        self.nodes[number] = Node::Dir { durable: names.clone(), live: names };
        number
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(ROOT, |number, name| match &self.nodes[number] {
            Node::Dir { live, .. } => live.get(name.to_str()?).copied(),
            Node::File { .. } => None,
        })
    }

    fn place(&self, path: &Path) -> (usize, String) {
        (self.find(path.parent().unwrap()).unwrap(), path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn change(&mut self, change: Change) {
        for (place, node) in [(&change.gone, None), (&change.come, Some(change.node))] {
            if let Some((dir, name)) = place
                && let Node::Dir { live, .. } = &mut self.nodes[*dir]
            {
                match node {
                    Some(node) => live.insert(name.clone(), node),
                    None => live.remove(name),
                };
            }
        }
        self.pending.push(change);
    }

    fn make_durable(&mut self, change: &Change) {
        if let Some((dir, name)) = &change.gone
            && let Node::Dir { durable, .. } = &mut self.nodes[*dir]
            && durable.get(name) == Some(&change.node)
        {
            durable.remove(name);
        }
        if let Some((dir, name)) = &change.come
            && let Node::Dir { durable, .. } = &mut self.nodes[*dir]
        {
            durable.insert(name.clone(), change.node);
        }
    }

    fn data(&mut self, path: &Path, data: Data) {
        let number = self.find(path).unwrap();
        let Node::File { pending, .. } = &mut self.nodes[number] else { panic!("{path:?} is a directory") };
        pending.push(data);
    }

    fn sync_file(&mut self, number: usize) {
        if let Node::File { durable, pending } = &mut self.nodes[number] {
            pending.drain(..).for_each(|data| apply(durable, &data));
        }
    }

    pub(super) fn run(&mut self, step: &Step) {
        match step {
            Step::CreateDir(path) => {
                self.nodes.push(Node::Dir { durable: BTreeMap::new(), live: BTreeMap::new() });
                let change = Change { gone: None, come: Some(self.place(path)), node: self.nodes.len() - 1 };
                self.change(change);
            }
            Step::CreateFile(path) if self.find(path).is_some() => self.data(path, Data::Truncate(0)),
            Step::CreateFile(path) => {
                self.nodes.push(Node::File { durable: Vec::new(), pending: Vec::new() });
                let change = Change { gone: None, come: Some(self.place(path)), node: self.nodes.len() - 1 };
                self.change(change);
            }
            Step::Write(path, offset, bytes) => self.data(path, Data::Write(*offset, bytes.clone())),
            Step::Truncate(path, bytes) => self.data(path, Data::Truncate(*bytes)),
            Step::SyncFile(path) => self.sync_file(self.find(path).unwrap()),
            Step::SyncDir(path) => {
                let dir = self.find(path).unwrap();
                let touches = |change: &Change| {
                    [&change.gone, &change.come].into_iter().flatten().any(|(touched, _)| *touched == dir)
                };
                let last = self.pending.iter().rposition(touches).map_or(0, |last| last + 1);
                let ordered = self.cruelty == Cruelty::Ordered;
                for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
                    if touches(&change) || (ordered && index < last) {
                        self.make_durable(&change);
                    } else {
                        self.pending.push(change);
                    }
                }
            }
            Step::SyncAll => {
                std::mem::take(&mut self.pending).iter().for_each(|change| self.make_durable(change));
                (0..self.nodes.len()).for_each(|number| self.sync_file(number));
            }
            Step::Rename(from, to) => {
                let node = self.find(from).unwrap();
                let change = Change { gone: Some(self.place(from)), come: Some(self.place(to)), node };
                self.change(change);
            }
            Step::Remove(path) => {
                if let Some(node) = self.find(path) {
                    let change = Change { gone: Some(self.place(path)), come: None, node };
                    self.change(change);
                }
            }
            Step::Begins(_) | Step::Promised(_) => {}
        }
    }

    /// What a power cut leaves, as chance has it.
    pub(super) fn cut(mut self, chance: &mut Chance) -> Self {
        let pending = std::mem::take(&mut self.pending);
        let prefix = chance.up_to(pending.len());
        for (index, change) in pending.iter().enumerate() {
            let survives = match self.cruelty {
                Cruelty::Ordered => index < prefix,
                Cruelty::Anything => chance.coin(),
            };
            if survives {
                self.make_durable(change);
            }
        }
        for node in &mut self.nodes {
            let Node::File { durable, pending } = node else { continue };
            let prefix = chance.up_to(pending.len());
            for (index, data) in std::mem::take(pending).iter().enumerate() {
                match (self.cruelty, data) {
                    (Cruelty::Ordered, data) if index < prefix => apply(durable, data),
                    (Cruelty::Ordered, Data::Write(offset, bytes)) if index == prefix => {
                        let torn = bytes[..chance.up_to(bytes.len())].to_vec();
                        apply(durable, &Data::Write(*offset, torn));
                    }
                    (Cruelty::Ordered, _) => {}
                    (Cruelty::Anything, Data::Truncate(_)) => {
                        if chance.coin() {
                            apply(durable, data);
                        }
                    }
                    (Cruelty::Anything, Data::Write(offset, bytes)) => {
                        // The size may be there before the content is.
                        if chance.coin() {
                            apply(durable, &Data::Write(*offset + bytes.len() as u64, Vec::new()));
                        }
                        for (sector, part) in bytes.chunks(512).enumerate() {
                            if chance.coin() {
                                apply(durable, &Data::Write(*offset + sector as u64 * 512, part.to_vec()));
                            }
                        }
                    }
                }
            }
        }
        self
    }

    /// Makes a real directory of what is durable.
    pub(super) fn write_under(&self, path: &Path) {
        self.write_to(ROOT, path);
    }

    fn write_to(&self, number: usize, path: &Path) {
        match &self.nodes[number] {
            Node::File { durable, .. } => fs::write(path, durable).unwrap(),
            Node::Dir { durable, .. } => {
                if number != ROOT {
                    fs::create_dir(path).unwrap();
                }
                durable.iter().for_each(|(name, child)| self.write_to(*child, &path.join(name)));
            }
        }
    }
}

fn apply(content: &mut Vec<u8>, data: &Data) {
    match data {
        Data::Truncate(bytes) => content.resize(usize::try_from(*bytes).unwrap(), 0),
        Data::Write(offset, bytes) => {
            let start = usize::try_from(*offset).unwrap();
            if content.len() < start + bytes.len() {
                content.resize(start + bytes.len(), 0);
            }
            content[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// Reproducible chance (xorshift64). Seeds 0 and 1 are the extremes: nothing and everything survives.
pub(super) struct Chance {
    state: u64,
    always: Option<bool>,
}

impl Chance {
    pub(super) fn new(seed: u64, cut: usize) -> Self {
        let state =
            (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (cut as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self {
            state: state | 1,
            always: [Some(false), Some(true)].get(usize::try_from(seed).unwrap()).copied().flatten(),
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn coin(&mut self) -> bool {
        let coin = self.next() >> 33 & 1 == 1;
        self.always.unwrap_or(coin)
    }

    fn up_to(&mut self, most: usize) -> usize {
        let chosen = usize::try_from(self.next() >> 16).unwrap() % (most + 1);
        self.always.map_or(chosen, |all| if all { most } else { 0 })
    }
}
