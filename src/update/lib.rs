//! Pull: polls HQ over HTTPS, verifies, stages and activates releases; enrols and renews; checks in.
//!
//! Nothing listens for HQ here, and whatever fails changes nothing that phones see.
//!
//! Read [`service`] (the task: when it polls, what it waits on), then `poll` (one poll, step after step). A poll calls
//! [`refresh`] (TUF over HTTPS), [`release`] and [`self_check`]. The updater has three parts, and each owns its state:
//!
//! - `trust`: the signed metadata with its floors, and the release that is served;
//! - `hq_line`: the HTTPS client with this site's certificate, its renewal, and what HQ was told ([`check_in`]);
//! - `attempts`: what was tried, how often and when.
//!
//! `sealing_key` says when the site proves a new sealing key to the desk.
//!
//! [`mod@enrol`] makes an [`identity`]; `enrolment_journal` carries it over a power cut. [`client`] is the only HTTPS
//! client, and [`tls`] says whom it talks to. Pure decisions are in [`plan`], [`backoff`] and [`clock`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod anchors;
pub mod at_rest;
mod attempts;
pub mod backoff;
pub mod check_in;
pub mod client;
pub mod clock;
pub mod enrol;
mod enrolment_journal;
mod fetch_error;
mod hq_line;
mod http;
pub mod identity;
pub mod plan;
mod poll;
pub mod poll_error;
pub mod refresh;
pub mod release;
pub mod roll_back;
mod sealing_key;
pub mod self_check;
pub mod service;
pub mod tls;
mod trust;
mod updater;

pub use clock::SystemClock;
pub use clock::service::HostClock;
pub use enrol::{EnrolError, enrol};
pub use hq_line::CheckInSource;
pub use identity::{IdentityError, SiteIdentity};
pub use poll_error::PollError;
pub use release::{LoadError, load_active};
pub use roll_back::{RollBackError, RolledBack, roll_back};
pub use service::{PollOutcome, RollBackRequest};
pub use updater::{Updater, UpdaterSettings};
