#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod caller;
mod check_in;
mod clock;

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::caller::{Caller, Hq, read_answer, request};
use super::*;
use crate::testing::{Appliance, csr, token_for};
use api::{self, Certificate, CheckIn, CheckInAnswer, EnrolmentToken, RenewRequest, SignedTime};
use ids::{Digest, Generation};

#[tokio::test]
async fn an_appliance_enrols_fetches_its_files_and_checks_in() {
    let hq = Hq::start().await;
    let root = hq.stranger().get("/v1/root", &[]).await;
    let token = token_for(&hq.layout, "s-1");
    assert_eq!((root.status, Digest::of(&root.body)), (200, token.root_sha256));

    let site = hq.enrolled(&token, 1).await;
    hq.publish("s-1", b"{\"version\":1}");
    let timestamp = site.get("/sites/s-1/metadata/timestamp.json", &[]).await;
    assert_eq!((timestamp.status, timestamp.body.as_slice()), (200, &b"{\"version\":1}"[..]));
    assert!(!timestamp.headers.contains_key("server"));

    crate::db::note_published(&hq.layout, &[("s-1".parse().unwrap(), "Bern".to_owned(), Generation(4))]).unwrap();
    let check_in = CheckIn { nonce: "00112233445566778899aabbccddeeff".to_owned(), ..CheckIn::default() };
    let answer: CheckInAnswer = site.post(api::CHECK_IN_PATH, &check_in).await.json();
    let signature = data_encoding::HEXLOWER.decode(answer.signature.as_bytes()).unwrap();
    let key = tuf::SigningKey::from_seed(&[7; 32]).public();
    assert!(key.verifies(answer.signed.as_bytes(), &signature));
    let signed: SignedTime = serde_json::from_str(&answer.signed).unwrap();
    assert_eq!((signed.purpose.as_str(), signed.nonce, signed.newest), ("check-in", check_in.nonce, Generation(4)));
    assert!(now().since(signed.time) < Duration::from_secs(60));
    let rows = crate::fleet::rows(&hq.layout.database(), now()).unwrap();
    assert_eq!(rows[0].name, "Bern");
    assert!(rows[0].last_seen.is_some());
    hq.end().await;
}

#[tokio::test]
async fn an_unchanged_timestamp_is_a_short_304() {
    let hq = Hq::start().await;
    let site = hq.site("s-1", 1).await;
    hq.publish("s-1", b"one");
    let path = "/sites/s-1/metadata/timestamp.json";
    let tag = site.get(path, &[]).await.headers["etag"].clone();
    let same = site.get(path, &[("if-none-match", &tag)]).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let names: Vec<_> = same.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["connection", "date", "etag"], "`connection` because this caller asks to close");
    hq.publish("s-1", b"two");
    let changed = site.get(path, &[("if-none-match", &tag)]).await;
    assert_eq!((changed.status, changed.body.as_slice()), (200, &b"two"[..]));
    assert_eq!(site.get(path, &[("if-none-match", "\"x\", *")]).await.status, 304);
    hq.end().await;
}

#[tokio::test]
async fn objects_come_whole_in_ranges_and_by_head() {
    let hq = Hq::start().await;
    let site = hq.site("s-1", 1).await;
    // Over several chunks, so that streaming shows.
    let object: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let path = hq.object(&object);
    let whole = site.get(&path, &[]).await;
    assert_eq!((whole.status, whole.body == object), (200, true));
    let tag = whole.headers["etag"].clone();
    assert!(tag.starts_with('"') && tag.len() == 24, "a strong one of 128 bits: {tag}");
    let mut names: Vec<&str> = whole.headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["connection", "content-length", "date", "etag"], "nothing that no site reads");

    let tail = site.get(&path, &[("range", "bytes=65536-"), ("if-range", &tag)]).await;
    assert_eq!((tail.status, tail.body == object[65536..]), (206, true));
    assert_eq!(tail.headers["content-range"], format!("bytes 65536-{}/{}", object.len() - 1, object.len()));
    let other = site.get(&path, &[("range", "bytes=65536-"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, object.len()));
    let past = site.get(&path, &[("range", "bytes=99999999-")]).await;
    assert_eq!((past.status, past.headers["content-range"].as_str()), (416, "bytes */1200000"));
    let head = site.send("HEAD", &path, &[], b"").await;
    assert_eq!((head.status, head.body.len(), head.headers["content-length"].as_str()), (200, 0, "1200000"));
    let unchanged = site.get(&path, &[("range", "bytes=0-1"), ("if-none-match", &tag)]).await;
    assert_eq!(unchanged.status, 304);
    hq.end().await;
}

