//! The TOML grammar of gates: which metrics of which cells may get how much worse before `kvbench compare` fails.
//!
//! ```toml
//! [[gate]]
//! metric = "tpot_ms_p99"
//! worse_than = 1.05
//! method = "kivi.*"
//! ```

use std::path::Path;

use anyhow::Context as _;
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ScenarioError,
    error::{self, Fault},
    limit,
    value::{Real, Sp},
};

/// Gates that are used where no file is given: scenarios/gates/default.toml, embedded.
const DEFAULT: &str = include_str!("../../scenarios/gates/default.toml");

/// A validated file.
#[derive(Debug, Clone)]
pub struct Gates {
    /// Path as it was given; `None` of the gates that are built in. Those pass over metrics that the runs do not have.
    pub origin: Option<String>,
    /// Share of false alarms that is accepted among all gates, and of false calls of `same`.
    pub alpha: f64,
    /// Two numbers are the same where their ratio certainly lies between `1 / bound` and `bound`.
    pub bound: f64,
    /// What a gate does where it is not certain.
    pub unclear: Unclear,
    /// In file order.
    pub gates: Vec<Gate>,
}

/// What becomes of a gate that the repeats do not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unclear {
    /// It passes, and a warning says how many repeats it lacks: a check that fails by chance is switched off after a week.
    Pass,
    /// It fails: whoever wants a proof that nothing got worse.
    Fail,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Line in the file, from 1.
    pub line: usize,
    /// Name of a metric with its statistic, such as `tpot_ms_p99`.
    pub metric: String,
    /// What trips it.
    pub limit: Limit,
    /// Which methods it is for; `None` for all.
    pub method: Option<Regex>,
    /// Which workloads.
    pub workload: Option<Regex>,
    /// Which targets.
    pub target: Option<Regex>,
    /// Which loads.
    pub load: Option<Regex>,
    /// Its own rule for what is not certain.
    pub unclear: Unclear,
}

/// What trips a gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The ratio to the base, in the direction that is worse, is certainly above this.
    WorseThan(f64),
    /// The ratio to the base, or its inverse, is certainly above this.
    DiffersBy(f64),
    /// A count is certainly larger than another.
    MoreThan(Reference),
}

/// What a count is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// What chance does: prompts where the baseline loses as much against the method.
    Null,
    /// The same count of the base run.
    Base,
}

/// A ratio: above 1, at most 100.
type Ratio = Real<1001, 100_000>;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Accepted share of false alarms. Default 0.05.
    #[serde(default = "alpha")]
    alpha: Real<1, 499>,
    /// What counts as the same. Default 1.02.
    #[serde(default = "bound")]
    bound: Ratio,
    /// What becomes of gates that the repeats do not decide. Default `pass`, with a warning.
    #[serde(default = "unclear")]
    unclear: Unclear,
    /// The rules.
    gate: Vec<Sp<WireGate>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireGate {
    metric: Sp<String>,
    worse_than: Option<Ratio>,
    differs_by: Option<Ratio>,
    more_than: Option<Reference>,
    method: Option<Sp<String>>,
    workload: Option<Sp<String>>,
    target: Option<Sp<String>>,
    load: Option<Sp<String>>,
    unclear: Option<Unclear>,
}

fn alpha() -> Real<1, 499> {
    Real(0.05)
}

fn bound() -> Ratio {
    Real(1.02)
}

fn unclear() -> Unclear {
    Unclear::Pass
}

impl Gates {
    /// Reads a file.
    ///
    /// # Errors
    /// I/O, or the first fault found, with its line and what to do about it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read the gates", path.display()))?;
        let origin = path.display().to_string();
        let gates = checked(&text).map_err(|fault| fault.locate(&text, &origin))?;
        Ok(Self { origin: Some(origin), ..gates })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// The first fault found, with its line and what to do about it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        checked(text).map_err(|fault| fault.locate(text, origin))
    }

    /// The gates that are built in.
    ///
    /// # Errors
    /// None in practice: a test parses them.
    pub fn built_in() -> Result<Self, ScenarioError> {
        Self::parse(DEFAULT, "scenarios/gates/default.toml")
    }
}

/// JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(File).to_value()
}

fn checked(text: &str) -> Result<Gates, Fault> {
    limit::text(text)?;
    let file: File = toml::from_str(text).map_err(|error| {
        let fault = error::translate(&error);
        let hint = match fault.hint.as_str() {
            error::SEE_README => "scenarios/gates/README.md lists every key".to_owned(),
            _ => fault.hint,
        };
        Fault { hint, ..fault }
    })?;
    let gates: Vec<Gate> =
        file.gate.iter().map(|wire| gate(wire, text, file.unclear)).collect::<Result<_, _>>()?;
    if gates.is_empty() {
        return Err(Fault::new(0, "expected at least one `[[gate]]`, got none", "add one"));
    }
    Ok(Gates {
        origin: None,
        alpha: file.alpha.0,
        bound: file.bound.0,
        unclear: file.unclear,
        gates,
    })
}

