//! `manifest.json`: everything needed to know what a run was and to run it again. Never a secret.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::disk::{Files, write_aside};

/// Version of the row tables and of the manifest. A reader refuses a run with another one.
pub const SCHEMA_VERSION: u32 = 6;

/// Name of the manifest inside a run folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What a run was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the run folder; in every row.
    pub run_id: String,
    /// Version of the kvbench that ran.
    pub kvbench_version: String,
    /// Git revision kvbench was built from; `None` when the build did not know.
    pub kvbench_git_revision: Option<String>,
    /// How far the run is.
    pub status: Status,
    /// Whether its numbers can be believed; `None` until somebody has judged.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not [`Verdict::Valid`].
    pub reasons: Vec<String>,
    /// The experiment.
    pub scenario: ScenarioFacts,
    /// The resolved plan, in order.
    pub cells: Vec<CellFacts>,
    /// Wall-clock time (RFC 3339, UTC) of ns 0 in every `*_ns` column.
    pub origin: String,
    /// When the run ended (RFC 3339, UTC); `None` while it goes on.
    pub ended: Option<String>,
    /// How often the run was taken up again with `--resume`.
    pub n_resumed: u32,
    /// The command as typed. API keys come from the environment or a file, so none is in here.
    pub command_line: Vec<String>,
    /// The machine kvbench ran on.
    pub machine: super::env::Machine,
    /// Files that went in.
    pub inputs: Vec<Input>,
    /// sha256 over ids, due times, answer limits and prompts of each served `workload/load/rN`: the same for every method,
    /// and for every run of one seed on any machine.
    pub schedules: BTreeMap<String, String>,
    /// What each engine said about itself, by URL.
    pub engines: BTreeMap<String, serde_json::Value>,
    /// Source, rate and measured overhead of telemetry; `None` when there was none.
    pub telemetry: Option<serde_json::Value>,
    /// How the load client fared in each served cell; empty for runs without one.
    pub client_health: Vec<ClientFacts>,
    /// Whether the server of each served cell was what the scenario says; empty for runs without one.
    #[serde(default)]
    pub proofs: Vec<ProofFacts>,
    /// Servers' token counts against those of the workload's tokenizer, one entry a cell; empty where no workload names one.
    pub token_checks: Vec<TokenFacts>,
    /// Cells planned.
    pub n_cells: usize,
    /// Cells with at least one row that carries `err`.
    pub n_failed: usize,
    /// What the user was told while it ran.
    pub notices: Vec<String>,
    /// Version of the NVIDIA driver; `None` without one, and in runs of before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_driver: Option<String>,
    /// Factor by which the CPU kernels were slowed down on purpose, to test what judges them; `None` in every real run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_slowdown: Option<f64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Under way, or killed without a word.
    Running,
    /// Every cell is finished.
    Complete,
    /// Every cell had its turn, but nothing of some was ever sent (their engine did not start): `--resume` runs them.
    Incomplete,
    /// Stopped by the user.
    Interrupted,
    /// Stopped by an error.
    Failed,
}

impl Status {
    /// As it stands in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Complete => "complete",
            Status::Incomplete => "incomplete",
            Status::Interrupted => "interrupted",
            Status::Failed => "failed",
        }
    }
}

/// Whether the numbers of a run can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Nothing speaks against it.
    Valid,
    /// Something needs a look before the numbers are used.
    Suspect,
    /// At least one number does not mean what its name says.
    Invalid,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Valid => "VALID",
            Verdict::Suspect => "SUSPECT",
            Verdict::Invalid => "INVALID",
        })
    }
}

/// The experiment: its text, and the parts of it that judging needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFacts {
    /// Name.
    pub name: String,
    /// File it was read from.
    pub path: Option<String>,
    /// The text it was parsed from.
    pub text: String,
    /// Seed of everything random.
    pub seed: u64,
    /// How often each point is measured.
    pub repeats: u32,
    /// Name of the method all others are compared with.
    pub baseline: String,
    /// Whether the baseline ran a second time as `<baseline>-aa`.
    pub aa_control: bool,
    /// Limits for goodput.
    pub slo: Option<SloFacts>,
    /// Rules of saturation searches, by load as in cell ids (`sat-slo0.9`).
    pub searches: BTreeMap<String, SearchRule>,
    /// What would join the ranks of a tensor-parallel target, by target; the others are not in here.
    pub links: BTreeMap<String, LinkFacts>,
    /// Device that the command line put in place of the scenario's; `None` when it named none.
    pub device: Option<String>,
}

