#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use rcgen::PublicKeyData as _;

use super::*;
use crate::db::schema::FORMAT_1;
use crate::db::{Change, MAX_CHANGES};
use api::check_in::report::{FileReport, Pulls};
use api::check_in::{PURPOSE, PageHeader, PageKey, StateChanges};
use api::{Alert, PhoneSeen};

fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("hq.sqlite")).unwrap();
    db.published_now(&[(site(), "Bern".to_owned(), Generation(1))]).unwrap();
    (dir, db)
}

fn site() -> SiteId {
    "s-1".parse().unwrap()
}

/// A box that tells HQ.
struct Told {
    key: PageKey,
    box_id: &'static str,
    counter: u64,
    base: u64,
    before: StateMap,
}

impl Told {
    fn new(box_id: &'static str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let page_key = PageKey::from_pkcs8(&key.serialize_der()).unwrap();
        assert_eq!(page_key.public(), key.der_bytes());
        Self { key: page_key, box_id, counter: 0, base: 0, before: StateMap::new() }
    }

    fn page(&mut self, report: &SiteReport, generation: u64) -> Page {
        let state = report.state();
        let mut changes: StateChanges =
            self.before.keys().filter(|key| !state.contains_key(*key)).map(|key| (key.clone(), None)).collect();
        let new = state.iter().filter(|(key, value)| self.before.get(*key) != Some(*value));
        changes.extend(new.map(|(key, value)| (key.clone(), Some(value.clone()))));
        self.counter += 1;
        let header = PageHeader {
            purpose: PURPOSE.to_owned(),
            fleet: "f-1".parse().unwrap(),
            site: site(),
            box_id: self.box_id.to_owned(),
            counter: self.counter,
            base: self.base,
            generation: Generation(generation),
            time: UnixTime(5_000),
            nonce: "00".repeat(16),
            state: digest(&state),
            more: false,
        };
        (self.before, self.base) = (state, self.counter);
        Page::sign(header, changes, &self.key).unwrap()
    }

    fn anew(&mut self) {
        (self.before, self.base) = (StateMap::new(), 0);
    }
}

fn file(name: &str) -> FileReport {
    FileReport {
        name: name.to_owned(),
        outcome: "delivered".to_owned(),
        at: UnixTime(1_800_000_000),
        deliveries: 3,
        failures: 0,
        generation: Generation(7),
        fetched: "0123456789ab".to_owned(),
        wanted: "0123456789ab".to_owned(),
    }
}

fn report(phones: u32) -> SiteReport {
    let mut report = SiteReport::default();
    report.appliance.version = "0.1.0".to_owned();
    report.appliance.state = "ok".to_owned();
    report.appliance.dhcp_mode = "inform".to_owned();
    report.now.clock_synchronised = true;
    report.pulls = Some(Pulls::then(None, Generation(7), UnixTime(1_800_000_000)));
    report.counters.by = ["tftp.delivered", "tftp.bytes", "dhcp.ack", "dhcp.augment.ack", "update.poll-ok"]
        .map(|name| (name.to_owned(), 123))
        .into();
    for number in 0..phones {
        let mac: MacAddr = format!("0200{number:08x}").parse().unwrap();
        let own = format!("SEP{}.cnf.xml", mac.upper());
        let files = [own.as_str(), "dialplan.xml", "ringlist.xml", "sip88xx.12-8-1.loads"].map(file).into();
        report.phones.insert(mac, PhoneReport { known: number > 0, files, ..PhoneReport::default() });
    }
    report
}

fn take(db: &Db, page: &Page) -> Taken {
    db.take(&site(), UnixTime(5_001), page, &[7; 500]).unwrap().unwrap()
}

