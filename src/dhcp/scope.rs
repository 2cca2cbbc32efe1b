//! The settings of a site for DHCP, checked, and the mode in force. Pure.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::leases::MAX_LEASE_SECONDS;
use super::message::Request;
use super::options::{OptionCode, class_starts_with, vendor_classes};
use super::range::{MAX_RANGE, Range};
use bundle::limits::{MAX_SETTING_ADDRESSES, MAX_SETTING_ITEMS};
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use ids::{Lan, MacAddr, Oui};

/// The lease time if settings name none, in seconds.
const DEFAULT_LEASE_SECONDS: u32 = 43_200;
/// The shortest lease time, in seconds.
const MIN_LEASE_SECONDS: u32 = 120;

/// The longest domain, in octets (RFC 1035).
const MAX_DOMAIN_BYTES: usize = 253;

/// Phones that choose a server by what its OFFER holds, by the start of their vendor class. Aastra waits 6 s for an OFFER
/// with 66, Mitel MiNet for one with 43 or 125, Nortel's i2004 for one with its vendor string.
const BY_OFFER: [&str; 5] = ["AastraIPPhone", "ipphone.mitel.com", "Mitel", "Nortel-i2004", "Nortel-SIP"];

/// The mode in force. The settings may name another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveMode {
    /// Answer nothing.
    Shadow,
    /// Answer DHCPINFORM of phones.
    Inform,
    /// Complete the router's leases for phones.
    Augment,
    /// Lease to phones.
    PhonesOnly,
    /// Lease to everybody.
    All,
}

/// What an answer depends on besides the LAN and the request. Made anew for each release.
#[derive(Debug, Clone)]
pub struct DhcpScope {
    /// The mode that the settings name.
    pub configured: DhcpMode,
    /// The mode in force.
    pub mode: ActiveMode,
    /// The mode in force as people read it. If the settings name another mode, the label says so.
    pub label: &'static str,
    /// Why the mode in force is not the one that the settings name.
    pub problem: Option<String>,
    /// Our address on the LAN, and its prefix.
    pub lan: Lan,
    /// The addresses to lease, in a mode that leases.
    pub range: Option<Range>,
    /// How long a lease lasts.
    pub lease: Duration,
    /// The TFTP servers, at least one.
    pub tftp: Vec<Ipv4Addr>,
    /// The default routers that clients get.
    pub routers: Vec<Ipv4Addr>,
    /// The name servers that clients get.
    pub dns: Vec<Ipv4Addr>,
    /// The time servers that clients get.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain name that clients get.
    pub domain: String,
    /// Further options, each for one vendor class.
    pub vendor_options: Vec<VendorOption>,
    /// Whether an address must be asked for by ARP before it is offered. On loopback nobody can be asked.
    pub check_addresses: bool,
    phones: HashSet<MacAddr>,
    phone_classes: Vec<String>,
    phone_ouis: HashSet<Oui>,
    offer_classes: Vec<String>,
}

