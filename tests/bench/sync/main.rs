//! What keeping a site up to date costs: bytes on the wire, time and memory at the site, time at HQ, bytes of program.
//!
//! ```sh
//! cargo bench --bench sync              # wire and publish; peers by apt install rsync casync ostree minisign age
//! cargo bench --bench sync -- --quick   # a tenth of the data, 500 sites; the bytes of polls are the same
//! cargo bench --bench sync -- wire      # one chapter: wire (with the site's time and memory), publish, or program
//! LINESIDE_PROGRAM=target/dist/lineside cargo bench --bench sync    # with the program that ships
//! ```
//!
//! The programs are those that ship: `lineside-hq init|site enroll|publish|serve` and `lineside enroll|run|status
//! --poll`. Between them stands a TCP proxy that counts: TLS records and handshakes are in the figures, headers of TCP
//! and IP are not (about 40 bytes a packet, the same for everybody). Peers get the same files and the same change, and
//! are shown without TLS, which flatters them. Machines are noisy: read the ratios, not the absolute times.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod content;
mod peers;
mod program;
mod proxy;
mod publish;
mod store;
mod wire;
mod world;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [word, old, new, objects] = arguments.as_slice()
        && word == store::CHILD
    {
        return store::child(old.as_ref(), new.as_ref(), objects.as_ref());
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chapter = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));

    let mut table = Table::default();
    if chapter("wire") {
        wire::chapter(quick, &mut table);
    }
    if chapter("publish") {
        publish::chapter(quick, &mut table);
    }
    if wanted.iter().any(|word| word.as_str() == "program") {
        program::chapter(&mut table);
    }
    println!("\n{table}");
    if table.over() > 0 && !quick {
        println!("{} over their target", table.over());
    }
}

/// Figures against their targets.
#[derive(Default)]
pub struct Table(Vec<Row>);

struct Row {
    what: String,
    measured: f64,
    unit: &'static str,
    target: Option<f64>,
}

impl Table {
    /// A figure that should not be over `target`.
    pub fn row(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, target: Option<f64>) {
        let row = Row { what: what.into(), measured, unit, target };
        println!("{row}");
        self.0.push(row);
    }

    fn over(&self) -> usize {
        self.0.iter().filter(|row| row.is_over()).count()
    }
}

impl Row {
    fn is_over(&self) -> bool {
        self.target.is_some_and(|target| self.measured > target)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.unit == "bytes" { 0 } else { 2 };
        write!(f, "{:<74} {:>10.digits$} {:<6}", self.what, self.measured, self.unit)?;
        match self.target {
            Some(target) => {
                let verdict = if self.is_over() { "OVER" } else { "ok" };
                write!(f, " target {target:>8.digits$}  {verdict}")
            }
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
