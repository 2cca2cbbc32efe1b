//! Seals the files of a site and makes entries, shards, the inventory, and the manifest over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

use crate::assets::Asset;
use crate::images::ImageFile;
use crate::inventory::{InventorySite, PhoneLine};
use crate::render::{Body, FleetDir, SiteFile};
use access::ImageApproval;
use bundle::limits::{MAX_COMPRESSED_FILE_BYTES, MAX_UNLISTED_FILE_BYTES};
use bundle::manifest::MANIFEST_FORMAT;
use bundle::shards::{shard_count, shard_of};
use bundle::{
    Class, FileEntry, Image, Inventory, Manifest, ObjectRef, Packing, Phone, RecipientPublic, Scope, Shard,
    SiteSettings, Totals,
};
use ids::{Digest, FleetId, Generation, UnixTime};
use repository::tree::Objects;
use seal::{PublisherSecret, object};

/// Seals the files of all sites in one run. It seals a file that the whole fleet shares only once.
pub struct Sealer<'a> {
    secret: &'a PublisherSecret,
    objects: &'a dyn Objects,
    assets: Mutex<HashMap<(String, String), (Digest, ObjectRef)>>,
}

/// The content of a site's release. All of it is sealed but the manifest.
#[derive(Debug)]
pub struct Packed {
    /// The site's phones, each with its address, model and label.
    pub inventory: Inventory,
    /// The entries of all files, distributed by the hash of their names.
    pub shards: Vec<Shard>,
    /// The image that the appliance must run; `None` leaves the image that it has.
    pub image: Option<Image>,
    /// What the firmware keys say of that image.
    approval: Option<ImageApproval>,
    /// To which the appliance proves a new sealing key.
    desk_key: RecipientPublic,
    inventory_object: ObjectRef,
    shard_objects: Vec<ObjectRef>,
    totals: Totals,
}

impl<'a> Sealer<'a> {
    /// A sealer that derives content keys from `secret` and puts sealed objects into `objects`.
    pub fn new(secret: &'a PublisherSecret, objects: &'a dyn Objects) -> Self {
        Self { secret, objects, assets: Mutex::default() }
    }

    /// Seals the files of a site, and makes its inventory and shards.
    pub fn pack(
        &self,
        fleet: &FleetDir,
        site: &InventorySite,
        phones: &[&PhoneLine],
        files: Vec<SiteFile>,
    ) -> anyhow::Result<Packed> {
        let site_scope = format!("site {}", site.id);
        let mut entries = Vec::with_capacity(files.len());
        for file in files {
            entries.push(self.entry(&site_scope, file)?);
        }
        let inventory = Inventory {
            phones: phones
                .iter()
                .filter_map(|phone| {
                    let model = fleet.templates.of_model(&phone.model)?.name.clone();
                    Some(Phone { mac: phone.mac, model, label: phone.label.clone() })
                })
                .collect(),
        };
        let shards = shards(entries);
        let inventory_object = self.keep(object::seal_inventory(self.secret, &site_scope, &inventory))?;
        let shard_objects = shards
            .iter()
            .map(|shard| self.keep(object::seal_shard(self.secret, &site_scope, shard)))
            .collect::<Result<Vec<_>, _>>()?;
        let image = self.image(fleet, site)?;
        let wanted = site.settings.image.as_ref().and_then(|image| fleet.images.get(&image.name));
        let approval = wanted.map(ImageFile::approval);
        let blob = image.as_ref().map(|image| &image.blob);
        let totals = totals(&shards, shard_objects.iter().chain([&inventory_object]).chain(blob));
        let desk_key = self.secret.desk_key().public();
        Ok(Packed { inventory, shards, image, approval, desk_key, inventory_object, shard_objects, totals })
    }

    fn image(&self, fleet: &FleetDir, site: &InventorySite) -> anyhow::Result<Option<Image>> {
        let Some(name) = &site.settings.image else { return Ok(None) };
        let image = fleet.images.get(&name.name).with_context(|| format!("there is no image {}", name.name))?;
        let (sha256, blob) = self.asset("fleet", &image.asset)?;
        let (version, compatible) = (image.version.clone(), image.compatible.clone());
        Ok(Some(Image { version, compatible, sha256, blob }))
    }

    fn entry(&self, site_scope: &str, file: SiteFile) -> anyhow::Result<FileEntry> {
        // The content key is derived from this scope: a file for one device or one site is sealed for it alone, and a
        // file that all sites share is sealed once for the fleet.
        let scope = match (&file.scope, file.class) {
            (Scope::Device(mac), _) => format!("device {mac}"),
            (_, Class::Firmware) => "fleet".to_owned(),
            _ if matches!(file.body, Body::Asset(_)) => "fleet".to_owned(),
            _ => site_scope.to_owned(),
        };
        let (sha256, blob) = match &file.body {
            Body::Rendered(bytes) => (Digest::of(bytes), self.seal(&scope, bytes)?),
            Body::Asset(asset) => self.asset(&scope, asset)?,
        };
        Ok(FileEntry { name: file.name, scope: file.scope, class: file.class, sha256, blob })
    }

