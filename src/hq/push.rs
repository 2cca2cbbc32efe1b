//! Pushes releases that the desk made to HQ's host: what the host lacks, and the signed list that names it.
//!
//! The host signs `snapshot` and `timestamp` by itself. A push that broke off goes on where it stopped: the host keeps what
//! arrived, and objects are named by their digests, whatever run made them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use hyper::StatusCode;
use hyper::body::Bytes;

use crate::host::Remote;
use crate::host::client::{check, printable};
use crate::progress::Progress;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use online::desk::{PieceAnswer, PushAnswer};
use online::push::{
    FileRef, KIND, MAX_LIST_SITES, PIECE_BYTES, PushList, PushRequest, PushedRelease, PushedSite, USUAL_LIST_OBJECTS,
};
use online::push_release::SitePushed;
use repository::layout::Layout;
use telemetry::Hint as _;
use tuf::{SigningKey, sign};

/// A release that is made and that no site finds yet.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// Its number.
    pub(crate) generation: Generation,
    /// SHA-256 of the `targets` that it replaces.
    pub(crate) replaces: Option<Digest>,
    /// Its signed `targets`.
    pub(crate) targets: FileRef,
    /// Its sealed manifest.
    pub(crate) manifest: FileRef,
    /// The digests of its objects.
    pub(crate) objects: BTreeSet<Digest>,
}

/// What one site gets: a release, or only the roots that its folder lacks.
#[derive(Debug, Clone)]
pub(crate) struct ForSite {
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) made: Option<Made>,
}

/// What all lists of one run share.
pub(crate) struct Pusher<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) layout: &'a Layout,
    pub(crate) fleet: &'a FleetId,
    /// The release key.
    pub(crate) release: &'a SigningKey,
    /// The signed roots of the fleet directory, by version.
    pub(crate) roots: &'a BTreeMap<u64, Vec<u8>>,
    /// The firmware catalogue: version and bytes.
    pub(crate) firmware: (u64, &'a [u8]),
    pub(crate) commit: Option<String>,
    pub(crate) now: UnixTime,
}