#[test]
fn pages_build_on_each_other_and_each_phone_has_a_row() {
    let (_dir, db) = db();
    let (mut told, mut said) = (Told::new("0011223344556677"), report(3));
    let taken = take(&db, &told.page(&said, 7));
    assert_eq!((taken.verdict, taken.counter, taken.site_time), (PageVerdict::Taken, 1, Some(UnixTime(5_000))));
    assert_eq!(db.newest_site_time().unwrap(), Some(UnixTime(5_000)));
    said.phones.pop_last();
    said.now.disk_free_bytes = 9;
    said.now.clock_synchronised = false;
    assert_eq!(take(&db, &told.page(&said, 8)).site_time, None);
    let heard = db.heard(&site()).unwrap().unwrap();
    assert_eq!(heard.report, said);
    assert_eq!(
        (heard.generation, heard.phones, heard.signed_by.as_deref()),
        (Generation(8), (2, 1), Some("0011223344556677"))
    );
    assert_eq!(db.latest().unwrap()[&site()].phones, (2, 1));
    let rows: u32 = db.read().query_row("SELECT count(*) FROM phone_state", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
}

#[test]
fn what_is_kept_proves_itself_again() {
    let (_dir, db) = db();
    let mut told = Told::new("0011223344556677");
    take(&db, &told.page(&report(5), 7));
    let (header, signature): (String, String) = db
        .read()
        .query_row("SELECT header, signature FROM site_state", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    api::check_in::verify(&header, &signature, told.key.public()).unwrap();
    let header: PageHeader = serde_json::from_str(&header).unwrap();
    assert_eq!(digest(&state(&db.read(), &site()).unwrap()), header.state);
    // Whoever changes a row at the host cannot change that.
    db.read().execute("UPDATE phone_state SET value = replace(value, 'delivered', 'timed-out')", []).unwrap();
    assert_ne!(digest(&state(&db.read(), &site()).unwrap()), header.state);
}

#[test]
fn old_foreign_and_unknown_pages_change_nothing_and_say_what_hq_has() {
    let (_dir, db) = db();
    let mut told = Told::new("0011223344556677");
    let first = told.page(&report(3), 7);
    take(&db, &first);
    let second = told.page(&report(4), 7);
    take(&db, &second);
    let kept = db.heard(&site()).unwrap();
    for page in [&first, &second] {
        let taken = take(&db, page);
        assert_eq!((taken.verdict, taken.counter, taken.state), (PageVerdict::OldCounter, 2, second.header.state));
    }
    // A page that builds on one that never came.
    told.page(&report(5), 7);
    assert_eq!(take(&db, &told.page(&report(6), 7)).verdict, PageVerdict::Resync);
    // Another box that builds on what this one told.
    let mut other = Told::new("8899aabbccddeeff");
    (other.base, other.before, other.counter) = (2, report(4).state(), 7);
    let taken = take(&db, &other.page(&report(3), 7));
    assert_eq!((taken.verdict, taken.counter, taken.state), (PageVerdict::Resync, 0, digest(&StateMap::new())));
    assert_eq!(db.heard(&site()).unwrap(), kept);
}

#[test]
fn a_restored_hq_a_damaged_row_and_another_box_are_told_everything_anew() {
    let (dir, db) = db();
    let mut told = Told::new("0011223344556677");
    take(&db, &told.page(&report(3), 7));
    let backup = dir.path().join("backup.sqlite");
    db.read().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    take(&db, &told.page(&report(4), 7));
    let restored = Db::open(&backup).unwrap();
    let turned_away = take(&restored, &told.page(&report(5), 7));
    assert_eq!((turned_away.verdict, turned_away.counter), (PageVerdict::Resync, 1));
    told.anew();
    assert_eq!(take(&restored, &told.page(&report(5), 7)).verdict, PageVerdict::Taken);
    restored.read().execute("UPDATE phone_state SET value = '{}' WHERE mac = '020000000002'", []).unwrap();
    assert_eq!(take(&restored, &told.page(&report(6), 7)).verdict, PageVerdict::Resync);
    told.anew();
    assert_eq!(take(&restored, &told.page(&report(6), 7)).verdict, PageVerdict::Taken);
    let mut other = Told::new("8899aabbccddeeff");
    assert_eq!(take(&restored, &other.page(&report(6), 7)).verdict, PageVerdict::Taken);
    let changes = restored.changes(&site(), 5).unwrap();
    assert_eq!((changes[0].kind.as_str(), changes[0].now.as_str()), ("box", "8899aabbccddeeff"));
}

#[test]
fn alerts_begin_and_end_as_changes_of_which_a_bounded_number_stays() {
    let (_dir, db) = db();
    let (mut told, mut said) = (Told::new("0011223344556677"), report(1));
    take(&db, &told.page(&said, 7));
    said.alerts.push(Alert { code: "scan".into(), text: "x".into(), since: UnixTime(1), count: 1 });
    take(&db, &told.page(&said, 7));
    // More of the same is no change.
    said.alerts[0].count = 2;
    take(&db, &told.page(&said, 7));
    said.alerts.clear();
    said.appliance.state = "stale".to_owned();
    take(&db, &told.page(&said, 8));
    let changes = db.changes(&site(), 10).unwrap();
    let said_changes: Vec<(&str, &str, &str)> =
        changes.iter().rev().map(|Change { kind, was, now, .. }| (kind.as_str(), was.as_str(), now.as_str())).collect();
    let wanted =
        [("alert", "", "scan: x"), ("generation", "7", "8"), ("state", "ok", "stale"), ("alert", "scan: x", "")];
    assert_eq!(said_changes, wanted);
    for number in 0..MAX_CHANGES + 50 {
        take(&db, &told.page(&said, u64::from(number)));
    }
    assert_eq!(db.changes(&site(), 1_000).unwrap().len(), usize::try_from(MAX_CHANGES).unwrap());
}

#[test]
fn a_check_in_of_format_1_is_shown_as_unsigned_and_replaces_a_signed_one() {
    let (_dir, db) = db();
    let mut told = Told::new("0011223344556677");
    take(&db, &told.page(&report(3), 7));
    let phone = PhoneSeen {
        mac: "020000000009".parse().unwrap(),
        known: true,
        last_seen: UnixTime(1),
        file: "a".into(),
        outcome: "delivered".into(),
        bytes: 0,
        retransmissions: 0,
        milliseconds: 0,
        generation: Generation(7),
    };
    let old = CheckIn { state: "ok".into(), generation: Generation(7), phones: vec![phone], ..CheckIn::default() };
    db.note(&site(), UnixTime(6_000), &old).unwrap();
    let heard = db.heard(&site()).unwrap().unwrap();
    assert_eq!(heard, Heard::unsigned(UnixTime(6_000), &old));
    assert_eq!((heard.signed_by, heard.phones), (None, (1, 0)));
    told.anew();
    assert_eq!(take(&db, &told.page(&report(3), 7)).verdict, PageVerdict::Taken);
}

/// A database as version 1 made it: 100 bodies a site, of which the newest counts.
fn of_format_1(path: &Path) {
    let old = Connection::open(path).unwrap();
    old.execute_batch(FORMAT_1).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        "INSERT INTO sites (id, name) VALUES ('s-1', 'Bern'), ('s-2', 'Chur'), ('s-3', 'Davos');
         INSERT INTO check_ins (site, at, body) VALUES ('s-2', 7, '{');",
    )
    .unwrap();
    for n in 0..100 {
        let body = format!(
            r#"{{"version":"0.1.0","generation":{n},"state":"ok","clock-synchronised":true,"time":"2027-01-15T08:00:00Z",
                "uptime-seconds":5,"disk-free-bytes":6,"dhcp-mode":"all","dhcp-servers":[],"counters":{{}},"nonce":"",
                "phones":[{{"mac":"00:04:f2:aa:bb:cc","known":true,"last-seen":"2027-01-15T08:00:00Z","file":"a.cfg",
                "outcome":"delivered","generation":{n}}}],
                "alerts":[{{"code":"scan","text":"x","since":"2027-01-15T08:00:00Z","count":2}}]}}"#
        );
        old.execute("INSERT INTO check_ins (site, at, body) VALUES ('s-1', ?1, ?2)", params![1_000 + n, body]).unwrap();
    }
}

