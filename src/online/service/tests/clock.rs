//! A service under a clock that other clocks contradict.

use super::super::*;
use super::caller::Hq;
use crate::testing::{Appliance, token_for};
use api::{CheckIn, CheckInAnswer};
use repository::witness::ClockRecord;

const YEARS: Duration = Duration::from_secs(3 * 365 * 86_400);

fn check_in(time: Option<UnixTime>) -> CheckIn {
    let nonce = "00112233445566778899aabbccddeeff".to_owned();
    CheckIn { nonce, clock_synchronised: time.is_some(), time, ..CheckIn::default() }
}

#[tokio::test]
async fn a_host_three_years_ahead_of_every_witness_signs_nothing_until_a_site_says_what_time_it_is() {
    let hq = Hq::start_after(|layout| {
        let then = UnixTime(now().0 - YEARS.as_secs().cast_signed());
        ClockRecord::change(layout, |record| *record = ClockRecord { person: Some(then), ..ClockRecord::default() })
            .unwrap();
    })
    .await;
    let token = token_for(&hq.layout, "s-1");
    let request = Appliance::new(9).request(&token);
    let refused = hq.stranger().post(api::ENROL_PATH, &request).await;
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (503, "60"));
    assert_eq!(refused.refusal().code, "unavailable");

    let site = hq.recorded("s-2", now()).await;
    assert_eq!(site.post(api::CHECK_IN_PATH, &check_in(None)).await.status, 503);
    // It was heard all the same, and what is published is served.
    hq.publish("s-2", b"x");
    assert_eq!(site.get("/sites/s-2/metadata/timestamp.json", &[]).await.status, 200);
    assert!(crate::fleet::rows(&hq.layout.database(), now()).unwrap().iter().any(|row| row.last_seen.is_some()));

    // A site whose clock follows a time server says that this host is right.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let site = hq.recorded("s-3", now()).await;
    let answer: CheckInAnswer = site.post(api::CHECK_IN_PATH, &check_in(Some(now()))).await.json();
    assert!(answer.signed.contains("check-in"));
    assert_eq!(hq.stranger().post(api::ENROL_PATH, &request).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn a_host_three_years_behind_what_was_signed_signs_nothing() {
    let hq = Hq::start_after(|layout| {
        ClockRecord::change(layout, |record| record.signed = Some(now().plus(YEARS))).unwrap();
    })
    .await;
    let request = Appliance::new(9).request(&token_for(&hq.layout, "s-1"));
    assert_eq!(hq.stranger().post(api::ENROL_PATH, &request).await.status, 503);
    let site = hq.recorded("s-2", now()).await;
    assert_eq!(site.post(api::CHECK_IN_PATH, &check_in(Some(now()))).await.status, 503);
    hq.end().await;
}

#[tokio::test]
async fn a_person_who_says_that_the_hosts_clock_is_right_goes_before() {
    let (_dir, layout) = crate::testing::fleet();
    ClockRecord::change(&layout, |record| record.signed = Some(now().plus(YEARS))).unwrap();
    let options = ServeOptions { dir: layout.online(), listen: "127.0.0.1:0".parse().unwrap() };
    let server = Server::bind(options).unwrap();
    assert!(server.app.may_sign().is_err());
    let server = server.clock_is_right().unwrap();
    assert!(server.app.may_sign().is_ok());
}