#[tokio::test]
async fn another_sites_files_do_not_exist() {
    let hq = Hq::start().await;
    let (one, two) = (hq.site("s-1", 1).await, hq.site("s-2", 2).await);
    hq.publish("s-1", b"of one");
    hq.publish("s-2", b"of two");
    let path = "/sites/s-2/metadata/timestamp.json";
    assert_eq!(two.get(path, &[]).await.body, b"of two");
    let refused = one.get(path, &[]).await;
    let missing = one.get("/sites/s-1/metadata/7.targets.json", &[]).await;
    assert_eq!((refused.status, missing.status), (404, 404));
    assert_eq!(refused.body, missing.body, "it cannot be told from a file that is not there");
    // What the URL or a body claims makes no difference.
    assert_eq!(one.get("/sites/s-2/metadata/timestamp.json?site=s-1", &[]).await.status, 404);
    hq.end().await;
}

#[tokio::test]
async fn nothing_outside_the_tree_is_reached() {
    let hq = Hq::start().await;
    let site = hq.site("s-1", 1).await;
    hq.publish("s-1", b"x");
    fs::write(hq.layout.public().join("sites/s-1/metadata/notes.txt"), b"secret").unwrap();
    fs::create_dir_all(hq.layout.public().join("sites/s-1/metadata/1.targets.json")).unwrap();
    for path in [
        "/../online.key",
        "/sites/../../online.key",
        "/sites/s-1/metadata/../../../../online.key",
        "/sites/s-1/metadata/..%2f..%2f..%2f..%2fonline.key",
        "/sites/%2e%2e/%2e%2e/hq.sqlite",
        "/sites/s-1/metadata/notes.txt",
        "/sites/s-1/metadata/1.targets.json",
        "/sites/s-1/metadata/",
        "/sites/s-1/metadata",
        "/sites/s-1",
        "/sites/",
        "/",
        "/objects/",
        "/objects/on/online.key",
        "/hq.sqlite",
    ] {
        let got = site.get(path, &[]).await;
        assert_eq!((got.status, got.body.len()), (404, 0), "{path}");
    }
    hq.end().await;
}