fn gate(wire: &Sp<WireGate>, text: &str, unclear: Unclear) -> Result<Gate, Fault> {
    let own = &wire.value;
    let limits: Vec<Limit> = [
        own.worse_than.map(|ratio| Limit::WorseThan(ratio.0)),
        own.differs_by.map(|ratio| Limit::DiffersBy(ratio.0)),
        own.more_than.map(Limit::MoreThan),
    ]
    .into_iter()
    .flatten()
    .collect();
    let [limit] = limits[..] else {
        return Err(Fault::new(
            own.metric.at,
            format!("expected one limit for `{}`, got {}", own.metric.value, limits.len()),
            "give one of `worse_than`, `differs_by` and `more_than`",
        ));
    };
    let counted = own.metric.value.starts_with("negatives_");
    if counted != matches!(limit, Limit::MoreThan(_)) {
        return Err(Fault::new(
            own.metric.at,
            format!("`{}`: expected another kind of limit", own.metric.value),
            "counts (`negatives_10pct`) take `more_than`, everything else `worse_than` or `differs_by`",
        ));
    }
    Ok(Gate {
        line: text[..own.metric.at.min(text.len())].matches('\n').count() + 1,
        metric: own.metric.value.clone(),
        limit,
        method: own.method.as_ref().map(pattern).transpose()?,
        workload: own.workload.as_ref().map(pattern).transpose()?,
        target: own.target.as_ref().map(pattern).transpose()?,
        load: own.load.as_ref().map(pattern).transpose()?,
        unclear: own.unclear.unwrap_or(unclear),
    })
}

/// A regular expression for a whole name: `kivi` is not `kivi-4`, `kivi.*` is both.
fn pattern(text: &Sp<String>) -> Result<Regex, Fault> {
    Regex::new(&format!("^(?:{})$", text.value)).map_err(|_| {
        let message = format!("expected a regular expression, got `{}`", text.value);
        Fault::new(text.at, message, "`.*` is anything, `kivi.*` all that begins so, `a|b` either")
    })
}

impl Limit {
    /// As the file spells it.
    pub fn words(self) -> String {
        match self {
            Limit::WorseThan(ratio) => format!("worse_than {ratio}"),
            Limit::DiffersBy(ratio) => format!("differs_by {ratio}"),
            Limit::MoreThan(Reference::Null) => "more_than null".to_owned(),
            Limit::MoreThan(Reference::Base) => "more_than base".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_gates_and_the_examples_parse() {
        assert!(!Gates::built_in().unwrap().gates.is_empty());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/gates");
        let mut n = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                Gates::load(&path).unwrap();
                n += 1;
            }
        }
        assert!(n >= 2, "{n}");
    }

    #[test]
    fn a_rule_says_what_it_is_for() {
        let text = "unclear = 'fail'\n\n[[gate]]\nmetric = 'tpot_ms_p99'\nworse_than = 1.05\nmethod = 'kivi.*'\n";
        let gates = Gates::parse(text, "g.toml").unwrap();
        let gate = &gates.gates[0];
        assert_eq!(
            (gate.line, gate.limit, gate.unclear),
            (4, Limit::WorseThan(1.05), Unclear::Fail)
        );
        let method = gate.method.as_ref().unwrap();
        assert!(method.is_match("kivi-4") && !method.is_match("x-kivi-4"));
        assert!((gates.alpha - 0.05).abs() < 1e-12 && (gates.bound - 1.02).abs() < 1e-12);
    }

    #[test]
    fn faults_have_their_line_and_a_remedy() {
        for (text, place, said) in [
            ("[[gate]]\nmetric = 'x'\nworse_then = 1.1\n", ":3:", "worse_than"),
            ("[[gate]]\nmetric = 'x'\n", ":2:", "`worse_than`"),
            ("[[gate]]\nmetric = 'x'\nworse_than = 0.9\n", ":3:", "0.9"),
            (
                "[[gate]]\nmetric = 'x'\nworse_than = 1.1\nmethod = '('\n",
                ":4:",
                "regular expression",
            ),
            ("[[gate]]\nmetric = 'negatives_10pct'\nworse_than = 1.1\n", ":2:", "more_than"),
            ("[[gate]]\nmetric = 'x'\nmore_than = 'null'\n", ":2:", "more_than"),
            ("gate = []\n", ":1:", "[[gate]]"),
        ] {
            let error = Gates::parse(text, "g.toml").unwrap_err().to_string();
            assert!(
                error.contains(place) && error.contains(said) && error.contains("hint"),
                "{error}"
            );
        }
    }
}
