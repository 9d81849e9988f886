//! Throughput that somebody else measured: CSV with the columns `model,method,bsz,prompt_len,stage,thr` and, where it is known,
//! `pass_tokens`.
//!
//! `thr` is tokens per second of the whole batch, so a decode step took `bsz / thr` and the prefill of the batch
//! `bsz * prompt_len / thr`. `stage` is `prefill`, or `decode` (also `decoding`).
//!
//! An engine that reads a batch of prompts in several passes has all of them in the time of one row. `pass_tokens` says how many tokens
//! of prompts a pass holds at most: prompts fill passes one after the other, and one that does not fit is cut. Such a row is an
//! observation of the mean of its passes, and its time is that of the row over their number: a pass costs a sum that is linear in its
//! work, so the mean of works takes the mean of times, and each pass pays the overhead of one. Where the column is not there or empty
//! a row is one pass.

use std::{collections::BTreeMap, io::Read};

use anyhow::{bail, ensure};

use super::{
    Observation, Pass, Phase, Source, Subject, Work,
    columns::Columns,
    origin::{Numbers, Rows},
};

/// What the device and engine of a file are called: its columns tell of neither.
const UNTOLD: &str = "not told";

/// Column that tells how prompts are cut into passes.
const PASS_TOKENS: &str = "pass_tokens";

/// First letters of methods that drop tokens, lower case.
const EVICTING: [&str; 3] = ["h2o", "stream", "snap"];

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredRow {
    /// Model as the file names it.
    pub model: String,
    /// Method as the file names it; what starts with `None`, in any case, compresses nothing.
    pub method: String,
    /// Sequences.
    pub bsz: u32,
    /// Prompt tokens of a sequence.
    pub prompt_len: u32,
    /// Half of serving.
    pub phase: Phase,
    /// Tokens per second, all sequences together.
    pub thr: f64,
    /// Most tokens of prompts in a pass; `None` where the file does not tell, and a prefill is taken as one pass.
    pub pass_tokens: Option<u32>,
    /// Line of the file, from 1.
    pub line: u64,
}

impl MeasuredRow {
    /// Seconds of a decode step, or of the prefill of the batch.
    pub fn duration_s(&self) -> f64 {
        let tokens = match self.phase {
            Phase::Decode => 1.0,
            Phase::Prefill => f64::from(self.prompt_len),
        };
        f64::from(self.bsz) * tokens / self.thr
    }

    /// What each pass of its prefill worked on, in order.
    fn prefill_passes(&self) -> Vec<Work> {
        let len = u64::from(self.prompt_len);
        let most = self.pass_tokens.map_or(u64::MAX, u64::from);
        let (mut passes, mut chunks, mut room) = (Vec::new(), Vec::new(), most);
        for _ in 0..self.bsz {
            let mut there = 0;
            while there < len {
                let chunk = (len - there).min(room);
                chunks.push((chunk as f64, there as f64));
                (there, room) = (there + chunk, room - chunk);
                if room == 0 {
                    passes.push(Work::prefill(chunks.drain(..)));
                    room = most;
                }
            }
        }
        if !chunks.is_empty() {
            passes.push(Work::prefill(chunks));
        }
        passes
    }

    /// Whether nothing is compressed.
    pub fn is_baseline(&self) -> bool {
        self.method.to_lowercase().starts_with("none")
    }
}

/// What the file does not tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredOptions {
    /// Tokens of a sequence that methods keep which drop tokens (names that start with h2o, stream or snap).
    pub budget: Option<f64>,
    /// Tokens a sequence has beyond `prompt_len` in the decode step that a row stands for: half of those generated, where
    /// `thr` is a mean over a generation.
    pub generated: f64,
}

impl Default for MeasuredOptions {
    /// A budget of 512 tokens and the 65 that runs had generated when decoding was timed: rows of batch 1 of the known files
    /// count them in (321 is 256 + 65), so lengths are taken as they stand.
    fn default() -> Self {
        Self { budget: Some(577.0), generated: 0.0 }
    }
}

