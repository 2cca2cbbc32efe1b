//! `preview`: the bytes that a phone would get for a file name, or why it would get none. The policy is the code that
//! sites run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use zeroize::Zeroizing;

use super::problem::{CheckReport, NotClean};
use super::publish::pack::Sealer;
use super::render::{Body, Findings, FleetDir, SiteFile};
use super::secrets::Secrets;
use access::{Catalog, Decision, FileRequest, Policy, Resolution};
use api::FileRefusal;
use ids::{FileName, Generation, Lan, MacAddr, UnixTime};
use repository::layout::Layout;
use repository::tree::Discard;
use seal::PublisherSecret;

/// A network, and below it the phone's address in that network (RFC 5737, TEST-NET-1). The policy asks only whether
/// they fit.
const LAN: Lan = Lan::new(Ipv4Addr::new(192, 0, 2, 0), 24);
const PHONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 17);

/// The answer that a phone would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preview {
    /// The file with these bytes. They are wiped after use, because they may hold passwords.
    Served(Zeroizing<Vec<u8>>),
    /// The TFTP error `File not found`, for this reason.
    Refused(String),
}

/// Renders a site from the fleet directory, published or not, and asks the policy about one file for one phone.
#[expect(clippy::disallowed_methods, reason = "a command runs now")]
pub fn preview(layout: &Layout, site: &str, mac: &str, name: &str) -> anyhow::Result<Preview> {
    let mac: MacAddr = mac.parse()?;
    let name: FileName = name.parse()?;
    let mut findings = Findings::default();
    let Some(mut fleet) = FleetDir::read(layout, &mut findings) else {
        return Err(NotClean(CheckReport { problems: findings.finish(), ..CheckReport::default() }).into());
    };
    let secrets = std::mem::replace(&mut fleet.secrets, Secrets::locked());
    fleet.secrets = secrets.for_use(layout, &fleet.inventory.fleet)?;
    let site = fleet.inventory.sites.get(site).ok_or_else(|| anyhow!("there is no site `{site}`"))?;
    let phones = fleet.inventory.phones_of(&site.name);
    let files = fleet.site_files(site, &phones, &mut findings);
    let problems = findings.finish();
    if !problems.is_empty() {
        return Err(NotClean(CheckReport { problems, ..CheckReport::default() }).into());
    }
    let by_name: BTreeMap<FileName, SiteFile> = files.iter().map(|file| (file.name.clone(), file.clone())).collect();

    // What is sealed here does not leave this process, so any secret will do and no key is needed.
    let secret = PublisherSecret::from_bytes([0; 32]);
    let packed = Sealer::new(&secret, &Discard).pack(&fleet, site, &phones, files)?;
    let manifest = packed.manifest(&fleet.inventory.fleet.id, site, Generation(1), UnixTime(0), 0);
    let catalog = Catalog::new(&manifest, packed.inventory, packed.shards)?;

    let request = FileRequest { address: PHONE, requester: Resolution::Device(mac), name: &name };
    let (decision, _) = Policy::new(LAN).decide(&catalog, &request, Instant::now());
    match decision {
        Decision::Serve(entry) => {
            let file =
                by_name.get(&entry.name).ok_or_else(|| anyhow!("{} is not among the site's files", entry.name))?;
            Ok(Preview::Served(match &file.body {
                Body::Rendered(bytes) => bytes.clone(),
                Body::Asset(asset) => {
                    Zeroizing::new(asset.read().with_context(|| format!("cannot read {}", asset.file))?)
                }
            }))
        }
        Decision::NotFound(reason) | Decision::Silence(reason) => {
            Ok(Preview::Refused(explain(&fleet, &catalog, mac, &name, reason)))
        }
    }
}

/// The reason of a refusal, for people at HQ. The phone hears "File not found" in every case.
fn explain(fleet: &FleetDir, catalog: &Catalog, mac: MacAddr, name: &FileName, reason: FileRefusal) -> String {
    let known = catalog.phone(mac).is_some();
    let at = fleet.inventory.phones.iter().find(|phone| phone.mac == mac);
    match reason {
        FileRefusal::NotFound => format!("the site has no file {name}"),
        FileRefusal::OtherDevice => match catalog.file(name).map(|file| &file.scope) {
            Some(bundle::Scope::Device(owner)) => format!("{name} is for {owner} only"),
            _ => format!("{name} is another device's"),
        },
        FileRefusal::OtherModel if known => format!("{name} is for phones of another model"),
        _ if !known => match at {
            Some(phone) => format!("{mac} is a phone of site {}, not of this one", phone.site),
            None => format!("{mac} is not in phones.csv"),
        },
        reason => format!("the policy says {}", reason.code()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::sample;

    #[test]
    fn a_phone_gets_its_own_configuration_byte_for_byte() {
        let sample = sample();
        let Preview::Served(bytes) =
            preview(&sample.layout, "sample-office", "00:04:f2:00:00:03", "/0004F2000003.cfg").unwrap()
        else {
            panic!("it is its own file")
        };
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("CONFIG_FILES=\"0004f2000003-line.cfg, polycom-common.cfg\""), "{text}");
    }

    #[test]
    fn every_refusal_says_why() {
        let sample = sample();
        sample.write("firmware/cisco-9971/a.loads", "").replace(
            "templates/cisco-9971/model.toml",
            "firmware = []",
            "firmware = [\"a.loads\"]",
        );
        let cases = [
            ("00:04:f2:00:00:03", "SEP001B54000001.cnf.xml", "SEP001B54000001.cnf.xml is for 00:1b:54:00:00:01 only"),
            ("00:04:f2:00:00:03", "nothing.xml", "the site has no file nothing.xml"),
            ("00:04:f2:00:00:03", "a.loads", "a.loads is for phones of another model"),
            ("00:04:f2:00:00:99", "a.loads", "00:04:f2:00:00:99 is not in phones.csv"),
        ];
        for (mac, name, reason) in cases {
            let answer = preview(&sample.layout, "sample-office", mac, name).unwrap();
            assert_eq!(answer, Preview::Refused(reason.to_owned()), "{mac} {name}");
        }
    }

    #[test]
    fn a_site_or_address_that_is_none_is_an_error() {
        let sample = sample();
        assert!(preview(&sample.layout, "nowhere", "00:04:f2:00:00:03", "x").is_err());
        assert!(preview(&sample.layout, "sample-office", "phone", "x").is_err());
        assert!(preview(&sample.layout, "sample-office", "00:04:f2:00:00:03", "../x").is_err());
    }
}
