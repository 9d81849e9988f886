//! `metrics` of an engine as the file spells it.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Unexpected},
};

use super::{
    MetricName, MetricsFormat, MetricsSpec, SourceName,
    error::Fault,
    value::{List, ListItem, Sp},
};

/// Longest path.
const PATH_MAX: usize = 256;

/// Where the engine's metrics are read and what they are called there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// Path below the server's URL.
    #[serde(default = "path")]
    pub(super) path: Sp<String>,
    /// How the answer is written: `prometheus` or `trtllm-json`.
    #[serde(default = "format")]
    pub(super) format: MetricsFormat,
    /// The engine's names of our metrics, in order of preference.
    pub(super) names: Names,
}

fn path() -> Sp<String> {
    Sp { value: "/metrics".to_owned(), at: 0 }
}

fn format() -> MetricsFormat {
    MetricsFormat::Prometheus
}

/// Our names and where each may stand.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Names(BTreeMap<MetricName, List<Source>>);

/// Every name as a key of its own, so that editors can complete it.
impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "MetricNames".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sources = generator.subschema_for::<List<Source>>();
        let key = |name: &MetricName| (name.name().to_owned(), sources.clone().to_value());
        let keys: serde_json::Map<_, _> = MetricName::ALL.iter().map(key).collect();
        json_schema!({ "type": "object", "properties": keys, "additionalProperties": false })
    }
}

/// A source that was read.
#[derive(Debug, Clone)]
struct Source(SourceName);

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error: super::SourceError| {
            let wanted = error.wanted();
            D::Error::invalid_value(Unexpected::Str(&text), &wanted)
        })
    }
}

impl JsonSchema for Source {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "MetricSource".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": super::metrics::SOURCE_MAX })
    }
}

impl ListItem for Source {
    fn key(&self) -> String {
        self.0.to_string()
    }
}

impl Metrics {
    /// Checks what no single value can.
    pub(super) fn spec(&self) -> Result<MetricsSpec, Fault> {
        if !is_path(&self.path.value) {
            return Err(Fault::new(
                self.path.at,
                format!(
                    "expected `path` to be a plain path that starts with `/`, or `:port/...`, of at most {PATH_MAX} bytes"
                ),
                "it is put behind the target's `url`, as in `path = \"/metrics\"`",
            ));
        }
        let sources = |list: &List<Source>| list.0.iter().map(|source| source.0.clone()).collect();
        let names = self.names.0.iter().map(|(name, list)| (*name, sources(list))).collect();
        Ok(MetricsSpec { path: self.path.value.clone(), format: self.format, names })
    }
}

/// `/path`, or `:port/path`; nothing that would need escaping in a URL.
fn is_path(text: &str) -> bool {
    let (port, path) = MetricsSpec::split(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '~');
    let bad_port = text.starts_with(':') && port.is_none_or(|port| port == 0);
    text.len() <= PATH_MAX && !bad_port && path.starts_with('/') && path.chars().all(plain)
}
