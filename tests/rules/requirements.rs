//! `src/REQUIREMENTS.md`: whoever cites a requirement finds it there, with one state; the modules and links of that page
//! lead somewhere; and the tests that it and other documents name exist.
//!
//! How a requirement is cited: its id is a word of its own, in a comment or in Markdown, outside of code spans and code
//! blocks. "(I4)", "(I24, I27)" and "requirements F1 and S7" are citations; a MAC address or a name in the code is none.
//! A word that looks like an id and is none belongs into a code span.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where ids are cited.
const PLACES: [&str; 6] = ["README.md", "src", "tests", "image", "systemd", "cross"];
/// What is made there and not written.
const MADE: [&str; 4] = ["target", "corpus", "artifacts", "coverage"];
/// The page of requirements.
const PAGE: &str = "src/REQUIREMENTS.md";
/// The requirements of the five documents and of their second reading. None is ever taken out.
const REQUIREMENTS: usize = 151;

/// One line of the page.
#[derive(Debug)]
struct Row {
    id: String,
    state: String,
    answer: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every text below [`PLACES`], with its path. What is no text cites nothing.
fn texts() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = PLACES.iter().map(|place| root().join(place)).collect();
    while let Some(path) = left.pop() {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            left.extend(entries.filter(|path| !MADE.iter().any(|made| path.ends_with(made))));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.insert(name, text);
        }
    }
    assert!(found.len() > 200, "only {} files were found", found.len());
    found
}

/// What people write in this line of a file: all of it in Markdown, else its comment.
fn prose<'a>(path: &str, line: &'a str) -> &'a str {
    let after = |mark: &str| line.split_once(mark).map_or("", |(_, comment)| comment);
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("md") => line,
        Some("rs") => after("//"),
        Some("j2") => after("{#"),
        _ if line.starts_with('#') => line,
        _ => after(" # "),
    }
}

/// Whether this is a letter of a family, a plus sign where the second reading added it, and a number.
fn is_id(word: &str) -> bool {
    let Some(number) = word.strip_prefix(['F', 'S', 'I', 'C', 'V']) else { return false };
    let number = number.strip_prefix('+').unwrap_or(number);
    (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The ids that a file cites, each as often as it does.
fn cited(path: &str, text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut in_block = false;
    for line in text.lines().map(|line| prose(path, line)) {
        if line.trim_start_matches(['/', '!', ' ']).starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // Every second part is a code span.
            let words = line.split('`').step_by(2).flat_map(str::split_whitespace);
            let words = words.map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '+'));
            ids.extend(words.filter(|word| is_id(word)).map(str::to_owned));
        }
    }
    ids
}

/// The cells of a table's line.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).unwrap_or_else(|| panic!("{line}"));
    inner.split('|').map(str::trim).collect()
}

/// The page's lines, its states, and the states of what it says is not this product's.
fn page() -> (Vec<Row>, BTreeSet<String>, Vec<String>) {
    let (mut rows, mut legend, mut not_ours) = (Vec::new(), BTreeSet::new(), Vec::new());
    let text = read(PAGE);
    let mut family = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            family = Some(title.split_once(": ").map(|(letter, _)| letter));
        } else if line.starts_with('|') && !line.starts_with("|--") {
            match (cells(line).as_slice(), family) {
                ([state, _], None) => {
                    legend.extend(state.strip_prefix('`').map(|s| s.trim_end_matches('`').to_owned()))
                }
                (["id" | "what", ..], Some(_)) => {}
                ([id, _, state, answer], Some(Some(letter))) => {
                    assert!(is_id(id) && id.starts_with(letter), "{line}: no id of this chapter");
                    rows.push(Row { id: (*id).into(), state: (*state).into(), answer: (*answer).into() });
                }
                ([_, _, state, reason], Some(None)) if !reason.is_empty() => not_ours.push((*state).to_owned()),
                _ => panic!("{line}: an id, the requirement, its state, what answers it"),
            }
        }
    }
    (rows, legend, not_ours)
}

#[test]
fn every_requirement_stands_once_with_a_state_of_the_legend() {
    let (rows, legend, not_ours) = page();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for Row { id, state, answer } in &rows {
        if !seen.insert(id.as_str()) {
            problems.push(format!("{id} stands there twice"));
        }
        if !legend.contains(state) {
            problems.push(format!("{id}: the legend has no state {state}"));
        }
        let says = match state.as_str() {
            "held" => answer.contains('`') || answer.contains("]("),
            "partly" => answer.contains("Lacks "),
            _ => !answer.is_empty(),
        };
        if !says {
            problems.push(format!("{id}: {answer}: what holds it is named, what is not there follows \"Lacks\""));
        }
    }
    problems.extend(not_ours.iter().filter(|state| *state != "n.a.").map(|state| format!("not ours, but {state}")));
    let used: BTreeSet<&str> = rows.iter().map(|row| row.state.as_str()).collect();
    problems.extend(
        legend.iter().filter(|state| !used.contains(state.as_str())).map(|state| format!("nothing is {state}")),
    );
    assert!(problems.is_empty(), "{problems:#?}");
    // So that the test cannot pass on an empty page.
    assert!(rows.len() >= REQUIREMENTS, "only {} requirements", rows.len());
    assert!(legend.len() == 4 && not_ours.len() >= 6, "{legend:?}, {} not ours", not_ours.len());
}

