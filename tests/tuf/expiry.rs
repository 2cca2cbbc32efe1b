//! Nobody signed for a long time.

use std::time::Duration;

use crate::fleet::{DAY, Fleet, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_alone_makes_a_tree_fresh_whose_timestamps_and_snapshots_have_expired() {
    let mut fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    fleet.stop().await;
    // Published a hundred days ago and forgotten: timestamps live 30 days, snapshots 90.
    fleet.publish_at(lineside::ids::UnixTime(now().0 - 100 * 86_400));
    assert!(fleet.hq(&["check"]).contains("warning: timestamp metadata expired at"), "{}", fleet.hq(&["check"]));
    // Nothing that was signed since bears the clock out, so a person does.
    fleet.serve_with_a_clock_that_is_right().await;
    let mut last = String::new();
    for _ in 0..200 {
        let outcome = site.poll().await;
        if outcome.state.code() == "ok" {
            assert_eq!(site.serving(), 1);
            let check = fleet.hq(&["check"]);
            assert!(!check.contains("warning"), "{check}");
            return fleet.stop().await;
        }
        last = format!("{} {}", outcome.state, outcome.reason);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the site never found fresh metadata: {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_outlive_everything_that_expires_and_the_next_publish_reaches_them() {
    let mut fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    // Published 320 days ago, its timestamps signed anew until today, and then nobody did anything for 80 days.
    fleet.publish_at(lineside::ids::UnixTime(now().0 - 320 * 86_400));
    fleet.hq(&["publish", "--refresh"]);
    site.takes(1).await;
    let before = site.content();
    let later = now().plus(80 * DAY);
    site.clock.advance(80 * DAY);
    let outcome = site.poll().await;
    assert_eq!((outcome.state.code(), site.serving()), ("stale", 1), "{}", outcome.reason);
    assert!(site.content() == before);
    let warnings = lineside::repository::expiry::of_fleet(&fleet.layout, later);
    let expired: Vec<_> = warnings.iter().filter(|warning| warning.expired).map(|warning| warning.role).collect();
    assert_eq!(expired, ["timestamp", "firmware", "targets"]);
    fleet.edit("after all that time");
    fleet.publish_at(later);
    site.takes(2).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_refresh_needs_the_online_key_alone() {
    let mut fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    fleet.stop().await;
    fleet.publish_at(lineside::ids::UnixTime(now().0 - 100 * 86_400));
    let keys = fleet.layout.keys();
    std::fs::rename(&keys, fleet.dir.path().join("in a safe")).unwrap();
    assert_eq!(fleet.hq(&["publish", "--refresh"]), "metadata of 1 site signed anew\n");
    assert_eq!(fleet.hq(&["publish", "--refresh"]), "metadata of 0 sites signed anew\n");
    fleet.serve().await;
    site.takes(1).await;
    fleet.stop().await;
}
