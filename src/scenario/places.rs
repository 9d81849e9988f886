//! Places such as `{port}` in commands, environment and files: what is one, what it is filled with, and how a value stays
//! one value in a YAML or JSON file.
//!
//! A place is `{`, a lower-case name and `}`. Everything else with braces is text, so JSON needs no care. `{{name}}` writes
//! `{name}`. What was filled in is never looked at again.

use std::collections::BTreeMap;

use super::{
    error::{Fault, nearest},
    value::Sp,
};

/// What every text can hold.
pub(super) const BUILT_IN: [&str; 6] = ["model", "name", "host", "port", "address", "dir"];

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// The name, and where its brace stands.
    Place(&'a str, usize),
}

/// Whether a text can be the name of a place.
pub(super) fn is_name(text: &str) -> bool {
    let tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(tail)
}

/// The name between the brace that `text` starts with and the next one.
fn braced(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    is_name(name).then_some(name)
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let (mut found, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(step) = text[at..].find('{') {
        let brace = at + step;
        let rest = &text[brace..];
        let doubled = braced(&rest[1..]).filter(|name| rest[name.len() + 3..].starts_with('}'));
        if let Some(name) = doubled {
            found.push(Piece::Text(&text[from..brace]));
            found.push(Piece::Text(&rest[1..name.len() + 3]));
            (from, at) = (brace + name.len() + 4, brace + name.len() + 4);
        } else if let Some(name) = braced(rest) {
            found.push(Piece::Text(&text[from..brace]));
            found.push(Piece::Place(name, brace));
            (from, at) = (brace + name.len() + 2, brace + name.len() + 2);
        } else {
            at = brace + 1;
        }
    }
    found.push(Piece::Text(&text[from..]));
    found
}

/// Whether a text has that place.
pub(super) fn has(text: &str, name: &str) -> bool {
    pieces(text).iter().any(|piece| matches!(piece, Piece::Place(found, _) if *found == name))
}

/// Refuses a text with a place that nothing fills.
pub(super) fn check<'a>(
    text: &str,
    at: usize,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Fault> {
    for piece in pieces(text) {
        let Piece::Place(name, _) = piece else { continue };
        if known.clone().all(|known| known != name) {
            let list: Vec<String> = known.clone().map(|name| format!("`{{{name}}}`")).collect();
            let close = nearest(name, known.clone())
                .map_or(String::new(), |close| format!("did you mean `{{{close}}}`? "));
            return Err(Fault::new(
                at,
                format!("expected a place that is known, got `{{{name}}}`"),
                format!("{close}there are {}; `{{{{{name}}}}}` writes the braces", list.join(", ")),
            ));
        }
    }
    Ok(())
}

/// As [`check`], of several texts.
pub(super) fn check_all<'a, 'b>(
    texts: impl IntoIterator<Item = &'b Sp<String>>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Fault> {
    texts.into_iter().try_for_each(|text| check(&text.value, text.at, known.clone()))
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
    /// Another one: values stand there as they are.
    Plain,
}

impl Syntax {
    pub(super) fn of(file: &str) -> Self {
        match file.rsplit_once('.').map(|(_, ending)| ending) {
            Some("yaml" | "yml") => Self::Yaml,
            Some("json") => Self::Json,
            _ => Self::Plain,
        }
    }
}

/// Where a place stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The place is the whole value.
    Alone,
    /// Between double quotes, or in a comment.
    Double,
    /// Between single quotes.
    Single,
    /// Text without quotes is beside it.
    Beside,
}

/// Reads the line up to the place as YAML does; JSON is YAML here.
fn standing(text: &str, brace: usize, name: &str) -> Standing {
    let line = text[..brace].rfind('\n').map_or(0, |end| end + 1);
    let before = &text[line..brace];
    let (mut quote, mut escaped, mut last) = (None, false, ' ');
    for c in before.chars() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '#' && last.is_whitespace() => return Standing::Double,
            // A quote within a word is an apostrophe.
            None if "\"'".contains(c) && (last.is_whitespace() || "[{,:".contains(last)) => {
                quote = Some(c);
            }
            None => {}
        }
        last = c;
    }
    let after = text[brace + name.len() + 2..].split('\n').next().unwrap_or("");
    let ends = after.trim().is_empty()
        || after.starts_with([',', ']', '}'])
        || after.starts_with(char::is_whitespace)
            && after.trim_start().starts_with(['#', ',', ']', '}']);
    let trimmed = before.trim_end();
    let starts = trimmed.is_empty()
        || trimmed.ends_with(['[', '{', ','])
        || before.len() > trimmed.len() && trimmed.ends_with([':', '-'])
        || trimmed.ends_with("\":");
    match quote {
        Some('"') => Standing::Double,
        Some(_) => Standing::Single,
        None if starts && ends => Standing::Alone,
        None => Standing::Beside,
    }
}

/// Refuses a file in which a text would stand beside others without quotes: nothing could keep its `:` and `#` apart from
/// the file's own.
pub(super) fn check_file<'a>(
    name: &str,
    text: &Sp<String>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Fault> {
    check(&text.value, text.at, known)?;
    if Syntax::of(name) == Syntax::Plain {
        return Ok(());
    }
    for piece in pieces(&text.value) {
        let Piece::Place(place, brace) = piece else { continue };
        if is_text(place) && standing(&text.value, brace, place) == Standing::Beside {
            return Err(Fault::new(
                text.at,
                format!(
                    "expected `{{{place}}}` in `{name}` to be a whole value or to stand in quotes"
                ),
                "put quotes around the value that it is a part of",
            ));
        }
    }
    Ok(())
}

