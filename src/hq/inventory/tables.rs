//! The tables `[dhcp]`, `[tftp]` and `[update]`: the fleet's defaults, then the site's own keys over them.

use bundle::SiteSettings;
use settings::{Problem, Table, Wrong};

/// How an appliance behaves, and when it may change over to a new release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplianceSettings {
    /// What the manifest carries as settings.
    pub site: SiteSettings,
    /// From and until, in minutes of the day UTC.
    pub activation_window: Option<(u16, u16)>,
    /// The image that the appliance shall run, by its name in `images/`.
    pub image: Option<ImageName>,
}

/// An image and where it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Its name in `images/`, without the suffix.
    pub name: String,
    /// The file, relative to the fleet directory.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// Reads the three tables out of `parent` over `settings`.
pub(super) fn apply(parent: &mut Table<'_>, settings: &mut ApplianceSettings, problems: &mut Vec<Problem>) {
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
    let window =
        table.checked("activation-window", "two different times in UTC: [\"01:00\", \"04:30\"]", problems, window);
    settings.activation_window = window.map(|(_, times)| times).or(settings.activation_window);
    if let Some((line, name)) = table.value::<String>("image", problems) {
        // A site says "" to leave the fleet's choice.
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

/// Minutes of the day of `HH:MM`.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let (hours, minutes): (u16, u16) = (digits(hours)??, digits(minutes)??);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}