impl MeasuredOptions {
    /// Refuses what counts no tokens, naming the option of the command and not the file, which is not at fault.
    fn check(&self) -> anyhow::Result<()> {
        let counts = |least: f64, tokens: f64| tokens.is_finite() && tokens >= least;
        let Self { budget, generated } = *self;
        if let Some(budget) = budget.filter(|budget| !counts(1.0, *budget)) {
            bail!(
                "--budget: expected a number of tokens from 1, got {budget}\n  hint: it is what a method keeps of a sequence"
            );
        }
        ensure!(
            counts(0.0, generated),
            "--generated: expected a number of tokens from 0, got {generated}\n  hint: it is what a sequence has beyond its prompt"
        );
        Ok(())
    }
}

/// Whether a method drops tokens, by the first letters of its name.
pub fn evicts(method: &str) -> bool {
    let method = method.to_lowercase();
    EVICTING.iter().any(|family| method.starts_with(family))
}

/// Reads rows, of all models.
///
/// # Errors
/// No such table, or a bad row, with its line.
pub fn rows(reader: impl Read, name: &str) -> anyhow::Result<Vec<MeasuredRow>> {
    let table = Columns::read(reader, name)?;
    let (models, methods, stages) =
        (table.texts("model")?, table.texts("method")?, table.texts("stage")?);
    let [bsz, lens, thr] =
        [table.numbers("bsz")?, table.numbers("prompt_len")?, table.numbers("thr")?];
    let pass_tokens =
        if table.has(PASS_TOKENS) { table.numbers(PASS_TOKENS)? } else { vec![None; table.len()] };
    let one = |row: usize| {
        let bad = |column: &str, expected: &str, got: &str| {
            anyhow::anyhow!(
                "{name}:{}: expected {expected} in `{column}`, got `{got}`\n  hint: correct the row or take it out",
                table.line(row)
            )
        };
        let told = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let whole = |column: &str, value: Option<f64>| {
            let fits = value.filter(|it| {
                *it >= 1.0 && it.fract().abs() < f64::EPSILON && *it < f64::from(u32::MAX)
            });
            fits.map(|it| it as u32)
                .ok_or_else(|| bad(column, "a whole number from 1", &told(value)))
        };
        let phase = match stages[row] {
            "prefill" => Phase::Prefill,
            "decode" | "decoding" => Phase::Decode,
            other => return Err(bad("stage", "`prefill` or `decode`", other)),
        };
        let rate = thr[row].filter(|thr| *thr > 0.0);
        Ok(MeasuredRow {
            model: models[row].to_owned(),
            method: methods[row].to_owned(),
            bsz: whole("bsz", bsz[row])?,
            prompt_len: whole("prompt_len", lens[row])?,
            phase,
            thr: rate.ok_or_else(|| bad("thr", "tokens per second above 0", &told(thr[row])))?,
            pass_tokens: pass_tokens[row]
                .map(|tokens| whole(PASS_TOKENS, Some(tokens)))
                .transpose()?,
            line: table.line(row),
        })
    };
    (0..table.len()).map(one).collect()
}

/// The rows of the one model whose name holds `model`, in any case.
///
/// # Errors
/// None or several do; the message lists the models of the file.
pub fn of_model(
    rows: Vec<MeasuredRow>,
    name: &str,
    model: &str,
) -> anyhow::Result<Vec<MeasuredRow>> {
    let wanted = model.to_lowercase();
    let mut all: Vec<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    let found: Vec<&str> =
        all.iter().copied().filter(|known| known.to_lowercase().contains(&wanted)).collect();
    let exact = found.iter().copied().find(|known| known.to_lowercase() == wanted);
    let one = match (exact, &found[..]) {
        (Some(exact), _) => exact.to_owned(),
        (None, [one]) => (*one).to_owned(),
        (None, []) => bail!(
            "{name}: expected rows of a model called `{model}`, got those of {}\n  hint: a part of one of these names is enough",
            all.join(", ")
        ),
        (None, several) => bail!(
            "{name}: expected one model called `{model}`, got {}\n  hint: give more of the name",
            several.join(", ")
        ),
    };
    Ok(rows.into_iter().filter(|row| row.model == one).collect())
}

