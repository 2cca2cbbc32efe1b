//! The published tree over HTTP (RFC 9110): whole files, one range, or "not modified". Streamed from the disk.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, ReadBuf};

use ids::{Digest, SiteId};

/// Bytes read from the disk at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Files up to this size are read before the answer begins, so that its head and body travel in one TLS record, and have
/// no ETag: nobody goes on in the middle of them. `timestamp.json`, the one file that is polled, has one.
const SMALL_BYTES: u64 = 16 * 1024;

/// A file of the published tree that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// Under `sites/<id>/`.
    OfSite(SiteId, Kind, String),
    /// `objects/<first two>/<sha256>`.
    Object(Digest),
}

/// What a file of a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `timestamp.json`: the one name whose content changes.
    Timestamp,
    /// `N.<role>.json`.
    Metadata,
    /// `<sha256>.manifest`.
    Manifest(Digest),
}

impl Named {
    /// Reads the path of a URL, component by component and without decoding: no name here has a character that
    /// needs escaping, so whoever escapes is up to something.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let named = match (parts.next()?, parts.next()?, parts.next()?) {
            ("objects", prefix, digest) => {
                let sound = digest.get(..2) == Some(prefix);
                Self::Object(digest.parse().ok().filter(|_| sound)?)
            }
            ("sites", site, folder) => {
                let (site, name) = (site.parse().ok()?, parts.next()?);
                let kind = match folder {
                    "metadata" if name == "timestamp.json" => Kind::Timestamp,
                    "metadata" => versioned(name).then_some(Kind::Metadata)?,
                    "targets" => Kind::Manifest(name.strip_suffix(".manifest")?.parse().ok()?),
                    _ => return None,
                };
                Self::OfSite(site, kind, name.to_owned())
            }
            _ => return None,
        };
        parts.next().is_none().then_some(named)
    }

    fn path(&self, public: &Path) -> PathBuf {
        match self {
            Self::OfSite(site, kind, name) => {
                let folder = if matches!(kind, Kind::Manifest(_)) { "targets" } else { "metadata" };
                public.join("sites").join(site.as_str()).join(folder).join(name)
            }
            Self::Object(digest) => {
                let name = digest.to_string();
                public.join("objects").join(name.get(..2).unwrap_or_default()).join(name)
            }
        }
    }
}

/// `N.<role>.json` with a decimal N and a role of lower-case letters, digits, `-` and `_`.
fn versioned(name: &str) -> bool {
    let Some((version, role)) = name.strip_suffix(".json").and_then(|stem| stem.split_once('.')) else { return false };
    let role_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    (1..=20).contains(&version.len())
        && version.chars().all(|c| c.is_ascii_digit())
        && (1..=64).contains(&role.len())
        && role.chars().all(role_fits)
}