#[tokio::test]
async fn a_sealing_key_of_low_order_is_refused_and_the_token_stays_good() {
    let hq = Hq::start().await;
    let token = token_for(&hq.layout, "s-1");
    let appliance = Appliance::new(9);
    for low in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let weak = Appliance { recipient: bundle::RecipientPublic::from_bytes(low), ..Appliance::new(9) };
        let refused = hq.stranger().post(api::ENROL_PATH, &weak.request(&token)).await;
        assert_eq!((refused.status, refused.refusal().code.as_str()), (400, "malformed"));
        assert!(refused.refusal().reason.contains("low order"), "{:?}", refused.refusal());
    }
    assert_eq!(hq.stranger().post(api::ENROL_PATH, &appliance.request(&token)).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn strangers_get_the_root_and_nothing_else() {
    let hq = Hq::start().await;
    hq.publish("s-1", b"x");
    let object = hq.object(b"object");
    let stranger = hq.stranger();
    for path in ["/sites/s-1/metadata/timestamp.json", object.as_str(), "/", "/hq.sqlite"] {
        let got = stranger.get(path, &[]).await;
        assert_eq!((got.status, got.refusal().code.as_str()), (403, "no-certificate"), "{path}");
    }
    for path in [api::CHECK_IN_PATH, api::RENEW_PATH] {
        assert_eq!(stranger.send("POST", path, &[], b"{}").await.status, 403, "{path}");
    }
    assert_eq!(stranger.get("/v1/root", &[]).await.status, 200);
    let wrong = stranger.get(api::ENROL_PATH, &[]).await;
    assert_eq!((wrong.status, wrong.headers["allow"].as_str()), (405, "POST"));
    hq.end().await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_in_the_handshake() {
    let hq = Hq::start().await;
    let other = Hq::start().await;
    let foreign = other.site("s-1", 1).await;
    hq.publish("s-1", b"x");
    // Trusts the service it calls, shows what another CA gave it.
    let mixed = hq.caller(Some(other.certificate_for("s-1", now())));
    assert!(mixed.try_send("GET", "/sites/s-1/metadata/timestamp.json", &[], b"").await.is_err());
    // And a site does not talk to a service that its CA has not signed.
    let misled = Caller { address: hq.address, ..foreign };
    assert!(misled.try_send("GET", "/v1/root", &[], b"").await.is_err());
    hq.end().await;
    other.end().await;
}

#[tokio::test]
async fn the_services_own_certificate_is_nobodys_identity() {
    let hq = Hq::start().await;
    let chain = fs::read_to_string(hq.layout.online().join("server.pem")).unwrap();
    let key = fs::read_to_string(hq.layout.online().join("server.key")).unwrap();
    let caller = hq.caller(Some((chain, rcgen::KeyPair::from_pem(&key).unwrap())));
    assert!(caller.try_send("GET", "/v1/root", &[], b"").await.is_err());
    hq.end().await;
}

#[tokio::test]
async fn a_revoked_site_is_refused_on_its_open_connection_too() {
    let hq = Hq::start().await;
    let site = hq.site("s-1", 1).await;
    hq.publish("s-1", b"x");
    let mut open = site.connect().await.unwrap();
    let path = "/sites/s-1/metadata/timestamp.json";
    assert_eq!(request(&mut open, "GET", path, &[], b"").await.unwrap().status, 200);
    Db::open(&hq.layout.database()).unwrap().revoke(&"s-1".parse().unwrap(), now()).unwrap();
    let refused = request(&mut open, "GET", path, &[], b"").await.unwrap();
    assert_eq!((refused.status, refused.refusal().code.as_str()), (403, "revoked"));
    let renewal = site.post(api::RENEW_PATH, &RenewRequest { csr: csr(&Appliance::new(1).key) }).await;
    assert_eq!((renewal.status, renewal.refusal().code.as_str()), (403, "revoked"));
    hq.end().await;
}

#[tokio::test]
async fn a_certificate_that_hq_has_no_record_of_is_refused() {
    let hq = Hq::start().await;
    hq.publish("s-1", b"x");
    let (chain, key) = hq.certificate_for("s-1", now());
    let got = hq.caller(Some((chain, key))).get("/sites/s-1/metadata/timestamp.json", &[]).await;
    assert_eq!((got.status, got.refusal().code.as_str()), (403, "certificate-unknown"));
    hq.end().await;
}

#[tokio::test]
async fn an_expired_certificate_renews_and_does_nothing_else() {
    let hq = Hq::start().await;
    let day = |days: i64| UnixTime(now().0 - days * 86_400);
    // Issued 489 days ago, so it ended 399 days ago.
    let site = hq.recorded("s-1", day(489)).await;
    hq.publish("s-1", b"x");
    let path = "/sites/s-1/metadata/timestamp.json";
    let late = site.get(path, &[]).await;
    assert_eq!((late.status, late.refusal().code.as_str()), (403, "certificate-expired"));
    let check_in = site.send("POST", api::CHECK_IN_PATH, &[], b"{}").await;
    assert_eq!((check_in.status, check_in.refusal().code.as_str()), (403, "certificate-expired"));
    let key = rcgen::KeyPair::generate().unwrap();
    let fresh: Certificate = site.post(api::RENEW_PATH, &RenewRequest { csr: csr(&key) }).await.json();
    assert!(fresh.expires > now());
    assert_eq!(hq.caller(Some((fresh.certificate, key))).get(path, &[]).await.status, 200);
    // A week later it is too late even for that.
    let dead = hq.recorded("s-2", day(496)).await;
    assert!(dead.try_send("POST", api::RENEW_PATH, &[], b"{}").await.is_err());
    hq.end().await;
}

#[tokio::test]
async fn enrolment_is_refused_with_stable_codes_over_the_wire() {
    let hq = Hq::start().await;
    let token = token_for(&hq.layout, "s-1");
    let stranger = hq.stranger();
    let guess = EnrolmentToken { secret: "ab".repeat(16), ..token.clone() };
    let refused = stranger.post(api::ENROL_PATH, &Appliance::new(1).request(&guess)).await;
    assert_eq!((refused.status, refused.refusal().code.as_str()), (403, "proof-wrong"));
    let appliance = Appliance::new(1);
    for _ in 0..2 {
        assert_eq!(stranger.post(api::ENROL_PATH, &appliance.request(&token)).await.status, 200);
    }
    let refused = stranger.post(api::ENROL_PATH, &Appliance::new(2).request(&token)).await;
    assert_eq!((refused.status, refused.refusal().code.as_str()), (403, "token-used"));
    hq.end().await;
}

#[tokio::test]
async fn of_two_appliances_at_once_one_enrols() {
    let hq = Hq::start().await;
    let token = token_for(&hq.layout, "s-1");
    let stranger = hq.stranger();
    let (one, two) = (Appliance::new(1).request(&token), Appliance::new(2).request(&token));
    let (one, two) = tokio::join!(stranger.post(api::ENROL_PATH, &one), stranger.post(api::ENROL_PATH, &two));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
    hq.end().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_no_json_are_refused() {
    let hq = Hq::start().await;
    let site = hq.site("s-1", 1).await;
    let large = vec![b' '; api::MAX_BODY_BYTES + 1];
    for caller in [&site, &hq.stranger()] {
        let got = caller.send("POST", api::ENROL_PATH, &[], &large).await;
        assert_eq!((got.status, got.refusal().code.as_str()), (413, "too-large"));
    }
    // Without a length, too.
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", large.len(), String::from_utf8(large).unwrap());
    let mut open = site.connect().await.unwrap();
    let head = "POST /v1/check-in HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    open.write_all(head.as_bytes()).await.unwrap();
    open.write_all(chunk.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut open, false).await.unwrap().status, 413);

    let deep = "[".repeat(10_000);
    for body in [&b"garbage"[..], b"", b"{\"nonce\":1}", b"\xff\xfe", b"{}", b"{\"nonce\":\"zz\"}", deep.as_bytes()] {
        let got = site.send("POST", api::CHECK_IN_PATH, &[], body).await;
        assert_eq!((got.status, got.refusal().code.as_str()), (400, "malformed"), "{body:?}");
    }
    assert_eq!(site.send("POST", api::RENEW_PATH, &[], b"{\"csr\":\"x\"}").await.status, 400);
    hq.end().await;
}

#[tokio::test]
async fn a_site_that_checks_in_without_end_is_told_to_wait() {
    let hq = Hq::start().await;
    let (site, other) = (hq.site("s-1", 1).await, hq.site("s-2", 2).await);
    let mut open = site.connect().await.unwrap();
    let told = serde_json::to_vec(&CheckIn { nonce: "00".repeat(16), ..CheckIn::default() }).unwrap();
    let mut last = None;
    for _ in 0..200 {
        last = Some(request(&mut open, "POST", api::CHECK_IN_PATH, &[], &told).await.unwrap());
        if last.as_ref().is_some_and(|last| last.status != 200) {
            break;
        }
    }
    let last = last.unwrap();
    assert_eq!((last.status, last.refusal().code.as_str()), (429, "too-often"));
    assert!(last.headers.contains_key("retry-after"));
    assert_eq!(other.send("POST", api::CHECK_IN_PATH, &[], &told).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn what_a_site_states_about_its_sealing_key_waits_for_the_publisher() {
    let hq = Hq::start().await;
    let (site, other) = (hq.site("s-1", 1).await, hq.site("s-2", 2).await);
    let key = |seed| bundle::RecipientPublic::from_bytes([seed; 32]);
    let proof = "00".repeat(48);
    let stated =
        api::SealingKeyStatement { from: key(1), to: key(9), generation: ids::Generation(3), proof: proof.clone() };
    assert_eq!(hq.stranger().post(api::SEALING_KEY_PATH, &stated).await.status, 403);
    for body in [
        serde_json::json!({}),
        serde_json::json!({"from": "00".repeat(32), "to": key(9), "generation": 3, "proof": proof}),
    ] {
        let got = site.post(api::SEALING_KEY_PATH, &body).await;
        assert_eq!((got.status, got.refusal().code.as_str()), (400, "malformed"), "{body}");
    }
    // The site is the certificate's, and what one says is not another's.
    for _ in 0..50 {
        assert_eq!(site.post(api::SEALING_KEY_PATH, &stated).await.status, 200);
    }
    let all = Db::open_existing(&hq.layout.database()).unwrap().sealing_keys().unwrap();
    let text = serde_json::to_string(&stated).unwrap();
    assert_eq!(
        all.iter().map(|(site, said)| (site.as_str(), said[0].statement.clone())).collect::<Vec<_>>(),
        [("s-1", text)]
    );
    let mut last = 0;
    for seed in 2..5 {
        last = site
            .post(api::SEALING_KEY_PATH, &api::SealingKeyStatement { from: key(seed), ..stated.clone() })
            .await
            .status;
    }
    assert_eq!(last, 429);
    assert_eq!(other.post(api::SEALING_KEY_PATH, &stated).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn what_is_no_tls_or_no_http_harms_nobody() {
    let hq = Hq::start().await;
    let mut plain = TcpStream::connect(hq.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    let mut open = hq.stranger().connect().await.unwrap();
    open.write_all(b"\0\0\0 what\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut open, false).await.unwrap().status, 400);
    let mut open = hq.stranger().connect().await.unwrap();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEADER_BYTES));
    open.write_all(long.as_bytes()).await.unwrap();
    assert!(matches!(read_answer(&mut open, false).await.unwrap().status, 414 | 431));
    assert_eq!(hq.stranger().get("/v1/root", &[]).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn one_site_cannot_take_all_connections() {
    let hq = Hq::start().await;
    let (greedy, modest) = (hq.site("s-1", 1).await, hq.site("s-2", 2).await);
    let mut open = Vec::new();
    for _ in 0..MAX_SITE_CONNECTIONS {
        let mut connection = greedy.connect().await.unwrap();
        assert!(request(&mut connection, "GET", "/v1/root", &[], b"").await.is_ok());
        open.push(connection);
    }
    assert!(greedy.try_send("GET", "/v1/root", &[], b"").await.is_err());
    assert_eq!(modest.get("/v1/root", &[]).await.status, 200);
    hq.end().await;
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_the_service() {
    let hq = Hq::start().await;
    let mut idle = hq.stranger().connect().await.unwrap();
    assert_eq!(request(&mut idle, "GET", "/v1/root", &[], b"").await.unwrap().status, 200);
    hq.end().await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
