//! An API key that cannot be printed.

use std::{collections::BTreeMap, path::PathBuf};

use reqwest::header::HeaderValue;

use crate::scenario::EngineTarget;

/// Which server is sent which key: a key that one target's file holds is not for another target's server.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// For every server without a file of its own (the environment's `KVBENCH_API_KEY`).
    pub everywhere: Option<ApiKey>,
    /// By `api_key_file`.
    pub by_file: BTreeMap<PathBuf, ApiKey>,
    /// Other secrets of the environment, which engines inherit and may print: never sent, only left out of what is stored.
    pub unsent: Vec<ApiKey>,
}

impl Keys {
    pub(super) fn of(&self, target: &EngineTarget) -> Option<&ApiKey> {
        match &target.api_key_file {
            Some(file) => self.by_file.get(file),
            None => self.everywhere.as_ref(),
        }
    }
}

impl Keys {
    /// A text in which every key is replaced by stars.
    pub fn redact(&self, text: &str) -> String {
        let all = self.everywhere.iter().chain(self.by_file.values()).chain(&self.unsent);
        all.fold(text.to_owned(), |text, key| key.redact(&text))
    }
}

impl From<Option<ApiKey>> for Keys {
    fn from(everywhere: Option<ApiKey>) -> Self {
        Self { everywhere, ..Self::default() }
    }
}

/// A secret. `Debug` shows three stars, there is no `Display`, and it goes nowhere but into one header.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes the text of a file or a variable; white space around it is not part of a key. `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| Self(trimmed.to_owned()))
    }

    /// Refuses a key that no header can carry, before anything is sent or measured.
    ///
    /// # Errors
    /// It holds other than printable ASCII.
    pub fn check(&self) -> anyhow::Result<()> {
        self.header().map(drop)
    }

    /// The `authorization` header, marked so that HTTP libraries do not log it.
    pub(super) fn header(&self) -> anyhow::Result<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(|_| {
            anyhow::anyhow!(
                "api key: expected printable ASCII, got other bytes\n  hint: check the file or KVBENCH_API_KEY"
            )
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// `text` with the key replaced by stars, also as JSON spells it: a server may repeat it in an error.
    pub(super) fn redact(&self, text: &str) -> String {
        let json = serde_json::Value::from(self.0.as_str()).to_string();
        text.replace(&self.0, "***").replace(&json[1..json.len() - 1], "***")
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_shown() {
        let key = ApiKey::new(" s3cret\n").unwrap();
        assert_eq!(format!("{key:?} {:?}", key.header().unwrap()), "*** Sensitive");
        assert_eq!(key.redact("bad key s3cret!"), "bad key ***!");
        let error = ApiKey::new("s3cret\u{7}x").unwrap().header().unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"));
        assert_eq!(ApiKey::new("\n "), None);
        let quoted = ApiKey::new("s3\"cret").unwrap();
        assert_eq!(quoted.redact(r#"{"said": "s3\"cret"}"#), r#"{"said": "***"}"#);
        assert_eq!(
            Keys::from(ApiKey::new("s3cret")).redact("{\"version\": \"s3cret\"}"),
            "{\"version\": \"***\"}"
        );
    }
}
