//! A whole HQ for one site, in memory: keys, published tree, enrolment, renewal, check-in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use lineside::access::firmware_path;
use lineside::api::{
    self, Certificate, CheckIn, CheckInAnswer, EnrolRequest, EnrolmentToken, Refusal, RenewRequest,
    SealingKeyStatement, SignedTime, TokenKeys,
};
use lineside::bundle::{
    Class, FileEntry, Inventory, Manifest, ObjectRef, Packing, RecipientPublic, Scope, Shard, SiteSettings, Totals,
};
use lineside::ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use lineside::seal::{PublisherSecret, manifest, object};
use lineside::tuf::schema::{
    EXTRA_FIELD, FIRMWARE, Hashes, MetaFile, RoleKeys, Root, Snapshot, Target, Targets, Timestamp, key_json,
};
use lineside::tuf::{SigningKey, sign};
use serde_json::json;

use crate::pki::{Ca, NOW, Shown, days};
use crate::server::{Reply, Request, Server};

pub const SECRET: &str = "00112233445566778899aabbccddeeff";

pub fn fleet() -> FleetId {
    "f-1".parse().unwrap()
}

pub fn site() -> SiteId {
    "s-1".parse().unwrap()
}

/// Answers in HQ's place, or leaves it to HQ.
pub type Hostile = Box<dyn FnMut(&Request) -> Option<Reply> + Send>;

pub struct World {
    pub ca: Ca,
    /// Path to content, as a web server has it.
    pub tree: BTreeMap<String, Vec<u8>>,
    pub now: UnixTime,
    pub newest: u64,
    pub version: u64,
    pub root_version: u64,
    pub expires: UnixTime,
    pub window: Option<(u16, u16)>,
    pub recipient: Option<RecipientPublic>,
    /// Another key that releases are sealed to.
    pub also: Option<RecipientPublic>,
    pub settings: SiteSettings,
    /// What the site stated about its sealing key; `None` if this HQ knows nothing of such statements.
    pub stated: Option<Vec<SealingKeyStatement>>,
    /// Who used the token.
    pub used_by: Option<String>,
    pub refuse: Option<&'static str>,
    /// Takes over where it answers.
    pub hostile: Option<Hostile>,
    /// Everything is done, but answers to POST are lost on the way.
    pub lose_answers: bool,
    /// Check-ins are answered with this nonce.
    pub replay_nonce: Option<String>,
    /// Certificates are issued for this key, whatever was asked.
    pub issue_for: Option<rcgen::KeyPair>,
    /// So many requests more are answered, then every connection breaks.
    pub answers_left: Option<u32>,
    /// What clients heard: whole bodies of check-ins.
    pub check_ins: Vec<CheckIn>,
    pub certificate: (UnixTime, UnixTime),
    pub root_key: SigningKey,
    pub targets_key: SigningKey,
    pub online_key: SigningKey,
    /// Signs check-in answers; another one than `online_key` in a test of forgery.
    pub answer_key: SigningKey,
    /// Says in metadata whose it is.
    pub named: SiteId,
    /// The firmware list, if there is one: its version, and when it expires.
    pub firmware: Option<(u64, UnixTime)>,
    pub firmware_key: SigningKey,
    /// What time it is, as the root says.
    pub root_time: Option<UnixTime>,
}

pub struct Hq {
    pub server: Server,
    /// The certificate that it shows to new connections.
    pub shown: Arc<Shown>,
    world: Arc<Mutex<World>>,
}

