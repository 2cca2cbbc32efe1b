#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt as _;

use rcgen::PKCS_ED25519;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn fresh() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    init(&layout, "Example", &["hq.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
    (dir, layout)
}

fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name = common_name("root of all");
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let (_dir, layout) = fresh();
    let ca = Ca::load(&layout.online()).unwrap();
    let csr = Csr::parse(&request(&PKCS_ECDSA_P256_SHA256)).unwrap();
    let issued = ca.issue_client(&csr, &"f-1".parse().unwrap(), &"s-1".parse().unwrap(), NOW).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(chain.len(), 2);
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=s-1");
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial);
    let identity = identity(&chain[0]).unwrap();
    assert_eq!((identity.site.as_str(), identity.fingerprint), ("s-1", issued.fingerprint));
    assert_eq!(identity.not_after, issued.expires);
    assert_eq!(issued.expires, NOW.plus(DAY * 90));
}

#[test]
fn other_curves_and_broken_signatures_are_refused() {
    assert_eq!(Csr::parse(&request(&PKCS_ED25519)).unwrap_err(), CsrError::Key);
    assert_eq!(Csr::parse(&request(&rcgen::PKCS_ECDSA_P384_SHA384)).unwrap_err(), CsrError::Key);
    assert_eq!(Csr::parse("hello").unwrap_err(), CsrError::Malformed);
    let pem = request(&PKCS_ECDSA_P256_SHA256);
    let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    // A byte of the subject: still DER, no longer what was signed.
    let at = der.windows(4).position(|window| window == b"root").unwrap();
    der[at] = b'b';
    let body = data_encoding::BASE64.encode(&der);
    let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    assert_eq!(Csr::parse(&forged).unwrap_err(), CsrError::Signature);
}

#[test]
fn keys_are_private_and_a_ca_is_never_replaced() {
    let (_dir, layout) = fresh();
    for name in ["ca.key", "ca.pem", "server.key", "server.pem"] {
        let mode = fs::metadata(layout.online().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(init(&layout, "Again", &["hq.example".to_owned()]).is_err());
    assert!(init(&Layout::new(layout.dir().join("x")), "x", &["no host".to_owned()]).is_err());
}

#[test]
fn the_service_certificate_is_renewed_in_its_last_month_for_the_same_names() {
    let (_dir, layout) = fresh();
    let ca = Ca::load(&layout.online()).unwrap();
    let now = UnixTime::of(SystemTime::now());
    let first = ca.server(now).unwrap();
    assert!(!first.renewed);
    assert_eq!(first.chain.len(), 2);
    assert_eq!(Digest::of(&first.chain[1]), digest(&layout.online()).unwrap());
    let later = ca.server(now.plus(SERVER_LIFE - DAY * 29)).unwrap();
    assert!(later.renewed);
    assert_ne!(later.chain[0], first.chain[0]);
    let names = |der: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        server_names(&parsed).unwrap()
    };
    assert_eq!(names(&first.chain[0]), names(&later.chain[0]));
    assert_eq!(names(&later.chain[0]).len(), 2);
}

#[test]
fn a_service_certificate_that_was_made_under_a_clock_three_years_ahead_is_made_anew() {
    let (_dir, layout) = fresh();
    let ca = Ca::load(&layout.online()).unwrap();
    let now = UnixTime::of(SystemTime::now());
    assert!(ca.server(now.plus(DAY * 1_095)).unwrap().renewed);
    assert!(ca.server(now).unwrap().renewed, "it would not be valid for three years");
    assert!(!ca.server(now).unwrap().renewed);
}

#[test]
fn hq_can_move_to_another_name_under_the_same_ca() {
    let (_dir, layout) = fresh();
    let before = digest(&layout.online()).unwrap();
    rename(&layout.online(), &["new.example".to_owned()]).unwrap();
    let server = Ca::load(&layout.online()).unwrap().server(UnixTime::of(SystemTime::now())).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&server.chain[0]).unwrap();
    assert_eq!(server_names(&leaf).unwrap(), [san("new.example").unwrap()]);
    assert!(!server.renewed);
    assert_eq!(digest(&layout.online()).unwrap(), before);
}

#[test]
fn a_key_that_does_not_fit_is_made_anew() {
    let (_dir, layout) = fresh();
    let stray = KeyPair::generate().unwrap();
    replace_secret(&layout.online().join("server.key"), &stray.serialize_pem()).unwrap();
    let ca = Ca::load(&layout.online()).unwrap();
    assert!(ca.server(UnixTime::of(SystemTime::now())).unwrap().renewed);
    assert!(!ca.present_server().unwrap().renewed);
}

#[test]
fn the_services_key_is_not_written_through_a_link_and_stays_private() {
    let (dir, layout) = fresh();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["server.key", ".server.pem.new"] {
        let _ = fs::remove_file(layout.online().join(name));
        std::os::unix::fs::symlink(&victim, layout.online().join(name)).unwrap();
    }
    rename(&layout.online(), &["new.example".to_owned()]).unwrap();
    for name in ["server.key", "server.pem"] {
        let metadata = fs::symlink_metadata(layout.online().join(name)).unwrap();
        assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600, "{name}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}
