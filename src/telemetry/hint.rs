//! What to try, as a part of an error: carried by its type, so that nothing tells it apart by its text.

use std::error::Error as StdError;
use std::fmt;

/// An error with advice. It reads as the error alone; [`explain`] prints the advice on a line of its own.
#[derive(Debug)]
pub struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl StdError for Hinted {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

/// Adds advice to what failed: a full sentence's worth of what to try, in lower case and without a full stop.
pub trait Hint {
    /// The same with advice.
    type Hinted;

    /// Adds advice.
    fn hint(self, what_to_try: impl Into<String>) -> Self::Hinted;
}

impl Hint for anyhow::Error {
    type Hinted = Self;

    fn hint(self, what_to_try: impl Into<String>) -> Self {
        Self::new(Hinted { error: self, hint: what_to_try.into() })
    }
}

impl<T, E: Into<anyhow::Error>> Hint for Result<T, E> {
    type Hinted = anyhow::Result<T>;

    fn hint(self, what_to_try: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| error.into().hint(what_to_try))
    }
}

/// The advice that an error carries, that of the outermost cause first.
pub fn hints(error: &anyhow::Error) -> impl Iterator<Item = &str> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Hinted>()).map(|hinted| hinted.hint.as_str())
}

/// An error as a person at a terminal needs it: what failed and why on one line, then what to try.
pub fn explain(error: &anyhow::Error) -> String {
    let hints: String = hints(error).map(|hint| format!("\nhint: {hint}")).collect();
    format!("error: {error:#}{hints}")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn an_error_is_told_before_its_hint() {
        let error = anyhow!("permission denied").context("cannot read key a.key").hint("run as user hq");
        assert_eq!(explain(&error), "error: cannot read key a.key: permission denied\nhint: run as user hq");
    }

    #[test]
    fn a_hint_stays_with_its_error_whatever_is_said_on_top() {
        let refused: Result<(), _> = Err(std::io::Error::other("no room"));
        let error =
            refused.hint("remove a file").context("cannot write").context("cannot publish").expect_err("refused");
        assert_eq!(explain(&error), "error: cannot publish: cannot write: no room\nhint: remove a file");
        assert_eq!(error.root_cause().to_string(), "no room");
    }

    #[test]
    fn an_error_without_a_hint_has_one_line() {
        assert_eq!(explain(&anyhow!("hint: this is no hint")), "error: hint: this is no hint");
    }
}
