//! Parses the JSON of metadata: no member twice, bounded nesting, nothing after it.
//!
//! If a member stood twice, two parsers could take different ones, and so trust two different contents under one signature.
//! Such a file is refused.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deeply metadata may be nested. What the specification defines needs 7 levels; the rest is for `custom`.
const MAX_DEPTH: usize = 32;

/// The value that these bytes are, or what is wrong with them.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: MAX_DEPTH }.deserialize(&mut json).map_err(|error| short(&error))?;
    json.end().map_err(|error| short(&error))?;
    Ok(value)
}

/// An error's text at a length fit for a log line, as it may quote what came from outside.
pub(super) fn short(error: &dyn fmt::Display) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(160).collect()
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    // Kept, and refused where it would have to be signed: canonical JSON has no fractions.
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format_args!("`{name}` is there twice")));
            }
            let member = members.next_value_seed(inner)?;
            object.insert(name, member);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_member_that_is_there_twice_is_refused_however_it_is_spelt() {
        for json in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"b":{"c":1,"d":2,"c":3}}]"#] {
            assert!(parse(json.as_bytes()).is_err_and(|what| what.contains("is there twice")), "{json}");
        }
        assert!(parse(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()).map_err(|e| e.contains("nested too deeply")), Err(true));
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_no_json_or_more_than_one_is_refused() {
        for json in ["", "{", "{} {}", "nul", "[1,]", "\"\\ud800\"", "{a:1}"] {
            assert!(parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse(b" {} \n").is_ok());
    }

    #[test]
    fn an_error_quotes_little_of_what_came() {
        let name = "x".repeat(10_000);
        let what = parse(format!("{{\"{name}\":1,\"{name}\":2}}").as_bytes()).expect_err("twice");
        assert!(what.len() <= 160);
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_what_serde_json_parses(text in r#"[\[\]{}:,"a0-9 .e\\-]{0,24}"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str(&text).ok());
            }
        }
    }
}
