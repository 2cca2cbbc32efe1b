//! The decision: who asks, for what, and what we say.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::catalog::Catalog;
use super::devices::Resolution;
use super::guard::{Attempt, Guard, Who};
use super::logs::OwnLog;
use super::owner;
use super::rate::{Limiter, Limits, Share};
use api::FileRefusal;
use bundle::{FileEntry, Phone, Scope};
use ids::{FileName, Lan, MacAddr};

/// One request for a file.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where it came from.
    pub address: Ipv4Addr,
    /// Who that is.
    pub requester: Resolution,
    /// What is wanted.
    pub name: &'a FileName,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Serve it.
    Serve(Arc<FileEntry>),
    /// `ERROR 1 "File not found"`, at once, whatever the reason is.
    NotFound(FileRefusal),
    /// No answer at all: outside the LAN, or over a rate limit.
    Silence(FileRefusal),
}

/// Decides requests and remembers what it must to notice guessing and flooding.
#[derive(Debug)]
pub struct Policy {
    lan: Lan,
    limiter: Limiter,
    guard: Guard,
}

/// An event that someone should hear of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuessingDevice {
    /// Who, if known.
    pub device: Option<MacAddr>,
    /// From where.
    pub address: Ipv4Addr,
    /// How many names so far.
    pub names: u32,
}

impl Policy {
    /// A policy for clients of `lan`, with the usual [`Limits`].
    pub fn new(lan: Lan) -> Self {
        Self::with_limits(lan, Limits::default())
    }

    /// A policy with other limits, for labs and load tests where many phones share an address.
    pub fn with_limits(lan: Lan, limits: Limits) -> Self {
        Self { lan, limiter: Limiter::new(limits), guard: Guard::default() }
    }

    /// Decides one request, and says once when a device was locked out by it.
    ///
    /// A lock-out takes from a device that is not in the inventory the files that everyone may have. It never takes
    /// anybody's own files, nothing at all from a phone of the inventory, and no answer is ever slower or other than
    /// "not found": guesses made under a phone's address must not keep it from booting.
    pub fn decide(
        &mut self,
        catalog: &Catalog,
        request: &Request<'_>,
        now: Instant,
    ) -> (Decision, Option<GuessingDevice>) {
        if !self.can_answer(request.address) {
            return (Decision::Silence(FileRefusal::OutsideLan), None);
        }
        let asker = Asker::of(request, catalog);
        let judged = judge(catalog, &asker, request.name);
        // Anybody can ask under a phone's address. What is asked for that the phone may not have uses up nothing of what
        // it needs to boot.
        let share = match (asker.phone, &judged) {
            (None, _) => Share::Unknown,
            (Some(_), Err(refusal)) if refusal.attempt.is_some() => Share::Guesses,
            (Some(_), _) => Share::Own,
        };
        if !self.limiter.allows(request.address, share, now) {
            return (Decision::Silence(FileRefusal::RateLimited), None);
        }
        let refusal = match judged {
            Ok(entry) => {
                let shared = !matches!(entry.scope, Scope::Device(_)) && !asker.is_named_in(request.name);
                if !(shared && asker.phone.is_none() && self.guard.is_locked(asker.who, now)) {
                    return (Decision::Serve(entry), None);
                }
                Refusal { reason: FileRefusal::LockedOut, attempt: None }
            }
            Err(refusal) => refusal,
        };
        let Refusal { reason, attempt } = refusal;
        // A phone's normal misses stay what they are; so does anybody's own missing name.
        let touched = match attempt {
            Some(_) => true,
            None => asker.phone.is_none() && !asker.is_named_in(request.name),
        };
        let reason = if touched && self.guard.is_locked(asker.who, now) { FileRefusal::LockedOut } else { reason };
        let report = attempt
            .and_then(|attempt| self.guard.attempt(asker.who, attempt, request.name, now))
            .map(|names| GuessingDevice { device: asker.seen, address: request.address, names });
        (Decision::NotFound(reason), report)
    }

