//! Chat templates as `transformers` renders them: Jinja with `trim_blocks` and `lstrip_blocks`, loop controls, Python's
//! string and dict methods, `raise_exception`, `strftime_now`, `tojson` without HTML escapes, and `{% generation %}` blocks.
//!
//! Known to differ: `~` and `+` join booleans and floats as minijinja prints them, and `"%s" % x` is not there.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use anyhow::{Context as _, anyhow};
use jiff::civil::Date;
use minijinja::{
    Environment, Error, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest},
};
use regex::Regex;

use super::python::{self, Dumps};

/// The day that `strftime_now` tells unless another is asked for. A fixed day, so that a prompt does not change overnight.
pub const DATE_DEFAULT: &str = "2024-07-26";

/// Name of the one template in its environment.
const NAME: &str = "chat template";

/// Special tokens by their names in `tokenizer_config.json`, such as `bos_token`.
pub type Special = BTreeMap<String, String>;

/// A compiled chat template with its special tokens and its day.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Special,
}

impl ChatTemplate {
    /// Compiles a template; `strftime_now` will tell `date`.
    ///
    /// # Errors
    /// The template is no Jinja, with its line.
    pub fn new(source: &str, special: Special, date: Date) -> anyhow::Result<Self> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| readable(&error))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::str(value))?));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: String| strftime(&format, date));
        environment.add_filter("tojson", tojson);
        environment.add_filter("string", |value: &Value| python::str(value));
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| readable(&error))?;
        Ok(Self { environment, special })
    }

    /// What the model reads. `messages` are maps with `role` and `content`; with `add_generation_prompt` the text ends where
    /// the assistant's answer begins.
    ///
    /// # Errors
    /// The template refuses the messages (`raise_exception`), or uses something that is not there.
    pub fn render(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
    ) -> anyhow::Result<String> {
        let special =
            self.special.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let mut given: BTreeMap<&str, Value> = special.collect();
        given.extend([
            ("messages", Value::from(messages.to_vec())),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ]);
        let template = self.environment.get_template(NAME).map_err(|error| readable(&error))?;
        template.render(given).map_err(|error| readable(&error))
    }

    /// How this template spells BOS.
    pub(super) fn bos(&self) -> Option<&str> {
        self.special.get("bos_token").map(String::as_str).filter(|bos| !bos.is_empty())
    }
}

/// One message of a user.
pub fn user_message(text: &str) -> Value {
    context! { role => "user", content => text }
}

/// Messages of a JSON file: an array of objects with `role` and `content`.
///
/// # Errors
/// The file cannot be read or holds no such array.
pub fn messages(path: &Path) -> anyhow::Result<Vec<Value>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{shown}: cannot read"))?;
    // Not through serde_json's own values, which sort their keys: a template may print them.
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{shown}: expected an array such as `[{{\"role\": \"user\", \"content\": \"hi\"}}]`"
        )
    })
}

/// A day as `2024-07-26`.
///
/// # Errors
/// Another spelling, or no day.
pub fn date(text: &str) -> anyhow::Result<Date> {
    text.parse()
        .map_err(|error| anyhow!("expected a day such as `{DATE_DEFAULT}`, got `{text}` ({error})"))
}

/// `{% generation %}` marks the assistant's part for training; what it encloses is printed. It becomes an `if` that holds,
/// with the same control of blanks.
fn without_generation_tags(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)[ \t\r\n]*(end)?generation[ \t\r\n]*([-+]?)%\}")
            .expect("the expression is valid")
    });
    let replaced = TAG.replace_all(source, |found: &regex::Captures<'_>| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &found[1], &found[3])
    });
    replaced.into_owned()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime(format: &str, date: Date) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, date.at(0, 0, 0, 0)).map_err(|error| {
        let message = format!("strftime_now: cannot format by {format:?} ({error})");
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

/// `transformers`' own: `json.dumps` with `ensure_ascii` off, which is its first argument.
fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut positional = positional.0.into_iter();
    let ensure_ascii: Option<bool> = named.get("ensure_ascii")?;
    let indent: Option<usize> = named.get("indent")?;
    let dumps = Dumps {
        ensure_ascii: ensure_ascii.or(positional.next().map(|v| v.is_true())).unwrap_or(false),
        indent: indent.or(positional.next().and_then(|v| v.try_into().ok())),
        separators: separators(named.get("separators")?)?,
        sort_keys: named.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    named.assert_all_used()?;
    Ok(Value::from_safe_string(dumps.text(value)?))
}

/// A pair: between items, and between a key and its value.
fn separators(given: Option<Value>) -> Result<Option<(String, String)>, Error> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(None) };
    let pair: Vec<String> = given.try_iter()?.map(|part| python::str(&part)).collect();
    match <[String; 2]>::try_from(pair) {
        Ok([comma, colon]) => Ok(Some((comma, colon))),
        Err(_) => Err(Error::new(ErrorKind::InvalidOperation, "tojson: expected two separators")),
    }
}

/// One line: what is wrong, and where in the template.
fn readable(error: &Error) -> anyhow::Error {
    let line = error.line().map_or(String::new(), |line| format!(" line {line}"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    anyhow!("chat template{line}: {detail}")
}
