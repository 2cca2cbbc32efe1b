use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest fleet or site id, in bytes. Ids become names of directories and parts of the URI in a certificate.
pub const MAX_ID_BYTES: usize = 40;

/// Why a text is no fleet or site id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id; use 1 to {MAX_ID_BYTES} lower-case letters, digits and inner hyphens")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text, safe as a path component and in a URI.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                let fits = (1..=MAX_ID_BYTES).contains(&text.len());
                let edges = text.starts_with('-') || text.ends_with('-');
                if fits && !edges && text.chars().all(allowed) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError(text.chars().take(MAX_ID_BYTES + 1).collect()))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        crate::text_serde!($name);
    };
}

id! {
    /// The opaque id of one site, in URLs, certificates and signed metadata.
    ///
    /// It says nothing about the place. People see the name of the site, which only HQ knows.
    SiteId
}

id! {
    /// The opaque id of a fleet: all sites under one TUF root.
    FleetId
}

/// The number of a site's release. Each published change gets the next number; 0 means that nothing was published yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one. At the end of the range, which no fleet reaches, it stays the same.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time as whole seconds since 1970-01-01 UTC, without leap seconds.
///
/// JSON has it as RFC 3339 with a `Z`, as TUF requires (specification §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// The time that a clock shows, in whole seconds. Whether the clock is right is for the caller to know.
    pub fn of(clock: SystemTime) -> Self {
        match clock.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            Err(before) => Self(i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs)),
        }
    }

    /// The time that is `span` later, or the end of the range.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to this time; zero if `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl FromStr for UnixTime {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339).map(|moment| Self(moment.unix_timestamp()))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|moment| moment.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "@{}", self.0),
        }
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::text_serde!(UnixTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_directory() {
        for text in ["", "..", "a/b", "A", "-a", "a-", "a b", "ä", &"a".repeat(41)] {
            assert!(text.parse::<SiteId>().is_err(), "{text}");
        }
        assert_eq!("s-3f9a".parse::<SiteId>().map(|id| id.to_string()), Ok("s-3f9a".to_owned()));
    }

    #[test]
    fn times_are_written_as_tuf_wants_them() {
        let time = UnixTime(1_700_000_000);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!("2023-11-14T22:13:20Z".parse::<UnixTime>().ok(), Some(time));
    }
}