/// Rows as observations, with [`MeasuredOptions::default`]; `model` narrows them as [`of_model`] does. Rows that agree in
/// everything but `thr` are repeats of one observation.
///
/// # Errors
/// As [`rows`] and [`of_model`].
pub fn read(
    reader: impl Read,
    name: &str,
    model: Option<&str>,
) -> anyhow::Result<Vec<Observation>> {
    read_with(reader, name, model, &MeasuredOptions::default())
}

/// The same, with what the file does not tell.
///
/// # Errors
/// As [`read`]; a budget below 1, a negative number of generated tokens.
pub fn read_with(
    reader: impl Read,
    name: &str,
    model: Option<&str>,
    options: &MeasuredOptions,
) -> anyhow::Result<Vec<Observation>> {
    options.check()?;
    let mut rows = rows(reader, name)?;
    if let Some(model) = model {
        rows = of_model(rows, name, model)?;
    }
    let mut groups: BTreeMap<_, Vec<MeasuredRow>> = BTreeMap::new();
    for row in rows {
        let place = (row.model.clone(), row.method.clone(), row.phase);
        // How prompts are cut changes nothing of a decode step.
        let pass_tokens = row.pass_tokens.filter(|_| row.phase == Phase::Prefill);
        groups.entry((place, row.bsz, row.prompt_len, pass_tokens)).or_default().push(row);
    }
    Ok(groups.into_values().filter_map(|rows| observation(&rows, name, options)).collect())
}

