//! Questions to the person at the keyboard.

use std::io::BufRead as _;

use anyhow::Context as _;

/// Asks a question and returns whether the answer is yes. Without anybody to answer, it is no.
pub(crate) fn is_yes(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
    eprintln!();
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
