//! What an engine says about itself while it serves: which of its metrics is which of ours.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Longest source as a text.
pub(super) const SOURCE_MAX: usize = 512;

/// Where an engine's metrics are read and what they are called there.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsSpec {
    /// Path below the target's URL, with its slash: `/metrics`. Behind a port it is a path of the same host instead, which
    /// is not sent the target's key: `:8080/metrics`.
    pub path: String,
    /// How the answer is written.
    pub format: MetricsFormat,
    /// Sources of each of our names, in order of preference: the first that an answer holds is taken. Names differ from
    /// version to version of one engine.
    pub names: BTreeMap<MetricName, Vec<SourceName>>,
}

impl MetricsSpec {
    /// Port, where there is one, and path of a `path`.
    pub fn split(path: &str) -> (Option<u16>, &str) {
        let behind = |rest: &str| rest.find('/').unwrap_or(rest.len());
        match path.strip_prefix(':') {
            Some(rest) => (rest[..behind(rest)].parse().ok(), &rest[behind(rest)..]),
            None => (None, path),
        }
    }
}

/// How an engine writes its metrics.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsFormat {
    /// Text of the Prometheus exposition format or of OpenMetrics.
    Prometheus,
    /// TensorRT-LLM's JSON array with one object an iteration of its scheduler. A read empties the engine's queue, so
    /// nothing else may read it while kvbench does. A source is a path of keys: `kvCacheStats.usedNumBlocks`.
    TrtllmJson,
}

/// How values of a metric go together over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A level: peak and mean tell something.
    Gauge,
    /// A count since the engine started: differences tell something.
    Counter,
    /// A constant 1 whose labels tell something.
    Info,
}

/// Declares the names once: variant, text, kind, what it is.
macro_rules! metric_names {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, $kind:ident;)+) => {
        /// Our names of what engines tell. Counts are since the engine started, sizes in tokens or bytes of the whole engine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum MetricName {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl MetricName {
            /// All of them.
            pub const ALL: &'static [MetricName] = &[$(MetricName::$variant),+];

            /// As scenarios and tables spell it.
            pub fn name(self) -> &'static str {
                match self { $(MetricName::$variant => $text),+ }
            }

            /// The one that is spelled so.
            pub fn named(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|name| name.name() == text)
            }

            /// How its values go together.
            pub fn kind(self) -> MetricKind {
                match self { $(MetricName::$variant => MetricKind::$kind),+ }
            }
        }
    };
}

metric_names! {
    /// Part of the KV cache in use, 0 to 1.
    KvUsage = "kv_usage", Gauge;
    /// Tokens in the KV cache.
    KvUsedTokens = "kv_used_tokens", Gauge;
    /// Tokens that fit into the KV cache.
    KvCapacityTokens = "kv_capacity_tokens", Gauge;
    /// Requests being computed.
    Running = "running", Gauge;
    /// Requests that wait for a place.
    Waiting = "waiting", Gauge;
    /// Requests thrown out of the running batch because the KV cache was full; they are computed again.
    PreemptionsTotal = "preemptions_total", Counter;
    /// Prompt tokens looked up in the prefix cache.
    PrefixQueriesTotal = "prefix_queries_total", Counter;
    /// Prompt tokens found there.
    PrefixHitsTotal = "prefix_hits_total", Counter;
    /// Prompt tokens not computed because some cache, local or remote, held them.
    PromptTokensCachedTotal = "prompt_tokens_cached_total", Counter;
    /// Rounds of speculative decoding.
    SpecDraftsTotal = "spec_drafts_total", Counter;
    /// Tokens the draft proposed.
    SpecDraftTokensTotal = "spec_draft_tokens_total", Counter;
    /// Proposed tokens the model accepted.
    SpecAcceptedTokensTotal = "spec_accepted_tokens_total", Counter;
    /// Accepted part of the proposed tokens, 0 to 1, over a window of the engine's choice.
    SpecAcceptRate = "spec_accept_rate", Gauge;
    /// Bytes of KV cache loaded back from host memory or disk.
    OffloadReadBytesTotal = "offload_read_bytes_total", Counter;
    /// Bytes of KV cache moved out to host memory or disk.
    OffloadWriteBytesTotal = "offload_write_bytes_total", Counter;
    /// Prompt tokens; whether cached ones count among them differs between engines.
    PromptTokensTotal = "prompt_tokens_total", Counter;
    /// Tokens generated.
    GenerationTokensTotal = "generation_tokens_total", Counter;
    /// Requests that ended; a label may say how.
    RequestsFinishedTotal = "requests_finished_total", Counter;
    /// Tokens that the KV cache dropped to make room.
    EvictedTokensTotal = "evicted_tokens_total", Counter;
    /// How the KV cache is set up, in labels.
    CacheConfigInfo = "cache_config_info", Info;
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One place where a value may stand in an engine's answer: `family`, `family{label="value"}`, or `family[label]` where a
/// label holds the number; each with a scale: `family * 0.01`, `family / 100`, `family * other`, `family / other`.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceName {
    /// Name of the metric as the engine spells it; a path of keys in [`MetricsFormat::TrtllmJson`].
    pub family: String,
    /// Labels that a sample must have; empty = all samples of the family.
    pub labels: BTreeMap<String, String>,
    /// The label whose text is the value; `None` = the sample's own number.
    pub value_label: Option<String>,
    /// What the engine's number is multiplied with or divided by to become ours.
    pub scale: Option<Scale>,
}

