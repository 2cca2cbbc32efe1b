//! The system that the appliance itself shall run, and what the firmware keys say of it.

use std::sync::Arc;

use serde_json::{Value, json};

use bundle::FileEntry;
use tuf::schema::Target;

/// The system that the appliance itself shall run. It is not among the files, so no phone can ask for it.
#[derive(Debug, Clone)]
pub struct BoardImage {
    /// The version of the system, in the manifest's words: 1 to 64 letters, digits and `.+~_-`.
    pub version: String,
    /// The hardware that the system is for, for example `lineside-arm64`.
    pub compatible: String,
    /// The bundle, as [`super::Files`] open it.
    pub bundle: Arc<FileEntry>,
    /// When it may be installed, in minutes of the day UTC, from and until; `None` is at once.
    pub window: Option<(u16, u16)>,
    /// What the firmware keys bind the bundle to; `None` if they list it as a file alone.
    pub approval: Option<ImageApproval>,
}

/// The member of a target's `custom` that makes it an image of the appliance.
const MEMBER: &str = "image";

/// What the firmware keys bind a bundle to: `custom` of its target in the `firmware` role (TUF §4.5). The release key alone
/// can neither give an old image a new version, nor one board's image to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageApproval {
    /// The hardware that it is for.
    pub compatible: String,
    /// Its version.
    pub version: String,
    /// Whether it may follow a higher version.
    pub may_go_back: bool,
}

impl ImageApproval {
    /// As it stands in `custom`.
    pub fn to_custom(&self) -> Value {
        let mut image = json!({ "compatible": self.compatible, "version": self.version });
        if self.may_go_back
            && let Some(members) = image.as_object_mut()
        {
            members.insert("may-go-back".to_owned(), Value::Bool(true));
        }
        json!({ MEMBER: image })
    }

    /// Out of a signed target. Members that are not known are left alone.
    pub fn of(target: &Target) -> Option<Self> {
        let image = target.custom.as_ref()?.get(MEMBER)?;
        let text = |name: &str| image.get(name).and_then(Value::as_str).map(str::to_owned);
        let may_go_back = image.get("may-go-back").and_then(Value::as_bool).unwrap_or(false);
        Some(Self { compatible: text("compatible")?, version: text("version")?, may_go_back })
    }
}
