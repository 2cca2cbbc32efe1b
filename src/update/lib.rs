//! Pull: polls HQ over HTTPS, verifies, stages and activates releases; enrols and renews; checks in.
//!
//! Nothing listens for HQ here, and whatever fails changes nothing that phones see. Read [`poll`] (one poll, step
//! after step), then what it calls in that order: [`refresh`] (TUF over HTTPS), [`release`], [`self_check`],
//! [`check_in`] and `contact` (what we say to HQ); [`service`] is the task around it. [`mod@enrol`] makes an [`identity`]; [`client`] is the only HTTPS
//! client and [`tls`] says whom it talks to. Pure decisions are in [`plan`], [`backoff`] and [`clock`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod anchors;
pub mod at_rest;
pub mod backoff;
pub mod check_in;
pub mod client;
pub mod clock;
mod contact;
pub mod enrol;
mod fetch_error;
mod http;
pub mod identity;
pub mod plan;
pub mod poll;
pub mod refresh;
pub mod release;
pub mod roll_back;
pub mod self_check;
pub mod service;
pub mod tls;

pub use clock::SystemClock;
pub use enrol::{EnrolError, enrol};
pub use identity::{Identity, IdentityError};
pub use release::{LoadError, load_active};
pub use roll_back::{RollBackError, roll_back};
pub use service::{HostClock, PollOutcome, Report, Updater, UpdaterSettings};
