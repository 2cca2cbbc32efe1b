#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use api::CheckIn;

fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("hq.sqlite")).unwrap();
    (dir, db)
}

fn site() -> SiteId {
    "s-1".parse().unwrap()
}

#[test]
fn a_published_generation_never_goes_down() {
    let (_dir, db) = db();
    for (name, generation) in [("Bern", 5), ("Bern Süd", 3)] {
        db.published_now(&[(site(), name.to_owned(), Generation(generation))]).unwrap();
    }
    assert_eq!(db.published(&site()).unwrap(), Generation(5));
    assert_eq!(db.sites().unwrap()[0].name, "Bern Süd");
    assert_eq!(db.published(&"s-none".parse().unwrap()).unwrap(), Generation(0));
}

#[test]
fn all_files_of_the_database_are_private_and_writes_reach_the_disk() {
    let (dir, db) = db();
    db.published_now(&[(site(), "Bern".to_owned(), Generation(1))]).unwrap();
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for path in files {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let setting =
        |name| db.read().pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(setting("journal_mode"), rusqlite::types::Value::Text("wal".to_owned()));
    assert_eq!(setting("synchronous"), rusqlite::types::Value::Integer(2));
    assert_eq!(setting("foreign_keys"), rusqlite::types::Value::Integer(1));
}

#[test]
fn a_newer_format_is_left_alone() {
    let (dir, db) = db();
    db.read().pragma_update(None, "user_version", 3).unwrap();
    drop(db);
    let error = format!("{:#}", Db::open(&dir.path().join("hq.sqlite")).err().unwrap());
    assert!(error.contains("format 3, newer than this version knows"), "{error}");
    assert!(Db::open_existing(&dir.path().join("none.sqlite")).is_err());
}

#[test]
fn two_processes_write_side_by_side() {
    let (dir, one) = db();
    let two = Db::open(&dir.path().join("hq.sqlite")).unwrap();
    one.published_now(&[(site(), "Bern".to_owned(), Generation(1))]).unwrap();
    one.note(&site(), UnixTime(1), &CheckIn::default()).unwrap();
    let one = &one;
    std::thread::scope(|scope| {
        for db in [one, &two] {
            scope.spawn(move || {
                for n in 0..30 {
                    let of = if std::ptr::eq(db, one) { "one" } else { "two" };
                    let told = CheckIn { version: format!("{of} {n}"), ..CheckIn::default() };
                    db.note(&site(), UnixTime(1), &told).unwrap();
                }
            });
        }
    });
    let kept: u32 = two.read().query_row("SELECT max(n) FROM site_change", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 60);
}

fn stated(from: u8, to: u8) -> api::SealingKeyStatement {
    let key = |seed| bundle::RecipientPublic::from_bytes([seed; 32]);
    api::SealingKeyStatement { from: key(from), to: key(to), generation: Generation(1), proof: "00".repeat(48) }
}

#[test]
fn the_newest_statements_of_a_site_are_kept_at_a_pace_and_no_more_of_them() {
    let (_dir, db) = db();
    let other: SiteId = "s-2".parse().unwrap();
    db.published_now(&[(site(), "A".to_owned(), Generation(1)), (other.clone(), "B".to_owned(), Generation(1))])
        .unwrap();
    let keep = |site: &SiteId, from, to, at| db.keep_sealing_key(site, &stated(from, to), UnixTime(at)).unwrap();
    assert!(keep(&site(), 1, 2, 10_000) && keep(&site(), 1, 2, 10_001), "the same again is no news");
    assert!(keep(&site(), 3, 4, 10_002));
    assert!(!keep(&site(), 5, 6, 10_003), "two in an hour are what two appliances have to say");
    assert!(keep(&other, 5, 6, 10_003));
    for n in 0..20 {
        assert!(keep(&site(), 5 + n, 6, 20_000 + i64::from(n) * 3_601));
    }
    // A clock that was set back keeps nobody out.
    assert!(keep(&site(), 1, 2, 5_000));
    let all = db.sealing_keys().unwrap();
    let text = |from, to| serde_json::to_string(&stated(from, to)).unwrap();
    let of_site: Vec<_> = all[&site()].iter().map(|one| one.statement.clone()).collect();
    assert_eq!(of_site, [text(24, 6), text(1, 2)]);
    // One that took the place of what the publisher saw stays.
    let seen = all[&site()][1].clone();
    assert!(keep(&site(), 1, 9, 200_000));
    db.drop_sealing_key(&site(), &seen).unwrap();
    let left: Vec<_> = db.sealing_keys().unwrap()[&site()].iter().map(|one| one.statement.clone()).collect();
    assert_eq!(left, [text(24, 6), text(1, 9)]);
}

#[test]
fn a_database_of_before_gets_the_table_of_statements() {
    let (dir, db) = db();
    db.read().execute_batch("DROP TABLE sealing_keys").unwrap();
    drop(db);
    let db = Db::open_existing(&dir.path().join("hq.sqlite")).unwrap();
    assert!(db.sealing_keys().unwrap().is_empty());
}
