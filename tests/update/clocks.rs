//! The whole cycle on boxes whose clock is wrong: enrolment, the first release, a change, renewal, check-in, a restart.

use std::sync::Arc;
use std::time::Duration;

use lineside::api::CheckIn;
use lineside::ids::{Generation, UnixTime};
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::client::ClientLimits;
use lineside::update::clock::{Timekeeper, build_time};
use lineside::update::enrol::enrol_with;
use lineside::update::{SiteIdentity, Updater, UpdaterSettings};

use crate::hq::Hq;
use crate::pki::{DAY, NOW, SetClock, days};

/// A site whose clock shows this, from enrolment on. Returns how the trusted time ends.
async fn whole_cycle(clock: Arc<SetClock>, mut jump: impl FnMut(&SetClock)) -> UnixTime {
    let hq = Hq::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    let time = || Timekeeper::new(clock.clone(), None);
    enrol_with(&hq.token(), &store, time(), ClientLimits::default()).await.unwrap();
    jump(&clock);

    hq.world().publish(&[("a.cfg", b"one")]);
    let updater = || {
        let identity = SiteIdentity::load(&store).unwrap().unwrap();
        let report = Arc::new(CheckIn::default);
        let (settings, clock) = (UpdaterSettings::default(), Box::new(clock.clone()));
        Updater::new(store.clone(), identity, settings, Stats::new(), clock, report)
    };
    let mut site = updater();
    let outcome = site.poll_once().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!(outcome.activated.unwrap().generation(), Generation(1));
    jump(&clock);

    hq.world().publish(&[("a.cfg", b"two")]);
    let outcome = site.poll_once().await;
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(2)), "{}", outcome.reason);
    jump(&clock);

    // 61 days on, by HQ's calendar and by the box's own counting.
    clock.advance(Duration::from_secs(61 * DAY as u64));
    {
        let mut world = hq.world();
        (world.now, world.expires, world.certificate) = (days(61), days(91), (days(61), days(151)));
        world.sign_online();
    }
    // The first poll may find the old certificate still good; HQ's signed time then says what day it is.
    for _ in 0..2 {
        let outcome = site.poll_once().await;
        assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
        clock.advance(Duration::from_secs(2 * 3600));
    }
    assert_eq!(SiteIdentity::load(&store).unwrap().unwrap().valid(), (days(61), days(151)), "not renewed");
    jump(&clock);

    // A new process has the floor from disk.
    let mut site = updater();
    let outcome = site.poll_once().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    let check_ins = hq.world().check_ins.len();
    // One for each poll but the second, which came at once and had no news.
    assert_eq!(check_ins, 4);
    site.time().now()
}

#[tokio::test]
async fn the_whole_cycle_works_on_a_box_that_thinks_it_is_1970() {
    let now = whole_cycle(SetClock::new(UnixTime(0), false), |_| ()).await;
    assert!(now >= days(61) && now < days(63), "{now}");
}

#[tokio::test]
async fn the_whole_cycle_works_on_a_box_that_is_a_year_behind() {
    let now = whole_cycle(SetClock::new(days(-365), false), |_| ()).await;
    assert!(now >= days(61) && now < days(63), "{now}");
}

#[tokio::test]
async fn the_whole_cycle_works_while_the_clock_jumps() {
    let mut jumps = [3_650, -20_000, 1, -3, 9_999].into_iter().cycle();
    let jump = move |clock: &SetClock| {
        let mut reading = clock.0.lock().unwrap();
        reading.system = days(jumps.next().unwrap());
    };
    let now = whole_cycle(SetClock::new(NOW, false), jump).await;
    assert!(now >= days(61) && now < days(63), "{now}");
}

#[tokio::test]
async fn a_synchronised_clock_that_was_ten_years_ahead_blocks_nothing_afterwards() {
    let mut site = crate::site::Site::serving().await;
    site.clock.0.lock().unwrap().system = days(3_650);
    site.hq.world().publish(&[("a.cfg", b"two")]);
    // By this clock everything has expired: nothing is taken, nothing is lost, and nothing is remembered of the time.
    let outcome = site.poll_in_vain("stale").await;
    assert!(outcome.backs_off);
    site.restart();
    site.poll_in_vain("certificate").await;
    assert!(site.store.trust().unwrap().unwrap().time_floor.is_none_or(|floor| floor <= days(1)));
    site.clock.0.lock().unwrap().system = NOW;
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.generation(), 2);
}

#[tokio::test]
async fn a_synchronised_clock_that_steps_back_a_year_is_not_believed_below_the_newest_release() {
    let mut site = crate::site::Site::serving().await;
    // A release of day 25, whose metadata expires on day 30.
    site.clock.advance(Duration::from_secs(25 * DAY as u64));
    {
        let mut world = site.hq.world();
        world.now = days(25);
        world.publish(&[("a.cfg", b"two")]);
    }
    assert_eq!(site.poll().await.state.code(), "ok");
    site.restart();
    // Ten days later it is stale, and the system clock, though "synchronised", says last year.
    site.clock.advance(Duration::from_secs(10 * DAY as u64));
    site.poll_in_vain("stale").await;
    site.clock.0.lock().unwrap().system = days(-365);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert!(site.updater.time().now() >= days(25) && build_time() < NOW);
}