/// How an engine's number becomes ours.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Times a positive number.
    Times(f64),
    /// Times a family of the same answer: blocks in use times tokens of a block.
    TimesFamily(String),
    /// Divided by a family of the same answer: blocks in use per block that there is. Divided by 0 is unknown.
    PerFamily(String),
}

/// As [`SourceName`]'s documentation spells it; parses to an equal value.
impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.family)?;
        if !self.labels.is_empty() {
            let labels: Vec<_> =
                self.labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
            write!(f, "{{{}}}", labels.join(","))?;
        }
        if let Some(label) = &self.value_label {
            write!(f, "[{label}]")?;
        }
        match &self.scale {
            None => Ok(()),
            Some(Scale::Times(by)) => write!(f, " * {by}"),
            Some(Scale::TimesFamily(by)) => write!(f, " * {by}"),
            Some(Scale::PerFamily(by)) => write!(f, " / {by}"),
        }
    }
}

/// Text that is no [`SourceName`]; says what was expected where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct SourceError(&'static str);

impl SourceError {
    /// What was expected.
    pub fn wanted(&self) -> &'static str {
        self.0
    }
}

impl FromStr for SourceName {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if text.len() > SOURCE_MAX {
            return Err(SourceError("at most 512 bytes"));
        }
        let (family, rest) = word(text.trim())?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => filter(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let (value_label, rest) = value_label(rest)?;
        Ok(Self { family: family.to_owned(), labels, value_label, scale: scale(rest.trim())? })
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

/// A name at the start of `text`, and what follows it.
fn word(text: &str) -> Result<(&str, &str), SourceError> {
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':')) {
        Ok((name, rest))
    } else {
        Err(SourceError(
            "a name of letters, digits, `_`, `:` and `.` that does not start with a digit",
        ))
    }
}

/// `label="value",...}`, and what follows it. Values hold no quotes and no backslashes: no engine has such labels.
fn filter(text: &str) -> Result<(BTreeMap<String, String>, &str), SourceError> {
    const WANTED: SourceError = SourceError("labels as `{key=\"value\",key=\"value\"}`");
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        let (key, after) = word(rest.trim_start())?;
        let after = after.trim_start().strip_prefix('=').ok_or(WANTED)?;
        let after = after.trim_start().strip_prefix('"').ok_or(WANTED)?;
        let (value, after) = after.split_once('"').ok_or(WANTED)?;
        if value.contains('\\') || value.contains(char::is_control) {
            return Err(WANTED);
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(SourceError("every label once"));
        }
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = after.strip_prefix(',').ok_or(WANTED)?;
    }
}

/// `[label]` or nothing, and what follows it.
fn value_label(text: &str) -> Result<(Option<String>, &str), SourceError> {
    let Some(rest) = text.strip_prefix('[') else { return Ok((None, text)) };
    let (label, rest) = word(rest)?;
    let rest = rest.strip_prefix(']').ok_or(SourceError("a label as `[label]`"))?;
    Ok((Some(label.to_owned()), rest))
}

