//! The appliance's own image: through the same signed channel to the installer, and what became of it back to HQ.

use std::fs;
use std::time::Duration;

use super::net::{can_run, wait_for};
use super::site::Deployment;

/// What RAUC makes looks so from outside: a squashfs, and at its end a signature that holds the manifest.
fn bundle(version: &str) -> Vec<u8> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let signature = format!("[update]\ncompatible=lineside-{arch}\nversion={version}\n\n[bundle]\nformat=verity\n");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    [b"hsqs", content.as_slice(), signature.as_bytes(), &(signature.len() as u64).to_be_bytes()].concat()
}

#[test]
fn an_image_goes_to_the_installer_once_and_hq_hears_what_became_of_it() {
    if !can_run("an_image_goes_to_the_installer_once", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    site.enroll();
    site.hq(&["publish"]);
    let says = |text: &str| fs::write(site.image_state(), text).unwrap();
    says("version = \"1.0\"\nslot = \"A\"\ngood = false\n");
    site.start();
    site.serves(1);
    let (healthy, said) = site.try_lineside(&["health"]);
    assert!(healthy && said.contains("a file of the release was fetched by TFTP"), "{said}");

    let image = bundle("2.0");
    let file = site.fleet.join("../new.raucb");
    fs::write(&file, &image).unwrap();
    let said = site.hq(&["image", "add", file.to_str().unwrap()]);
    let name = said.split_once("images/").unwrap().1.split_once(".raucb").unwrap().0.to_owned();
    assert!(name.ends_with("_2.0"), "{said}");
    let site_toml = site.fleet.join("sites/sample-office.toml");
    let settings = fs::read_to_string(&site_toml).unwrap();
    fs::write(&site_toml, format!("{settings}\n[update]\nimage = \"{name}\"\n")).unwrap();
    site.hq(&["publish"]);
    site.serves(2);
    // Not from a boot that may yet turn out to be bad.
    let taken = site.state.join("os/install.raucb");
    assert!(wait_for(Duration::from_secs(2), || taken.exists().then_some(())).is_none());
    assert_eq!(site.status()["image"]["good"], false);

    let again = |site: &mut Deployment| {
        site.appliance = None;
        site.start_anew();
    };
    fs::write(site.image_state(), "version = \"1.0\"\nslot = \"A\"\ngood = true\n").unwrap();
    again(&mut site);
    let found = wait_for(Duration::from_secs(20), || fs::read(&taken).ok());
    assert!(found.as_ref().is_some_and(|found| *found == image), "{}", site.appliance_log());
    let (healthy, said) = site.try_lineside(&["status"]);
    assert!(healthy && said.contains("image        1.0 in slot A\n"), "{said}");

    // The installer wrote the other slot, which did not come up three times.
    fs::remove_file(&taken).unwrap();
    let sha256 = super::net::sh(&format!("sha256sum {} | cut -d' ' -f1", file.display()));
    let fell = format!(
        "version = \"1.0\"\nslot = \"A\"\ngood = true\ntried_version = \"2.0\"\ntried_sha256 = \"{}\"\n\
         outcome = \"fell back: three boots were not good\"\n",
        sha256.trim()
    );
    fs::write(site.image_state(), fell).unwrap();
    again(&mut site);
    site.polls_until("an alert", |status| {
        status["alerts"].as_array().unwrap().iter().any(|alert| alert["code"] == "image")
    });
    let fleet = wait_for(Duration::from_secs(40), || {
        site.try_lineside(&["status", "--poll"]);
        Some(site.hq(&["fleet", "sample-office"])).filter(|fleet| fleet.contains("three boots"))
    });
    let fleet = fleet.unwrap_or_else(|| panic!("{}\n{}", site.hq(&["fleet"]), site.appliance_log()));
    assert!(fleet.contains("image        1.0 in slot A; last: fell back: three boots were not good\n"), "{fleet}");
    assert!(fleet.contains("ALERT        image: image 2.0 was tried (fell back: three boots"), "{fleet}");
    assert!(!taken.exists(), "a bad image is tried again");
}
