//! The content of a bundle, in clear. All of it travels as zstd-compressed JSON inside encryption.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::key::{ContentKey, RecipientPublic};
use ids::{Digest, FileName, FleetId, Generation, MacAddr, Oui, SiteId, UnixTime};

/// The version of the manifest's content that this build writes and the newest that it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// One release of one site: everything a site needs to know, or the way to it.
///
/// Phones and files are in objects of their own, so that one changed config changes one shard and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The version of the content, from 1; [`MANIFEST_FORMAT`] where HQ writes it.
    pub format: u32,
    /// The fleet it was made for; must equal the fleet in the signed metadata.
    pub fleet: FleetId,
    /// The site it was made for; must equal the site in the signed metadata.
    pub site: SiteId,
    /// The number of the release, from 1; must equal the version of the signed `targets`.
    pub generation: Generation,
    /// When HQ made it.
    pub created: UnixTime,
    /// Sums over its files and objects, for the check of free space.
    pub totals: Totals,
    /// The version of the `firmware` role's metadata that it was made against.
    pub catalogue_version: u64,
    /// When a release may be activated, in minutes of the day UTC, from and until; `None` is at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_window: Option<(u16, u16)>,
    /// How the appliance behaves at this site.
    pub settings: SiteSettings,
    /// The phones of the site: one object holding an [`Inventory`].
    pub inventory: ObjectRef,
    /// The files of the site: 1 to 64 objects, each holding a [`Shard`].
    pub shards: Vec<ObjectRef>,
    /// The system that the appliance itself shall run; `None` leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// An operating system for the appliance: a RAUC bundle, which must also be listed in the `firmware` role's metadata.
/// It is no file that phones can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// What it calls itself: 1 to 64 letters, digits and `.+~_-`.
    pub version: String,
    /// The hardware that it is for, for example `lineside-arm64`; in the same characters.
    pub compatible: String,
    /// SHA-256 of the bundle in clear.
    pub sha256: Digest,
    /// The sealed bytes; `blob.clear_bytes` is the size of the bundle.
    pub blob: ObjectRef,
}

/// Sums over a release, for the disk preflight and for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// How many files phones can ask for.
    pub files: u32,
    /// Bytes of all files in clear.
    pub clear_bytes: u64,
    /// Bytes of all distinct objects as they are stored.
    pub object_bytes: u64,
}

/// A sealed object: where it is, what it is, and the key to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectRef {
    /// SHA-256 of the ciphertext, which is also its name.
    pub digest: Digest,
    /// Bytes of the ciphertext.
    pub bytes: u64,
    /// The key that opens the object; no other object has it.
    pub key: ContentKey,
    /// Whether the content was compressed before encryption.
    pub packing: Packing,
    /// Bytes after opening and unpacking.
    pub clear_bytes: u64,
}

/// What was done to content before it was encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Nothing: a reader can start at any chunk. For large or incompressible files.
    Plain,
    /// Compressed to one zstd frame (RFC 8878). A reader has to open all of it.
    Zstd,
}

/// Some of the site's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shard {
    /// The files, in the order of their names.
    pub files: Vec<FileEntry>,
}

/// One file that phones can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// The name by which phones ask for it.
    pub name: FileName,
    /// Who may have it.
    pub scope: Scope,
    /// What it is for.
    pub class: Class,
    /// SHA-256 of the file in clear.
    pub sha256: Digest,
    /// The sealed bytes; `blob.clear_bytes` is the size of the file.
    pub blob: ObjectRef,
}

/// Who may have a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The one device with this address.
    Device(MacAddr),
    /// The site's devices of this model.
    Model(String),
    /// Every device on the site's LAN.
    Everyone,
}

/// What a file is for. Firmware must also be listed in the `firmware` role's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A configuration, rendered at HQ.
    Config,
    /// A phone's firmware image or the list naming its parts.
    Firmware,
    /// CTL and ITL files.
    TrustList,
    /// Dictionaries, tones, ring tones, pictures.
    Locale,
    /// A log that the device may write, if the site takes logs.
    Log,
}

