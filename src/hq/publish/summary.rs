//! The result of a run of `publish`, and how it is printed.

use crate::enrol::{self, SiteFault};
use ids::{Generation, SiteId};
use repository::collect::Collected;
use settings::count;

/// The result of a run of `publish`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Each site that was looked at, in the order of the names.
    pub sites: Vec<SiteSummary>,
    /// How many sealed objects the published tree did not have before.
    pub new_objects: u64,
    /// The size of these objects in bytes, sealed.
    pub new_bytes: u64,
    /// Sites whose release HQ's host did not take, by name, and why.
    pub refused: Vec<(String, String)>,
    /// What was deleted because nobody needs it any more.
    pub collected: Collected,
    /// What is wrong with sites that were skipped. They keep the release that they have.
    pub faults: Vec<SiteFault>,
}

impl Summary {
    /// Fails if a site was skipped, so that the command ends with status 1.
    pub fn complete(&self) -> anyhow::Result<()> {
        enrol::complete(&self.faults, "the others are published")
    }
}

/// The result for one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSummary {
    /// The site's id.
    pub site: SiteId,
    /// The site's name, for people.
    pub name: String,
    /// What the run did for it.
    pub outcome: Outcome,
}

/// What was done for a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It gets a new release.
    Published {
        /// The release's number.
        generation: Generation,
        /// How many files phones can ask for.
        files: u32,
    },
    /// It keeps its release, with fresh metadata.
    Refreshed(Generation),
    /// Nothing was done: its release and metadata stay.
    Unchanged(Generation),
    /// It gets no release, because no appliance has enrolled that could open one.
    WaitingForEnrolment,
}

impl Outcome {
    /// The number of the release that the site gets now; 0 if there is none.
    pub const fn generation(self) -> Generation {
        match self {
            Self::Published { generation, .. } | Self::Refreshed(generation) | Self::Unchanged(generation) => {
                generation
            }
            Self::WaitingForEnrolment => Generation(0),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faulty = self.faults.iter().map(|fault| fault.whose.len());
        let width = self.sites.iter().map(|site| site.name.len()).chain(faulty).max().unwrap_or(0);
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
        for fault in &self.faults {
            writeln!(f, "{:width$}  skipped     {fault}", fault.whose)?;
        }
        if unchanged > 0 {
            writeln!(f, "{} unchanged", count(unchanged, "site"))?;
        }
        for (name, why) in &self.refused {
            writeln!(f, "{name:width$}  refused     by HQ's host: {why}")?;
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
