//! A phone brings its log.

use std::sync::Mutex;
use std::time::Instant;

use super::site::{Client, TestSite};
use super::*;
use crate::endpoint::tests::shelf::{catalog_with, shelf};
use access::{LogError, OwnLog};
use bundle::SiteSettings;
use ids::UnixTime;

const REFUSED: &[u8] = b"\0\x05\0\x02Access violation\0";
const FULL: &[u8] = b"\0\x05\0\x03Disk full or allocation exceeded\0";

/// What was kept, or why nothing is.
#[derive(Default)]
struct Drawer {
    kept: Mutex<Vec<(String, usize)>>,
    full: bool,
}

impl Logs for Drawer {
    fn keep(&self, log: OwnLog, text: &[u8], _: UnixTime, _: Instant) -> Result<(), LogError> {
        if self.full {
            return Err(LogError::TooOften);
        }
        self.kept.lock().unwrap().push((log.to_string(), text.len()));
        Ok(())
    }
}

fn start(full: bool) -> (TestSite, Arc<Drawer>) {
    start_with(full, |_| {})
}

fn start_with(full: bool, change: impl FnOnce(&mut Service)) -> (TestSite, Arc<Drawer>) {
    let drawer = Arc::new(Drawer { full, ..Drawer::default() });
    let logs: Arc<dyn Logs> = Arc::clone(&drawer) as _;
    let site = TestSite::start_with(shelf(), |service| {
        service.logs = Some(logs);
        change(service);
    });
    let mut settings = SiteSettings::default();
    settings.tftp.accept_logs = true;
    site.catalog.send_replace(Arc::new(catalog_with(8, settings)));
    (site, drawer)
}

async fn ask(phone: &Client, name: &str) -> (Vec<u8>, SocketAddrV4) {
    phone.send(format!("\0\u{2}{name}\0octet\0").as_bytes(), phone.server).await;
    phone.hear().await
}

async fn data(phone: &Client, block: u8, length: usize, to: SocketAddrV4) {
    phone.send(&[&[0, 3, 0, block][..], &vec![b'x'; length]].concat(), to).await;
}

#[tokio::test]
async fn a_log_is_kept_before_its_last_block_is_acknowledged() {
    let (site, drawer) = start(false);
    let phone = site.client(PHONE).await;
    let (ack, from) = ask(&phone, "0004F2000002-app.log").await;
    assert_eq!(ack, [0, 4, 0, 0]);
    assert_ne!(from.port(), site.server.port(), "RFC 1350 §4");
    data(&phone, 1, 512, from).await;
    assert_eq!(phone.hear().await.0, [0, 4, 0, 1]);
    data(&phone, 2, 10, from).await;
    assert_eq!(phone.hear().await.0, [0, 4, 0, 2]);
    assert_eq!(*drawer.kept.lock().unwrap(), [("0004f2000002-app.log".to_owned(), 522)]);
}

#[tokio::test]
async fn options_of_an_upload_are_answered_and_one_too_large_is_refused_by_its_size() {
    let (site, drawer) = start(false);
    let phone = site.client(PHONE).await;
    let asked = b"\0\x020004f2000002-boot.log\0octet\0tsize\x00900\0blksize\x001024\0windowsize\x008\0";
    phone.send(asked, site.server).await;
    let (oack, from) = phone.hear().await;
    assert_eq!(oack, b"\0\x06tsize\x00900\0blksize\x001024\0windowsize\x001\0");
    data(&phone, 1, 900, from).await;
    assert_eq!(phone.hear().await.0, [0, 4, 0, 1]);
    assert_eq!(drawer.kept.lock().unwrap().len(), 1);
    phone.send(b"\0\x020004f2000002-app.log\0octet\0tsize\x00300000\0", site.server).await;
    assert_eq!(phone.hear().await.0, FULL);
}

#[tokio::test]
async fn what_is_not_kept_ends_with_error_3() {
    let (site, _) = start(true);
    let phone = site.client(PHONE).await;
    let (_, from) = ask(&phone, "0004f2000002-app.log").await;
    data(&phone, 1, 10, from).await;
    assert_eq!(phone.hear().await.0, FULL);
}

#[tokio::test]
async fn everything_but_a_phones_own_log_is_refused_alike() {
    let (site, drawer) = start(false);
    let phone = site.client(PHONE).await;
    for name in ["0004f2000003-app.log", "0004f2000002-phone.cfg", "SEP0004F2000002.cnf.xml", "../x", "", "new.cfg"] {
        assert_eq!(ask(&phone, name).await.0, REFUSED, "{name}");
    }
    phone.send(b"\0\x020004f2000002-app.log\0mail\0", site.server).await;
    assert_eq!(phone.hear().await.0, REFUSED);
    // Nobody knows yet who this is: no waiting, as for a file.
    let stranger = site.client(STRANGER).await;
    assert_eq!(ask(&stranger, "0004f2000002-app.log").await.0, REFUSED);
    assert!(drawer.kept.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_address_that_another_device_takes_writes_nothing_more() {
    let (site, drawer) = start(false);
    let phone = site.client(PHONE).await;
    let (_, from) = ask(&phone, "0004f2000002-app.log").await;
    site.devices.write().unwrap().neighbour(PHONE, OTHER_MAC);
    data(&phone, 1, 10, from).await;
    assert!(phone.hears_nothing().await);
    assert!(drawer.kept.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_phone_that_begins_its_log_again_and_again_takes_one_place() {
    let (site, drawer) = start_with(false, |service| service.max_uploads = 2);
    let mut ports = Vec::new();
    for _ in 0..5 {
        let phone = site.client(PHONE).await;
        let (ack, from) = ask(&phone, "0004f2000002-app.log").await;
        assert_eq!(ack, [0, 4, 0, 0]);
        ports.push((phone, from));
    }
    let other = site.client(OTHER).await;
    assert_eq!(ask(&other, "0004f2000003-app.log").await.0, [0, 4, 0, 0]);

    let (former, from) = &ports[3];
    data(former, 1, 10, *from).await;
    assert!(former.hears_nothing().await);
    assert!(drawer.kept.lock().unwrap().is_empty());
    let (newest, from) = &ports[4];
    data(newest, 1, 10, *from).await;
    assert_eq!(newest.hear().await.0, [0, 4, 0, 1]);
    assert_eq!(*drawer.kept.lock().unwrap(), [("0004f2000002-app.log".to_owned(), 10)]);
}

#[tokio::test]
async fn uploads_are_few_at_a_time_and_leave_room_for_reading() {
    let (site, _) = start_with(false, |service| service.max_uploads = 2);
    let phone = site.client(PHONE).await;
    assert_eq!(ask(&phone, "0004f2000002-app.log").await.0, [0, 4, 0, 0]);
    let again = site.client(PHONE).await;
    let (ack, from) = ask(&again, "0004f2000002-boot.log").await;
    assert_eq!(ack, [0, 4, 0, 0]);
    let other = site.client(OTHER).await;
    assert_eq!(ask(&other, "0004f2000003-app.log").await.0, REFUSED);
    assert_eq!(other.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n", "even by a phone that brings so many");

    data(&again, 1, 10, from).await;
    assert_eq!(again.hear().await.0, [0, 4, 0, 1]);
    let other = site.client(OTHER).await;
    assert_eq!(ask(&other, "0004f2000003-app.log").await.0, [0, 4, 0, 0], "the place is free again");
}
