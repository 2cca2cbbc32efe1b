//! `src/CODES.md` explains every code of `api::codes`, each once, and no others.

use std::collections::BTreeSet;

use lineside::api::codes::{
    AlertCode, AlertEnd, DiskFailure, DiskRepair, EnrolFailure, FileRefusal, HqRefusal, ReleaseRefusal, SiteState,
    TransferEnd,
};

use super::source;

/// The sections of the page, each with the codes that it has to explain.
type Sections = Vec<(String, Vec<String>)>;

/// The codes of whole enums, one enum after the other.
macro_rules! codes {
    ($($name:ident),+) => {
        [$($name::ALL.iter().map(|one| one.code().to_owned()).collect::<Vec<_>>()),+].concat()
    };
}

fn in_source() -> Sections {
    let enrolment = codes![EnrolFailure];
    // A refusal that ends an enrolment is explained there.
    let service = codes![HqRefusal].into_iter().filter(|code| !enrolment.contains(code)).collect();
    [
        ("State", codes![SiteState]),
        ("Refused releases", codes![ReleaseRefusal]),
        ("Enrolment", enrolment),
        ("HQ's service", service),
        ("Files", codes![TransferEnd, FileRefusal]),
        ("Alerts", codes![AlertCode]),
        ("Disk", codes![DiskFailure, DiskRepair]),
    ]
    .map(|(section, codes)| (section.to_owned(), codes))
    .into()
}

fn in_table() -> Sections {
    let text = std::fs::read_to_string(source().join("CODES.md")).unwrap();
    let mut found = Sections::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            found.push((title.to_owned(), Vec::new()));
        } else if let Some(rest) = line.strip_prefix("| `") {
            let (word, rest) = rest.split_once('`').unwrap();
            assert!(rest.matches('|').count() == 3, "{line}: a code, what it means, what to do");
            let (_, codes) = found.last_mut().unwrap_or_else(|| panic!("{line} is in no section"));
            codes.push(word.to_owned());
        }
    }
    found
}

#[test]
fn the_page_says_when_each_alert_ends() {
    let text = std::fs::read_to_string(source().join("CODES.md")).unwrap();
    let (_, list) = text.split_once("They go\n\n- ").unwrap();
    let (list, _) = list.split_once(".\n\n").unwrap();
    let mut told = BTreeSet::new();
    for item in list.split("\n- ") {
        let (when, codes) = item.split_once(": ").unwrap();
        told.extend(codes.split('`').skip(1).step_by(2).map(|code| (code.to_owned(), when.to_owned())));
    }
    let said: BTreeSet<(String, String)> =
        AlertCode::ALL.iter().map(|code| (code.code().to_owned(), end(*code))).collect();
    assert_eq!(told, said);
}

/// When an alert ends, as the page says it.
fn end(code: AlertCode) -> String {
    match code.end() {
        AlertEnd::WithCause => "when their cause is over".to_owned(),
        AlertEnd::AfterQuiet(quiet) => {
            let days = quiet.as_secs() / 86_400;
            format!("after {days} day{} without another such event", if days == 1 { "" } else { "s" })
        }
    }
}

/// The codes that stand twice in their section.
fn repeated((section, codes): &(String, Vec<String>)) -> Vec<String> {
    let mut seen = BTreeSet::new();
    codes.iter().filter(|code| !seen.insert(*code)).map(|code| format!("{section}: {code} is there twice")).collect()
}

#[test]
fn every_code_is_in_the_table_and_every_code_of_the_table_exists() {
    let (source, table) = (in_source(), in_table());
    let flat = |sections: &Sections| -> BTreeSet<(String, String)> {
        sections.iter().flat_map(|(section, codes)| codes.iter().map(|code| (section.clone(), code.clone()))).collect()
    };
    let (said, told) = (flat(&source), flat(&table));
    let mut problems: Vec<String> = source.iter().chain(&table).flat_map(repeated).collect();
    problems.extend(said.difference(&told).map(|(section, code)| format!("{section}: {code} is not in src/CODES.md")));
    problems.extend(told.difference(&said).map(|(section, code)| format!("{section}: nothing says {code}")));
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(source, table, "the page has the order of the enums");
    // So that the test cannot pass on an empty search.
    assert!(source.len() == 7 && said.len() > 80, "{} codes in {} sections", said.len(), source.len());
}
