//! Canonical JSON (OLPC), over which TUF signs and hashes keys.
//!
//! Object keys are sorted by their UTF-8 bytes, there is no white space, only `"` and `\` are escaped, every other
//! character (control characters too) stands for itself, and numbers are integers (§4.1). The bytes are to be signed
//! or hashed; because of the control characters they need not be JSON again.

use serde_json::Value;

/// The canonical bytes of a value. Numbers must be integers (§4.1); others are an error.
pub fn bytes(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

/// A value that has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata holds a number that is no integer")]
pub struct NotCanonical;

// Recursion is as deep as the value, and `super::json::parse` bounds that.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            if number.is_u64() || number.is_i64() {
                out.extend_from_slice(number.to_string().as_bytes());
            } else {
                return Err(NotCanonical);
            }
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (place, (name, member)) in sorted.into_iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn canonical(json: &str, expected: &str) {
        let value: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(bytes(&value).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()), Ok(expected.to_owned()));
    }

    #[test]
    fn members_are_sorted_and_white_space_goes() {
        canonical(
            r#" { "b" : [ 1, 2 , -3 ], "a" : { "z":null, "y":true, "x":false } } "#,
            r#"{"a":{"x":false,"y":true,"z":null},"b":[1,2,-3]}"#,
        );
        canonical("{}", "{}");
        canonical("[]", "[]");
    }

    #[test]
    fn members_are_sorted_by_code_points_not_by_case_or_utf16() {
        canonical(
            "{\"a\":1,\"B\":2,\"\u{e4}\":3,\"\u{ff5e}\":4,\"\u{1f600}\":5,\"\":6,\"aa\":7}",
            "{\"\":6,\"B\":2,\"a\":1,\"aa\":7,\"\u{e4}\":3,\"\u{ff5e}\":4,\"\u{1f600}\":5}",
        );
    }

    #[test]
    fn only_quotes_and_backslashes_are_escaped() {
        canonical(r#""a\"b\\c\/d""#, r#""a\"b\\c/d""#);
        canonical(r#""\n\t\u0000\u001f\u00e4\ud83d\ude00""#, "\"\n\t\0\u{1f}\u{e4}\u{1f600}\"");
    }

    #[test]
    fn integers_keep_every_digit_and_other_numbers_have_no_form() {
        canonical("[0,18446744073709551615,-9223372036854775808]", "[0,18446744073709551615,-9223372036854775808]");
        for json in ["1.0", "[1e3]", r#"{"a":0.5}"#, "-0", "18446744073709551616"] {
            let value: Value = serde_json::from_str(json).expect("JSON");
            assert_eq!(bytes(&value), Err(NotCanonical), "{json}");
        }
    }
}