impl Hq {
    pub async fn start() -> Self {
        let online_key = SigningKey::from_seed(&[3; 32]);
        let mut world = World {
            ca: Ca::new(),
            tree: BTreeMap::new(),
            now: NOW,
            newest: 0,
            version: 0,
            root_version: 1,
            expires: days(30),
            window: None,
            recipient: None,
            also: None,
            settings: SiteSettings::default(),
            stated: Some(Vec::new()),
            used_by: None,
            refuse: None,
            hostile: None,
            lose_answers: false,
            issue_for: None,
            replay_nonce: None,
            answers_left: None,
            check_ins: Vec::new(),
            certificate: (days(-1), days(89)),
            root_key: SigningKey::from_seed(&[1; 32]),
            targets_key: SigningKey::from_seed(&[2; 32]),
            answer_key: online_key.clone(),
            online_key,
            named: site(),
            firmware: None,
            firmware_key: SigningKey::from_seed(&[4; 32]),
            root_time: None,
        };
        world.publish_root(1, days(365));
        let mut config = world.ca.server(days(-1), days(400));
        let shown = Shown::new(config.cert_resolver.clone());
        config.cert_resolver = shown.clone();
        let world = Arc::new(Mutex::new(world));
        let shared = world.clone();
        let server = Server::start(config, move |request| shared.lock().unwrap().answer(request)).await;
        Self { server, world, shown }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The published tree alone, elsewhere.
    pub async fn another_host(&self) -> Server {
        let (config, shared) = (self.world().ca.good_server(), self.world.clone());
        Server::start(config, move |request| shared.lock().unwrap().answer(request)).await
    }

    pub fn token(&self) -> EnrolmentToken {
        let world = self.world();
        EnrolmentToken {
            hq: format!("{}/", self.server.url),
            repository: None,
            fleet: fleet(),
            site: site(),
            root_sha256: Digest::of(&world.tree[api::ROOT_PATH]),
            ca_sha256: world.ca.digest(),
            token: "t-1".to_owned(),
            secret: SECRET.to_owned(),
            expires: days(3),
        }
    }
}

impl World {
    pub fn publish_root(&mut self, version: u64, expires: UnixTime) {
        let role =
            |key: &SigningKey| RoleKeys { keyids: vec![key.public().id()], threshold: 1, extra: BTreeMap::new() };
        let all = [&self.root_key, &self.targets_key, &self.online_key, &self.firmware_key];
        let firmware = role(&self.firmware_key);
        let mut said = json!({ "fleet": fleet(), "ca": [self.ca.pem], "firmware": firmware });
        if let Some(time) = self.root_time {
            said["time"] = json!(time);
        }
        let root = Root {
            kind: "root".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version,
            expires,
            consistent_snapshot: true,
            keys: all.iter().map(|key| (key.public().id(), key_json(&key.public()))).collect(),
            roles: BTreeMap::from([
                ("root".to_owned(), role(&self.root_key)),
                ("targets".to_owned(), role(&self.targets_key)),
                ("snapshot".to_owned(), role(&self.online_key)),
                ("timestamp".to_owned(), role(&self.online_key)),
            ]),
            extra: BTreeMap::from([(EXTRA_FIELD.to_owned(), said)]),
        };
        let bytes = sign::sign(&root, &[&self.root_key]);
        self.root_version = version;
        self.tree.insert(format!("/sites/{}/metadata/{version}.root.json", site()), bytes.clone());
        self.tree.insert(api::ROOT_PATH.to_owned(), bytes);
    }

    fn extra(&self) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::from([(EXTRA_FIELD.to_owned(), json!({ "fleet": fleet(), "site": self.named }))])
    }

    /// Seals and stores one file.
    pub fn file(&mut self, name: &str, clear: &[u8]) -> FileEntry {
        let packing = if clear.len() > 100_000 { Packing::Plain } else { Packing::Zstd };
        let (blob, sealed) = object::seal(&PublisherSecret::from_bytes([9; 32]), "s", clear, packing);
        self.object(&blob, sealed);
        let scope = Scope::Everyone;
        FileEntry { name: name.parse().unwrap(), scope, class: Class::Config, sha256: Digest::of(clear), blob }
    }

    fn object(&mut self, reference: &ObjectRef, sealed: Vec<u8>) {
        self.tree.insert(object_path(reference), sealed);
    }

    /// Seals and stores one firmware image, which the firmware list has to name.
    pub fn image(&mut self, name: &str, clear: &[u8]) -> FileEntry {
        FileEntry { class: Class::Firmware, ..self.file(name, clear) }
    }

