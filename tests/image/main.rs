//! The image, started in a virtual machine beside a home router, with HQ outside: what `image/build` made, unmodified,
//! with nothing but a token file put on its FAT partition.
//!
//! `tests/run` builds the images and runs these by name; they are ignored otherwise, for they take minutes. By hand:
//!
//! ```sh
//! image/build --arch amd64 && cargo test --test image -- --ignored --nocapture amd64
//! ```

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

// One crate has all that the tests with programs of others share.
#[allow(dead_code, reason = "those use more of it")]
#[path = "../clients/fleet.rs"]
mod fleet;
#[allow(dead_code, reason = "those use more of it")]
#[path = "../clients/net.rs"]
mod net;
#[allow(dead_code, reason = "the units' tests use more of it")]
#[path = "../clients/tpm.rs"]
mod tpm;

mod amd64;
mod arm64;
mod boot;
mod disk;
mod lan;
mod scripts;
mod vm;
