//! Checks the bounds of a bundle's values, beyond those that its types ensure. Services use the values without a further
//! check. HQ checks before it seals, and a site after it opens.

use std::ops::RangeInclusive;

use super::limits::{
    MAX_COMPRESSED_FILE_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_LABEL_BYTES, MAX_MODEL_BYTES, MAX_SETTING_ADDRESSES,
    MAX_SETTING_ITEMS, MAX_SHARDS, MAX_UNPACKED_BYTES, SEALING_KEY_DAYS,
};
use super::manifest::MANIFEST_FORMAT;
use super::object::{ObjectError, sealed_bytes};
use super::recipients::ManifestError;
use super::{
    DhcpSettings, FileEntry, Image, Inventory, Manifest, ObjectRef, Packing, Phone, Scope, Shard, SiteSettings,
};

impl Manifest {
    /// Checks every bound that the manifest alone can show.
    ///
    /// # Errors
    ///
    /// [`ManifestError::TooNew`] for a format of the future, [`ManifestError::TooLarge`] for a count or size over its
    /// limit, [`ManifestError::Malformed`] for anything else out of its range.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.format > MANIFEST_FORMAT {
            return Err(ManifestError::TooNew(self.format));
        }
        check(self.format >= 1, || "format 0".to_owned())?;
        check(self.generation.0 >= 1, || "generation 0".to_owned())?;
        at_most("number of files", self.totals.files.into(), MAX_FILES as u64)?;
        at_most("number of shards", self.shards.len() as u64, MAX_SHARDS as u64)?;
        check(!self.shards.is_empty(), || "no shards".to_owned())?;
        for part in self.shards.iter().chain([&self.inventory]) {
            at_most("size of a part", part.clear_bytes, MAX_UNPACKED_BYTES)?;
            part.check_sealed_size().map_err(ManifestError::Malformed)?;
        }
        if let Some((from, until)) = self.activation_window {
            within("activation-window", from.into(), 0..=1439)?;
            within("activation-window", until.into(), 0..=1439)?;
        }
        self.image.as_ref().map_or(Ok(()), Image::validate)?;
        self.settings.validate()
    }
}

impl Image {
    /// Checks names and size.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Malformed`] for a name or size that cannot be, [`ManifestError::TooLarge`] over the limit.
    pub fn validate(&self) -> Result<(), ManifestError> {
        for (what, name) in [("version of the image", &self.version), ("hardware of the image", &self.compatible)] {
            check(is_image_name(name), || format!("{what} is not 1 to 64 letters, digits and .+~_-"))?;
        }
        let limit = match self.blob.packing {
            Packing::Plain => MAX_FILE_BYTES,
            Packing::Zstd => MAX_COMPRESSED_FILE_BYTES,
        };
        at_most("size of the image", self.blob.clear_bytes, limit)?;
        self.blob.check_sealed_size().map_err(ManifestError::Malformed)
    }
}

/// Whether a text can be an image's version, or the hardware that it is for.
pub fn is_image_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+~_-".contains(&byte))
}

/// The longest URL in settings, in bytes.
const MAX_URL_BYTES: u64 = 512;

impl SiteSettings {
    /// Checks the ranges that the fields' descriptions give.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Malformed`] naming the field, [`ManifestError::TooLarge`] for a list over its limit.
    pub fn validate(&self) -> Result<(), ManifestError> {
        within("poll-seconds", self.poll_seconds.unwrap_or(300).into(), 60..=86_400)?;
        let days = self.sealing_key_days.unwrap_or(SEALING_KEY_DAYS).into();
        within("sealing-key-days", days, 30..=3_650)?;
        within("max-blksize", self.tftp.max_blksize.unwrap_or(512).into(), 512..=65_464)?;
        within("max-windowsize", self.tftp.max_windowsize.unwrap_or(1).into(), 1..=64)?;
        let address = self.hq.iter();
        for url in address.flat_map(|hq| std::iter::once(&hq.url).chain(&hq.repository)) {
            at_most("address of HQ", url.len() as u64, MAX_URL_BYTES)?;
            let plain = url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('/'));
            check(plain && url.chars().all(|c| c.is_ascii_graphic()), || {
                "the address of HQ is no https:// URL".to_owned()
            })?;
        }
        self.dhcp.validate()
    }
}

