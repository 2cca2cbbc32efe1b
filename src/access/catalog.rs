//! The files and phones of one release, indexed for lookup.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::image::{BoardImage, ImageApproval};
use super::owner::{self, Tail};
use bundle::limits::{MAX_FILES, MAX_PHONES};
use bundle::{Class, FileEntry, Image, Inventory, Manifest, Phone, Scope, Shard, SiteSettings};
use ids::{FileName, Generation, MacAddr, SiteId};

/// One release as the services see it. A transfer keeps the one that it began with.
#[derive(Debug, Clone)]
pub struct Catalog {
    site: SiteId,
    generation: Generation,
    settings: SiteSettings,
    files: BTreeMap<FileName, Arc<FileEntry>>,
    image: Option<BoardImage>,
    phones: BTreeMap<MacAddr, Phone>,
    /// Phones by the last ten digits of their address, as Cisco names gateways and the second port of an ATA.
    tails: HashMap<[u8; 5], Tail>,
}

impl BoardImage {
    /// The name under which the image is opened and, if damaged, reported.
    const NAME: &str = "image.raucb";

    fn of(image: &Image, window: Option<(u16, u16)>) -> Result<Self, CatalogError> {
        let Image { version, compatible, sha256, blob } = image.clone();
        let name: FileName = Self::NAME.parse().map_err(|_| CatalogError::Image)?;
        // The scope has no effect: the image is in no list that phones are served from.
        let bundle = FileEntry { name, scope: Scope::Everyone, class: Class::Firmware, sha256, blob };
        Ok(Self { version, compatible, bundle: Arc::new(bundle), window, approval: None })
    }
}

/// Why a release cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Two files have one name, in whatever case of letters.
    #[error("the release lists {0} twice")]
    DuplicateFile(FileName),
    /// Two phones have one MAC address.
    #[error("the release lists phone {0} twice")]
    DuplicatePhone(MacAddr),
    /// The image for the appliance cannot be given its name.
    #[error("the release's image cannot be named")]
    Image,
    /// There are more phones or files than [`bundle::limits`] allow.
    #[error("the release has {value} {what}, over the {limit} allowed")]
    TooMany {
        /// `phones` or `files`.
        what: &'static str,
        /// The number in the release.
        value: usize,
        /// The number that is allowed.
        limit: usize,
    },
}

impl Catalog {
    /// Indexes the files and phones of an opened release.
    ///
    /// # Errors
    ///
    /// Two files with one name (in any case), two phones with one address, or more than the limits allow.
    pub fn new(manifest: &Manifest, inventory: Inventory, shards: Vec<Shard>) -> Result<Self, CatalogError> {
        at_most("phones", inventory.phones.len(), MAX_PHONES)?;
        at_most("files", shards.iter().map(|shard| shard.files.len()).sum(), MAX_FILES)?;
        let mut catalog = Self::empty(manifest.site.clone());
        catalog.generation = manifest.generation;
        catalog.settings = manifest.settings.clone();
        let image = manifest.image.as_ref().map(|image| BoardImage::of(image, manifest.activation_window));
        catalog.image = image.transpose()?;
        for phone in inventory.phones {
            let [_, tail @ ..] = phone.mac.octets();
            let mac = phone.mac;
            catalog.tails.entry(tail).and_modify(|known| *known = known.and(mac)).or_insert(Tail::Of(mac));
            if let Some(twice) = catalog.phones.insert(phone.mac, phone) {
                return Err(CatalogError::DuplicatePhone(twice.mac));
            }
        }
        for entry in shards.into_iter().flat_map(|shard| shard.files) {
            if let Some(twice) = catalog.files.insert(entry.name.clone(), Arc::new(entry)) {
                return Err(CatalogError::DuplicateFile(twice.name.clone()));
            }
        }
        Ok(catalog)
    }

    /// Nothing to serve: the state before the first release.
    pub fn empty(site: SiteId) -> Self {
        Self {
            site,
            generation: Generation::default(),
            settings: SiteSettings::default(),
            files: BTreeMap::new(),
            image: None,
            phones: BTreeMap::new(),
            tails: HashMap::new(),
        }
    }

    /// The site that the release was made for.
    pub fn site(&self) -> &SiteId {
        &self.site
    }

    /// The generation of the release; 0 before the first one.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The site's signed settings; all at their defaults before the first release.
    pub fn settings(&self) -> &SiteSettings {
        &self.settings
    }

    /// The file of this name, in any case.
    pub fn file(&self, name: &FileName) -> Option<&Arc<FileEntry>> {
        self.files.get(name)
    }

