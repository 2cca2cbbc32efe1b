//! Reads the tables `[dhcp]`, `[tftp]` and `[update]`: first the fleet's defaults, then the site's own keys over them.

use bundle::SiteSettings;
use settings::{Problem, Table, Wrong};

/// How a site's appliance behaves, when it may activate a new release, and which image it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseSettings {
    /// The settings that go into the manifest.
    pub site: SiteSettings,
    /// When the appliance may activate a new release: from and until, in minutes of the day, UTC. `None` means at any
    /// time.
    pub activation_window: Option<(u16, u16)>,
    /// The image that the appliance must run; `None` leaves the image that it has.
    pub image: Option<ImageName>,
}

/// The name of an image, and the file and line that ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The image's name in `images/`, without the suffix.
    pub name: String,
    /// The file, relative to the fleet directory.
    pub file: String,
    /// The line of that file, from 1.
    pub line: usize,
}

/// Reads the three tables out of `parent` over `settings`.
pub(super) fn apply(parent: &mut Table<'_>, settings: &mut ReleaseSettings, problems: &mut Vec<Problem>) {
    settings::read_dhcp(parent.table("dhcp", problems), &mut settings.site.dhcp, problems);

    let mut table = parent.table("tftp", problems);
    let tftp = &mut settings.site.tftp;
    tftp.max_blksize = table.number("max-blksize", 512..=65_464, problems).or(tftp.max_blksize);
    tftp.max_windowsize = table.number("max-windowsize", 1..=64, problems).or(tftp.max_windowsize);
    if let Some((_, value)) = table.value("accept-logs", problems) {
        tftp.accept_logs = value;
    }
    table.finish(problems);

    let mut table = parent.table("update", problems);
    let site = &mut settings.site;
    site.poll_seconds = table.number("poll-seconds", 60..=86_400, problems).or(site.poll_seconds);
    site.sealing_key_days = table.number("sealing-key-days", 30..=3_650, problems).or(site.sealing_key_days);
    let window =
        table.checked("activation-window", "two different times in UTC: [\"01:00\", \"04:30\"]", problems, window);
    settings.activation_window = window.map(|(_, times)| times).or(settings.activation_window);
    if let Some((line, name)) = table.value::<String>("image", problems) {
        // With "" a site opts out of the fleet's image.
        let file = table.source().name.clone();
        settings.image = (!name.is_empty()).then_some(ImageName { name, file, line });
    }
    table.finish(problems);
}

fn window(times: [String; 2]) -> Result<(u16, u16), Wrong> {
    match times.each_ref().map(|text| minutes(text)) {
        [Some(from), Some(until)] if from != until => Ok((from, until)),
        _ => Err(Wrong::new("is not two times of the day")),
    }
}

/// Parses `HH:MM` as minutes of the day.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let (hours, minutes): (u16, u16) = (digits(hours)??, digits(minutes)??);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}
