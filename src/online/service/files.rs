//! The published tree over HTTP (RFC 9110): answers with a whole file, one range of it, or "not modified". Large files
//! are streamed from the disk.

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

/// How many bytes of a file are read from the disk at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Files up to this size are read before the answer begins, so that its header and body go into one TLS record. They
/// have no ETag, because nobody resumes so small a download. Only `timestamp.json` has one, because sites poll it.
const SMALL_BYTES: u64 = 16 * 1024;

/// A file of the published tree that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TreeFile {
    /// A file under `sites/<id>/`: the site, what the file is, and its name.
    OfSite(SiteId, SiteFileKind, String),
    /// A sealed object, `objects/<first two digits>/<sha256>`.
    Object(Digest),
}

/// The kind of a file in a site's folder, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SiteFileKind {
    /// `timestamp.json`: the one name whose content changes.
    Timestamp,
    /// `N.<role>.json`: metadata, whose content never changes.
    Metadata,
    /// `<sha256>.manifest`: the sealed manifest with this digest.
    Manifest(Digest),
}

impl TreeFile {
    /// Parses the path of a URL, component by component. `None` if no file of the tree can have this name.
    ///
    /// Percent-encoding is not decoded: no name here needs it, so only an attacker would send it.
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
                    "metadata" if name == "timestamp.json" => SiteFileKind::Timestamp,
                    "metadata" => versioned(name).then_some(SiteFileKind::Metadata)?,
                    "targets" => SiteFileKind::Manifest(name.strip_suffix(".manifest")?.parse().ok()?),
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
                let folder = if matches!(kind, SiteFileKind::Manifest(_)) { "targets" } else { "metadata" };
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
    named: &TreeFile,
    method: &Method,
    headers: &HeaderMap,
) -> std::io::Result<Option<Response<Body>>> {
    let mut file = match File::open(named.path(public)).await {
        Ok(file) => file,
        // A path that goes through a file as if that were a directory does not exist either.
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
    // Read before the answer begins: the hash is over what is sent, even if the publisher switches meanwhile.
    let mut small = None;
    if len <= SMALL_BYTES {
        let mut bytes = Vec::new();
        (&mut file).take(SMALL_BYTES).read_to_end(&mut bytes).await?;
        small = Some(Bytes::from(bytes));
    }
    let tag = match (named, &small) {
        (TreeFile::OfSite(_, SiteFileKind::Timestamp, _), Some(bytes)) => Some(tag(&Digest::of(bytes))),
        (_, Some(_)) => None,
        (TreeFile::Object(digest) | TreeFile::OfSite(_, SiteFileKind::Manifest(digest), _), None) => Some(tag(digest)),
        (TreeFile::OfSite(..), None) => {
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
    // RFC 9110 §14.2: Range counts only for GET. §13.1.5: with If-Range it counts only if the tag matches strongly.
    let wanted = (method == Method::GET && if_range_holds(headers, tag)).then(|| headers.get(RANGE)).flatten();
    let part =
        wanted.and_then(|value| value.to_str().ok()).map_or(ByteRange::Whole, |value| ByteRange::parse(value, len));
    let (status, from, count) = match part {
        ByteRange::Whole => (StatusCode::OK, 0, len),
        ByteRange::Range { from, to } => (StatusCode::PARTIAL_CONTENT, from, to - from + 1),
        ByteRange::Unsatisfiable => {
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

/// The entity tag of content with this digest. It has 128 bits: enough to tell versions apart, and short, because every
/// idle poll carries it twice.
fn tag(digest: &Digest) -> String {
    let half = digest.as_bytes().get(..16).unwrap_or_default();
    format!("\"{}\"", data_encoding::BASE64URL_NOPAD.encode(half))
}

/// Adds the header that a 304 repeats, too (RFC 9110 §15.4.5).
///
/// There is no `Cache-Control`: no cache can read an answer to a client certificate, and sites keep files by digest.
/// `Accept-Ranges` and `Content-Type` would tell sites nothing new, and every site would pay for their bytes.
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

/// Whether `If-None-Match` names this tag (RFC 9110 §13.1.2: weak comparison, and `*` matches every file).
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

/// The part of a file that a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteRange {
    /// All of it, with status 200.
    Whole,
    /// The first and last byte, both included, with status 206.
    Range { from: u64, to: u64 },
    /// Nothing, with status 416: the range begins behind the file's end.
    Unsatisfiable,
}

impl ByteRange {
    /// Parses a `Range` header (RFC 9110 §14.1.2) for a file of `len` bytes. Several ranges, other units and malformed
    /// values give the whole file, as §14.2 allows.
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
            // The file is shorter than it was. The connection breaks off, so that the client notices.
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
            assert!(TreeFile::parse(&path).is_some(), "{path}");
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
            assert_eq!(TreeFile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let cases = [
            ("bytes=0-0", ByteRange::Range { from: 0, to: 0 }),
            ("bytes=0-99", ByteRange::Range { from: 0, to: 9 }),
            ("bytes=4-", ByteRange::Range { from: 4, to: 9 }),
            ("bytes=-3", ByteRange::Range { from: 7, to: 9 }),
            ("bytes=-99", ByteRange::Range { from: 0, to: 9 }),
            ("bytes=-0", ByteRange::Unsatisfiable),
            ("bytes=10-", ByteRange::Unsatisfiable),
            ("bytes=10-20", ByteRange::Unsatisfiable),
            ("bytes=5-4", ByteRange::Whole),
            ("bytes=0-1,3-4", ByteRange::Whole),
            ("bytes=-", ByteRange::Whole),
            ("bytes=a-b", ByteRange::Whole),
            ("bytes=+1-2", ByteRange::Whole),
            ("bytes=99999999999999999999-", ByteRange::Whole),
            ("lines=1-2", ByteRange::Whole),
        ];
        for (value, part) in cases {
            assert_eq!(ByteRange::parse(value, 10), part, "{value}");
        }
        assert_eq!(ByteRange::parse("bytes=0-", 0), ByteRange::Unsatisfiable);
        assert_eq!(ByteRange::parse("bytes=-1", 0), ByteRange::Unsatisfiable);
    }

    proptest::proptest! {
        #[test]
        fn no_name_leaves_the_tree(path in "[/.a-z0-9%\\\\-]{0,80}|/(sites|objects)/[a-z0-9./%-]{0,90}|\\PC{0,60}") {
            let public = Path::new("/public");
            if let Some(named) = TreeFile::parse(&path) {
                let file = named.path(public);
                proptest::prop_assert!(file.starts_with(public), "{file:?}");
                let plain = |part: std::path::Component<'_>| !matches!(part, std::path::Component::ParentDir);
                proptest::prop_assert!(file.components().all(plain), "{file:?}");
                proptest::prop_assert_eq!(file.strip_prefix("/public").ok(), Path::new(&path).strip_prefix("/").ok());
            }
        }

        #[test]
        fn a_range_lies_within_its_file(value in "bytes=[0-9]{0,21}-[0-9]{0,21}|\\PC{0,30}", len in 0..u64::MAX) {
            if let ByteRange::Range { from, to } = ByteRange::parse(&value, len) {
                proptest::prop_assert!(from <= to && to < len, "{from}-{to} of {len}");
            }
        }
    }
}
