//! Decides each request: who asks, for which file, and what the answer is.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::catalog::Catalog;
use super::devices::Resolution;
use super::guard::{Attempt, Guard, Who};
use super::logs::OwnLog;
use super::owner;
use super::rate::{Limiter, RequestRates, Share};
use api::FileRefusal;
use bundle::{FileEntry, Phone, Scope};
use ids::{FileName, Lan, MacAddr};

/// One request to read a file, or to write a log.
#[derive(Debug, Clone, Copy)]
pub struct FileRequest<'a> {
    /// The source address of the request. Anybody on the LAN can forge it.
    pub address: Ipv4Addr,
    /// The device that this address belongs to, as [`DeviceTable`](crate::DeviceTable) said when the request came.
    pub requester: Resolution,
    /// The name that the request gives; it need not be a name of any file.
    pub name: &'a FileName,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// The requester may have this file.
    Serve(Arc<FileEntry>),
    /// `ERROR 1 "File not found"`, at once, whatever the reason is.
    NotFound(FileRefusal),
    /// No answer at all: outside the LAN, or over a rate limit.
    Silence(FileRefusal),
}

/// Decides requests. It remembers who asked for what, within bounds, to notice guessing and flooding.
#[derive(Debug)]
pub struct Policy {
    lan: Lan,
    limiter: Limiter,
    guard: Guard,
}

/// A device that was locked out. It is reported once for each lock-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuessingDevice {
    /// The device that the link sees at the address; `None` if it is not resolved.
    pub device: Option<MacAddr>,
    /// The source address of its last request.
    pub address: Ipv4Addr,
    /// The number of other devices' and missing names that it asked for.
    pub names: u32,
}

impl Policy {
    /// A policy for clients of `lan`, with the usual [`RequestRates`].
    pub fn new(lan: Lan) -> Self {
        Self::with_limits(lan, RequestRates::default())
    }

    /// A policy with other limits, for labs and load tests where many phones share an address.
    pub fn with_limits(lan: Lan, limits: RequestRates) -> Self {
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
        request: &FileRequest<'_>,
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
                Denial { reason: FileRefusal::LockedOut, attempt: None }
            }
            Err(refusal) => refusal,
        };
        let Denial { reason, attempt } = refusal;
        // A lock-out does not change the reason of a phone's normal misses, nor of a missing name of the asker's own.
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

    /// The log that the requester may write under this name. `None` for every other name, and over the rate; the answer is
    /// the same for both. It never counts as a guess, because everybody knows which logs there are.
    pub fn own_log(&mut self, catalog: &Catalog, request: &FileRequest<'_>, now: Instant) -> Option<OwnLog> {
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

/// What is known of the device that asks.
struct Asker<'a> {
    /// The device, if lease and link do not disagree.
    device: Option<MacAddr>,
    /// The device that the link sees, for reports.
    seen: Option<MacAddr>,
    /// The device's line in the inventory, if it has one.
    phone: Option<&'a Phone>,
    /// The device or address for which a guess is counted.
    who: Who,
}

impl<'a> Asker<'a> {
    fn of(request: &FileRequest<'_>, catalog: &'a Catalog) -> Self {
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

    /// How the guard counts a request for a name of `owner`, when this asker is not known to be that device.
    fn attempt(&self, owner: MacAddr) -> Attempt {
        if self.device.is_some() { Attempt::Other } else { Attempt::OtherOrOwn(owner) }
    }
}

/// Why a file is not served.
struct Denial {
    reason: FileRefusal,
    /// What the guard counts; `None` for what phones do normally.
    attempt: Option<Attempt>,
}

/// The rule itself, which remembers nothing. The manifest decides. A name that it does not list is never served; an address
/// of the inventory in it, or else any MAC address, says whose file it would be, and so whether the request counts as a guess.
fn judge(catalog: &Catalog, asker: &Asker<'_>, name: &FileName) -> Result<Arc<FileEntry>, Denial> {
    let others = if asker.device.is_some() { FileRefusal::OtherDevice } else { FileRefusal::UnknownDevice };
    if let Some(entry) = catalog.file(name) {
        return match &entry.scope {
            Scope::Everyone => Ok(Arc::clone(entry)),
            Scope::Device(owner) if asker.device == Some(*owner) => Ok(Arc::clone(entry)),
            Scope::Device(owner) => Err(Denial { reason: others, attempt: Some(asker.attempt(*owner)) }),
            Scope::Model(model) => match asker.phone {
                Some(phone) if phone.model == *model => Ok(Arc::clone(entry)),
                Some(_) => Err(Denial { reason: FileRefusal::OtherModel, attempt: None }),
                None => Err(Denial { reason: FileRefusal::UnknownDevice, attempt: None }),
            },
        };
    }
    if asker.is_named_in(name) {
        return Err(Denial { reason: FileRefusal::NotFound, attempt: None });
    }
    if let Some(owner) = catalog.phone_in_name(name) {
        return Err(Denial { reason: others, attempt: Some(asker.attempt(owner)) });
    }
    let attempt = match owner::by_rule(name) {
        Some(owner) => Some(asker.attempt(owner)),
        // Phones ask for a dozen names that most sites do not have (CTLSEP…, ITLFile.tlv, dictionaries).
        None => asker.phone.is_none().then_some(Attempt::Missing),
    };
    Err(Denial { reason: FileRefusal::NotFound, attempt })
}

#[cfg(test)]
mod tests;
