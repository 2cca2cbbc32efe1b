//! Manifests: sealed files of strangers, and whatever the holder of the release key could have sealed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use bundle::recipients::{self, Binding};
use bundle::{Manifest, RecipientSecret};
use seal::PublisherSecret;
use ids::Generation;

static KEY: LazyLock<RecipientSecret> = LazyLock::new(|| RecipientSecret::from_bytes([2; 32]));

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    if mode % 2 == 0 {
        let (fleet, site) = ("f-1".parse().expect("an id"), "s-1".parse().expect("an id"));
        let expected = Binding { fleet, site, generation: Generation(1) };
        assert!(recipients::open(data, &KEY, &expected).is_err());
        return;
    }
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else { return };
    if manifest.validate().is_err() {
        return;
    }
    // What is valid can be sealed, and opens to what it was.
    let Ok(sealed) = seal::manifest::seal(&PublisherSecret::from_bytes([1; 32]), &manifest, &[KEY.public()]) else { return };
    let (fleet, site, generation) = (manifest.fleet.clone(), manifest.site.clone(), manifest.generation);
    let opened = recipients::open(&sealed, &KEY, &Binding { fleet, site, generation }).expect("it was valid");
    assert_eq!(opened, manifest);
});
