//! A repository that python-tuf made (tests/vectors/tuf).

use super::*;

const FILES: [(&str, &[u8]); 6] = [
    ("2.root.json", include_bytes!("../../../tests/vectors/tuf/2.root.json")),
    ("timestamp.json", include_bytes!("../../../tests/vectors/tuf/timestamp.json")),
    ("5.snapshot.json", include_bytes!("../../../tests/vectors/tuf/5.snapshot.json")),
    ("3.targets.json", include_bytes!("../../../tests/vectors/tuf/3.targets.json")),
    ("4.some%2Frole.json", include_bytes!("../../../tests/vectors/tuf/4.some%2Frole.json")),
    ("1.root.json", include_bytes!("../../../tests/vectors/tuf/1.root.json")),
];

fn repo() -> Repo {
    let mut repo = Repo::new();
    repo.files = FILES.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
    repo
}

#[test]
fn a_repository_of_python_tuf_is_followed_to_its_targets() {
    let repo = repo();
    let mut client = repo.current_client();
    assert_eq!(client.versions(), [2, 6, 5, 3, 0]);
    assert!(client.search(&repo, "dir/file.bin").is_ok_and(|found| found.is_some()));
    assert_eq!(client.trusted.delegated("some/role").map(|doc| doc.version), Some(4));
    let top = client.trusted.target("top.txt").unwrap();
    assert!(top.match_bytes(b"top"));
    assert_eq!(top.custom.as_ref().unwrap()["big"], json!(u64::MAX));
    assert!(client.trusted.target("dir/file.bin").unwrap().match_bytes(b"delegated"));
    assert_eq!(client.trusted.target("dir/other"), None);
}

#[test]
fn a_repository_of_python_tuf_is_refused_when_it_is_tampered_with() {
    for (path, field) in [
        ("2.root.json", "x-note"),
        ("timestamp.json", "expires"),
        ("5.snapshot.json", "expires"),
        ("3.targets.json", "expires"),
        ("4.some%2Frole.json", "expires"),
    ] {
        let mut repo = repo();
        repo.tamper(path, |file| {
            let text = file["signed"][field].as_str().unwrap().replace("2035", "2036")
                + if field == "expires" { "" } else { "!" };
            file["signed"][field] = text.into();
        });
        let mut client = repo.client();
        let refreshed = client.refresh(&repo);
        let error = refreshed.and_then(|()| client.search(&repo, "dir/file.bin").map(drop)).unwrap_err();
        let seen =
            matches!(error, TrustError::Untrusted { .. } | TrustError::Mismatch { .. } | TrustError::TooLarge { .. });
        assert!(seen, "{path}: {error}");
    }
}