/// The phones of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// The phones, in the order of their MAC addresses; at most [`MAX_PHONES`](crate::limits::MAX_PHONES).
    pub phones: Vec<Phone>,
}

/// One phone of the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Phone {
    /// The MAC address of the phone, as its label has it.
    pub mac: MacAddr,
    /// The template set it uses, for example `cisco-8941`.
    pub model: String,
    /// What people call it, for reports: "reception". May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// How the appliance behaves at a site. HQ signs it; the site's local file can only fill what HQ left open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SiteSettings {
    /// What the appliance does about DHCP, and what it hands out.
    pub dhcp: DhcpSettings,
    /// What the TFTP server agrees to, and whether it takes logs.
    pub tftp: TftpSettings,
    /// Seconds between polls, 60 to 86,400; 300 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_seconds: Option<u32>,
    /// The publisher's public key to which an appliance proves a new sealing key. An appliance that is told none keeps its
    /// sealing key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desk_key: Option<RecipientPublic>,
    /// The age in days at which an appliance makes a new sealing key, 30 to 3,650;
    /// [`SEALING_KEY_DAYS`](crate::limits::SEALING_KEY_DAYS) if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_days: Option<u16>,
    /// Where HQ is from now on; `None` leaves it as the token said. Appliances of before keep what the token said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hq: Option<HqAddress>,
}

/// Where HQ is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HqAddress {
    /// The URL of its service: `https://host[:port]`, no slash at the end.
    pub url: String,
    /// The URL of the published tree; `None` if the service serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// What the appliance does on a LAN that has its own router. What each mode does, and why: `src/dhcp/README.md`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhcpMode {
    /// Choose from what the LAN shows.
    #[default]
    Auto,
    /// Never send a DHCP packet as a server.
    Shadow,
    /// Answer DHCPINFORM only.
    Inform,
    /// Complete the router's leases.
    Augment,
    /// Lease from a reserved range, to phones only.
    PhonesOnly,
    /// Be the only DHCP server of the segment.
    All,
}

/// DHCP at a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DhcpSettings {
    /// What the appliance does about the site's DHCP; [`DhcpMode::Auto`] if absent.
    pub mode: DhcpMode,
    /// First and last address to lease (`phones-only` and `all`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The default routers to hand out (option 3); the appliance itself is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<Ipv4Addr>,
    /// Name servers to hand out (option 6).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<Ipv4Addr>,
    /// Time servers to hand out (option 42).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<Ipv4Addr>,
    /// Domain to hand out (option 15); empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Lease time in seconds, 120 to 604,800; 43,200 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u32>,
    /// TFTP servers to announce, in order (options 66 and 150); empty means the appliance's own LAN address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tftp_servers: Vec<Ipv4Addr>,
    /// Further options for devices of one vendor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vendor_options: Vec<VendorOption>,
    /// Also treat devices as phones whose vendor class (option 60) starts so; empty means inventory only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phone_classes: Vec<String>,
    /// Also treat devices as phones whose MAC address begins so; empty means inventory only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phone_ouis: Vec<Oui>,
    /// In `augment`: complete the router's OFFER, too, not only its ACK, for devices whose vendor class starts so. If
    /// absent, for the families that choose a server by what its OFFER holds: Aastra, Mitel MiNet, Nortel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer_classes: Option<Vec<String>>,
}

/// A DHCP option that only devices with a certain vendor class get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VendorOption {
    /// The start of option 60, compared without case and without trailing NULs.
    pub vendor_class: String,
    /// The option's code, 1 to 254.
    pub code: u8,
    /// The value of the option, at most 255 bytes; hex in the JSON.
    #[serde(with = "hex_bytes")]
    pub value: Vec<u8>,
}

/// TFTP at a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TftpSettings {
    /// The largest block to agree to (RFC 2348), 512 to 65,464; the interface's MTU bounds it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_blksize: Option<u16>,
    /// The largest window to agree to (RFC 7440), 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_windowsize: Option<u16>,
    /// Whether devices may write their own logs.
    pub accept_logs: bool,
}

mod hex_bytes {
    use data_encoding::HEXLOWER_PERMISSIVE;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER_PERMISSIVE.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(de::Error::custom)
    }
}
