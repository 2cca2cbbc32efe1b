//! Every code that Lineside reports or refuses with. `src/CODES.md` has a chapter for each enum and explains each code.
//!
//! A code is written into check-ins, HQ's answers, `lineside status` and logs, so its spelling never changes. What a
//! program reads from there stays text, because a newer version of the other side may use codes that this one does not
//! know. `from_code` says which value a code stands for, and unknown codes are shown as they are.

mod alerts;
mod disk;
mod files;
mod hq;
mod state;

pub use alerts::{AlertCode, AlertEnd};
pub use disk::{DiskFailure, DiskRepair};
pub use files::{FileOutcome, FileRefusal, TransferEnd};
pub use hq::{EnrolFailure, HqRefusal};
pub use state::{ReleaseRefusal, SiteState};

/// Defines an enum, the list of its values and the code of each in one place, so that none can be forgotten.
macro_rules! codes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the table in `src/CODES.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code that stands for it in writing.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The value that a code stands for, if this version knows it.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.code())
            }
        }
    };
}
use codes;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each code of an enum and what it is read as.
    macro_rules! read_back {
        ($($name:ident),+) => {
            vec![$((
                stringify!($name),
                $name::ALL.iter().map(|one| (one.code(), $name::from_code(one.code()) == Some(*one))).collect::<Vec<_>>(),
                $name::from_code("a-code-of-a-newer-version").is_none(),
            )),+]
        };
    }

    #[test]
    fn a_code_that_was_written_is_read_again_and_others_are_not() {
        let enums = read_back![
            AlertCode,
            DiskFailure,
            DiskRepair,
            EnrolFailure,
            FileRefusal,
            HqRefusal,
            ReleaseRefusal,
            SiteState,
            TransferEnd
        ];
        for (name, codes, refuses_others) in enums {
            assert!(refuses_others, "{name}");
            for (code, same) in codes {
                let plain = code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
                assert!(same && plain && !code.is_empty(), "{name}: {code}");
            }
        }
    }
}