/// Answers a GET or HEAD for a file; `None` if there is no such file.
pub(super) async fn answer(
    public: &Path,
    named: &Named,
    method: &Method,
    headers: &HeaderMap,
) -> std::io::Result<Option<Response<Body>>> {
    let mut file = match File::open(named.path(public)).await {
        Ok(file) => file,
        // A file in the place of a directory, too, is only a name that does not exist.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let len = metadata.len();
    // Read before it is served: what is hashed is what is sent, even if the publisher switches meanwhile.
    let mut small = None;
    if len <= SMALL_BYTES {
        let mut bytes = Vec::new();
        (&mut file).take(SMALL_BYTES).read_to_end(&mut bytes).await?;
        small = Some(Bytes::from(bytes));
    }
    let tag = match (named, &small) {
        (Named::OfSite(_, Kind::Timestamp, _), Some(bytes)) => Some(tag(&Digest::of(bytes))),
        (_, Some(_)) => None,
        (Named::Object(digest) | Named::OfSite(_, Kind::Manifest(digest), _), None) => Some(tag(digest)),
        (Named::OfSite(..), None) => {
            use std::os::unix::fs::MetadataExt as _;
            let (inode, seconds) = (metadata.ino(), metadata.mtime());
            Some(format!("\"{inode:x}-{seconds:x}-{:x}\"", metadata.mtime_nsec() ^ len.cast_signed()))
        }
    };
    let tag = tag.as_deref();
    let len = small.as_ref().map_or(len, |bytes| u64::try_from(bytes.len()).unwrap_or(len));

    if none_match(headers, tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        finish(&mut response, tag);
        return Ok(Some(response));
    }
    // RFC 9110 §14.2: Range is for GET alone. §13.1.5: with If-Range only if the tag matches strongly.
    let wanted = (method == Method::GET && if_range_holds(headers, tag)).then(|| headers.get(RANGE)).flatten();
    let part = wanted.and_then(|value| value.to_str().ok()).map_or(Part::Whole, |value| Part::parse(value, len));
    let (status, from, count) = match part {
        Part::Whole => (StatusCode::OK, 0, len),
        Part::Range { from, to } => (StatusCode::PARTIAL_CONTENT, from, to - from + 1),
        Part::Unsatisfiable => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            insert(&mut response, CONTENT_RANGE, &format!("bytes */{len}"));
            insert(&mut response, CONTENT_LENGTH, "0");
            return Ok(Some(response));
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else if let Some(bytes) = small {
        let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
        Body::from(bytes.slice(at(from)..at(from.saturating_add(count))))
    } else {
        file.seek(SeekFrom::Start(from)).await?;
        Body::new(FileBody { file, left: count })
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    insert(&mut response, CONTENT_LENGTH, &count.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        insert(&mut response, CONTENT_RANGE, &format!("bytes {from}-{}/{len}", from + count - 1));
    }
    finish(&mut response, tag);
    Ok(Some(response))
}

/// The entity tag of content with this digest. 128 bits are enough to tell versions apart, and every idle poll carries
/// it twice.
fn tag(digest: &Digest) -> String {
    let half = digest.as_bytes().get(..16).unwrap_or_default();
    format!("\"{}\"", data_encoding::BASE64URL_NOPAD.encode(half))
}

/// The header that a 304 repeats (RFC 9110 §15.4.5). No `Cache-Control`: behind client certificates there is nobody to
/// cache, and what sites keep they keep by digest. `Accept-Ranges` and the type of what has none would tell nothing
/// either; each byte here is sent to every site.
fn finish(response: &mut Response<Body>, tag: Option<&str>) {
    if let Some(tag) = tag {
        insert(response, ETAG, tag);
    }
}

fn insert(response: &mut Response<Body>, name: axum::http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// RFC 9110 §13.1.2: weak comparison, `*` matches what exists.
fn none_match(headers: &HeaderMap, tag: Option<&str>) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| {
            let one = one.trim();
            one == "*" || tag.is_some_and(|tag| one.strip_prefix("W/").unwrap_or(one) == tag)
        })
}

fn if_range_holds(headers: &HeaderMap, tag: Option<&str>) -> bool {
    headers.get(IF_RANGE).is_none_or(|value| tag.is_some_and(|tag| value.as_bytes() == tag.as_bytes()))
}

/// Which part of a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// First and last byte, both included.
    Range {
        from: u64,
        to: u64,
    },
    Unsatisfiable,
}

impl Part {
    /// RFC 9110 §14.1.2. Several ranges, other units and what cannot be read are ignored, as §14.2 allows.
    fn parse(value: &str, len: u64) -> Self {
        let Some((first, last)) = value.strip_prefix("bytes=").and_then(|set| set.trim().split_once('-')) else {
            return Self::Whole;
        };
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        match (first, last) {
            ("", suffix) => match number(suffix) {
                None => Self::Whole,
                Some(count) if count == 0 || len == 0 => Self::Unsatisfiable,
                Some(count) => Self::Range { from: len.saturating_sub(count), to: len - 1 },
            },
            (first, last) => match (number(first), last, number(last)) {
                (Some(from), "", _) if from < len => Self::Range { from, to: len - 1 },
                (Some(from), _, Some(to)) if from <= to && from < len => Self::Range { from, to: to.min(len - 1) },
                (Some(_), "", _) => Self::Unsatisfiable,
                (Some(from), _, Some(to)) if from <= to => Self::Unsatisfiable,
                _ => Self::Whole,
            },
        }
    }
}

/// A part of a file as a body of known length.
struct FileBody {
    file: File,
    left: u64,
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut bytes = vec![0; want];
        let mut buffer = ReadBuf::new(&mut bytes);
        if let Err(error) = ready!(Pin::new(&mut self.file).poll_read(context, &mut buffer)) {
            return Poll::Ready(Some(Err(error)));
        }
        let read = buffer.filled().len();
        if read == 0 {
            // Shorter than it was: the connection breaks off, so that nobody takes it for whole.
            return Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into())));
        }
        bytes.truncate(read);
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_tree_are_names() {
        let sha = Digest::of(b"x").to_string();
        let two = sha.get(..2).expect("64 digits");
        for path in [
            "/sites/s-1/metadata/timestamp.json".to_owned(),
            "/sites/s-1/metadata/12.snapshot.json".to_owned(),
            "/sites/s-1/metadata/1.root.json".to_owned(),
            format!("/sites/s-1/targets/{sha}.manifest"),
            format!("/objects/{two}/{sha}"),
        ] {
            assert!(Named::parse(&path).is_some(), "{path}");
        }
        for path in [
            "/",
            "",
            "/sites",
            "/sites/",
            "/sites/s-1/",
            "/sites/s-1/metadata",
            "/sites/s-1/metadata/",
            "/sites/s-1/metadata/../../s-2/metadata/timestamp.json",
            "/sites/../../hq.sqlite",
            "/sites/s-1/metadata/%2e%2e",
            "/sites/s-1/metadata/..%2ftimestamp.json",
            "/sites/s-1/metadata/timestamp.json/",
            "/sites/s-1/metadata//timestamp.json",
            "//sites/s-1/metadata/timestamp.json",
            "/sites/S-1/metadata/timestamp.json",
            "/sites/s-1/metadata/root.json",
            "/sites/s-1/metadata/1.ro/ot.json",
            "/sites/s-1/metadata/x.root.json",
            "/sites/s-1/metadata/1..json",
            "/sites/s-1/metadata/timestamp.json\0",
            "/sites/s-1/targets/timestamp.json",
            "/sites/s-1/targets/..manifest",
            "/objects/00/..",
            "/objects/../online.key",
            &format!("/objects/zz/{sha}"),
            &format!("/objects/{two}/{}", sha.to_uppercase()),
            &format!("/objects/{two}/{sha}/"),
        ] {
            assert_eq!(Named::parse(path), None, "{path}");
        }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let cases = [
            ("bytes=0-0", Part::Range { from: 0, to: 0 }),
            ("bytes=0-99", Part::Range { from: 0, to: 9 }),
            ("bytes=4-", Part::Range { from: 4, to: 9 }),
            ("bytes=-3", Part::Range { from: 7, to: 9 }),
            ("bytes=-99", Part::Range { from: 0, to: 9 }),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-20", Part::Unsatisfiable),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=99999999999999999999-", Part::Whole),
            ("lines=1-2", Part::Whole),
        ];
        for (value, part) in cases {
            assert_eq!(Part::parse(value, 10), part, "{value}");
        }
        assert_eq!(Part::parse("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(Part::parse("bytes=-1", 0), Part::Unsatisfiable);
    }

    proptest::proptest! {
        #[test]
        fn no_name_leaves_the_tree(path in "[/.a-z0-9%\\\\-]{0,80}|/(sites|objects)/[a-z0-9./%-]{0,90}|\\PC{0,60}") {
            let public = Path::new("/public");
            if let Some(named) = Named::parse(&path) {
                let file = named.path(public);
                proptest::prop_assert!(file.starts_with(public), "{file:?}");
                let plain = |part: std::path::Component<'_>| !matches!(part, std::path::Component::ParentDir);
                proptest::prop_assert!(file.components().all(plain), "{file:?}");
                proptest::prop_assert_eq!(file.strip_prefix("/public").ok(), Path::new(&path).strip_prefix("/").ok());
            }
        }

        #[test]
        fn a_range_lies_within_its_file(value in "bytes=[0-9]{0,21}-[0-9]{0,21}|\\PC{0,30}", len in 0..u64::MAX) {
            if let Part::Range { from, to } = Part::parse(&value, len) {
                proptest::prop_assert!(from <= to && to < len, "{from}-{to} of {len}");
            }
        }
    }
}
