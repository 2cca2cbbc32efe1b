//! `enrolment`: what to do about appliances that enrolled and that no publish took over yet.

use std::io::Write;

use anyhow::anyhow;
use clap::Subcommand;

use super::run::inventory;
use crate::enrol;
use crate::host::Host;
use repository::layout::Layout;
use settings::count;
use telemetry::Hint as _;

/// What can be done with enrolments.
#[derive(Debug, Subcommand)]
pub enum EnrolmentCommand {
    /// List the enrolments that no publish took over yet
    List,
    /// Put an enrolment aside that nobody can vouch for; the site's other appliances stay
    Discard {
        /// The site's name or id, or the enrolment's token
        which: String,
    },
}

/// Runs the command.
pub(super) fn run(layout: &Layout, command: &EnrolmentCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let fleet = inventory(layout).ok();
    let name = |site: &ids::SiteId| fleet.as_ref().and_then(|fleet| fleet.name_of(site)).unwrap_or(site.to_string());
    match command {
        EnrolmentCommand::List => {
            let enrolments = Host::of(layout)?.new_enrolments()?;
            if enrolments.is_empty() {
                writeln!(out, "no enrolment waits for a publish")?;
            }
            for enrolment in enrolments {
                let what = match enrol::doubt(layout, &enrolment) {
                    None => "the next publish takes it over".to_owned(),
                    Some(doubt) => doubt,
                };
                writeln!(out, "{}  token {}  {}  {what}", name(&enrolment.site), enrolment.token, enrolment.at)?;
            }
            Ok(())
        }
        EnrolmentCommand::Discard { which } => {
            let site = fleet.as_ref().and_then(|fleet| Some(&fleet.sites.get(which)?.id));
            let discarded = enrol::discard(layout, which, site)?;
            if discarded.is_empty() {
                return Err(anyhow!("there is no new enrolment of `{which}`")
                    .hint("`lineside-hq enrolment list` names them; `site revoke` ends one that was taken over"));
            }
            for one in discarded {
                let (name, refused) = (name(&one.site), count(one.certificates, "certificate"));
                writeln!(
                    out,
                    "discarded the enrolment of {name} by token {}: {refused} refused from now on",
                    one.token
                )?;
                writeln!(out, "the site's other appliances stay; `lineside-hq site enroll {name}` makes a new token")?;
            }
            Ok(())
        }
    }
}
