//! What `publish` prints.

use super::{Outcome, Summary};
use settings::count;

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.sites.iter().map(|site| site.name.len()).max().unwrap_or(0);
        let mut unchanged = 0usize;
        for site in &self.sites {
            let what = match site.outcome {
                Outcome::Published { generation, files } => {
                    format!(
                        "published   generation {generation}, {}",
                        count(usize::try_from(files).unwrap_or(0), "file")
                    )
                }
                Outcome::Refreshed(generation) => format!("refreshed   generation {generation}, metadata only"),
                Outcome::WaitingForEnrolment => {
                    format!("waiting     for enrolment; lineside-hq site enroll {}", site.name)
                }
                Outcome::Unchanged(generation) if self.sites.len() <= 20 => {
                    format!("unchanged   generation {generation}")
                }
                Outcome::Unchanged(_) => {
                    unchanged += 1;
                    continue;
                }
            };
            writeln!(f, "{:width$}  {what}", site.name)?;
        }
        if unchanged > 0 {
            writeln!(f, "{} unchanged", count(unchanged, "site"))?;
        }
        let objects = usize::try_from(self.new_objects).unwrap_or(usize::MAX);
        write!(f, "{}, {} bytes", count(objects, "new object"), self.new_bytes)?;
        let gone = self.collected;
        if gone.sites > 0 {
            let sites = usize::try_from(gone.sites).unwrap_or(usize::MAX);
            write!(f, "\n{} deleted that left the fleet directory long ago", count(sites, "site"))?;
        }
        if gone.files > 0 {
            let files = usize::try_from(gone.files).unwrap_or(usize::MAX);
            write!(f, "\n{} of old releases deleted, {} bytes", count(files, "file"), gone.bytes)?;
        }
        Ok(())
    }
}
