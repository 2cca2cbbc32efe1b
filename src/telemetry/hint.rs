//! A hint is what a person can try after an error. The error's type carries it, so no code looks for it in the text.

use std::error::Error as StdError;
use std::fmt;

/// An error with a hint. `Display` writes the error alone; [`explain`] prints the hint on a line of its own.
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

/// Adds a hint to an error. A hint says what to try, in lower case and without a full stop.
pub trait Hint {
    /// The type with the hint: an error, or a `Result` with one.
    type Hinted;

    /// Adds a hint to the error, if there is an error. Hints that it has already stay.
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

/// All hints of an error and its causes, from the outermost error inwards.
pub fn hints(error: &anyhow::Error) -> impl Iterator<Item = &str> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Hinted>()).map(|hinted| hinted.hint.as_str())
}

/// An error for a person at a terminal: what failed and why on one line, then each hint on a line of its own.
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
