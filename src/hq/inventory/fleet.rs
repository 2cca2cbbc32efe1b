//! Reads `fleet.toml`.

use super::{Fleet, ReleaseSettings, read_variables, tables};
use settings::{Problem, Source};

/// Reads `fleet.toml`. `None` if it has no usable name, id or URL.
pub(super) fn read(source: &Source, problems: &mut Vec<Problem>) -> Option<Fleet> {
    let mut table = source.toml(problems);
    let name = table.required::<String>("name", problems);
    let id = table.required("id", problems);
    let url = table.required::<String>("url", problems);
    let repository = table.value::<String>("repository", problems);
    for (key, value) in [("url", &url), ("repository", &repository)] {
        if let Some((line, value)) = value
            && !is_https(value)
        {
            problems.push(
                Problem::at_line(&source.name, *line, format!("`{key}` is `{value}`, but sites speak HTTPS only"))
                    .hint("write https://host or https://host:port"),
            );
        }
    }
    let device_files = table.value("device-files", problems).is_some_and(|(_, yes)| yes);
    let secrets_command = match table.value::<Vec<String>>("secrets-command", problems) {
        Some((line, command)) if command.is_empty() => {
            problems.push(
                Problem::at_line(&source.name, line, "`secrets-command` is empty")
                    .hint("name a program and its arguments: [\"pass\", \"show\"]"),
            );
            Vec::new()
        }
        Some((_, command)) => command,
        None => Vec::new(),
    };
    let mut defaults = table.table("defaults", problems);
    let mut base = ReleaseSettings::default();
    tables::apply(&mut defaults, &mut base, problems);
    let vars = read_variables(defaults.table("variables", problems), problems);
    defaults.finish(problems);
    table.finish(problems);
    Some(Fleet {
        name: name?.1,
        id: id?.1,
        url: url?.1,
        repository: repository.map(|(_, url)| url),
        device_files,
        secrets_command,
        settings: base,
        variables: vars,
    })
}

fn is_https(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(|c: char| c.is_whitespace() || c == '"')
    })
}
