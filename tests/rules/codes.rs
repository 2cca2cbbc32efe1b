//! Every stable code that the source can say is explained in `src/CODES.md`, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use super::{code, files, source};

/// The file that codes come from, and the section that explains them. Alerts have a section of their own.
const SECTIONS: &[(&str, &str)] = &[
    ("update/poll.rs", "State"),
    ("update/fetch_error.rs", "State"),
    ("update/service.rs", "State"),
    ("status/report.rs", "State"),
    ("appliance/run.rs", "State"),
    ("tuf/error.rs", "Refused releases"),
    ("access/release.rs", "Refused releases"),
    ("update/enrol.rs", "Enrolment"),
    ("online/admit.rs", "Enrolment"),
    ("online/service/routes.rs", "HQ's service"),
    ("online/service/mod.rs", "HQ's service"),
    ("access/policy.rs", "Files"),
    ("status/stats.rs", "Files"),
    ("tftp/service/session.rs", "Files"),
    ("tftp/service/listener.rs", "Files"),
    ("store/error.rs", "Disk"),
];

/// What stands right before a code, besides the functions `code` and `store_code`.
const BEFORE: &[&str] = &[
    "state: ",
    "map_or(",
    "Outcome::Refused(",
    "if bad { ",
    "no(",
    "StatusCode::FORBIDDEN, ",
    "StatusCode::NOT_FOUND, ",
    "StatusCode::BAD_REQUEST, ",
    "StatusCode::SERVICE_UNAVAILABLE, ",
    "StatusCode::TOO_MANY_REQUESTS, ",
    "StatusCode::METHOD_NOT_ALLOWED, ",
    "StatusCode::REQUEST_TIMEOUT, ",
    "StatusCode::PAYLOAD_TOO_LARGE, ",
    "count_refused(&shared, address, ",
    "Refusal::AccessViolation, ",
    "Refusal::IllegalOperation, ",
    "&record, ",
];

type Codes = BTreeMap<String, BTreeSet<String>>;

/// The text between quotes that `text` begins with, if that is what a code looks like.
fn quoted(text: &str) -> Option<String> {
    let (word, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
    (!word.is_empty() && word.chars().all(plain)).then(|| word.to_owned())
}

fn after(text: &str, what: &str) -> Vec<String> {
    text.match_indices(what).filter_map(|(at, _)| quoted(&text[at + what.len()..])).collect()
}

/// What follows by the name of a constant of the same file.
fn named<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = String> + 'a {
    text.match_indices(what).filter_map(move |(at, _)| {
        let name = text[at + what.len()..].trim_start().split(|c: char| !c.is_ascii_uppercase() && c != '_').next()?;
        after(text, &format!("const {name}: &str = ")).into_iter().next().filter(|_| !name.is_empty())
    })
}

/// The bodies of all functions of this name.
fn bodies<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let starts = text.match_indices(&format!("fn {name}(")).map(|(at, _)| at).collect::<Vec<_>>();
    let body = |at: usize| {
        let indent = text[..at].rsplit('\n').next().unwrap().chars().take_while(|c| *c == ' ').count();
        let end = format!("\n{}}}", " ".repeat(indent));
        let rest = &text[at..];
        &rest[..rest.find(&end).unwrap()]
    };
    starts.into_iter().map(body).collect()
}

fn in_source() -> Codes {
    let mut found = Codes::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !path.contains("test")) {
        let text = code(&text);
        for alert in after(&text, ".alert(").into_iter().chain(named(&text, ".alert(")) {
            found.entry("Alerts".to_owned()).or_default().insert(alert);
        }
        let section = SECTIONS.iter().find(|(of, _)| *of == path).map(|(_, section)| *section);
        for name in ["code", "store_code"] {
            for body in bodies(&text, name) {
                let section = section.unwrap_or_else(|| panic!("{path} has codes: which section explains them?"));
                // What is right of an arrow or alone on its line is said; what is in a condition is not.
                let said = body.lines().filter_map(|line| match line.split_once("=> ") {
                    Some((_, right)) => quoted(right),
                    None => quoted(line),
                });
                found.entry(section.to_owned()).or_default().extend(said);
            }
        }
        if let Some(section) = section {
            let said = BEFORE.iter().flat_map(|before| after(&text, before));
            found.entry(section.to_owned()).or_default().extend(said);
        }
    }
    found
}

fn in_table() -> Codes {
    let text = std::fs::read_to_string(source().join("CODES.md")).unwrap();
    let mut found = Codes::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        } else if let Some(rest) = line.strip_prefix("| `") {
            let (word, rest) = rest.split_once('`').unwrap();
            assert!(rest.matches('|').count() == 3, "{line}: a code, what it means, what to do");
            let new = found.entry(section.clone()).or_default().insert(word.to_owned());
            assert!(new, "{section}: {word} is there twice");
        }
    }
    found
}

#[test]
fn every_code_is_in_the_table_and_every_code_of_the_table_exists() {
    let (source, table) = (in_source(), in_table());
    let mut problems = Vec::new();
    for section in source.keys().chain(table.keys()).collect::<BTreeSet<_>>() {
        let (said, told) =
            (source.get(section).cloned().unwrap_or_default(), table.get(section).cloned().unwrap_or_default());
        problems.extend(said.difference(&told).map(|code| format!("{section}: {code} is not in src/CODES.md")));
        problems.extend(told.difference(&said).map(|code| format!("{section}: nothing says {code}")));
    }
    assert!(problems.is_empty(), "{problems:#?}");
    // So that the test cannot pass on an empty search.
    let count: usize = source.values().map(BTreeSet::len).sum();
    assert!(source.len() == 7 && count > 80, "{count} codes in {} sections", source.len());
}
