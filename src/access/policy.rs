//! Decides each request: who asks, for which file, and what the answer is.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::behind::PhonesBehind;
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
    /// A lock-out takes nothing from anybody: own and shared files are served, whatever was asked for before, and no answer
    /// is ever slower or other than "not found". Guesses made under a phone's address must not keep it from booting, nor a
    /// phone that the inventory does not have yet. What it changes is the reason with which further guesses are refused.
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
        if let (Some(mac), true) = (asker.device, asker.is_known()) {
            self.guard.is_itself(mac);
        }
        let judged = judge(catalog, &asker, request.name);
        if !self.limiter.allows(request.address, share(&asker, &judged), now) {
            return (Decision::Silence(FileRefusal::RateLimited), None);
        }
        let Denial { reason, attempt } = match judged {
            Ok(entry) => return (Decision::Serve(entry), None),
            Err(denial) => denial,
        };
        let (report, reason) = match attempt {
            Some(attempt) => {
                let locked = self.guard.is_locked(asker.who, now);
                let names = self.guard.attempt((asker.who, request.address), attempt, request.name, now);
                let report = names.map(|names| GuessingDevice { device: asker.seen, address: request.address, names });
                // Nobody can tell which of the phones behind a device asks.
                let is_behind = asker.seen.is_some_and(|device| self.guard.has_phones_behind(device));
                let reason = match reason {
                    FileRefusal::OtherDevice if is_behind && !locked => FileRefusal::UnknownDevice,
                    reason if !locked => reason,
                    _ => FileRefusal::LockedOut,
                };
                (report, reason)
            }
            // What phones ask for normally is refused for its own reason.
            None if asker.is_known() || asker.is_named_in(request.name) => (None, reason),
            None if self.guard.is_locked(asker.who, now) => (None, FileRefusal::LockedOut),
            None => (None, reason),
        };
        (Decision::NotFound(reason), report)
    }

    /// The devices with phones behind them, all of them, if that has changed since this was last asked: after each decision.
    pub fn poll_behind(&mut self, now: Instant) -> Option<Vec<PhonesBehind>> {
        self.guard.poll_behind(now)
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

/// Whose budget a request is counted against. Anybody can ask under a phone's address, so what it may not have, and what
/// does not exist, uses up nothing of what it needs to boot.
fn share(asker: &Asker<'_>, judged: &Result<Arc<FileEntry>, Denial>) -> Share {
    match (asker.is_known(), judged) {
        (true, Ok(_)) => Share::Own,
        (true, Err(denial)) if denial.attempt.is_none() => Share::Misses,
        (false, Ok(_)) => Share::Unknown,
        (_, Err(_)) => Share::Guesses,
    }
}

/// What is known of the device that asks.
struct Asker<'a> {
    /// The device, if lease and link do not disagree.
    device: Option<MacAddr>,
    /// The device that the link sees, for reports.
    seen: Option<MacAddr>,
    /// The device that has our lease of the address, if the link sees another one there.
    leased: Option<MacAddr>,
    /// The lines in the inventory of the device that the link sees and of the one that has our lease. Which of the two asks
    /// may be in dispute, but what both may have is not.
    phones: [Option<&'a Phone>; 2],
    /// The device or address for which a guess is counted.
    who: Who,
}

impl<'a> Asker<'a> {
    fn of(request: &FileRequest<'_>, catalog: &'a Catalog) -> Self {
        let (device, seen, leased) = match request.requester {
            Resolution::Device(mac) => (Some(mac), Some(mac), None),
            Resolution::Conflict { seen, leased } => (None, Some(seen), Some(leased)),
            Resolution::Unknown => (None, None, None),
        };
        let who = seen.map_or(Who::Address(request.address), Who::Device);
        let phones = [seen, leased].map(|mac| mac.and_then(|mac| catalog.phone(mac)));
        Self { device, seen, leased, phones, who }
    }

    /// Whether the inventory has the device, or one of the two that are in dispute.
    fn is_known(&self) -> bool {
        self.phones.iter().any(Option::is_some)
    }

    fn is_named_in(&self, name: &FileName) -> bool {
        self.device.is_some_and(|mac| owner::carries(name, mac))
    }

    /// How the guard counts a request for a name of `owner`, when this asker is not known to be that device; `None` for
    /// what is no guess. Somebody whose device the link does not show may be the owner, and so may a phone behind another
    /// device.
    fn attempt(&self, owner: MacAddr, catalog: &Catalog) -> Option<Attempt> {
        let may_be_owner = self.seen.is_none() || self.leased == Some(owner) || catalog.phone(owner).is_some();
        let attempt = if may_be_owner { Attempt::OtherOrOwn(owner) } else { Attempt::Other };
        (self.seen != Some(owner)).then_some(attempt)
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
            Scope::Device(owner) => Err(Denial { reason: others, attempt: asker.attempt(*owner, catalog) }),
            Scope::Model(model) if asker.phones.into_iter().flatten().any(|phone| phone.model == *model) => {
                Ok(Arc::clone(entry))
            }
            Scope::Model(_) => {
                let reason = if asker.is_known() { FileRefusal::OtherModel } else { FileRefusal::UnknownDevice };
                Err(Denial { reason, attempt: None })
            }
        };
    }
    if asker.is_named_in(name) {
        return Err(Denial { reason: FileRefusal::NotFound, attempt: None });
    }
    if let Some(owner) = catalog.phone_in_name(name) {
        return Err(Denial { reason: others, attempt: asker.attempt(owner, catalog) });
    }
    let attempt = match owner::by_rule(name) {
        Some(owner) => asker.attempt(owner, catalog),
        // Phones ask for a dozen names that most sites do not have (CTLSEP…, ITLFile.tlv, dictionaries).
        None => (!asker.is_known()).then_some(Attempt::Missing),
    };
    Err(Denial { reason: FileRefusal::NotFound, attempt })
}

#[cfg(test)]
mod tests;