impl DhcpSettings {
    fn validate(&self) -> Result<(), ManifestError> {
        within("lease-seconds", self.lease_seconds.unwrap_or(43_200).into(), 120..=604_800)?;
        if let Some((first, last)) = self.range {
            check(first <= last, || format!("range {first} to {last} ends before it begins"))?;
        }
        for (what, list) in
            [("routers", &self.routers), ("dns", &self.dns), ("ntp", &self.ntp), ("tftp-servers", &self.tftp_servers)]
        {
            at_most(what, list.len() as u64, MAX_SETTING_ADDRESSES as u64)?;
        }
        // RFC 1035 §2.3.4; option 15 has one length octet.
        at_most("domain", self.domain.len() as u64, 253)?;
        check(self.domain.chars().all(|c| c.is_ascii_graphic()), || "domain has characters of no domain".to_owned())?;
        at_most("phone-classes", self.phone_classes.len() as u64, MAX_SETTING_ITEMS as u64)?;
        at_most("phone-ouis", self.phone_ouis.len() as u64, MAX_SETTING_ITEMS as u64)?;
        let offer_classes = self.offer_classes.as_deref().unwrap_or_default();
        at_most("offer-classes", offer_classes.len() as u64, MAX_SETTING_ITEMS as u64)?;
        for class in self.phone_classes.iter().chain(offer_classes) {
            short_text("phone class", class, MAX_MODEL_BYTES).map_err(ManifestError::Malformed)?;
        }
        at_most("vendor-options", self.vendor_options.len() as u64, MAX_SETTING_ITEMS as u64)?;
        for option in &self.vendor_options {
            short_text("vendor class", &option.vendor_class, MAX_MODEL_BYTES).map_err(ManifestError::Malformed)?;
            within("code of a vendor option", option.code.into(), 1..=254)?;
            // RFC 2132 §2: the length is one octet.
            at_most("length of a vendor option", option.value.len() as u64, 255)?;
        }
        Ok(())
    }
}

impl Shard {
    /// Checks size, packing and scope of every file.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Malformed`] naming the file, [`ObjectError::TooLarge`] for one over its limit.
    pub fn validate(&self) -> Result<(), ObjectError> {
        self.files.iter().try_for_each(FileEntry::validate)
    }
}

impl FileEntry {
    /// Checks size, packing and scope.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Malformed`] naming the file, [`ObjectError::TooLarge`] if it is over its limit.
    pub fn validate(&self) -> Result<(), ObjectError> {
        let limit = match self.blob.packing {
            Packing::Plain => MAX_FILE_BYTES,
            Packing::Zstd => MAX_COMPRESSED_FILE_BYTES,
        };
        if self.blob.clear_bytes > limit {
            return Err(ObjectError::TooLarge { bytes: self.blob.clear_bytes, limit });
        }
        let malformed = |what: String| ObjectError::Malformed(format!("{}: {what}", self.name));
        self.blob.check_sealed_size().map_err(malformed)?;
        match &self.scope {
            Scope::Device(mac) if !mac.is_unicast() => Err(malformed(format!("{mac} is no device's address"))),
            Scope::Model(model) => short_text("model", model, MAX_MODEL_BYTES).map_err(malformed),
            Scope::Device(_) | Scope::Everyone => Ok(()),
        }
    }
}

impl Inventory {
    /// Checks address, model and label of every phone.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Malformed`] naming the phone.
    pub fn validate(&self) -> Result<(), ObjectError> {
        self.phones.iter().try_for_each(Phone::validate)
    }
}

impl Phone {
    fn validate(&self) -> Result<(), ObjectError> {
        let malformed = |what: String| ObjectError::Malformed(format!("phone {}: {what}", self.mac));
        if !self.mac.is_unicast() {
            return Err(malformed("no device's address".to_owned()));
        }
        short_text("model", &self.model, MAX_MODEL_BYTES).map_err(malformed)?;
        if self.label.len() > MAX_LABEL_BYTES || self.label.chars().any(char::is_control) {
            return Err(malformed(format!("label over {MAX_LABEL_BYTES} bytes or with control characters")));
        }
        Ok(())
    }
}

