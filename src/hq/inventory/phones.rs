//! Reads `phones.csv`: a header, then a line for each phone.

use std::collections::{BTreeMap, HashMap};

use super::{InventorySite, PhoneLine, Variable, Variables, variable_name_problem};
use bundle::limits::MAX_PHONES;
use ids::MacAddr;
use settings::{Problem, Source, nearest};

/// The columns that the file must have.
const NEEDED: [&str; 3] = ["mac", "site", "model"];

/// Reads `phones.csv`. Lines with a problem are left out.
pub(super) fn read(
    source: &Source,
    sites: &BTreeMap<String, InventorySite>,
    problems: &mut Vec<Problem>,
) -> Vec<PhoneLine> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .has_headers(true)
        .from_reader(source.text.as_bytes());
    let columns = match reader.headers() {
        Ok(header) => header.iter().map(str::to_owned).collect::<Vec<_>>(),
        Err(error) => {
            problems.push(Problem::at_line(&source.name, 1, format!("the header cannot be read: {error}")));
            return Vec::new();
        }
    };
    let header_line = first_line(&source.text, 0, 1);
    if !check_header(source, header_line, &columns, problems) {
        return Vec::new();
    }

    let mut phones = Vec::new();
    let mut seen: HashMap<MacAddr, usize> = HashMap::new();
    let mut per_site: HashMap<String, usize> = HashMap::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map(line_of);
                problems.push(Problem::at_file(&source.name, format!("this is not CSV: {error}")).line(line));
                continue;
            }
        };
        let line = record.position().map_or(1, |position| {
            let offset = usize::try_from(position.byte()).unwrap_or(usize::MAX);
            first_line(&source.text, offset, line_of(position))
        });
        // The line has only separators, as spreadsheets leave them behind.
        if record.iter().all(str::is_empty) {
            continue;
        }
        let Some(phone) = phone(source, &columns, &record, line, sites, problems) else { continue };
        if let Some(first) = seen.insert(phone.mac, line) {
            problems.push(
                Problem::at_line(&source.name, line, format!("phone {} is already on line {first}", phone.mac))
                    .hint("a phone is at one site, once; remove one of the lines"),
            );
            continue;
        }
        let number = per_site.entry(phone.site.clone()).or_default();
        *number += 1;
        if *number == MAX_PHONES + 1 {
            problems.push(Problem::at_line(
                &source.name,
                line,
                format!("site {} has more than {MAX_PHONES} phones", phone.site),
            ));
        }
        phones.push(phone);
    }
    phones
}

fn check_header(source: &Source, line: usize, columns: &[String], problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    for needed in NEEDED {
        if !columns.iter().any(|column| column == needed) {
            let problem = Problem::at_line(&source.name, line, format!("the header has no column `{needed}`"));
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            problems.push(match nearest(needed, &columns) {
                Some(near) => problem.hint(format!("is `{near}` meant?")),
                None => problem.hint("the first line names the columns: mac,site,model,label and your variables"),
            });
        }
    }
    for (index, column) in columns.iter().enumerate() {
        if columns.iter().take(index).any(|earlier| earlier == column) {
            problems.push(Problem::at_line(&source.name, line, format!("column `{column}` is there twice")));
        } else if !NEEDED.contains(&column.as_str()) && column != "label" {
            problems.extend(variable_name_problem(&source.name, line, column));
        }
    }
    problems.len() == before
}

fn phone(
    source: &Source,
    columns: &[String],
    record: &csv::StringRecord,
    line: usize,
    sites: &BTreeMap<String, InventorySite>,
    problems: &mut Vec<Problem>,
) -> Option<PhoneLine> {
    let mut say = |message: String, hint: Option<String>| {
        let problem = Problem::at_line(&source.name, line, message);
        problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    };
    if record.len() > columns.len() {
        say(
            format!("the line has {} fields, but the header names {}", record.len(), columns.len()),
            Some("put text that holds commas into double quotes".to_owned()),
        );
        return None;
    }
    let (mut mac, mut site, mut model, mut label) = (None, None, None, String::new());
    let mut variables = Variables::new();
    let mut good = true;
    for (column, text) in columns.iter().zip(record.iter()) {
        if text.chars().any(char::is_control) {
            say(format!("`{column}` holds a control character"), None);
            good = false;
            continue;
        }
        match column.as_str() {
            "mac" => match text.parse::<MacAddr>() {
                Ok(address) if address.is_unicast() => mac = Some(address),
                Ok(address) => say(format!("{address} can be no device's address"), None),
                Err(error) => say(error.to_string(), None),
            },
            "site" if sites.contains_key(text) => site = Some(text.to_owned()),
            "site" => {
                let names: Vec<&str> = sites.keys().map(String::as_str).collect();
                let hint = match nearest(text, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write sites/{text}.toml with `lineside-hq site add {text}`"),
                };
                say(format!("there is no site `{text}`"), Some(hint));
            }
            "model" if text.is_empty() => say("`model` is empty".to_owned(), None),
            "model" => model = Some(text.to_owned()),
            "label" => label = text.to_owned(),
            // With an empty cell the site's or the fleet's value counts. If it set an empty password by accident,
            // phones would be locked out (C19).
            _ if text.is_empty() => {}
            _ => {
                let value = serde_json::Value::String(text.to_owned());
                variables.insert(column.clone(), Variable { value, file: source.name.clone(), line });
            }
        }
    }
    if record.len() < columns.len() && (mac.is_none() || site.is_none() || model.is_none()) {
        say(format!("the line has {} of {} fields", record.len(), columns.len()), None);
    }
    if !good {
        return None;
    }
    Some(PhoneLine { mac: mac?, site: site?, model: model?, label, variables, line })
}

fn line_of(position: &csv::Position) -> usize {
    usize::try_from(position.line()).unwrap_or(usize::MAX)
}

/// The line of the first record at or after `offset`, which is on `line`. The CSV reader counts comments and empty
/// lines before a record as part of it, so they are skipped here.
fn first_line(text: &str, offset: usize, line: usize) -> usize {
    let rest = text.get(offset..).unwrap_or_default();
    let skipped = |line: &&str| line.starts_with('#') || line.trim_end_matches('\r').is_empty();
    line + rest.split('\n').take_while(skipped).count()
}
