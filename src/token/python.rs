//! Values as Python prints them: chat templates were written for Jinja in Python, and every character counts.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// `str(value)`, as `{{ value }}` prints it.
pub(super) fn str(value: &Value) -> String {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => text.to_owned(),
        (ValueKind::Undefined, _) => String::new(),
        _ => repr(value),
    }
}

/// `repr(value)`: what a list prints of its elements.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => format!("[{}]", joined(value, repr)),
        ValueKind::Map => {
            let entry = |key: Value| {
                let of = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&of))
            };
            format!("{{{}}}", joined(value, |key| entry(key.clone())))
        }
        _ => value.to_string(),
    }
}

fn joined(value: &Value, each: impl Fn(&Value) -> String) -> String {
    let items = value.try_iter().into_iter().flatten();
    items.map(|item| each(&item)).collect::<Vec<_>>().join(", ")
}

fn number(value: &Value) -> String {
    match (value.is_integer(), f64::try_from(value.clone())) {
        (false, Ok(number)) => float(number),
        _ => value.to_string(),
    }
}

/// Rust and Python both print the shortest text that reads back; they spell exponents differently.
fn float(number: f64) -> String {
    let text = format!("{number:?}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{}e{sign}{exponent:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
}

/// Single quotes, unless only double ones avoid a backslash.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// How `json.dumps` writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Dumps {
    /// Whether anything beyond ASCII becomes an escape by its UTF-16 units.
    pub(super) ensure_ascii: bool,
    /// Blanks a level; `None` = one line.
    pub(super) indent: Option<usize>,
    /// Item and key separators; `None` = Python's own.
    pub(super) separators: Option<(String, String)>,
    /// Whether keys are sorted.
    pub(super) sort_keys: bool,
}

impl Dumps {
    /// `json.dumps(value, ...)`.
    ///
    /// # Errors
    /// A value that JSON does not know, such as an undefined one.
    pub(super) fn text(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block(['[', ']'], items.len(), depth, out, &mut |i, out| {
                    self.write(&items[i], depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.block(['{', '}'], keys.len(), depth, out, &mut |i, out| {
                    self.string(&key(&keys[i]), out);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, colon)| colon));
                    self.write(&value.get_item(&keys[i])?, depth + 1, out)
                })?;
            }
            other => {
                let message = format!("expected a value that JSON knows, got {other}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn block(
        &self,
        brackets: [char; 2],
        n: usize,
        depth: usize,
        out: &mut String,
        item: &mut dyn FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let comma = match &self.separators {
            Some((comma, _)) => comma,
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        out.push(brackets[0]);
        for i in 0..n {
            out.push_str(if i > 0 { comma } else { "" });
            self.new_line(depth + 1, out);
            item(i, out)?;
        }
        if n > 0 {
            self.new_line(depth, out);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    let mut units = [0; 2];
                    c.encode_utf16(&mut units)
                        .iter()
                        .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Keys of JSON are texts; Python turns the others into what they would be as values.
fn key(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        _ => str(value),
    }
}