impl Pusher<'_> {
    /// Pushes these sites, some hundred at a time. Returns the sites that the host did not take, and why.
    pub(crate) fn push(
        &self,
        sites: Vec<ForSite>,
        progress: &mut dyn Progress,
    ) -> anyhow::Result<BTreeMap<SiteId, String>> {
        let mut refused = BTreeMap::new();
        progress.stage("push", u64::try_from(sites.len()).unwrap_or(u64::MAX));
        let mut rest = sites.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut some, mut objects): (Vec<ForSite>, BTreeSet<Digest>) = (Vec::new(), BTreeSet::new());
            while let Some(next) = rest.next_if(|next| {
                let more = next.made.as_ref().map_or(0, |made| made.objects.difference(&objects).count());
                some.is_empty() || (some.len() < MAX_LIST_SITES && objects.len() + more <= USUAL_LIST_OBJECTS)
            }) {
                objects.extend(next.made.iter().flat_map(|made| &made.objects));
                some.push(next);
            }
            self.push_list(&some, &objects, &mut refused)?;
            for site in &some {
                progress.step(&site.name);
            }
        }
        progress.done();
        Ok(refused)
    }

    fn push_list(
        &self,
        sites: &[ForSite],
        objects: &BTreeSet<Digest>,
        refused: &mut BTreeMap<SiteId, String>,
    ) -> anyhow::Result<()> {
        let list = self.list(sites, objects)?;
        let signed = sign::sign(&list, &[self.release]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("signed metadata is text");
        let request = PushRequest {
            roots: self.roots.values().map(|root| text(root)).collect::<Result<_, _>>()?,
            list: text(&signed)?,
        };
        let answer: PushAnswer = self.remote.client.post("/push", &request)?;
        refused.extend(answer.refused.iter().map(|(site, why)| (site.clone(), printable(why))));
        if answer.refused.len() == sites.len() {
            return Ok(());
        }
        let files = self.files(sites, &list);
        for lacking in &answer.lacks {
            let (file, path) = files.get(&lacking.sha256).context("HQ's host asks for a file that is not pushed")?;
            let content = match path {
                Some(path) => Content::OnDisk(path.clone()),
                None => Content::Firmware(self.firmware.1),
            };
            self.send(&answer.id, file, lacking.have, &content)?;
        }
        let outcomes: BTreeMap<SiteId, SitePushed> =
            self.remote.client.post(&format!("/push/{}/release", answer.id), &())?;
        for site in sites {
            match outcomes.get(&site.site) {
                Some(SitePushed::Released) => drop(refused.remove(&site.site)),
                Some(SitePushed::Refused(why)) => drop(refused.insert(site.site.clone(), printable(why))),
                None => drop(refused.insert(site.site.clone(), "HQ's host does not say what came of it".to_owned())),
            }
        }
        Ok(())
    }

    fn list(&self, sites: &[ForSite], objects: &BTreeSet<Digest>) -> anyhow::Result<PushList> {
        let sized = |digest: &Digest| -> anyhow::Result<FileRef> {
            let path = self.layout.object(digest);
            let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
            Ok(FileRef { sha256: *digest, bytes })
        };
        let place: BTreeMap<&Digest, u32> = objects.iter().zip(0..).collect();
        let site = |one: &ForSite| {
            let release = one.made.as_ref().map(|made| PushedRelease {
                generation: made.generation,
                replaces: made.replaces,
                targets: made.targets,
                manifest: made.manifest,
                objects: made.objects.iter().filter_map(|digest| place.get(digest).copied()).collect(),
            });
            (one.site.clone(), PushedSite { name: one.name.clone(), release })
        };
        let (version, firmware) = self.firmware;
        Ok(PushList {
            kind: KIND.to_owned(),
            fleet: self.fleet.clone(),
            created: self.now,
            commit: self.commit.clone(),
            roots: self.roots.values().map(|root| Digest::of(root)).collect(),
            firmware: (version, FileRef::of(firmware)),
            objects: objects.iter().map(sized).collect::<anyhow::Result<_>>()?,
            sites: sites.iter().map(site).collect(),
        })
    }

    /// Where each file of the list is here; `None` is the firmware catalogue.
    fn files(&self, sites: &[ForSite], list: &PushList) -> BTreeMap<Digest, (FileRef, Option<PathBuf>)> {
        let objects = list.objects.iter().map(|object| (*object, self.layout.object(&object.sha256)));
        let own = sites.iter().filter_map(|site| Some((&site.site, site.made.as_ref()?))).flat_map(|(site, made)| {
            let targets = self.layout.site_metadata(site).join(format!("{}.targets.json", made.generation));
            let manifest = self.layout.site_targets(site).join(format!("{}.manifest", made.manifest.sha256));
            [(made.targets, targets), (made.manifest, manifest)]
        });
        let all = objects.chain(own).map(|(file, path)| (file.sha256, (file, Some(path))));
        all.chain([(list.firmware.1.sha256, (list.firmware.1, None))]).collect()
    }

    /// Sends a file from its byte `from` on, piece by piece.
    fn send(&self, list: &Digest, file: &FileRef, mut from: u64, content: &Content<'_>) -> anyhow::Result<()> {
        // Each answer that asks for another place is one try more.
        let mut turned = 0;
        while from < file.bytes {
            let piece = content.piece(from, file.bytes)?;
            let sent = piece.len() as u64;
            let answer = self.remote.client.put(&format!("/push/{list}/{}?from={from}", file.sha256), piece)?;
            if answer.status != StatusCode::CONFLICT {
                check(&answer)?;
            }
            let told: PieceAnswer =
                serde_json::from_slice(&answer.body).context("HQ's host answers in no known way")?;
            if told.have != from.saturating_add(sent) {
                turned += 1;
                if turned > 16 || told.have > file.bytes {
                    return Err(anyhow!("HQ's host does not keep {}", file.sha256)
                        .hint("another desk may be pushing the same; try again in a minute"));
                }
            }
            from = told.have;
        }
        Ok(())
    }
}

/// The bytes of a file that is sent.
enum Content<'a> {
    OnDisk(PathBuf),
    Firmware(&'a [u8]),
}

impl Content<'_> {
    /// At most [`PIECE_BYTES`] from this place on.
    fn piece(&self, from: u64, end: u64) -> anyhow::Result<Bytes> {
        let len = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX).min(PIECE_BYTES);
        match self {
            Self::OnDisk(path) => {
                let mut bytes = vec![0; len];
                let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                file.read_exact_at(&mut bytes, from).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(bytes.into())
            }
            Self::Firmware(all) => {
                let from = usize::try_from(from).context("a place in a file")?;
                let Some(part) = all.get(from..from.saturating_add(len)) else { bail!("a place behind the end") };
                Ok(Bytes::copy_from_slice(part))
            }
        }
    }
}

#[cfg(test)]
mod tests;