/// Service-level objective of one request; every limit given must hold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SloFacts {
    /// TTFT limit.
    pub ttft_ms: Option<f64>,
    /// TPOT limit.
    pub tpot_ms: Option<f64>,
    /// E2E latency limit.
    pub e2e_ms: Option<f64>,
}

/// How the highest rate that a server sustains is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRule {
    /// Part of the requests that must meet the SLO.
    pub attainment: f64,
    /// First rate tried, requests per second.
    pub start_rate: f64,
    /// Width of the bracket at which the search ends, as a part of the sustained rate.
    pub tolerance: f64,
    /// Requests sent at a rate at first, and added while it is in doubt.
    pub requests_per_probe: usize,
    /// Most requests sent at a rate.
    pub probe_max_requests: usize,
}

/// What would join the ranks of a tensor-parallel target, as the scenario states it: the input of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFacts {
    /// What one rank sends in one direction.
    pub bandwidth_gb_s: f64,
    /// An empty message from one rank to the next.
    pub latency_us: f64,
}

/// One planned cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellFacts {
    /// `scenario/target/method/workload/load/repeat`.
    pub id: String,
    /// Name of the target.
    pub target: String,
    /// Name of the method.
    pub method: String,
    /// Name of the workload.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: u32,
    /// Requests that a closed loop keeps in flight; `None` for every other load.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// Whether the client kept up in one cell, as it judged itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFacts {
    /// The cell.
    pub cell_id: String,
    /// May its times be used?
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// Lags, CPU share and the rest of what was measured.
    pub measured: serde_json::Value,
}

/// Whether the server of one cell was what the scenario says: version, model, KV type and bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofFacts {
    /// The cell.
    pub cell_id: String,
    /// Was it?
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// Salt that its requests carried to keep prefix caches apart; `None` where they carried none.
    #[serde(default)]
    pub salt: Option<String>,
}

/// What the token counts of one cell say about each other. Failed requests are left out. Differences are the server's count
/// less ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFacts {
    /// The cell.
    pub cell_id: String,
    /// sha256 of the `tokenizer.json` that counted, hex.
    pub tokenizer_sha256: String,
    /// Good requests.
    pub n_good: u64,
    /// Answers with both counts.
    pub n_compared: u64,
    /// Of them: counts are equal.
    pub n_exact: u64,
    /// Of them: the server counts one more on an answer that it stopped: the stop token, which has no text.
    pub n_stop_token: u64,
    /// Of them: anything else. One text can be spelled by several sequences of tokens, so a few are no fault.
    pub n_other: u64,
    /// Of the others: further apart than that explains, by more than one token and more than 3 % of the server's count.
    pub n_far: u64,
    /// Tokens of the compared answers as the server counted.
    pub tokens_server: i64,
    /// The same as the tokenizer counts their text.
    pub tokens_ours: i64,
    /// Largest difference of an answer.
    pub worst: i64,
    /// Answers whose text lost bytes that are no character: they cannot be counted again.
    pub n_garbled: u64,
    /// Prompts with both counts.
    pub n_prompts: u64,
    /// Of them: counts differ, so the server read something else than was counted.
    pub n_prompts_differ: u64,
    /// Largest difference of a prompt.
    pub worst_prompt: i64,
    /// Answers in as many chunks as tokens, a stop token aside.
    pub n_chunk_per_token: u64,
    /// Answers in fewer chunks: several tokens came together.
    pub n_chunks_fewer: u64,
    /// Answers in more chunks than tokens.
    pub n_chunks_more: u64,
    /// Answers whose chunks told their tokens.
    pub n_chunk_tokens: u64,
    /// Of them: the sum is not the server's count.
    pub n_chunk_tokens_differ: u64,
}

