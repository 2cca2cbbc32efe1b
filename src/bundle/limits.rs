//! Every bound on what comes from outside in a bundle, in one place.

/// Bytes of clear text in one chunk of a sealed object; the last chunk may be shorter.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes that sealing adds to each chunk (the Poly1305 tag).
pub const TAG_BYTES: usize = 16;

/// The largest sealed manifest.
pub const MAX_MANIFEST_BYTES: u64 = 256 * 1024;

/// The largest manifest, shard or inventory after opening and unpacking.
pub const MAX_UNPACKED_BYTES: u64 = 4 * 1024 * 1024;

/// The most shards in a manifest.
pub const MAX_SHARDS: usize = 64;

/// The most files in a release.
pub const MAX_FILES: usize = 50_000;

/// The most phones at a site.
pub const MAX_PHONES: usize = 20_000;

/// The most recipients of a manifest: site, spare, recovery, with room for rotation.
pub const MAX_RECIPIENTS: usize = 8;

/// The largest file that is compressed. Larger ones stay plain, so that a reader can start at any chunk.
pub const MAX_COMPRESSED_FILE_BYTES: u64 = 1024 * 1024;

/// The largest file at all. The biggest image of a phone of the families served is under 200 MB.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// The largest file that need not be in the signed firmware catalogue, whatever class the manifest gives it: so the
/// release key cannot ship an image under another name. Configurations, trust lists, dictionaries and ring tones stay
/// far below; what phones flash hardly ever does.
pub const MAX_UNLISTED_FILE_BYTES: u64 = 2 * 1024 * 1024;

/// The longest model name and vendor class in a bundle, in bytes.
pub const MAX_MODEL_BYTES: usize = 64;

/// The longest label of a phone, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// The most addresses in one list of the site's settings: what fits in a DHCP option beside others.
pub const MAX_SETTING_ADDRESSES: usize = 8;

/// The most vendor options and phone classes in a site's settings.
pub const MAX_SETTING_ITEMS: usize = 64;

/// The age in days at which an appliance makes a new sealing key, unless its settings say otherwise: with every sixth
/// certificate.
pub const SEALING_KEY_DAYS: u16 = 365;