/// Rows of one shape; `None` of none.
fn observation(rows: &[MeasuredRow], name: &str, options: &MeasuredOptions) -> Option<Observation> {
    let first = rows.first()?;
    let budget = options.budget.filter(|_| evicts(&first.method));
    let (sequences, len) = (f64::from(first.bsz), f64::from(first.prompt_len));
    let passes = match first.phase {
        Phase::Decode => vec![Work::decode_alike(sequences, len + options.generated, budget)],
        Phase::Prefill => first.prefill_passes(),
    };
    let n_passes = passes.len() as f64;
    let repeats_s = rows.iter().map(|row| row.duration_s() / n_passes).collect();
    let lines: Numbers = rows.iter().map(|row| row.line).collect();
    Some(Observation {
        subject: Subject {
            source: Source::File,
            target: None,
            engine: UNTOLD.to_owned(),
            device: UNTOLD.to_owned(),
            model: first.model.clone(),
            tensor_parallel: 1,
            started_with: None,
        },
        method: first.method.clone(),
        is_baseline: first.is_baseline(),
        budget,
        pass: Pass { work: Work::mean(&passes)?, repeats_s },
        rows: vec![Rows { from: name.to_owned(), rows: lines }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "model,method,bsz,prompt_len,stage,thr
a/Llama-2-7b,None-16,2,1000,prefill,4000
a/Llama-2-7b,H2O-16,2,1000,decoding,50
a/Llama-2-7b,H2O-16,2,1000,decoding,100
a/Llama-2-13b,None-16,2,1000,decode,50
";

    #[test]
    fn rows_are_times() {
        let all = read(FILE.as_bytes(), "t.csv", Some("llama-2-7B")).unwrap();
        let [h2o, fp16] = &all[..] else { panic!("{all:?}") };
        assert_eq!(fp16.pass.repeats_s, [0.5]);
        assert_eq!(fp16.pass.work, Work::prefill([(1000.0, 0.0); 2]));
        assert!(fp16.is_baseline && !h2o.is_baseline);
        assert_eq!(h2o.pass.repeats_s, [0.04, 0.02], "two rows of one shape are two repeats");
        assert_eq!((h2o.budget, h2o.pass.work.attended), (Some(577.0), 1154.0));
        assert_eq!(read(FILE.as_bytes(), "t.csv", None).unwrap().len(), 3);
        let free = MeasuredOptions { budget: None, generated: 64.0 };
        let all = read_with(FILE.as_bytes(), "t.csv", Some("7b"), &free).unwrap();
        assert!((all[0].pass.work.attended - 2128.0).abs() < 1e-9);
    }

    /// 3 prompts of 1000 tokens in passes of 2000: two whole ones, then one.
    #[test]
    fn prompts_that_are_cut_are_priced_as_their_passes() {
        let of = |shape: &str, thr: f64| {
            let text =
                format!("model,method,bsz,prompt_len,stage,thr,pass_tokens\n{shape},{thr},2000\n");
            let text = text.replace(&format!(",{thr},2000"), &format!(",prefill,{thr},2000"));
            read(text.as_bytes(), "t.csv", None).unwrap().remove(0)
        };
        let cost = |work: &Work| 0.25 + 1e-4 * work.new_tokens + 1e-8 * work.attended;
        let whole = Work::prefill([(1000.0, 0.0)]);
        let time_s = cost(&Work::prefill([(1000.0, 0.0); 2])) + cost(&whole);
        let seen = of("m,None,3,1000", 3000.0 / time_s);
        assert!((seen.pass.work.new_tokens - 1500.0).abs() < 1e-9, "{seen:?}");
        assert!((seen.pass.repeats_s[0] / cost(&seen.pass.work) - 1.0).abs() < 1e-12);
        // A prompt of 5000 tokens is cut twice; what is cut attends to what is there.
        let chunks = [(2000.0, 0.0), (2000.0, 2000.0), (1000.0, 4000.0)];
        let time_s: f64 = chunks.iter().map(|chunk| cost(&Work::prefill([*chunk]))).sum();
        let seen = of("m,None,1,5000", 5000.0 / time_s);
        assert!((seen.pass.work.cached - 2000.0).abs() < 1e-9, "{seen:?}");
        assert!((seen.pass.repeats_s[0] / cost(&seen.pass.work) - 1.0).abs() < 1e-12);
        let bad = "model,method,bsz,prompt_len,stage,thr,pass_tokens\nm,None,1,9,prefill,1,0\n";
        let error = read(bad.as_bytes(), "t.csv", None).unwrap_err().to_string();
        assert!(error.contains("a whole number from 1 in `pass_tokens`, got `0`"), "{error}");
    }

    #[test]
    fn options_that_count_no_tokens_are_named() {
        let said = |budget, generated| {
            let options = MeasuredOptions { budget, generated };
            read_with(FILE.as_bytes(), "t.csv", None, &options).unwrap_err().to_string()
        };
        let low = said(Some(-512.0), 0.0);
        assert!(
            low.starts_with("--budget: expected a number of tokens from 1, got -512\n"),
            "{low}"
        );
        for bad in [-1.0, f64::INFINITY, f64::NAN] {
            let said = said(None, bad);
            assert!(said.starts_with("--generated: expected a number of tokens from 0"), "{said}");
            assert!(!said.contains("MeasuredOptions"), "{said}");
        }
    }

    #[test]
    fn a_model_must_be_one_of_the_file() {
        let of = |model| read(FILE.as_bytes(), "t.csv", Some(model)).unwrap_err().to_string();
        assert!(of("mistral").contains("got those of a/Llama-2-13b, a/Llama-2-7b\n  hint:"));
        assert!(of("llama").contains("expected one model called `llama`, got a/Llama-2-13b, a/"));
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        for (row, part) in [
            (
                "m,None,1,10,decode,0",
                "t.csv:2: expected tokens per second above 0 in `thr`, got `0`",
            ),
            (
                "m,None,1.5,10,decode,1",
                "t.csv:2: expected a whole number from 1 in `bsz`, got `1.5`",
            ),
            (
                "m,None,1,,decode,1",
                "t.csv:2: expected a whole number from 1 in `prompt_len`, got ``",
            ),
            (
                "m,None,1,10,train,1",
                "t.csv:2: expected `prefill` or `decode` in `stage`, got `train`",
            ),
            ("m,None,1,10,decode,fast", "t.csv:2: expected a number in `thr`, got `fast`"),
        ] {
            let text = format!("model,method,bsz,prompt_len,stage,thr\n{row}\n");
            let error = rows(text.as_bytes(), "t.csv").unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("hint:"), "{error}");
        }
    }
}
