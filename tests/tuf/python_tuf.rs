//! The reference implementation of The Update Framework reads what we write, and we read what it writes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::fleet::Fleet;
use crate::python::{client, python, run, script};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_tuf_verifies_what_hq_published_also_after_keys_changed() {
    let Some(python) = python("python_tuf_verifies") else { return };
    let mut fleet = Fleet::new().await;
    let site = fleet.site("sample-office").await;
    fleet.publish();
    let verify = || {
        let mut command = Command::new(&python);
        command.arg(script("verify.py")).arg(fleet.layout.signed().join("1.root.json"));
        run(command.arg(fleet.layout.public().join("sites").join(site.id.as_str())))
    };
    let (done, said) = verify();
    assert!(done && said.contains("root 1 targets 1 manifest"), "{said}");

    fleet.hq(&["keys", "rotate", "release"]);
    fleet.hq(&["keys", "rotate", "online"]);
    let pending = fleet.layout.signed().join("2.root.json.pending");
    for number in [1, 3] {
        let key = fleet.layout.key(&format!("root-{number}"));
        fleet.hq(&["keys", "sign", pending.to_str().unwrap(), "--yes", "--key", key.to_str().unwrap()]);
    }
    fleet.hq(&["keys", "finish"]);
    fleet.publish();
    let (done, said) = verify();
    assert!(done && said.contains("root 2 targets 2 manifest"), "{said}");

    // It is not blind: with one wrong byte it refuses.
    let metadata = fleet.layout.site_metadata(&site.id);
    let path = metadata.join("2.targets.json");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(!verify().0);
    fleet.stop().await;
}

/// A web server on a folder.
struct Web(Child, String);

impl Web {
    fn start(python: &Path, folder: &Path) -> Self {
        let program = "import functools, http.server, sys\n\
            handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])\n\
            server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)\n\
            print(server.server_port, flush=True)\n\
            server.serve_forever()\n";
        let mut child = Command::new(python)
            .args(["-c", program])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self(child, format!("http://127.0.0.1:{}", port.trim()))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_accepts_what_python_tuf_wrote_and_takes_nothing_older_or_wrong() {
    let Some(python) = python("our_client_accepts") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (repository, trusted, targets) =
        (dir.path().join("repository"), dir.path().join("trusted"), dir.path().join("targets"));
    for folder in [&trusted, &targets] {
        fs::create_dir(folder).unwrap();
    }
    let (done, said) = run(Command::new(&python).arg(script("write_repository.py")).arg(&repository));
    assert!(done, "{said}");
    let web = Web::start(&python, &repository);
    let call = |base: &str, names: &[&str], command: &[&str]| {
        let mut program = Command::new(client());
        program.arg("--metadata-dir").arg(&trusted);
        program.arg("--metadata-url").arg(format!("{}/{base}metadata", web.1));
        program.arg("--target-base-url").arg(format!("{}/{base}targets/", web.1)).arg("--target-dir").arg(&targets);
        program.args(names.iter().flat_map(|name| ["--target-name", name]));
        run(program.args(command))
    };
    let pinned = repository.join("metadata/1.root.json");
    assert!(call("", &[], &["init", pinned.to_str().unwrap()]).0);
    let names = ["top.txt", "dir/one file.bin", "dir/deep/ä.cfg"];
    let (done, said) = call("", &names, &["download"]);
    assert!(done, "{said}");
    assert_eq!(fs::read(targets.join("dir%2Fdeep%2F%C3%A4.cfg")).unwrap(), b"deep");
    assert_eq!(fs::read(targets.join("dir%2Fone%20file.bin")).unwrap().len(), 81_000);
    let kept: Vec<String> =
        fs::read_dir(&trusted).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept.len(), 6, "{kept:?}");
    let (done, said) = call("", &["dir/nothing"], &["download"]);
    assert!(!done && said.contains("nobody whom we trust lists it"), "{said}");

    // One step back.
    let (done, said) = call("older/", &[], &["refresh"]);
    assert!(!done && said.contains("below 6, which is trusted"), "{said}");
    assert!(call("", &[], &["refresh"]).0);
    // A target that is not what was signed.
    let target = targets.join("top.txt");
    fs::remove_file(&target).unwrap();
    for entry in fs::read_dir(repository.join("targets")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, "tip").unwrap();
        }
    }
    let (done, said) = call("", &["top.txt"], &["download"]);
    assert!(!done && said.contains("not what was signed") && !target.exists(), "{said}");
}
