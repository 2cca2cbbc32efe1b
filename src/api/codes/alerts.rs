//! What someone should look at.

use super::codes;

codes! {
    /// What someone should look at, at a site.
    AlertCode {
        /// The site's state is [`SiteState::Refused`](super::SiteState::Refused).
        ReleaseRefused = "release-refused",
        /// The stored release does not hold.
        ReleaseDamaged = "release-damaged",
        /// A file that a phone asked for is damaged on the card.
        DamagedFile = "damaged-file",
        /// A release failed its check and is not activated.
        SelfCheck = "self-check",
        /// The client certificate was not renewed.
        Certificate = "certificate",
        /// HQ has published what the published tree does not show.
        Withheld = "withheld",
        /// A device guesses file names.
        GuessingDevice = "guessing-device",
        /// One MAC is on two addresses, or an address changed hands.
        AddressConflict = "address-conflict",
        /// The image that HQ wants does not run here.
        Image = "image",
        /// The LAN interface is not to be had.
        NoLan = "no-lan",
        /// The DHCP mode cannot be had here.
        DhcpMode = "dhcp-mode",
        /// Another DHCP server has appeared beside ours.
        DhcpSecondServer = "dhcp-second-server",
        /// Another DHCP server has begun to answer on this LAN.
        DhcpNewServer = "dhcp-new-server",
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
        /// Leases cannot be kept on disk.
        DhcpLeaseLog = "dhcp-lease-log",
    }
}
