//! Canonical JSON (OLPC), over which TUF signs and hashes keys.

use serde_json::Value;

/// The canonical bytes of a value. Numbers must be integers (§4.2.3); others are an error.
pub fn bytes(_value: &Value) -> Result<Vec<u8>, NotCanonical> {
    todo!()
}

/// A value that has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata holds a number that is no integer")]
pub struct NotCanonical;