#[test]
fn every_requirement_that_is_cited_is_on_the_page() {
    let known: BTreeSet<String> = page().0.into_iter().map(|row| row.id).collect();
    let (mut problems, mut found, mut files) = (Vec::new(), BTreeSet::new(), 0);
    for (path, text) in texts() {
        let ids = cited(&path, &text);
        problems.extend(ids.iter().filter(|id| !known.contains(*id)).map(|id| format!("{path} cites {id}")));
        if path != PAGE && !ids.is_empty() {
            files += 1;
            found.extend(ids);
        }
    }
    assert!(problems.is_empty(), "not in {PAGE}: {problems:#?}");
    // So that the test cannot pass on an empty search.
    assert!(
        files >= 10 && found.len() >= 10,
        "only {} requirements are cited, in {files} files: {found:?}",
        found.len()
    );
}

#[test]
fn an_id_is_a_word_of_prose_and_nothing_else() {
    for (path, text, ids) in [
        ("a.rs", "// (I4), (I24, I27): requirements F1 and S7. I+1", "I4 I24 I27 F1 S7 I+1"),
        ("a.rs", "let a = SocketAddr::V4(b); // 00:04:F2:AA F2-1 `V6` F123 A1 U+2", ""),
        ("a.rs", "I4\n//! ```text\n//! I5\n//! ```\n/// (I6)", "I6"),
        ("a.md", "nginx, **S3**\n```text\nI5\n```\n| C18 | `C99` |", "S3 C18"),
        ("a.j2", "I4 {# off (I5). #}", "I5"),
        ("run", "# (I4)\necho I5 # I6\necho '#I7'", "I4 I6"),
    ] {
        assert_eq!(cited(path, text).join(" "), ids, "{text}");
    }
}

/// The tests that a document names which are no functions, and how many it names. Names of tests are in `code`.
fn absent_tests(document: &str, sources: &str) -> (Vec<String>, usize) {
    let words = document.split('`').skip(1).step_by(2);
    let named: BTreeSet<&str> = words
        .filter(|word| word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let absent = named.iter().filter(|name| !sources.contains(&format!("fn {name}(")));
    (absent.map(|name| (*name).to_owned()).collect(), named.len())
}

/// Fails unless every test that a document names is a function somewhere in `src` or `tests`, and it names so many.
fn names_tests_that_exist(path: &str, least: usize) {
    let texts = texts();
    let sources: String =
        texts.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| text.as_str()).collect();
    let (absent, named) = absent_tests(&read(path), &sources);
    assert!(absent.is_empty(), "{path} names tests that are not there: {absent:#?}");
    assert!(named >= least, "{path} names only {named} tests");
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    names_tests_that_exist("src/THREATS.md", 30);
}

#[test]
fn every_test_that_the_requirements_name_exists() {
    names_tests_that_exist(PAGE, 80);
}

#[test]
fn every_test_that_another_document_names_exists() {
    names_tests_that_exist("README.md", 5);
    names_tests_that_exist("src/DECISIONS.md", 40);
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn every_link_of_the_requirements_leads_to_a_file_and_a_heading() {
    let text = read(PAGE);
    let links: Vec<&str> = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    let broken = |link: &&&str| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let document = fs::read_to_string(root().join("src").join(file)).unwrap_or_default();
        let titles = document.lines().filter(|line| line.starts_with('#'));
        let found = titles.map(|line| anchor(line.trim_start_matches('#').trim())).any(|title| title == heading);
        document.is_empty() || !(found || heading.is_empty())
    };
    let broken: Vec<_> = links.iter().filter(broken).collect();
    assert!(broken.is_empty(), "{PAGE} leads nowhere: {broken:#?}");
    assert!(links.len() >= 10, "only {} links", links.len());
}

#[test]
fn every_module_that_the_requirements_name_exists() {
    let (page, map) = (read(PAGE), read("src/ARCHITECTURE.md"));
    let named = page.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::"));
    let named: BTreeSet<(&str, &str)> = named.filter(|(room, _)| !room.is_empty() && *room != "room").collect();
    let absent = named.iter().filter(|(room, module)| {
        let folder = root().join("src").join(room);
        let there = folder.join(module).is_dir() || folder.join(module).with_extension("rs").is_file();
        !map.contains(&format!("`{room}`")) || folder.is_dir() && !there
    });
    let absent: Vec<_> = absent.collect();
    assert!(absent.is_empty(), "{PAGE} names modules that are not there: {absent:?}");
    assert!(named.len() >= 10, "only {} modules are named", named.len());
}
