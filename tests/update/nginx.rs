//! The published tree behind plain nginx, where that is installed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lineside::api::{CheckIn, EnrolmentToken};
use lineside::ids::Generation;
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::client::{Client, ClientLimits};
use lineside::update::enrol::enrol_with;
use lineside::update::tls::Anchors;
use lineside::update::{Updater, UpdaterSettings};

use crate::client::Memory;
use crate::hq::Hq;
use crate::pki::{NOW, SetClock, right_time};

struct Nginx {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// Serves `tree` with a certificate of HQ's CA; `None` where there is no nginx.
    fn start(hq: &Hq) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let (chain, key) = hq.world().ca.server_pem();
        std::fs::write(dir.path().join("chain.pem"), chain).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "user root; daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
                 access_log {at}/access.log;
                 client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                 server {{
                     listen 127.0.0.1:{port} ssl;
                     ssl_certificate {at}/chain.pem; ssl_certificate_key {at}/key.pem;
                     ssl_protocols TLSv1.3;
                     root {at}/tree;
                 }}
             }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(dir.path().join("error.log")).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let nginx = Self { child, url: format!("https://127.0.0.1:{port}"), dir };
        nginx.publish(hq);
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(nginx);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{}", std::fs::read_to_string(nginx.dir.path().join("error.log")).unwrap_or_default());
    }

    fn publish(&self, hq: &Hq) {
        for (path, bytes) in &hq.world().tree {
            let path = self.dir.path().join("tree").join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_if_new(&path, bytes);
        }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(self.dir.path().join("access.log")).unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

fn write_if_new(path: &Path, bytes: &[u8]) {
    if std::fs::read(path).ok().as_deref() != Some(bytes) {
        std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
    }
}

#[tokio::test]
async fn a_site_is_fed_by_plain_nginx() {
    let hq = Hq::start().await;
    let Some(nginx) = Nginx::start(&hq) else {
        eprintln!("no nginx here");
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(&state.path().join("state")).unwrap();
    let token = EnrolmentToken { repository: Some(nginx.url.clone()), ..hq.token() };
    let identity = enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap();
    let (clock, report) = (Box::new(SetClock::new(NOW, true)), Arc::new(CheckIn::default));
    let mut updater = Updater::new(store, identity, UpdaterSettings::default(), Stats::new(), clock, report);
    assert_eq!(updater.poll_once().await.state.code(), "no-release");

    let large: Vec<u8> = (0..900_000_u32).map(|at| (at % 251) as u8).collect();
    hq.world().publish(&[("a.cfg", b"one"), ("b.cfg", &large)]);
    nginx.publish(&hq);
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(1)), "{}", outcome.reason);
    assert_eq!(updater.poll_once().await.state.code(), "ok");
    assert!(nginx.log().lines().last().unwrap().contains("timestamp.json HTTP/1.1\" 304"), "{}", nginx.log());

    // A download that was cut goes on in the middle.
    let (path, sealed) = {
        let world = hq.world();
        let (path, sealed) = world.tree.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
        (path.clone(), sealed.clone())
    };
    let anchors = Anchors::Pinned(vec![hq.world().ca.der.clone()]);
    let client = Client::new(anchors, None, right_time(), ClientLimits::default()).unwrap();
    let begun = Memory { bytes: sealed[..65_552].to_vec(), ..Memory::default() };
    let whole = client.object(&format!("{}{path}", nginx.url), sealed.len() as u64, begun).await.unwrap();
    assert!(whole.bytes == sealed && whole.restarts == 0);
    assert!(nginx.log().contains("HTTP/1.1\" 206"), "{}", nginx.log());
}