    /// Signs the next firmware list. The next release names it.
    pub fn publish_firmware(&mut self, images: &[&[u8]], expires: UnixTime) {
        let version = self.firmware.map_or(1, |(version, _)| version + 1);
        let listed = images.iter().map(|image| {
            let digest = Digest::of(image);
            (firmware_path(&digest), sign::target(image.len() as u64, digest))
        });
        let list = sign::targets(version, expires, listed.collect(), None, None);
        let bytes = sign::sign(&list, &[&self.firmware_key]);
        self.tree.insert(format!("/sites/{}/metadata/{version}.firmware.json", site()), bytes);
        self.firmware = Some((version, expires));
    }

    /// Publishes the next generation.
    pub fn publish(&mut self, files: &[(&str, &[u8])]) -> Generation {
        let entries = files.iter().map(|(name, clear)| self.file(name, clear)).collect();
        self.publish_entries(entries)
    }

    pub fn publish_entries(&mut self, mut entries: Vec<FileEntry>) -> Generation {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let generation = Generation(self.newest + 1);
        let secret = PublisherSecret::from_bytes([9; 32]);
        let totals = Totals {
            files: entries.len() as u32,
            clear_bytes: entries.iter().map(|entry| entry.blob.clear_bytes).sum(),
            object_bytes: 0,
        };
        let (inventory, sealed) = object::seal_inventory(&secret, "s", &Inventory::default());
        self.object(&inventory, sealed);
        let (shard, sealed) = object::seal_shard(&secret, "s", &Shard { files: entries });
        self.object(&shard, sealed);
        let manifest = Manifest {
            format: 1,
            fleet: fleet(),
            site: site(),
            generation,
            created: self.now,
            totals,
            catalogue_version: 0,
            activation_window: self.window,
            settings: self.settings.clone(),
            inventory,
            shards: vec![shard],
            image: None,
        };
        let recipients: Vec<_> = self.recipient.into_iter().chain(self.also).collect();
        let sealed = manifest::seal(&secret, &manifest, &recipients).unwrap();
        let sha256 = Digest::of(&sealed);
        let hashes = Hashes { sha256: Some(sha256), others: BTreeMap::new() };
        let target = Target { length: sealed.len() as u64, hashes, custom: None, extra: BTreeMap::new() };
        self.tree.insert(format!("/sites/{}/targets/{sha256}.manifest", site()), sealed);
        let targets = Targets {
            kind: "targets".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version: generation.0,
            expires: days(3650),
            targets: BTreeMap::from([("manifest".to_owned(), target)]),
            delegations: self.firmware.map(|_| {
                let keys = [self.firmware_key.public()];
                sign::delegation(FIRMWARE, sign::Signers { keys: &keys, threshold: 1 }, &["firmware/*"])
            }),
            extra: self.extra(),
        };
        let bytes = sign::sign(&targets, &[&self.targets_key]);
        self.tree.insert(format!("/sites/{}/metadata/{generation}.targets.json", site()), bytes);
        self.newest = generation.0;
        self.sign_online();
        generation
    }

    /// Signs snapshot and timestamp anew.
    pub fn sign_online(&mut self) {
        self.version += 1;
        let meta = |version| MetaFile { version, length: None, hashes: None, extra: BTreeMap::new() };
        let snapshot = Snapshot {
            kind: "snapshot".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version: self.version,
            expires: self.expires,
            meta: std::iter::once(("targets.json".to_owned(), meta(self.newest)))
                .chain(self.firmware.map(|(version, _)| ("firmware.json".to_owned(), meta(version))))
                .collect(),
            extra: self.extra(),
        };
        let bytes = sign::sign(&snapshot, &[&self.online_key]);
        self.tree.insert(format!("/sites/{}/metadata/{}.snapshot.json", site(), self.version), bytes);
        let timestamp = Timestamp {
            kind: "timestamp".to_owned(),
            spec_version: "1.0.33".to_owned(),
            version: self.version,
            expires: self.expires,
            meta: BTreeMap::from([("snapshot.json".to_owned(), meta(self.version))]),
            extra: self.extra(),
        };
        let bytes = sign::sign(&timestamp, &[&self.online_key]);
        self.tree.insert(timestamp_path(), bytes);
    }

