//! The progress of a long command: a bar on a terminal, nothing in a pipe or a test.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

/// Something that is told how far a command is.
pub trait Progress {
    /// A stage begins that has so many steps.
    fn stage(&mut self, what: &str, steps: u64);
    /// One step is done; `what` was worked on.
    fn step(&mut self, what: &str);
    /// The stage that began last has ended.
    fn done(&mut self);
}

/// Shows no progress, in a pipe or a test.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _what: &str, _steps: u64) {}
    fn step(&mut self, _what: &str) {}
    fn done(&mut self) {}
}

/// Shows a bar on standard error.
#[derive(Debug, Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn stage(&mut self, what: &str, steps: u64) {
        self.done();
        let bar = ProgressBar::new(steps);
        // The template is a constant and parses. If it did not, the bar would have the default style.
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:30} {pos}/{len} {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        self.bar = Some(bar);
    }

    fn step(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.inc(1);
        }
    }

    fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.done();
    }
}

/// A bar if standard error is a terminal, else nothing.
pub fn for_terminal() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bar::default()) } else { Box::new(Silent) }
}