impl DhcpScope {
    /// Checks the settings, for a server with this address and these phones in the inventory.
    pub fn new(lan: Lan, settings: &DhcpSettings, phones: impl IntoIterator<Item = MacAddr>) -> Self {
        let list = |addresses: &[Ipv4Addr]| -> Vec<Ipv4Addr> {
            addresses.iter().copied().take(MAX_SETTING_ADDRESSES).collect()
        };
        let mut tftp = list(&settings.tftp_servers);
        if tftp.is_empty() {
            tftp.push(lan.address());
        }
        let lease = settings.lease_seconds.unwrap_or(DEFAULT_LEASE_SECONDS).clamp(MIN_LEASE_SECONDS, MAX_LEASE_SECONDS);
        let mut scope = Self {
            configured: settings.mode,
            mode: ActiveMode::Inform,
            label: "inform",
            problem: None,
            lan,
            range: None,
            lease: Duration::from_secs(lease.into()),
            tftp,
            routers: list(&settings.routers),
            dns: list(&settings.dns),
            ntp: list(&settings.ntp),
            domain: settings.domain.chars().filter(char::is_ascii_graphic).take(MAX_DOMAIN_BYTES).collect(),
            vendor_options: settings
                .vendor_options
                .iter()
                .filter(|o| is_free(o.code))
                .take(MAX_SETTING_ITEMS)
                .cloned()
                .collect(),
            check_addresses: true,
            phones: phones.into_iter().collect(),
            phone_classes: settings.phone_classes.iter().take(MAX_SETTING_ITEMS).cloned().collect(),
            phone_ouis: settings.phone_ouis.iter().take(MAX_SETTING_ITEMS).copied().collect(),
            offer_classes: settings.offer_classes.as_ref().map_or_else(
                || BY_OFFER.map(str::to_owned).to_vec(),
                |classes| classes.iter().take(MAX_SETTING_ITEMS).cloned().collect(),
            ),
        };
        match settings.mode {
            // The LAN decides. The range is for the case that nobody else serves here.
            DhcpMode::Auto => scope.range = scope.checked_range(settings).ok(),
            DhcpMode::Inform => {}
            DhcpMode::Shadow => (scope.mode, scope.label) = (ActiveMode::Shadow, "shadow"),
            DhcpMode::Augment => (scope.mode, scope.label) = (ActiveMode::Augment, "augment"),
            DhcpMode::PhonesOnly => match scope.checked_range(settings) {
                Ok(range) => {
                    (scope.mode, scope.label) = (ActiveMode::PhonesOnly, "phones-only");
                    scope.range = Some(range);
                }
                Err(problem) => scope.fall_back("inform (phones-only asked for)", problem),
            },
            DhcpMode::All => match scope.checked_range(settings) {
                Ok(range) => {
                    (scope.mode, scope.label) = (ActiveMode::All, "all");
                    scope.range = Some(range);
                }
                Err(problem) => scope.fall_back("inform (all asked for)", problem),
            },
        }
        scope
    }

    /// Fills in what the settings leave open, from what the LAN's own router hands out.
    pub fn learn(&mut self, terms: &super::heard::LeaseTerms) {
        let mine = [&mut self.routers, &mut self.dns, &mut self.ntp];
        for (mine, theirs) in mine.into_iter().zip([&terms.routers, &terms.dns, &terms.ntp]) {
            if mine.is_empty() {
                mine.clone_from(theirs);
            }
        }
        if self.domain.is_empty() {
            self.domain.clone_from(&terms.domain);
        }
    }

    /// Falls back to `inform`, for this reason.
    pub(super) fn fall_back(&mut self, label: &'static str, problem: String) {
        self.mode = ActiveMode::Inform;
        self.label = label;
        self.problem = Some(problem);
        self.range = None;
    }

    fn checked_range(&self, settings: &DhcpSettings) -> Result<Range, String> {
        let (first, last) = settings.range.ok_or("this mode needs a range of addresses")?;
        let lan = self.lan;
        if !lan.contains(first) || !lan.contains(last) {
            return Err(format!("the range {first} to {last} is not in the LAN of {lan}"));
        }
        // No client may get an address that the settings name for something else.
        let others = [&self.tftp, &self.routers, &self.dns, &self.ntp].into_iter().flatten().copied();
        let no_hosts = [lan.network(), lan.broadcast()].into_iter().filter(|end| !lan.is_host(*end));
        let excluded: BTreeSet<Ipv4Addr> = others.chain(no_hosts).chain([lan.address()]).collect();
        Range::new(first, last, excluded)
            .ok_or_else(|| format!("the range {first} to {last} is backwards or over {MAX_RANGE} addresses"))
    }

    /// Our address on the LAN, the server identifier.
    pub const fn server(&self) -> Ipv4Addr {
        self.lan.address()
    }

    /// Whether the inventory lists this device.
    pub fn knows(&self, mac: MacAddr) -> bool {
        self.phones.contains(&mac)
    }

    /// The further options for the vendor of this client.
    pub fn vendor_options_of(&self, request: &Request) -> impl Iterator<Item = (OptionCode, &[u8])> {
        let classes: Vec<Vec<u8>> = vendor_classes(&request.options).into_iter().map(<[u8]>::to_vec).collect();
        let fitting = self
            .vendor_options
            .iter()
            .filter(move |option| classes.iter().any(|class| class_starts_with(class, &option.vendor_class)));
        fitting.map(|option| (OptionCode::from(option.code), option.value.as_slice()))
    }

    /// Whether the client is a phone: the inventory lists it, or the settings name its vendor class or its maker.
    pub fn is_phone(&self, request: &Request) -> bool {
        self.knows(request.chaddr)
            || self.phone_ouis.contains(&Oui::of(request.chaddr))
            || has_class(request, &self.phone_classes)
    }