#[test]
fn a_database_of_format_1_becomes_one_of_today_with_what_its_sites_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hq.sqlite");
    of_format_1(&path);
    for _ in 0..2 {
        let db = Db::open_existing(&path).unwrap();
        let latest = db.latest().unwrap();
        assert_eq!(latest.len(), 2);
        let bern = db.heard(&site()).unwrap().unwrap();
        assert_eq!((bern.at, bern.generation, bern.phones), (UnixTime(1_099), Generation(99), (1, 0)));
        assert_eq!((bern.report.appliance.dhcp_mode.as_str(), bern.report.alerts.len()), ("all", 1));
        assert_eq!(latest[&"s-2".parse::<SiteId>().unwrap()].report.appliance.state, "unreadable");
        assert_eq!(db.newest_site_time().unwrap(), Some("2027-01-15T08:00:00Z".parse().unwrap()));
        let tables: u32 = db
            .read()
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'check_ins%'", [], |row| row.get(0))
            .unwrap();
        assert_eq!((tables, db.sites().unwrap().len()), (0, 3));
    }
}

#[test]
fn a_site_of_ten_phones_takes_few_kilobytes_however_often_it_checks_in() {
    let (_dir, db) = db();
    let bytes = |table: &str| -> i64 {
        let sql = format!("SELECT coalesce(sum(pgsize - unused), 0) FROM dbstat WHERE name LIKE '{table}%'");
        db.read().query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let (mut told, mut said) = (Told::new("0011223344556677"), report(10));
    take(&db, &told.page(&said, 7));
    for round in 0..500 {
        said.now.uptime_seconds = round;
        said.alerts = (0..round % 2)
            .map(|_| Alert { code: "scan".into(), text: "x".repeat(80), since: UnixTime(1), count: 1 })
            .collect();
        take(&db, &told.page(&said, 7));
    }
    let [site, phones, changes] = ["site_state", "phone_state", "site_change"].map(bytes);
    println!("10 phones: site_state {site}, phone_state {phones}, site_change {changes} bytes");
    assert!(site + phones < 8_000 && changes < 40_000);
}
