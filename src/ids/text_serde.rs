/// Implements serde for a type that is text in every format.
///
/// `text_serde!(MacAddr)` writes what `Display` gives and reads what `FromStr` takes. A secret must not have `Display`,
/// so its type names two functions instead: `text_serde!(ContentKey, ContentKey::hex, ContentKey::of_hex)`. The first
/// goes from `&Self` to something with `Display`, the second from `&str` to a `Result` whose error has `Display`.
///
/// A crate that uses the macro must depend on `serde`.
#[macro_export]
macro_rules! text_serde {
    ($name:ty) => {
        $crate::text_serde!($name, ::std::convert::identity, <$name as ::std::str::FromStr>::from_str);
    };
    ($name:ty, $emit:expr, $parse:expr) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(&$emit(self))
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::std::result::Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                $parse(&text).map_err(::serde::de::Error::custom)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::{Digest, FileName, MacAddr, Oui, SiteId, UnixTime};

    #[test]
    fn what_is_text_is_a_json_string_and_comes_back() {
        fn there_and_back<T>(text: &str)
        where
            T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug + PartialEq,
            T: serde::Serialize + serde::de::DeserializeOwned,
        {
            let value: T = text.parse().unwrap();
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value);
        }
        there_and_back::<MacAddr>("00:04:f2:aa:bb:cc");
        there_and_back::<Oui>("00:04:f2");
        there_and_back::<Digest>(&"0a".repeat(32));
        there_and_back::<FileName>("Ringlist \"new\".xml");
        there_and_back::<SiteId>("s-3f9a");
        there_and_back::<UnixTime>("2023-11-14T22:13:20Z");
    }

    #[test]
    fn what_is_no_text_or_the_wrong_one_is_refused_with_the_reason() {
        let error = serde_json::from_str::<MacAddr>("\"0004f2\"").unwrap_err().to_string();
        assert!(error.starts_with("`0004f2` is not a MAC address; write 12 hex digits"), "{error}");
        let error = serde_json::from_str::<MacAddr>("7").unwrap_err().to_string();
        assert!(error.starts_with("invalid type: integer `7`, expected a string"), "{error}");
    }

    #[test]
    fn it_is_the_key_of_a_map() {
        let json = r#"{"00:04:f2:aa:bb:cc":1}"#;
        let map: std::collections::BTreeMap<MacAddr, u8> = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&map).unwrap(), json);
    }
}