    pub fn answer(&mut self, request: &Request) -> Reply {
        if let Some(code) = self.refuse {
            return refusal(code);
        }
        if let Some(reply) = self.hostile.as_mut().and_then(|hostile| hostile(request)) {
            return reply;
        }
        if let Some(left) = &mut self.answers_left {
            if *left == 0 {
                return Reply::Raw(vec![]);
            }
            *left -= 1;
        }
        let reply = self.act_on(request);
        if self.lose_answers && request.method == "POST" { Reply::Raw(vec![]) } else { reply }
    }

    fn act_on(&mut self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", api::ENROL_PATH) => self.enrol(&serde_json::from_slice(&request.body).unwrap()),
            ("POST", api::RENEW_PATH) => {
                let RenewRequest { csr } = serde_json::from_slice(&request.body).unwrap();
                self.issue(&csr)
            }
            ("POST", api::CHECK_IN_PATH) => self.check_in(serde_json::from_slice(&request.body).unwrap()),
            ("POST", api::SEALING_KEY_PATH) => match &mut self.stated {
                Some(stated) => {
                    stated.push(serde_json::from_slice(&request.body).unwrap());
                    Reply::ok(b"{}".to_vec())
                }
                None => Reply::status(404),
            },
            ("GET", path) => match self.tree.get(path) {
                Some(bytes) => {
                    let etag = format!("\"{}\"", Digest::of(bytes));
                    if request.header("if-none-match") == Some(&etag) {
                        return Reply::status(304);
                    }
                    Reply::Full(200, vec![("etag", etag)], bytes.clone())
                }
                None => Reply::status(404),
            },
            _ => Reply::status(405),
        }
    }

    fn enrol(&mut self, request: &EnrolRequest) -> Reply {
        let keys = TokenKeys::derive(SECRET, &fleet(), &site(), "t-1");
        let proven = |key, proof: &str| {
            let (fleet, site) = (fleet(), site());
            api::enrolment_proven(key, (&fleet, &site, "t-1"), &request.csr, &request.recipient, proof)
        };
        if !proven(&keys.service, &request.service_proof) || !proven(&keys.publisher, &request.publisher_proof) {
            return refusal("proof-wrong");
        }
        let applicant = format!("{:?}", request.recipient);
        if *self.used_by.get_or_insert_with(|| applicant.clone()) != applicant {
            return refusal("token-used");
        }
        self.recipient = Some(request.recipient);
        self.issue(&request.csr)
    }

    fn issue(&self, csr: &str) -> Reply {
        let (from, until) = self.certificate;
        let other = self
            .issue_for
            .as_ref()
            .map(|key| rcgen::CertificateParams::default().serialize_request(key).unwrap().pem().unwrap());
        let certificate = self.ca.issue(other.as_deref().unwrap_or(csr), from, until);
        Reply::ok(serde_json::to_vec(&Certificate { certificate, expires: until }).unwrap())
    }

    fn check_in(&mut self, report: CheckIn) -> Reply {
        let signed = SignedTime {
            purpose: "check-in".to_owned(),
            site: site(),
            nonce: self.replay_nonce.clone().unwrap_or_else(|| report.nonce.clone()),
            time: self.now,
            newest: Generation(self.newest),
        };
        self.check_ins.push(report);
        let signed = serde_json::to_string(&signed).unwrap();
        let signature = data_encoding::HEXLOWER.encode(&self.answer_key.sign(signed.as_bytes()));
        Reply::ok(serde_json::to_vec(&CheckInAnswer { signed, signature }).unwrap())
    }
}

pub fn refusal(code: &str) -> Reply {
    let refusal = Refusal { code: code.to_owned(), reason: "no".to_owned() };
    Reply::Full(403, vec![], serde_json::to_vec(&refusal).unwrap())
}

pub fn timestamp_path() -> String {
    format!("/sites/{}/metadata/timestamp.json", site())
}

pub fn object_path(reference: &ObjectRef) -> String {
    let name = reference.digest.to_string();
    format!("/objects/{}/{name}", &name[..2])
}
