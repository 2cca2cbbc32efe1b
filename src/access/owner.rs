//! MAC addresses in file names.

use crate::ids::{FileName, MacAddr};

/// The inventory address that a name carries anywhere, however it is written, the second port of a Cisco ATA included
/// (MAC without its first octet, then `01`). `inventory` answers whether an address is in it.
pub fn in_inventory(_name: &FileName, _inventory: &dyn Fn(MacAddr) -> bool) -> Option<MacAddr> {
    todo!()
}

/// The address that a name carries by the general rule, for names that nothing else is known of.
pub fn by_rule(_name: &FileName) -> Option<MacAddr> {
    todo!()
}