/// Nothing, `* number`, `/ number`, `* family` or `/ family`.
fn scale(text: &str) -> Result<Option<Scale>, SourceError> {
    let Some(sign) = text.chars().next() else { return Ok(None) };
    let operand = text[sign.len_utf8()..].trim();
    if !matches!(sign, '*' | '/') {
        return Err(SourceError(
            "nothing, `* number`, `/ number`, `* name` or `/ name` after the name",
        ));
    }
    if operand.starts_with(|c: char| c.is_ascii_digit()) {
        let number: f64 =
            operand.parse().map_err(|_| SourceError("a number or a name after `*` or `/`"))?;
        let factor = if sign == '*' { number } else { 1.0 / number };
        let good = factor.is_finite() && factor > 0.0;
        return if good {
            Ok(Some(Scale::Times(factor)))
        } else {
            Err(SourceError("a scale above 0"))
        };
    }
    let (family, rest) = word(operand)?;
    if !rest.trim().is_empty() {
        return Err(SourceError("nothing after the scale"));
    }
    let family = family.to_owned();
    Ok(Some(if sign == '*' { Scale::TimesFamily(family) } else { Scale::PerFamily(family) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn source(text: &str) -> SourceName {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_source_is_a_family_with_a_filter_and_a_scale() {
        let plain = source("vllm:kv_cache_usage_perc");
        assert_eq!(
            (plain.family.as_str(), plain.labels.len(), &plain.scale),
            ("vllm:kv_cache_usage_perc", 0, &None)
        );
        let full = source(r#"a:b { x = "1" , y="CPU to GPU" } / 100"#.replace(" {", "{").as_str());
        assert_eq!(full.labels["y"], "CPU to GPU");
        assert_eq!(full.scale, Some(Scale::Times(0.01)));
        let ratio = source("kvCacheStats.usedNumBlocks / kvCacheStats.maxNumBlocks");
        assert_eq!(ratio.scale, Some(Scale::PerFamily("kvCacheStats.maxNumBlocks".to_owned())));
        assert_eq!(source("a*b").scale, Some(Scale::TimesFamily("b".to_owned())));
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in [
            "a[b]",
            "a{k=\"v\"}[b] * 2",
            "a",
            "a * 0.01",
            "a / b",
            "a * b.c",
            r#"a{k="v",l="w x"} * 1024"#,
        ] {
            assert_eq!(source(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_a_reason() {
        let cases = [
            ("", "a name"),
            ("9a", "a name"),
            ("a b", "nothing, `* number`"),
            ("a{", "a name"),
            (r#"a{k="v""#, "labels as"),
            (r#"a{k="v",k="w"}"#, "every label once"),
            (r#"a{k="\n"}"#, "labels as"),
            ("a[", "a name"),
            ("a[b", "a label as"),
            ("a * 0", "a scale above 0"),
            ("a / 0", "a scale above 0"),
            ("a * 1e999", "a scale above 0"),
            ("a * 1x", "a number or a name"),
            ("a * b c", "nothing after the scale"),
            ("a *", "a name"),
        ];
        for (text, wanted) in cases {
            let error = text.parse::<SourceName>().expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!("x".repeat(SOURCE_MAX + 1).parse::<SourceName>().is_err());
    }

    #[test]
    fn a_path_may_name_another_port() {
        assert_eq!(MetricsSpec::split("/metrics"), (None, "/metrics"));
        assert_eq!(MetricsSpec::split(":8080/metrics"), (Some(8080), "/metrics"));
        assert_eq!(MetricsSpec::split(":99999/m"), (None, "/m"));
        assert_eq!(MetricsSpec::split(":80"), (Some(80), ""));
    }

    #[test]
    fn names_are_spelled_once_and_counters_end_in_total() {
        let mut names: Vec<_> = MetricName::ALL.iter().map(|name| name.name()).collect();
        names.dedup();
        assert_eq!(names.len(), 20);
        for name in MetricName::ALL {
            let json = serde_json::to_string(name).expect("a name");
            assert_eq!(json, format!("\"{name}\""));
            assert_eq!(
                name.name().ends_with("_total"),
                name.kind() == MetricKind::Counter,
                "{name}"
            );
        }
    }
}