    /// All files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Arc<FileEntry>> {
        self.files.values()
    }

    /// The system that the appliance shall run; `None` if the release leaves it as it is.
    pub fn image(&self) -> Option<&BoardImage> {
        self.image.as_ref()
    }

    /// Says of the image what the firmware keys signed.
    pub(super) fn approve_image(&mut self, approval: Option<ImageApproval>) {
        if let Some(image) = &mut self.image {
            image.approval = approval;
        }
    }

    /// All that must be on disk, whole and as signed: the files and the image.
    pub fn contents(&self) -> impl Iterator<Item = &Arc<FileEntry>> {
        self.files().chain(self.image.as_ref().map(|image| &image.bundle))
    }

    /// The phone of the inventory with this MAC address.
    pub fn phone(&self, mac: MacAddr) -> Option<&Phone> {
        self.phones.get(&mac)
    }

    /// All phones, in the order of their addresses.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        self.phones.values()
    }

    /// The phone of the inventory whose address the name carries, as [`owner::in_inventory`] reads names; one of them, if
    /// several phones' addresses end with the digits in it. The time does not depend on the size of the inventory. Who may
    /// have a file of that name is another question: its scope says.
    pub fn phone_in_name(&self, name: &FileName) -> Option<MacAddr> {
        let whole = |mac| self.phones.contains_key(&mac).then_some(mac);
        match owner::find(name, &whole, &|tail| self.tails.get(&tail).copied())? {
            Tail::Of(mac) | Tail::OfSeveral(mac, _) => Some(mac),
        }
    }
}

fn at_most(what: &'static str, value: usize, limit: usize) -> Result<(), CatalogError> {
    if value > limit { Err(CatalogError::TooMany { what, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use bundle::{Class, ContentKey, ObjectRef, Packing, Scope, Totals};
    use ids::{Digest, UnixTime};

    fn reference() -> ObjectRef {
        let key = ContentKey::from_bytes([1; 32]);
        ObjectRef { digest: Digest::of(b"x"), bytes: 116, key, packing: Packing::Plain, clear_bytes: 100 }
    }

    fn manifest() -> Manifest {
        Manifest {
            format: 1,
            fleet: "acme".parse().unwrap(),
            site: "s-3f9a".parse().unwrap(),
            generation: Generation(7),
            created: UnixTime(0),
            totals: Totals::default(),
            catalogue_version: 1,
            activation_window: None,
            settings: SiteSettings::default(),
            inventory: reference(),
            shards: vec![reference()],
            image: None,
        }
    }

    fn file(name: &str) -> FileEntry {
        let (scope, class, sha256) = (Scope::Everyone, Class::Config, Digest::of(b"clear"));
        FileEntry { name: name.parse().unwrap(), scope, class, sha256, blob: reference() }
    }

    fn phones(addresses: &[&str]) -> Inventory {
        let phone = |text: &&str| Phone { mac: text.parse().unwrap(), model: "m".to_owned(), label: String::new() };
        Inventory { phones: addresses.iter().map(phone).collect() }
    }

    #[test]
    fn files_are_found_in_any_case_and_listed_in_order() {
        let shards = vec![Shard { files: vec![file("b.cfg")] }, Shard { files: vec![file("A.cfg")] }];
        let catalog = Catalog::new(&manifest(), phones(&["0004f2aabbcc"]), shards).unwrap();
        assert_eq!(catalog.file(&"/B.CFG".parse().unwrap()).map(|entry| entry.name.as_str()), Some("b.cfg"));
        let names: Vec<_> = catalog.files().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["A.cfg", "b.cfg"]);
        assert_eq!((catalog.generation(), catalog.site().as_str()), (Generation(7), "s-3f9a"));
    }

    #[test]
    fn one_name_in_two_shards_is_refused_whatever_its_case() {
        let shards = vec![Shard { files: vec![file("a.cfg")] }, Shard { files: vec![file("A.CFG")] }];
        let error = Catalog::new(&manifest(), phones(&[]), shards).unwrap_err();
        assert_eq!(error, CatalogError::DuplicateFile("a.cfg".parse().unwrap()));
    }

    #[test]
    fn one_phone_twice_is_refused() {
        let error = Catalog::new(&manifest(), phones(&["0004f2aabbcc", "00:04:F2:AA:BB:CC"]), vec![]).unwrap_err();
        assert_eq!(error, CatalogError::DuplicatePhone("0004f2aabbcc".parse().unwrap()));
    }

    #[test]
    fn too_many_files_or_phones_are_refused() {
        let shards = vec![Shard { files: vec![file("a.cfg"); MAX_FILES + 1] }];
        assert!(matches!(Catalog::new(&manifest(), phones(&[]), shards), Err(CatalogError::TooMany { .. })));
        let many = vec!["0004f2aabbcc"; MAX_PHONES + 1];
        assert!(matches!(Catalog::new(&manifest(), phones(&many), vec![]), Err(CatalogError::TooMany { .. })));
    }

    #[test]
    fn the_index_reads_names_as_the_search_does() {
        let catalog = Catalog::new(&manifest(), phones(&["0004f2aabbcc", "0204f2aabbdd"]), vec![]).unwrap();
        for text in ["SEP0004F2AABBCC.cnf.xml", "ATA04F2AABBCC01.cnf.xml", "04f2aabbdd01", "y000000000028.cfg"] {
            let name = text.parse().unwrap();
            let searched = owner::in_inventory(&name, &|mac| catalog.phone(mac).is_some());
            assert_eq!(catalog.phone_in_name(&name), searched, "{text}");
        }
    }
}
