//! Reads `templates/FOLDER/model.toml`.

use crate::inventory::{Variables, read_variables};
use bundle::Class;
use settings::{Problem, Source, Table};

/// What one `model.toml` says: the templates of one kind of phone.
#[derive(Debug, Clone)]
pub struct ModelSet {
    /// The folder's name. The sealed inventory of a site has it as the model of its phones.
    pub name: String,
    /// The models that `phones.csv` may name for it; the folder's name if `models` is not set.
    pub models: Vec<NamedLine>,
    /// The files that are rendered for its phones.
    pub files: Vec<TemplateFile>,
    /// The files of `firmware/FOLDER/` that are served. Files that a `.loads` file among them lists are served, too.
    pub firmware: Vec<NamedLine>,
    /// Template variables that count unless the fleet, the site or the phone sets them.
    pub variables: Variables,
}

/// A name in `model.toml` and the line on which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLine {
    /// The name of a model or of a firmware file.
    pub name: String,
    /// The line of `model.toml`, from 1.
    pub line: usize,
}

/// One `[[file]]` of `model.toml`: a file that is rendered from a template.
#[derive(Debug, Clone)]
pub struct TemplateFile {
    /// The line of `model.toml` at which it begins, from 1.
    pub line: usize,
    /// The name by which phones ask for it. It is itself a template.
    pub name: String,
    /// The template, as `FOLDER/FILE.j2`.
    pub template: String,
    /// Which phones may fetch it.
    pub scope: FileScope,
    /// What kind of file it is; a configuration unless `class` is set.
    pub class: Class,
    /// Whether values are escaped for XML; `None` decides by the names and the first bytes.
    pub escape: Option<bool>,
}

/// Which phones may fetch a rendered file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileScope {
    /// Only the phone that it is rendered for.
    Device,
    /// All phones of the site whose model is in this folder.
    Model,
    /// Every phone of the site.
    Everyone,
}

impl ModelSet {
    /// The path of its `model.toml`, relative to the fleet directory.
    pub fn file(&self) -> String {
        format!("templates/{}/model.toml", self.name)
    }
}

impl TemplateFile {
    /// The name under which the engine keeps the template of the file's name.
    pub fn name_template(&self) -> String {
        format!("{}#name-{}", self.template, self.line)
    }
}

/// Reads a `model.toml`. Parts with a problem are left out.
pub(super) fn read(source: &Source, folder: &str, problems: &mut Vec<Problem>) -> ModelSet {
    let mut table = source.toml(problems);
    let models = match names(&mut table, "models", problems) {
        models if models.is_empty() => vec![NamedLine { name: folder.to_owned(), line: 1 }],
        models => models,
    };
    let firmware = names(&mut table, "firmware", problems);
    let variables = read_variables(table.table("variables", problems), problems);
    let files: Vec<TemplateFile> =
        table.tables("file", problems).into_iter().filter_map(|table| file(table, folder, problems)).collect();
    if files.is_empty() && problems.iter().all(|problem| problem.file != source.name) {
        problems.push(
            Problem::at_file(&source.name, "no file is named").hint("add a [[file]] with name, template and scope"),
        );
    }
    table.finish(problems);
    ModelSet { name: folder.to_owned(), models, files, firmware, variables }
}

fn names(table: &mut Table<'_>, key: &'static str, problems: &mut Vec<Problem>) -> Vec<NamedLine> {
    let source = table.source();
    let Some((line, list)) = table.value::<Vec<toml::Spanned<String>>>(key, problems) else { return Vec::new() };
    list.into_iter()
        .filter_map(|name| {
            let line = match name.span().start {
                0 => line,
                offset => source.line(offset),
            };
            let name = name.into_inner();
            if name.is_empty() {
                problems.push(Problem::at_line(&source.name, line, format!("`{key}` holds an empty name")));
                return None;
            }
            Some(NamedLine { name, line })
        })
        .collect()
}

fn file(mut table: Table<'_>, folder: &str, problems: &mut Vec<Problem>) -> Option<TemplateFile> {
    let source = table.source();
    let line = table.line();
    let name = table.required::<String>("name", problems);
    let template = table.required::<String>("template", problems);
    let scope = table.required::<String>("scope", problems);
    let class = match table.value::<Class>("class", problems) {
        Some((line, Class::Firmware | Class::Log)) => {
            problems.push(
                Problem::at_line(&source.name, line, "a rendered file is neither firmware nor a log")
                    .hint("leave `class` out for a configuration"),
            );
            Class::Config
        }
        Some((_, class)) => class,
        None => Class::Config,
    };
    let escape = match table.value::<String>("escape", problems) {
        None => None,
        Some((_, text)) if text == "xml" => Some(true),
        Some((_, text)) if text == "none" => Some(false),
        Some((line, text)) => {
            problems.push(
                Problem::at_line(&source.name, line, format!("`escape` is `{text}`")).hint("write \"xml\" or \"none\""),
            );
            None
        }
    };
    table.finish(problems);
    let (_, name) = name?;
    let (template_line, template) = template?;
    let (scope_line, scope) = scope?;
    if !template.ends_with(".j2") || template.starts_with(['/', '.']) {
        problems.push(
            Problem::at_line(&source.name, template_line, format!("`{template}` is no template"))
                .hint("name a file of this folder that ends with .j2, or FOLDER/FILE.j2"),
        );
        return None;
    }
    let scope = match scope.as_str() {
        "device" => FileScope::Device,
        "model" => FileScope::Model,
        "everyone" => FileScope::Everyone,
        _ => {
            problems.push(
                Problem::at_line(&source.name, scope_line, format!("`scope` is `{scope}`"))
                    .hint("write \"device\", \"model\" or \"everyone\""),
            );
            return None;
        }
    };
    let template = if template.contains('/') { template } else { format!("{folder}/{template}") };
    Some(TemplateFile { line, name, template, scope, class, escape })
}

#[cfg(test)]
mod tests {
    use settings::sample;

    use super::*;

    #[test]
    fn the_sample_documents_every_key_and_no_other() {
        let text = include_str!("../samples/cisco-8941/model.toml");
        let problems = |source: &Source| {
            let mut problems = Vec::new();
            let _ = read(source, "cisco-8941", &mut problems);
            problems
        };
        let keys = sample::keys(text, problems);
        assert_eq!(keys.documented, keys.known);
        assert!(keys.known.contains("file.escape"), "{:?}", keys.known);
        assert_eq!(problems(&Source::new("model.toml", &sample::uncommented(text))), Vec::new());
    }
}
