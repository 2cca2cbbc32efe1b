//! `templates/`: one folder for each model, with `model.toml` and the templates that it names.
//!
//! Templates are Jinja (minijinja). A variable that is not set is an error and never an empty text, because a phone
//! with half a configuration is worse than one with its old configuration. In XML every value is escaped.

mod engine;
mod model;

use std::collections::{BTreeMap, BTreeSet};

use super::assets::{is_key_file, key_file};
use super::inventory::{entries, is_note, source};
use durable::Links;
use repository::layout::Layout;
use settings::{MAX_TEXT_BYTES, Problem, Source};

pub use engine::{Engine, RenderError};
pub use model::{FileScope, ModelSet, NamedLine, TemplateFile};

/// All of `templates/`, compiled.
#[derive(Debug)]
pub struct Templates {
    /// The template set of each folder, by the folder's name.
    pub sets: BTreeMap<String, ModelSet>,
    /// The folder of each model that `phones.csv` may name, by the model's name.
    pub by_model: BTreeMap<String, String>,
    /// The engine, which holds all compiled templates.
    pub engine: Engine,
}

impl Templates {
    /// Reads and compiles all of `templates/`. What is wrong goes to `problems`.
    pub fn read(layout: &Layout, problems: &mut Vec<Problem>) -> Self {
        let mut sets = BTreeMap::new();
        let mut sources = Vec::new();
        for (folder, is_dir) in entries(layout, "templates", Links::Refused, problems) {
            if !is_dir {
                if !is_note(&folder) {
                    problems.push(
                        Problem::at_file(format!("templates/{folder}"), "only folders of models belong here")
                            .hint("make a folder with model.toml for it, or move it"),
                    );
                }
                continue;
            }
            read_folder(layout, &folder, &mut sets, &mut sources, problems);
        }

        let mut by_model = BTreeMap::new();
        for set in sets.values() {
            for model in &set.models {
                if let Some(other) = by_model.insert(model.name.clone(), set.name.clone()) {
                    problems.push(
                        Problem::at_line(
                            set.file(),
                            model.line,
                            format!("model `{}` is also in templates/{other}", model.name),
                        )
                        .hint("a model has one set of templates"),
                    );
                }
            }
        }
        let engine = compile(&sets, sources, problems);
        Self { sets, by_model, engine }
    }

    /// The template set of a model; `None` if no folder has the model.
    pub fn of_model(&self, model: &str) -> Option<&ModelSet> {
        self.sets.get(self.by_model.get(model)?)
    }
}

fn read_folder(
    layout: &Layout,
    folder: &str,
    sets: &mut BTreeMap<String, ModelSet>,
    sources: &mut Vec<Source>,
    problems: &mut Vec<Problem>,
) {
    let name = format!("templates/{folder}");
    for (file, is_dir) in entries(layout, &name, Links::Refused, problems) {
        let full = format!("{name}/{file}");
        if is_dir {
            problems.push(Problem::at_file(full, "a folder of templates holds no further folders"));
        } else if file == "model.toml" {
            match source(layout, &full, MAX_TEXT_BYTES) {
                Ok(source) => {
                    let set = model::read(&source, folder, problems);
                    sets.insert(folder.to_owned(), set);
                }
                Err(problem) => problems.push(problem),
            }
        } else if file.ends_with(".j2") {
            match source(layout, &full, MAX_TEXT_BYTES) {
                Ok(source) if is_key_file(source.text.as_bytes()) => problems.push(key_file(full)),
                // Templates name one another by their path below templates/.
                Ok(source) => sources.push(Source { name: format!("{folder}/{file}"), ..source }),
                Err(problem) => problems.push(problem),
            }
        } else if !is_note(&file) {
            problems
                .push(Problem::at_file(full, "a stray file: neither model.toml nor a template").hint(
                    "files are made from templates (NAME.j2); put files that are served as they are into files/",
                ));
        }
    }
}

fn compile(sets: &BTreeMap<String, ModelSet>, sources: Vec<Source>, problems: &mut Vec<Problem>) -> Engine {
    let present: BTreeSet<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let mut escape: BTreeMap<String, bool> = BTreeMap::new();
    for source in &sources {
        let xml = source.name.ends_with(".xml.j2") || source.text.trim_start().starts_with("<?xml");
        escape.insert(source.name.clone(), xml);
    }
    for set in sets.values() {
        for file in &set.files {
            if !present.contains(file.template.as_str()) {
                problems.push(Problem::at_line(
                    set.file(),
                    file.line,
                    format!("there is no template templates/{}", file.template),
                ));
            }
            match file.escape {
                Some(yes) => drop(escape.insert(file.template.clone(), yes)),
                None if file.name.to_ascii_lowercase().ends_with(".xml") => {
                    escape.insert(file.template.clone(), true);
                }
                None => {}
            }
        }
    }
    let mut engine = Engine::new(escape);
    for source in sources {
        if let Err(error) = engine.add(&source.name, &source.text) {
            problems.push(error.problem());
        }
    }
    for set in sets.values() {
        for file in &set.files {
            if let Err(error) = engine.add(&file.name_template(), &file.name) {
                problems.push(Problem::at_line(set.file(), file.line, format!("`name`: {}", error.message)));
            }
        }
    }
    engine
}
