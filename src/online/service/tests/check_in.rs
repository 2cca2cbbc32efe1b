//! Signed check-ins over the wire.

use super::super::*;
use super::caller::{Caller, Hq};
use crate::testing::{Appliance, token_for};
use api::check_in::report::SiteReport;
use api::check_in::{
    ACKNOWLEDGEMENT_PURPOSE, Acknowledgement, MAX_VALUE_BYTES, PURPOSE, Page, PageHeader, PageKey, PageVerdict,
    SIGNED_CHECK_IN_PATH, StateChanges, StateMap, digest,
};
use api::{Certificate, CheckIn, CheckInAnswer};
use ids::Generation;

/// A site that has enrolled, with its key.
async fn site(hq: &Hq, name: &str, seed: u8) -> (Caller, PageKey) {
    let (token, appliance) = (token_for(&hq.layout, name), Appliance::new(seed));
    let answer = hq.stranger().post(api::ENROL_PATH, &appliance.request(&token)).await;
    let certificate: Certificate = answer.json();
    let key = PageKey::from_pkcs8(&appliance.key.serialize_der()).unwrap();
    (hq.caller(Some((certificate.certificate, appliance.key))), key)
}

fn page(fleet: &str, site: &str, counter: u64, state: &StateMap, key: &PageKey) -> Vec<u8> {
    let header = PageHeader {
        purpose: PURPOSE.to_owned(),
        fleet: fleet.parse().unwrap(),
        site: site.parse().unwrap(),
        box_id: "0011223344556677".to_owned(),
        counter,
        base: 0,
        generation: Generation(4),
        time: now(),
        nonce: "00112233445566778899aabbccddeeff".to_owned(),
        state: digest(state),
        more: false,
    };
    let changes: StateChanges = state.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    Page::sign(header, changes, key).unwrap().emit()
}

fn state() -> StateMap {
    let told = CheckIn { version: "0.1.0".into(), state: "ok".into(), ..CheckIn::default() };
    SiteReport::from(&told).state()
}

#[tokio::test]
async fn pages_of_another_site_or_key_are_refused_and_a_good_one_is_shown_as_signed() {
    let hq = Hq::start().await;
    let ((caller, key), (_, other)) = (site(&hq, "s-1", 1).await, site(&hq, "s-2", 2).await);
    let db = Db::open(&hq.layout.database()).unwrap();
    let mut large = state();
    large.insert("x".to_owned(), "v".repeat(MAX_VALUE_BYTES + 1));
    let mut forged = page("f-1", "s-1", 1, &state(), &key);
    forged[40] ^= 1;
    for (body, status, code) in [
        (page("f-1", "s-2", 1, &state(), &other), 400, "malformed"),
        (page("f-1", "s-2", 1, &state(), &key), 400, "malformed"),
        (page("f-2", "s-1", 1, &state(), &key), 400, "malformed"),
        (page("f-1", "s-1", 1, &state(), &other), 400, "malformed"),
        (forged, 400, "malformed"),
        (b"{\"nonce\":1}".to_vec(), 400, "malformed"),
        (page("f-1", "s-1", 1, &large, &key), 413, "too-large"),
        (vec![b'x'; 17_000], 413, "too-large"),
    ] {
        let got = caller.send("POST", SIGNED_CHECK_IN_PATH, &[], &body).await;
        assert_eq!((got.status, got.refusal().code.as_str()), (status, code), "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(db.heard(&"s-1".parse().unwrap()).unwrap(), None);
    assert_eq!(hq.stranger().send("POST", SIGNED_CHECK_IN_PATH, &[], b"x").await.status, 403);

    crate::db::note_published(&hq.layout, &[("s-1".parse().unwrap(), "Bern".to_owned(), Generation(4))]).unwrap();
    for verdict in [PageVerdict::Taken, PageVerdict::OldCounter] {
        let got = caller.send("POST", SIGNED_CHECK_IN_PATH, &[], &page("f-1", "s-1", 7, &state(), &key)).await;
        let answer: CheckInAnswer = got.json();
        let signature = data_encoding::HEXLOWER.decode(answer.signature.as_bytes()).unwrap();
        assert!(tuf::SigningKey::from_seed(&[7; 32]).public().verifies(answer.signed.as_bytes(), &signature));
        let said: Acknowledgement = serde_json::from_str(&answer.signed).unwrap();
        assert_eq!((said.purpose.as_str(), said.site.as_str()), (ACKNOWLEDGEMENT_PURPOSE, "s-1"));
        assert_eq!(
            (said.verdict, said.counter, said.state, said.newest),
            (verdict, 7, digest(&state()), Generation(4))
        );
    }
    let rows = crate::fleet::rows(&hq.layout.database(), now()).unwrap();
    let row = rows.iter().find(|row| row.name == "Bern").unwrap();
    assert!(crate::fleet::print_site(row).contains("\nsigned       yes, by box 0011223344556677\n"));
    // An appliance of before tells without a signature, and that shows.
    let old = CheckIn { nonce: "00".repeat(16), state: "ok".into(), ..CheckIn::default() };
    assert_eq!(caller.post(api::CHECK_IN_PATH, &old).await.status, 200);
    let rows = crate::fleet::rows(&hq.layout.database(), now()).unwrap();
    let row = rows.iter().find(|row| row.name == "Bern").unwrap();
    assert!(crate::fleet::print_site(row).contains("\nsigned       no\n"));
    hq.end().await;
}
