//! The template engine (minijinja), set up so that every mistake is an error with its file and line.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value};
use settings::Problem;

/// All compiled templates, and how they are rendered.
#[derive(Debug)]
pub struct Engine {
    environment: Environment<'static>,
}

/// Why a template does not compile or render.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RenderError {
    /// The template, as `FOLDER/FILE.j2`.
    pub template: String,
    /// The line, from 1; `None` if it is not known.
    pub line: Option<usize>,
    /// What is wrong, in words. It never holds the value of a variable, which may be a secret.
    pub message: String,
    /// Whether the reason is a variable that is not set.
    pub missing: bool,
}

impl RenderError {
    /// This error as a problem in the template's file.
    pub fn problem(&self) -> Problem {
        Problem::at_file(format!("templates/{}", self.template), &self.message).line(self.line)
    }
}

impl Engine {
    /// An engine without templates. `escape` says by the template's name whether its values are escaped for XML.
    pub fn new(escape: BTreeMap<String, bool>) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_debug(true);
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("the default delimiters are valid"),
        );
        environment.set_auto_escape_callback(move |name| match escape.get(name) {
            Some(true) => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        environment.set_formatter(format_value);
        Self { environment }
    }

    /// Compiles a template and keeps it under this name (`FOLDER/FILE.j2`).
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), RenderError> {
        self.environment.add_template_owned(name.to_owned(), text.to_owned()).map_err(|error| describe(&error, name))
    }

    /// Whether a template of this name compiled.
    pub fn has(&self, name: &str) -> bool {
        self.environment.get_template(name).is_ok()
    }

    /// Renders the template of this name with these values. A variable that is not set is an error.
    pub fn render(&self, name: &str, context: &Value) -> Result<String, RenderError> {
        let template = self.environment.get_template(name).map_err(|error| describe(&error, name))?;
        template.render(context.clone()).map_err(|error| describe(&error, name))
    }
}

/// Writes a value. In XML it escapes the five characters that XML 1.0 §4.6 names and no others, because the parsers of
/// old phones know little more.
fn format_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    let text = value.to_string();
    if value.is_safe() || *state.auto_escape() == AutoEscape::None {
        return output.write_str(&text).map_err(minijinja::Error::from);
    }
    for character in text.chars() {
        match character {
            '&' => output.write_str("&amp;"),
            '<' => output.write_str("&lt;"),
            '>' => output.write_str("&gt;"),
            '"' => output.write_str("&quot;"),
            '\'' => output.write_str("&apos;"),
            other => output.write_char(other),
        }?;
    }
    Ok(())
}

fn describe(error: &minijinja::Error, name: &str) -> RenderError {
    // An error inside an included template is wrapped. The innermost error has the file and line.
    let mut innermost = error;
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        if let Some(next) = next.downcast_ref::<minijinja::Error>() {
            innermost = next;
        }
        source = next.source();
    }
    let missing = innermost.kind() == ErrorKind::UndefinedError;
    let expression = innermost
        .range()
        .and_then(|range| innermost.template_source()?.get(range))
        .map(|text| text.trim().trim_start_matches("{{").trim_end_matches("}}").trim().to_owned());
    let message = match (missing, expression) {
        (true, Some(expression)) if !expression.is_empty() && expression.len() <= 80 => {
            format!("`{expression}` is not set")
        }
        (true, _) => "a variable is not set".to_owned(),
        (false, _) => match innermost.detail() {
            Some(detail) => detail.to_owned(),
            None => innermost.kind().to_string(),
        },
    };
    RenderError { template: innermost.name().unwrap_or(name).to_owned(), line: innermost.line(), message, missing }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn engine(text: &str, xml: bool) -> Engine {
        let mut engine = Engine::new(BTreeMap::from([("m/x.j2".to_owned(), xml)]));
        engine.add("m/x.j2", text).unwrap();
        engine
    }

    fn context(values: &[(&str, &str)]) -> Value {
        let map: BTreeMap<String, Value> =
            values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        Value::from(map)
    }

    #[test]
    fn values_are_escaped_in_xml_and_only_there() {
        let values = context(&[("name", "A&B <\"1/2\">")]);
        assert_eq!(
            engine("<n>{{ name }}</n>\n", true).render("m/x.j2", &values).unwrap(),
            "<n>A&amp;B &lt;&quot;1/2&quot;&gt;</n>\n"
        );
        assert_eq!(engine("n={{ name }}\n", false).render("m/x.j2", &values).unwrap(), "n=A&B <\"1/2\">\n");
    }

    #[test]
    fn a_missing_variable_is_named_with_its_line() {
        let error = engine("one\n{{ proxy }}\n", false).render("m/x.j2", &context(&[])).unwrap_err();
        assert_eq!((error.line, error.missing), (Some(2), true));
        assert_eq!(error.message, "`proxy` is not set");
        assert_eq!(error.template, "m/x.j2");
    }

    #[test]
    fn a_syntax_error_has_its_line() {
        let mut engine = Engine::new(BTreeMap::new());
        let error = engine.add("m/x.j2", "one\ntwo\n{% if %}\n").unwrap_err();
        assert_eq!(error.line, Some(3));
    }

    #[test]
    fn an_error_in_an_included_template_is_reported_there() {
        let mut engine = engine("one\n{% include 'common/y.j2' %}\n", false);
        engine.add("common/y.j2", "{# note #}\n\n{{ tone }}\n").unwrap();
        let error = engine.render("m/x.j2", &context(&[])).unwrap_err();
        assert_eq!((error.template.as_str(), error.line), ("common/y.j2", Some(3)), "{error:?}");
    }
}
