//! Drives the TUF machine over HTTPS, and keeps what held.

use super::anchors::{self, AnchorError};
use super::client::{Client, FetchError, GetOutcome};
use super::clock::Timekeeper;
use ids::{FleetId, SiteId, UnixTime};
use tuf::{MetadataLimits, Refresh, RefreshStep, Search, SearchStep, TrustError, Trusted};

/// Why a refresh ended early. What was trusted before, and new roots, stay.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// A file could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file does not hold.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A file holds but is another site's.
    #[error(transparent)]
    Other(#[from] AnchorError),
}

/// What a refresh came to.
#[derive(Debug)]
pub struct Refreshed {
    /// What is trusted now. The caller stores it whatever the result is, before it believes anything that follows from
    /// it (TUF §5.3.8, §5.4.5).
    pub trusted: Trusted,
    /// Whether the whole refresh went well.
    pub result: Result<(), RefreshError>,
}

/// The name of the file that a poll asks for first.
pub const TIMESTAMP: &str = "timestamp.json";

/// Searches for a target by `path`, and fetches the delegated roles that this needs. What is found is in
/// [`Refreshed::trusted`].
pub async fn search(client: &Client, base: &str, trusted: Trusted, now: UnixTime, path: &str) -> Refreshed {
    let mut machine = match Search::start(trusted.clone(), path, MetadataLimits::default(), now) {
        Ok(machine) => machine,
        Err(error) => return Refreshed { trusted, result: Err(error.into()) },
    };
    let result = loop {
        let SearchStep::Fetch(ask) = machine.step() else { break Ok(()) };
        let told = match client.get(&format!("{base}{}", ask.path), ask.max_bytes, None).await {
            Ok(GetOutcome::Body(bytes, _)) => machine.received(&bytes),
            Ok(GetOutcome::Missing | GetOutcome::NotModified) => machine.missing(),
            Err(error) => break Err(error.into()),
        };
        if let Err(error) = told {
            break Err(error.into());
        }
    };
    Refreshed { trusted: machine.trusted().clone(), result }
}

/// Refreshes trusted metadata from `base`, a URL with a slash at the end. `timestamp` is the one that the poll has
/// fetched already. A new root that says what time it is sets `time` before expiry is judged.
pub async fn refresh(
    client: &Client,
    base: &str,
    trusted: Trusted,
    time: &Timekeeper,
    (fleet, site): (&FleetId, &SiteId),
    mut timestamp: Option<Vec<u8>>,
) -> Refreshed {
    let start = trusted.clone();
    let mut machine = Refresh::start(trusted, MetadataLimits::default(), time.now());
    let mut root = start.root().version;
    loop {
        let RefreshStep::Fetch(ask) = machine.step() else {
            return Refreshed { trusted: machine.trusted().clone(), result: Ok(()) };
        };
        // The root chain ends before anything else is asked for. A last root that names another fleet or no CA would
        // cut us off from HQ for good, so it is not kept; a later one may mend it.
        if ask.role != "root"
            && let Err(error) = anchors::authorities(machine.trusted().root(), fleet)
        {
            return Refreshed { trusted: start, result: Err(error.into()) };
        }
        let fetched = match timestamp.take_if(|_| ask.path == TIMESTAMP) {
            Some(bytes) => Ok(GetOutcome::Body(bytes, None)),
            None => client.get(&format!("{base}{}", ask.path), ask.max_bytes, None).await,
        };
        let before = (ask.role != "root").then(|| machine.trusted().clone());
        let told = match fetched {
            Ok(GetOutcome::Body(bytes, _)) => machine.received(&bytes).map_err(RefreshError::from),
            Ok(GetOutcome::Missing | GetOutcome::NotModified) => {
                // The root chain ends here: what time it is comes before what has expired.
                let newest = machine.trusted().root();
                if let Some(said) = newest.time().filter(|_| newest.version > root) {
                    root = newest.version;
                    time.set_floor(said);
                    machine.set_now(time.now());
                }
                machine.missing().map_err(RefreshError::from)
            }
            Err(error) => Err(error.into()),
        };
        let checked = match machine.trusted().timestamp() {
            Some(timestamp) => anchors::check_site(timestamp, fleet, site),
            None => Ok(()),
        };
        if let Err(error) = checked {
            let trusted = before.unwrap_or_else(|| machine.trusted().clone());
            return Refreshed { trusted, result: Err(error.into()) };
        }
        if let Err(error) = told {
            return Refreshed { trusted: machine.trusted().clone(), result: Err(error) };
        }
    }
}