    /// The log that the requester may write under this name; `None` for everything else, which is refused alike, and
    /// over the rate. Never a guess: whose logs there are is no secret.
    pub fn own_log(&mut self, catalog: &Catalog, request: &Request<'_>, now: Instant) -> Option<OwnLog> {
        let log = OwnLog::writable(catalog, request.requester, request.name)?;
        let allowed = self.can_answer(request.address) && self.limiter.allows(request.address, Share::Own, now);
        allowed.then_some(log)
    }

    /// Whether a packet can really come from this address: on the LAN, and not its broadcast address, to which an
    /// answer would reach everyone.
    fn can_answer(&self, address: Ipv4Addr) -> bool {
        self.lan.contains(address) && !self.lan.is_broadcast(address)
    }
}

/// Who asks, as far as it is known.
struct Asker<'a> {
    /// The device, if lease and link do not disagree.
    device: Option<MacAddr>,
    /// The device that the link sees, for reports.
    seen: Option<MacAddr>,
    /// Its line in the inventory.
    phone: Option<&'a Phone>,
    /// Whom a guess is held against.
    who: Who,
}

impl<'a> Asker<'a> {
    fn of(request: &Request<'_>, catalog: &'a Catalog) -> Self {
        let (device, seen) = match request.requester {
            Resolution::Device(mac) => (Some(mac), Some(mac)),
            Resolution::Conflict { seen, .. } => (None, Some(seen)),
            Resolution::Unknown => (None, None),
        };
        let who = seen.map_or(Who::Address(request.address), Who::Device);
        Self { device, seen, phone: device.and_then(|mac| catalog.phone(mac)), who }
    }

    fn is_named_in(&self, name: &FileName) -> bool {
        self.device.is_some_and(|mac| owner::carries(name, mac))
    }

    /// How a request for a name of `owner`, who is not known to be this one, counts.
    fn attempt(&self, owner: MacAddr) -> Attempt {
        if self.device.is_some() { Attempt::Other } else { Attempt::OtherOrOwn(owner) }
    }
}

struct Refusal {
    reason: FileRefusal,
    /// What the guard is to count, if anything.
    attempt: Option<Attempt>,
}

/// The rule itself, which remembers nothing: the manifest decides; of names that it does not list, the inventory's
/// addresses in them say whose they would be; only then the general rule, which serves nothing and only counts.
fn judge(catalog: &Catalog, asker: &Asker<'_>, name: &FileName) -> Result<Arc<FileEntry>, Refusal> {
    let others = if asker.device.is_some() { FileRefusal::OtherDevice } else { FileRefusal::UnknownDevice };
    if let Some(entry) = catalog.file(name) {
        return match &entry.scope {
            Scope::Everyone => Ok(Arc::clone(entry)),
            Scope::Device(owner) if asker.device == Some(*owner) => Ok(Arc::clone(entry)),
            Scope::Device(owner) => Err(Refusal { reason: others, attempt: Some(asker.attempt(*owner)) }),
            Scope::Model(model) => match asker.phone {
                Some(phone) if phone.model == *model => Ok(Arc::clone(entry)),
                Some(_) => Err(Refusal { reason: FileRefusal::OtherModel, attempt: None }),
                None => Err(Refusal { reason: FileRefusal::UnknownDevice, attempt: None }),
            },
        };
    }
    if asker.is_named_in(name) {
        return Err(Refusal { reason: FileRefusal::NotFound, attempt: None });
    }
    if let Some(owner) = catalog.phone_in_name(name) {
        return Err(Refusal { reason: others, attempt: Some(asker.attempt(owner)) });
    }
    let attempt = match owner::by_rule(name) {
        Some(owner) => Some(asker.attempt(owner)),
        // Phones ask for a dozen names that most sites do not have (CTLSEP…, ITLFile.tlv, dictionaries).
        None => asker.phone.is_none().then_some(Attempt::Missing),
    };
    Err(Refusal { reason: FileRefusal::NotFound, attempt })
}

#[cfg(test)]
mod tests;