impl ObjectRef {
    /// Checks that the lengths in clear and sealed can belong together. zstd adds at most 1/256 and a header to what it cannot
    /// shorten.
    fn check_sealed_size(&self) -> Result<(), String> {
        let clear = self.clear_bytes;
        let fits = match self.packing {
            Packing::Plain => self.bytes == sealed_bytes(clear),
            Packing::Zstd => {
                let longest = clear.saturating_add(clear / 256).saturating_add(1024);
                (sealed_bytes(1)..=sealed_bytes(longest)).contains(&self.bytes)
            }
        };
        if fits { Ok(()) } else { Err(format!("{} sealed bytes cannot hold {clear} bytes", self.bytes)) }
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), ManifestError> {
    if holds { Ok(()) } else { Err(ManifestError::Malformed(what())) }
}

fn at_most(what: &'static str, value: u64, limit: u64) -> Result<(), ManifestError> {
    if value > limit { Err(ManifestError::TooLarge { what, value, limit }) } else { Ok(()) }
}

fn within(what: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), ManifestError> {
    check(range.contains(&value), || format!("{what} is {value}, outside {} to {}", range.start(), range.end()))
}

fn short_text(what: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > limit || text.chars().any(char::is_control) {
        return Err(format!("a {what} is empty, over {limit} bytes or has control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::super::recipients::tests::manifest;
    use super::*;
    use crate::{Class, VendorOption};
    use ids::{Digest, MacAddr};

    fn refused(change: impl FnOnce(&mut Manifest)) -> ManifestError {
        let mut manifest = manifest();
        manifest.validate().unwrap();
        change(&mut manifest);
        manifest.validate().unwrap_err()
    }

    #[test]
    fn a_manifest_out_of_bounds_is_refused_with_the_field_in_the_message() {
        type Change = fn(&mut Manifest);
        let cases: [(&str, Change); 17] = [
            ("format 0", |m| m.format = 0),
            ("generation 0", |m| m.generation.0 = 0),
            ("no shards", |m| m.shards.clear()),
            ("number of shards", |m| m.shards = vec![m.inventory.clone(); 65]),
            ("number of files", |m| m.totals.files = 50_001),
            ("size of a part", |m| m.inventory.clear_bytes = MAX_UNPACKED_BYTES + 1),
            ("sealed bytes cannot hold", |m| m.inventory.bytes = 3),
            ("activation-window", |m| m.activation_window = Some((0, 1440))),
            ("poll-seconds", |m| m.settings.poll_seconds = Some(59)),
            ("sealing-key-days", |m| m.settings.sealing_key_days = Some(29)),
            ("sealing-key-days", |m| m.settings.sealing_key_days = Some(3_651)),
            ("address of HQ", |m| {
                m.settings.hq = Some(crate::HqAddress { url: "http://hq.example".to_owned(), repository: None });
            }),
            ("max-blksize", |m| m.settings.tftp.max_blksize = Some(65_465)),
            ("max-windowsize", |m| m.settings.tftp.max_windowsize = Some(0)),
            ("lease-seconds", |m| m.settings.dhcp.lease_seconds = Some(604_801)),
            ("ends before it begins", |m| {
                m.settings.dhcp.range = Some(([10, 0, 0, 2].into(), [10, 0, 0, 1].into()));
            }),
            ("code of a vendor option", |m| {
                m.settings.dhcp.vendor_options =
                    vec![VendorOption { vendor_class: "Cisco".to_owned(), code: 255, value: vec![] }];
            }),
        ];
        for (expected, change) in cases {
            let error = refused(change).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(refused(|m| m.format = 2), ManifestError::TooNew(2));
    }

    fn entry() -> FileEntry {
        let blob = ObjectRef {
            digest: Digest::of(b"sealed"),
            bytes: sealed_bytes(100),
            key: crate::ContentKey::from_bytes([1; 32]),
            packing: Packing::Plain,
            clear_bytes: 100,
        };
        let name = "SEP0004F2AABBCC.cnf.xml".parse().unwrap();
        FileEntry { name, scope: Scope::Everyone, class: Class::Config, sha256: Digest::of(b"clear"), blob }
    }

    #[test]
    fn a_file_whose_sizes_contradict_each_other_is_refused() {
        let mut entry = entry();
        entry.validate().unwrap();
        entry.blob.clear_bytes = 101;
        assert!(matches!(entry.validate(), Err(ObjectError::Malformed(what)) if what.starts_with("SEP0004F2AABBCC")));
    }

    #[test]
    fn a_file_over_its_limit_is_refused() {
        let mut large = entry();
        large.blob.clear_bytes = MAX_FILE_BYTES + 1;
        assert!(matches!(large.validate(), Err(ObjectError::TooLarge { .. })));
        large.blob.packing = Packing::Zstd;
        large.blob.clear_bytes = MAX_COMPRESSED_FILE_BYTES + 1;
        assert!(matches!(large.validate(), Err(ObjectError::TooLarge { .. })));
    }

    #[test]
    fn a_scope_that_nobody_can_have_is_refused() {
        for scope in [Scope::Device(MacAddr::new([0xff; 6])), Scope::Model(String::new()), Scope::Model("x".repeat(65))]
        {
            let entry = FileEntry { scope, ..entry() };
            assert!(entry.validate().is_err(), "{:?}", entry.scope);
        }
    }

    #[test]
    fn a_phone_without_a_real_address_or_model_is_refused() {
        let phone = |mac, model: &str| Phone { mac: MacAddr::new(mac), model: model.to_owned(), label: String::new() };
        let good = phone([0, 4, 0xf2, 1, 2, 3], "cisco-8941");
        assert_eq!(Inventory { phones: vec![good.clone()] }.validate(), Ok(()));
        let labelled = Phone { label: "x\ny".to_owned(), ..good };
        for bad in [phone([0; 6], "cisco-8941"), phone([0, 4, 0xf2, 1, 2, 3], ""), labelled] {
            assert!(Inventory { phones: vec![bad] }.validate().is_err());
        }
    }
}
