//! Phones whose messages come in frames of another device: a repeater or Wi-Fi client bridge that puts its own hardware
//! address into the Ethernet header, and leaves what DHCP and ARP say of the phone as it is. Pure.
//!
//! A device's own files leave in frames to the phone's hardware address, and only once the phone has answered in a frame of
//! its own. So such a phone gets none, and nothing else shows why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use access::PhonesBehind;
use ids::{MacAddr, UnixTime};

/// A phone that was not heard for so long through another device does not sit behind it any more. Phones ask for their
/// gateway every few minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(86_400);
/// The most phones that are remembered.
const MAX_PHONES: usize = 256;

/// The phones behind other devices.
#[derive(Debug, Default)]
pub(super) struct BehindDevice(BTreeMap<MacAddr, (MacAddr, UnixTime)>);

impl BehindDevice {
    /// A phone of the inventory spoke in a frame of this device, or in one of its own.
    pub(super) fn heard(&mut self, phone: MacAddr, sender: MacAddr, now: UnixTime) {
        if phone == sender {
            self.0.remove(&phone);
        } else if sender.is_unicast() && (self.0.len() < MAX_PHONES || self.0.contains_key(&phone)) {
            self.0.insert(phone, (sender, now));
        }
    }

    /// What to tell people: one text for each device.
    pub(super) fn texts(&mut self, now: UnixTime) -> Vec<String> {
        self.0.retain(|_, (_, last)| now.since(*last) < FORGOTTEN_AFTER);
        let devices: BTreeSet<MacAddr> = self.0.values().map(|(device, _)| *device).collect();
        let phones = |device: MacAddr| self.0.values().filter(|(other, _)| *other == device).count();
        devices.into_iter().map(|device| PhonesBehind { device, phones: phones(device) }.to_string()).collect()
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.0.values_mut().for_each(|(_, last)| last.0 = last.0.saturating_add(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const BRIDGE: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);

    const fn phone(last: u8) -> MacAddr {
        MacAddr::new([0, 4, 0xf2, 0, 0, last])
    }

    #[test]
    fn phones_in_frames_of_another_device_are_one_alert_until_they_speak_for_themselves() {
        let mut behind = BehindDevice::default();
        behind.heard(phone(1), phone(1), NOW);
        assert_eq!(behind.texts(NOW), [""; 0]);
        behind.heard(phone(1), BRIDGE, NOW);
        behind.heard(phone(1), BRIDGE, NOW);
        assert_eq!(behind.texts(NOW), [PhonesBehind { device: BRIDGE, phones: 1 }.to_string()]);
        behind.heard(phone(2), BRIDGE, NOW);
        assert!(behind.texts(NOW).iter().all(|text| text.starts_with("2 phones seem to sit behind one device (02:")));
        behind.heard(phone(1), phone(1), NOW);
        assert_eq!(behind.texts(NOW), [PhonesBehind { device: BRIDGE, phones: 1 }.to_string()]);
        assert_eq!(behind.texts(NOW.plus(FORGOTTEN_AFTER)), [""; 0]);
        behind.heard(phone(1), MacAddr::new([0xff; 6]), NOW);
        assert!(behind.0.is_empty(), "nobody has that address");
        for number in 0..2_000_u16 {
            let [high, low] = number.to_be_bytes();
            behind.heard(MacAddr::new([0, 4, 0xf2, 1, high, low]), BRIDGE, NOW);
        }
        assert_eq!(behind.0.len(), MAX_PHONES);
    }
}
