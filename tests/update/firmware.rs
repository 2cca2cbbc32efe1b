//! The firmware list: who approves images, and that a list which lapsed holds nothing else up.

use lineside::bundle::FileEntry;
use lineside::status::StatusReport;

use crate::pki::{DAY, days};
use crate::site::Site;

const IMAGE: &[u8] = b"an image";
const OTHER: &[u8] = b"another image";

/// A site that serves an image and a configuration. The list expires after 60 days.
async fn serving_an_image() -> Site {
    let mut site = Site::enrolled().await;
    publish(&site, &[IMAGE], |world| world.publish_firmware(&[IMAGE], days(60)));
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.generation(), 1);
    site.hq.server.forget();
    site
}

fn alerts(site: &Site) -> Vec<String> {
    StatusReport::of(&site.stats).alerts.into_iter().map(|alert| alert.code).collect()
}

fn publish(site: &Site, images: &[&[u8]], before: impl FnOnce(&mut crate::hq::World)) {
    let mut world = site.hq.world();
    before(&mut world);
    let mut files: Vec<FileEntry> =
        images.iter().enumerate().map(|(number, image)| world.image(&format!("{number}.sbn"), image)).collect();
    let content = format!("generation {}", world.newest + 1);
    files.push(world.file("a.cfg", content.as_bytes()));
    world.publish_entries(files);
}

/// Day 70: everything but the firmware list was signed anew.
fn ten_days_after_the_list_lapsed(site: &Site) {
    site.clock.advance(std::time::Duration::from_secs(70 * DAY as u64));
    let mut world = site.hq.world();
    (world.now, world.expires, world.certificate) = (days(70), days(100), (days(69), days(160)));
    world.sign_online();
}

#[tokio::test]
async fn a_list_that_lapsed_holds_no_configuration_up_and_approves_no_new_image() {
    let mut site = serving_an_image().await;
    ten_days_after_the_list_lapsed(&site);
    publish(&site, &[IMAGE], |_| ());
    let outcome = site.poll().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!((site.generation(), site.content("a.cfg")), (2, b"generation 2".to_vec()));
    assert_eq!(alerts(&site), ["firmware-list-lapsed"], "and people hear of it while there is time");

    // A configuration alone asks for no list at all.
    publish(&site, &[], |_| ());
    site.hq.server.forget();
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.generation(), 3);
    assert!(!site.hq.server.paths().iter().any(|path| path.contains("firmware.json")));
    assert_eq!(alerts(&site), [""; 0]);

    // The image was given up meanwhile: to take it back needs a list that is current.
    publish(&site, &[IMAGE], |_| ());
    let outcome = site.poll_in_vain("stale").await;
    assert!(outcome.reason.contains("firmware metadata expired"), "{}", outcome.reason);
    assert_eq!(alerts(&site), ["firmware-list-lapsed"]);
    publish(&site, &[IMAGE], |world| world.publish_firmware(&[IMAGE], days(130)));
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!((site.generation(), alerts(&site)), (5, Vec::new()));

    // What was taken under a list that lapsed is served after a restart.
    site.restart();
    assert_eq!(site.content("0.sbn"), IMAGE);
}

#[tokio::test]
async fn a_newer_list_that_comes_expired_approves_nothing() {
    let mut site = serving_an_image().await;
    ten_days_after_the_list_lapsed(&site);
    publish(&site, &[IMAGE, OTHER], |world| world.publish_firmware(&[IMAGE, OTHER], days(65)));
    let outcome = site.poll_in_vain("stale").await;
    assert!(outcome.reason.contains("firmware metadata expired"), "{}", outcome.reason);
    publish(&site, &[IMAGE], |_| ());
    assert_eq!(site.poll().await.state.code(), "ok", "what is served and was approved may stay");
    assert_eq!(site.generation(), 3);
}