    /// Whether a router answers the same clients, so that the first answer counts. Then the fast path answers, if there is
    /// one.
    pub fn answers_first(&self) -> bool {
        matches!(self.mode, ActiveMode::Inform | ActiveMode::Augment)
    }

    /// Whether addresses are leased.
    pub const fn leases(&self) -> bool {
        matches!(self.mode, ActiveMode::All | ActiveMode::PhonesOnly)
    }

    /// Whether this phone chooses a server by what its OFFER holds.
    pub fn chooses_by_offer(&self, discover: &Request) -> bool {
        has_class(discover, &self.offer_classes)
    }
}

fn has_class(request: &Request, starts: &[String]) -> bool {
    let classes = vendor_classes(&request.options);
    classes.iter().any(|class| starts.iter().any(|start| class_starts_with(class, start)))
}

/// Whether settings may fill an option. They may not fill those that carry the protocol itself.
fn is_free(code: u8) -> bool {
    !matches!(code, 0 | 50..=59 | 61 | 82 | 255) && code != u8::from(OptionCode::SubnetMask)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

    #[test]
    fn auto_leases_nothing_before_it_knows_the_lan() {
        let settings = DhcpSettings { range: Some(range(10, 20)), ..DhcpSettings::default() };
        let scope = DhcpScope::new(Lan::new(SERVER, 24), &settings, []);
        assert_eq!((scope.mode, scope.problem), (ActiveMode::Inform, None));
    }

    #[test]
    fn all_needs_a_range_inside_the_lan() {
        let all = |range| DhcpSettings { mode: DhcpMode::All, range, ..DhcpSettings::default() };
        assert_eq!(DhcpScope::new(Lan::new(SERVER, 24), &all(Some(range(10, 20))), []).mode, ActiveMode::All);
        let outside = (Ipv4Addr::new(192, 168, 1, 10), Ipv4Addr::new(192, 168, 2, 10));
        for wrong in [None, Some(range(20, 10)), Some(outside)] {
            let scope = DhcpScope::new(Lan::new(SERVER, 24), &all(wrong), []);
            assert_eq!(scope.mode, ActiveMode::Inform, "{wrong:?}");
            assert!(scope.problem.is_some());
        }
    }

    #[test]
    fn the_range_spares_addresses_that_are_something_else() {
        let settings = DhcpSettings {
            mode: DhcpMode::All,
            range: Some(range(0, 255)),
            routers: vec![Ipv4Addr::new(192, 168, 1, 1)],
            ..DhcpSettings::default()
        };
        let range = DhcpScope::new(Lan::new(SERVER, 24), &settings, []).range.expect("a whole LAN is a range");
        for last in [0, 1, 2, 255] {
            assert!(!range.contains(Ipv4Addr::new(192, 168, 1, last)), "{last}");
        }
        assert!(range.contains(Ipv4Addr::new(192, 168, 1, 3)));
    }

    #[test]
    fn lists_are_read_as_far_as_the_settings_may_have_them() {
        let settings = DhcpSettings {
            routers: (0..20).map(Ipv4Addr::from).collect(),
            phone_ouis: (0..=255).map(|last| Oui::of(MacAddr::new([0, 0, last, 0, 0, 0]))).collect(),
            phone_classes: (100..300).map(|number| format!("class-{number}")).collect(),
            vendor_options: (0..=255)
                .map(|byte| VendorOption { vendor_class: format!("v-{byte}"), code: 43, value: vec![byte] })
                .collect(),
            ..DhcpSettings::default()
        };
        let scope = DhcpScope::new(Lan::new(SERVER, 24), &settings, []);
        assert_eq!((scope.routers.len(), scope.phone_classes.len()), (8, 64));
        assert_eq!((scope.phone_ouis.len(), scope.vendor_options.len()), (64, 64));
    }

    #[test]
    fn settings_cannot_fill_options_that_carry_the_protocol() {
        let option = |code| VendorOption { vendor_class: "x".to_owned(), code, value: vec![1] };
        let settings = DhcpSettings {
            vendor_options: vec![option(51), option(54), option(82), option(43)],
            ..DhcpSettings::default()
        };
        let codes: Vec<u8> =
            DhcpScope::new(Lan::new(SERVER, 24), &settings, []).vendor_options.iter().map(|o| o.code).collect();
        assert_eq!(codes, [43]);
    }

    fn range(first: u8, last: u8) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::new(192, 168, 1, first), Ipv4Addr::new(192, 168, 1, last))
    }
}
