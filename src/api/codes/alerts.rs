//! The alerts of a site.

use std::time::Duration;

use super::codes;

codes! {
    /// What people should look at, at a site.
    AlertCode {
        /// The site's state is [`SiteState::Refused`](super::SiteState::Refused).
        ReleaseRefused = "release-refused",
        /// The stored release failed its verification. Objects that are damaged are fetched again.
        ReleaseDamaged = "release-damaged",
        /// A file that a phone asked for is damaged on the card.
        DamagedFile = "damaged-file",
        /// A release failed its check and is not activated.
        SelfCheck = "self-check",
        /// The client certificate is due for renewal, and HQ has not renewed it.
        Certificate = "certificate",
        /// HQ has published a newer generation than the published tree has.
        Withheld = "withheld",
        /// The firmware list, which a release needs, has lapsed, so that no new image is taken.
        FirmwareListLapsed = "firmware-list-lapsed",
        /// A device asks for many files of others, or an unknown one for many that do not exist. Own and shared files are
        /// served on.
        GuessingDevice = "guessing-device",
        /// A phone's IP address went to another device, or another's to a phone, and nothing explains it.
        AddressConflict = "address-conflict",
        /// The image that HQ wants does not run here.
        Image = "image",
        /// The LAN interface is missing or has no usable address, so phones are not served.
        NoLan = "no-lan",
        /// Devices of another network ask for files, and only this LAN is served.
        OtherNetwork = "other-network",
        /// A second interface of this machine is on the same LAN, so that phones may reach the wrong one.
        TwoInterfaces = "two-interfaces",
        /// Several phones seem to sit behind one device, whose MAC address the link shows for all of them.
        BehindOneDevice = "behind-one-device",
        /// The DHCP mode that the settings ask for is not possible on this LAN.
        DhcpMode = "dhcp-mode",
        /// Another DHCP server has appeared beside ours.
        DhcpSecondServer = "dhcp-second-server",
        /// Another DHCP server has begun to answer on this LAN.
        DhcpNewServer = "dhcp-new-server",
        /// Something answers DHCP on this LAN in a way that cannot be read.
        DhcpUnreadableServer = "dhcp-unreadable-server",
        /// The router does not answer relay agents, so `augment` cannot learn the leases that it would complete.
        DhcpRelayRefused = "dhcp-relay-refused",
        /// Phones were not helped, for a reason that people can remove.
        DhcpNotCompleted = "dhcp-not-completed",
        /// A relay agent passes on requests of another network, and only this LAN is served.
        DhcpOtherNetwork = "dhcp-other-network",
        /// Two devices use one client identifier (option 61).
        DhcpSameClientId = "dhcp-same-client-id",
        /// A phone declines one address after the other.
        DhcpDeclining = "dhcp-declining",
        /// The router gives phones another TFTP server.
        DhcpPointsElsewhere = "dhcp-points-elsewhere",
        /// The router refused a phone after its lease was completed.
        DhcpAugmentNak = "dhcp-augment-nak",
        /// A phone's lease was completed and it asked for no file.
        DhcpNeverCame = "dhcp-never-came",
        /// Another server leases addresses of our range.
        DhcpRangeShared = "dhcp-range-shared",
        /// A device claims an address that is leased to another, or ours (RFC 5227).
        DhcpAddressConflict = "dhcp-address-conflict",
        /// All addresses of the range are taken.
        DhcpRangeFull = "dhcp-range-full",
        /// An address of the range is in use by a device that has no lease of it.
        DhcpAddressInUse = "dhcp-address-in-use",
        /// Leases cannot be written to the disk, so new ones are not acknowledged.
        DhcpLeaseLog = "dhcp-lease-log",
    }
}

/// How long an alert stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertEnd {
    /// It goes when its cause is over, which whoever raised it finds out.
    WithCause,
    /// It tells of an event, and goes when nothing like it has come for this time.
    AfterQuiet(Duration),
}

/// A day.
const DAY: Duration = Duration::from_secs(86_400);
/// A week: for what does not come again by itself.
const WEEK: Duration = Duration::from_secs(7 * 86_400);

impl AlertCode {
    /// How long an alert of this code stays.
    pub const fn end(self) -> AlertEnd {
        match self {
            Self::DamagedFile => AlertEnd::AfterQuiet(WEEK),
            Self::GuessingDevice
            | Self::AddressConflict
            | Self::DhcpNewServer
            | Self::DhcpPointsElsewhere
            | Self::DhcpAugmentNak
            | Self::DhcpNeverCame
            | Self::DhcpRangeShared
            | Self::DhcpAddressConflict
            | Self::DhcpAddressInUse => AlertEnd::AfterQuiet(DAY),
            Self::ReleaseRefused
            | Self::ReleaseDamaged
            | Self::SelfCheck
            | Self::Certificate
            | Self::Withheld
            | Self::FirmwareListLapsed
            | Self::Image
            | Self::NoLan
            | Self::OtherNetwork
            | Self::TwoInterfaces
            | Self::BehindOneDevice
            | Self::DhcpMode
            | Self::DhcpSecondServer
            | Self::DhcpUnreadableServer
            | Self::DhcpRelayRefused
            | Self::DhcpNotCompleted
            | Self::DhcpOtherNetwork
            | Self::DhcpSameClientId
            | Self::DhcpDeclining
            | Self::DhcpRangeFull
            | Self::DhcpLeaseLog => AlertEnd::WithCause,
        }
    }
}