    /// Seals a file of the fleet directory, or returns what it was sealed to before in this run. Returns the digest of
    /// its clear content, too.
    pub fn asset(&self, scope: &str, asset: &Asset) -> anyhow::Result<(Digest, ObjectRef)> {
        let key = (asset.file.clone(), scope.to_owned());
        // The lock is held while the file is sealed, so that no other thread seals the same large image.
        let mut assets = self.assets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = assets.get(&key) {
            return Ok(known.clone());
        }
        let bytes = asset.read().with_context(|| format!("cannot read {}", asset.file))?;
        let sealed = (Digest::of(&bytes), self.seal(scope, &bytes)?);
        assets.insert(key, sealed.clone());
        Ok(sealed)
    }

    fn seal(&self, scope: &str, clear: &[u8]) -> anyhow::Result<ObjectRef> {
        let bytes = u64::try_from(clear.len()).unwrap_or(u64::MAX);
        let (reference, sealed) = if bytes <= MAX_COMPRESSED_FILE_BYTES {
            object::seal_smaller(self.secret, scope, clear)
        } else {
            object::seal(self.secret, scope, clear, Packing::Plain)
        };
        self.keep((reference, sealed))
    }

    fn keep(&self, (reference, sealed): (ObjectRef, Vec<u8>)) -> anyhow::Result<ObjectRef> {
        self.objects.put(&reference, &sealed)?;
        Ok(reference)
    }
}

impl Packed {
    /// The manifest over this content, not sealed yet.
    pub fn manifest(
        &self,
        fleet: &FleetId,
        site: &InventorySite,
        generation: Generation,
        created: UnixTime,
        catalogue_version: u64,
    ) -> Manifest {
        Manifest {
            format: MANIFEST_FORMAT,
            fleet: fleet.clone(),
            site: site.id.clone(),
            generation,
            created,
            totals: self.totals,
            catalogue_version,
            activation_window: site.settings.activation_window,
            settings: SiteSettings { desk_key: Some(self.desk_key), ..site.settings.site.clone() },
            inventory: self.inventory_object.clone(),
            shards: self.shard_objects.clone(),
            image: self.image.clone(),
        }
    }

    /// A hash over all that a site gets and over the recipients who can open it. If it is the same as the published
    /// one, there is nothing to publish. Content keys are among what is hashed, so it tells an outsider nothing.
    pub fn content(
        &self,
        fleet: &FleetId,
        site: &InventorySite,
        recipients: &[RecipientPublic],
    ) -> anyhow::Result<Digest> {
        let manifest = self.manifest(fleet, site, Generation(0), UnixTime(0), 0);
        let bytes = serde_json::to_vec(&(manifest, recipients)).context("cannot write the manifest")?;
        Ok(Digest::of(&zeroize::Zeroizing::new(bytes)))
    }

    /// Digest and size of each file that the firmware catalogue must list; for the image, what it binds that to.
    pub fn firmware(&self) -> impl Iterator<Item = (Digest, u64, Option<&ImageApproval>)> + '_ {
        let files = self.shards.iter().flat_map(|shard| &shard.files);
        let must = |file: &&FileEntry| file.class == Class::Firmware || file.blob.clear_bytes > MAX_UNLISTED_FILE_BYTES;
        let approval = self.approval.as_ref();
        let image = self.image.iter().map(move |image| (image.sha256, image.blob.clear_bytes, approval));
        files.filter(must).map(|file| (file.sha256, file.blob.clear_bytes, None)).chain(image)
    }

    /// The digests of all sealed objects that the release names.
    pub fn objects(&self) -> BTreeSet<Digest> {
        let files = self.shards.iter().flat_map(|shard| &shard.files).map(|file| file.blob.digest);
        let image = self.image.iter().map(|image| image.blob.digest);
        let parts = self.shard_objects.iter().chain([&self.inventory_object]).map(|part| part.digest);
        files.chain(parts).chain(image).collect()
    }

    /// How many files phones can ask for.
    pub const fn files(&self) -> u32 {
        self.totals.files
    }
}

/// Distributes files over shards by the hash of their names.
fn shards(entries: Vec<FileEntry>) -> Vec<Shard> {
    let count = shard_count(entries.len());
    let mut shards = vec![Shard::default(); count];
    for entry in entries {
        if let Some(shard) = shards.get_mut(shard_of(&entry.name, count)) {
            shard.files.push(entry);
        }
    }
    for shard in &mut shards {
        shard.files.sort_by(|a, b| a.name.cmp(&b.name));
    }
    shards
}

fn totals<'o>(shards: &[Shard], parts: impl Iterator<Item = &'o ObjectRef>) -> Totals {
    let mut distinct: BTreeMap<Digest, u64> = parts.map(|part| (part.digest, part.bytes)).collect();
    let mut totals = Totals::default();
    for file in shards.iter().flat_map(|shard| &shard.files) {
        totals.files += 1;
        totals.clear_bytes = totals.clear_bytes.saturating_add(file.blob.clear_bytes);
        distinct.insert(file.blob.digest, file.blob.bytes);
    }
    totals.object_bytes = distinct.values().sum();
    totals
}