/// Places that hold a text of the user's, which is one value whatever is in it. A port is a number, and what `set` holds was
/// written for this file.
fn is_text(place: &str) -> bool {
    ["model", "name", "host", "address", "dir"].contains(&place)
}

/// What is filled into places.
pub(super) struct Places<'a> {
    pub(super) values: BTreeMap<&'a str, &'a str>,
}

impl Places<'_> {
    /// The text with its places filled. One that is not known stays; [`check`] has refused it.
    pub(super) fn fill(&self, text: &str) -> String {
        self.fill_with(text, |_, _, value| value.to_owned())
    }

    /// As [`Self::fill`], so that each text stays one value in a file of that syntax.
    pub(super) fn fill_file(&self, text: &str, syntax: Syntax) -> String {
        self.fill_with(text, |place, brace, value| {
            if syntax == Syntax::Plain || !is_text(place) {
                return value.to_owned();
            }
            match standing(text, brace, place) {
                Standing::Alone if syntax == Syntax::Yaml && is_plain_yaml(value) => {
                    value.to_owned()
                }
                Standing::Alone => format!("\"{}\"", escaped(value)),
                Standing::Single if syntax == Syntax::Yaml => value.replace('\'', "''"),
                Standing::Double | Standing::Single | Standing::Beside => escaped(value),
            }
        })
    }

    fn fill_with(&self, text: &str, value: impl Fn(&str, usize, &str) -> String) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place(name, brace) => match self.values.get(name) {
                    Some(found) => out.push_str(&value(name, brace, found)),
                    None => out.push_str(&text[brace..brace + name.len() + 2]),
                },
            }
        }
        out
    }
}

/// Whether YAML reads these characters as this text, without quotes. Narrower than YAML is.
fn is_plain_yaml(value: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || "_-./+@=".contains(c);
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    value.starts_with(first)
        && value.chars().all(rest)
        && !WORDS.contains(&value.to_ascii_lowercase().as_str())
}

/// For between double quotes, in YAML and in JSON.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // YAML takes these for line ends.
            c if c.is_control() || "\u{2028}\u{2029}\u{feff}".contains(c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str, values: &[(&str, &str)]) -> String {
        Places { values: values.iter().copied().collect() }.fill(text)
    }

    #[test]
    fn braces_of_json_are_text_and_doubled_ones_are_written_once() {
        let values = [("port", "4000"), ("model", "{port}")];
        for (text, wanted) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":{"b":{}}}"#, r#"{"a":{"b":{}}}"#),
            (r#"{"port":{port}}"#, r#"{"port":4000}"#),
            ("{{port}}", "{port}"),
            ("{{{port}}}", "{{port}}"),
            ("${HOME}/{ x }/{}", "${HOME}/{ x }/{}"),
            ("a{port}b{port}", "a4000b4000"),
            // What was filled in is not filled again.
            ("{model}:{port}", "{port}:4000"),
            ("{", "{"),
            ("{{port}", "{4000"),
            ("{port", "{port"),
        ] {
            assert_eq!(filled(text, &values), wanted, "{text}");
        }
    }

    #[test]
    fn values_stay_one_value_in_yaml_and_json() {
        let fill = |text: &str, value: &str, syntax| {
            Places { values: BTreeMap::from([("model", value), ("port", "1")]) }
                .fill_file(text, syntax)
        };
        for (text, value, wanted) in [
            ("m: {model}\n", "org/m-7b", "m: org/m-7b\n"),
            ("m: {model}\n", "a: b #c", "m: \"a: b #c\"\n"),
            ("m: {model} # why\n", "true", "m: \"true\" # why\n"),
            ("m: {model}", "7", "m: \"7\""),
            ("- {model}", "- x", "- \"- x\""),
            ("m: \"{model}/x\"", "a\"b\\", "m: \"a\\\"b\\\\/x\""),
            ("m: '{model}'", "it's", "m: 'it''s'"),
            ("m: {model}", "a\nb: c", "m: \"a\\u000ab: c\""),
            ("p: {port}", "x", "p: 1"),
        ] {
            assert_eq!(fill(text, value, Syntax::Yaml), wanted, "{text} {value}");
        }
        assert_eq!(
            fill(r#"{"m": {model}, "p": {port}}"#, "m", Syntax::Json),
            r#"{"m": "m", "p": 1}"#
        );
        assert_eq!(fill(r#"{"m":{model}}"#, "a\"", Syntax::Json), r#"{"m":"a\""}"#);
        assert_eq!(fill("m = {model}", "a: b", Syntax::Plain), "m = a: b");
        let beside = Sp { value: "u: http://{host}:{port}".to_owned(), at: 3 };
        let error = check_file("a.yaml", &beside, BUILT_IN.into_iter()).expect_err("beside");
        assert!(error.message.contains("`{host}` in `a.yaml`") && error.at == 3, "{error:?}");
        check_file("a.conf", &beside, BUILT_IN.into_iter()).expect("no YAML");
    }

    proptest! {
        #[test]
        fn json_files_hold_the_value_whatever_it_is(value in any::<String>()) {
            let places = Places { values: BTreeMap::from([("model", value.as_str())]) };
            let text = places.fill_file(r#"{"a": {model}, "b": "<{model}>"}"#, Syntax::Json);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(json["a"].as_str(), Some(value.as_str()));
            let quoted = format!("<{value}>");
            prop_assert_eq!(json["b"].as_str(), Some(quoted.as_str()));
        }

        #[test]
        fn each_place_is_filled_once(text in "[{}a-c\" ]{0,12}") {
            prop_assume!(!text.contains("{{"));
            prop_assert_eq!(filled(&text, &[("a", "{a}"), ("b", "{b}"), ("c", "{c}")]), text);
        }
    }
}
