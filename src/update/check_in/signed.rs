//! The state that a signed check-in tells. Pure.

use access::Catalog;
use api::CheckIn;
use api::check_in::StateMap;
use api::check_in::report::{Grown, PhoneReport, Pulls, SiteReport, content_digits};
use bundle::{Class, FileEntry};
use ids::FileName;

/// What a site tells: its report, what it serves now, its record of pulls, and the counters as they were when they were last
/// told, so that a site which is told of often does not tell of each of them every time.
pub(crate) fn state(told: &CheckIn, catalog: Option<&Catalog>, pulls: Option<&Pulls>, counters: &Grown) -> StateMap {
    let mut report = SiteReport::from(told);
    report.appliance.reason = report.appliance.reason.chars().take(512).collect();
    report.pulls = pulls.cloned();
    report.counters = counters.clone();
    for phone in report.phones.values_mut() {
        wanted(phone, catalog);
    }
    report.state()
}

/// Says of each file what is served under its name now, and which firmware the phone fetched last.
fn wanted(phone: &mut PhoneReport, catalog: Option<&Catalog>) {
    let mut load = None;
    for file in &mut phone.files {
        let entry = file.name.parse::<FileName>().ok().and_then(|name| catalog?.file(&name).cloned());
        let Some(entry) = entry else { continue };
        let FileEntry { sha256, class, .. } = &*entry;
        file.wanted = content_digits(sha256);
        // What was delivered from the release that is served now is what is served now.
        if file.fetched.is_empty() && file.generation.0 > 0 && Some(file.generation) == catalog.map(Catalog::generation)
        {
            file.fetched.clone_from(&file.wanted);
        }
        if *class == Class::Firmware && file.generation.0 > 0 && load.as_ref().is_none_or(|(at, _)| *at < file.at) {
            load = Some((file.at, file.name.clone()));
        }
    }
    phone.load = load.map(|(_, name)| name).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::check_in::told::{Next, ToldState};
    use api::check_in::report::FileReport;
    use api::check_in::{ACKNOWLEDGEMENT_PURPOSE, Acknowledgement, PURPOSE, Page, PageHeader, PageKey, PageVerdict};
    use api::{MAX_BODY_BYTES, PhoneSeen};
    use ids::{Digest, Generation, MacAddr, UnixTime};

    fn mac(number: u32) -> MacAddr {
        format!("0200{number:08x}").parse().unwrap()
    }

    fn file(name: &str, at: i64) -> FileReport {
        FileReport {
            name: name.to_owned(),
            outcome: "delivered".to_owned(),
            at: UnixTime(1_800_000_000 + at),
            deliveries: 12,
            failures: 0,
            generation: Generation(117),
            fetched: content_digits(&Digest::of(name.as_bytes())),
            wanted: String::new(),
        }
    }

    /// A site of so many phones with four files each. Phone 7 fetched them just now if `changed`.
    fn told(phones: u32, changed: bool) -> CheckIn {
        let mut told = CheckIn {
            version: "0.1.0".into(),
            generation: Generation(118),
            state: "ok".into(),
            uptime_seconds: 8_640_000 + u64::from(changed),
            disk_free_bytes: 12_345_678_901 - u64::from(changed),
            card_written_bytes: Some(12_345_678_901),
            dhcp_mode: "augment".into(),
            ..CheckIn::default()
        };
        for number in 0..phones {
            let at = if changed && number == 7 { 900 } else { 0 };
            let own = format!("SEP{}.cnf.xml", mac(number).upper());
            for name in [own.as_str(), "sip88xx.12-8-1-0001-455.loads", "dialplan.xml", "ringlist-wb.xml"] {
                told.files.push((mac(number), file(name, at)));
            }
            told.phones.push(PhoneSeen {
                mac: mac(number),
                known: true,
                last_seen: UnixTime(1_800_000_000 + at),
                file: own,
                outcome: "delivered".into(),
                bytes: 8_192,
                retransmissions: 0,
                milliseconds: 12,
                generation: Generation(118),
            });
        }
        told.grown = (0..40).map(|number| (format!("dhcp.augment.counter-{number}"), 1_000)).collect();
        told
    }

    /// Tells a state in pages that each reach HQ, and returns their bytes.
    fn tell(hq: &mut ToldState, state: &StateMap, counter: &mut u64, key: &PageKey) -> Vec<usize> {
        let mut sizes = Vec::new();
        loop {
            let draft = hq.draft(state, MAX_BODY_BYTES - 1024);
            *counter += 1;
            let (promised, more, name) = (draft.state, draft.more, "f-0123456789abcdef");
            let header = PageHeader {
                purpose: PURPOSE.to_owned(),
                fleet: name.parse().unwrap(),
                site: name.parse().unwrap(),
                box_id: "0011223344556677".to_owned(),
                counter: *counter,
                base: draft.base,
                generation: Generation(118),
                time: UnixTime(1_800_000_900),
                nonce: "00".repeat(16),
                state: promised,
                more,
            };
            let page = Page::sign(header, draft.changes.clone(), key).unwrap().emit();
            assert!(page.len() <= MAX_BODY_BYTES && Page::parse(&page).is_ok());
            sizes.push(page.len());
            hq.sent(draft, *counter);
            let taken = Acknowledgement {
                purpose: ACKNOWLEDGEMENT_PURPOSE.to_owned(),
                site: name.parse().unwrap(),
                nonce: String::new(),
                time: UnixTime(0),
                newest: Generation(0),
                verdict: PageVerdict::Taken,
                counter: *counter,
                state: promised,
            };
            assert_eq!(hq.answered(&taken), Next::Taken);
            if !more {
                return sizes;
            }
        }
    }

    #[test]
    fn one_phone_of_two_thousand_that_changed_costs_at_most_a_kilobyte() {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = PageKey::from_pkcs8(&key.serialize_der()).unwrap();
        // A number that a site reaches after years.
        let (mut hq, mut counter) = (ToldState::default(), 1_000_000);
        let counters = Grown { since: None, by: told(0, false).grown };
        let all = tell(&mut hq, &state(&told(2_000, false), None, None, &counters), &mut counter, &key);
        let one = tell(&mut hq, &state(&told(2_000, true), None, None, &counters), &mut counter, &key);
        println!("everything in {} pages of {} bytes, one phone in {one:?}", all.len(), all.iter().sum::<usize>());
        assert!(one.len() == 1 && one[0] <= 1_024, "{one:?}");
        assert!(all.len() > 10, "{all:?}");
    }

    #[test]
    fn what_was_delivered_of_what_is_served_now_is_current() {
        let empty = Catalog::empty("s-1".parse().unwrap());
        let told = told(1, false);
        let said = state(&told, Some(&empty), None, &Grown::default());
        let report = SiteReport::read(said.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let phone = &report.phones[&mac(0)];
        assert!(
            phone.files.len() == 4 && phone.files.iter().all(|file| file.wanted.is_empty() && !file.fetched.is_empty())
        );
        assert!(!said.contains_key("counters") && phone.load.is_empty());
    }
}