/// A file that went in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Path as the scenario names it.
    pub path: String,
    /// sha256, hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

impl Manifest {
    /// Writes `manifest.json` aside and renames it, so that a reader sees the old one or the new one.
    ///
    /// # Errors
    /// I/O, with the path.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        self.write_with(&super::disk::RealFiles, dir)
    }

    pub(crate) fn write_with(&self, files: &dyn Files, dir: &Path) -> anyhow::Result<()> {
        let mut text =
            serde_json::to_vec_pretty(self).context("manifest: could not be serialised")?;
        text.push(b'\n');
        write_aside(files, &dir.join(MANIFEST_FILE), &text)
    }

    /// Reads `manifest.json` of a run folder.
    ///
    /// # Errors
    /// No manifest, one of another schema version, or one that does not parse.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let path = dir.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: expected the manifest of a run\n  hint: pass a folder made by `kvbench run`",
                path.display()
            )
        })?;
        // The version first: a manifest of another version would fail on an unknown key and hide the reason.
        let version: Version = serde_json::from_str(&text)
            .with_context(|| format!("{}: not a manifest", path.display()))?;
        ensure!(
            version.schema_version == SCHEMA_VERSION,
            "{}: expected schema version {SCHEMA_VERSION}, got {}\n  hint: read this run with the kvbench that wrote it",
            path.display(),
            version.schema_version
        );
        serde_json::from_str(&text).with_context(|| format!("{}: not a manifest", path.display()))
    }
}

#[cfg(test)]
pub(crate) fn example(run_id: &str, cells: &[&str]) -> Manifest {
    let facts = |id: &&str| {
        let part: Vec<&str> = id.split('/').collect();
        CellFacts {
            id: (*id).to_owned(),
            target: part[1].to_owned(),
            method: part[2].to_owned(),
            workload: part[3].to_owned(),
            load: part[4].to_owned(),
            repeat: part[5].parse().unwrap(),
            concurrency: part[4].strip_prefix("closed-").and_then(|n| n.parse().ok()),
        }
    };
    Manifest {
        schema_version: SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        kvbench_version: "0.0.0".to_owned(),
        kvbench_git_revision: None,
        status: Status::Complete,
        verdict: None,
        reasons: Vec::new(),
        scenario: ScenarioFacts {
            name: "example".to_owned(),
            path: None,
            text: String::new(),
            seed: 1,
            repeats: 1,
            baseline: "fp16".to_owned(),
            aa_control: false,
            slo: None,
            searches: BTreeMap::new(),
            links: BTreeMap::new(),
            device: None,
        },
        cells: cells.iter().map(facts).collect(),
        origin: "2026-11-24T01:30:00Z".to_owned(),
        ended: None,
        n_resumed: 0,
        command_line: vec!["kvbench".to_owned(), "run".to_owned()],
        machine: super::env::Machine::default(),
        inputs: vec![Input { path: "x.json".to_owned(), sha256: "00".to_owned(), bytes: 3 }],
        schedules: BTreeMap::new(),
        engines: BTreeMap::new(),
        telemetry: None,
        client_health: Vec::new(),
        proofs: Vec::new(),
        token_checks: Vec::new(),
        n_cells: cells.len(),
        n_failed: 0,
        notices: Vec::new(),
        gpu_driver: None,
        test_slowdown: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = example("r", &["example/cpu/fp16/w/launch/0"]);
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn another_schema_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"schema_version": 99, "new_key": true}"#;
        std::fs::write(dir.path().join(MANIFEST_FILE), text).unwrap();
        let err = Manifest::read(dir.path()).unwrap_err().to_string();
        let expected = format!("expected schema version {SCHEMA_VERSION}, got 99");
        assert!(err.contains(&expected), "{err}");
    }

    #[test]
    fn a_folder_without_manifest_has_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let err = format!("{:#}", Manifest::read(dir.path()).unwrap_err());
        assert!(err.contains("hint: pass a folder made by `kvbench run`"), "{err}");
    }
}
