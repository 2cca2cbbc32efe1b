//! HQ: inventory and templates in; rendered, sealed, signed site repositories out; enrolment and a fleet view.
//!
//! The fleet directory ([`layout`]) is the user interface: plain files in git. The offline half reads it and
//! publishes; the small online half ([`service`]) runs from `online/` alone.

pub mod ca;
pub mod db;
pub mod enrol;
pub mod fleet;
pub mod keyring;
pub mod layout;
pub mod service;
