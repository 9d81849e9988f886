//! What predicting costs: `cargo bench --bench predict`. Prints nanoseconds a call, the median of rounds, beside what was asked for.
//! Nothing here judges or fails: times depend on the machine.

use std::{hint::black_box, io::Write as _};

use anyhow::Context as _;
use kvbench::{
    execute::clock::Clock,
    predict::{
        Model, Observation, Pass, Phase, Source, StepTimes as _, Steps, Subject, Work,
        fit::{Options, fit},
        length::{self, Length, Query, Sample, model::Known},
    },
    stats,
};

/// Rounds of which the median is taken.
const ROUNDS: usize = 15;
/// Points of the large fit.
const POINTS: usize = 10_000;
/// Bytes of a prompt.
const PROMPT_BYTES: usize = 1024;

fn main() -> anyhow::Result<()> {
    let models = fit(&observations(20), &Options::default()).models;
    let of = |phase: Phase| models.iter().find(|model| model.phase == phase);
    let (prefill, decode) =
        of(Phase::Prefill).zip(of(Phase::Decode)).context("expected two models")?;
    row("Model::predict, decode", "2 us", 10_000, &mut predict(decode));
    row("Model::predict, prefill", "2 us", 10_000, &mut predict(prefill));
    let steps = Steps { prefill, decode };
    let (prompt, tokens) = (Work::prefill([(512.0, 0.0)]), work(Phase::Decode, 7));
    row("Steps::step_s, both phases", "2 us", 10_000, &mut || {
        black_box(steps.step_s(black_box(Some(&prompt)), black_box(Some(&tokens))));
    });
    length_rows()?;
    // Points that were repeated may be corrected locally, which is fitted as well.
    for (what, repeats) in [("single shots", 1), ("two repeats each", 2)] {
        let points: Vec<Observation> =
            (0..POINTS).map(|n| observation(Phase::Decode, n, repeats)).collect();
        row(&format!("fit, {POINTS} points, {what}"), "10 ms", 1, &mut || {
            black_box(fit(black_box(&points), &Options::default()));
        });
    }
    Ok(())
}

/// Median nanoseconds of a call, over rounds of `n` calls each.
fn row(what: &str, asked: &str, n: u32, call: &mut dyn FnMut()) {
    let clock = Clock::start();
    let round = |_| {
        let start = clock.now_ns();
        (0..n).for_each(|_| call());
        (clock.now_ns() - start) as f64 / f64::from(n)
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(round).collect();
    let median = stats::median(&mut rounds).unwrap_or(f64::NAN);
    let asked = if asked.is_empty() { String::new() } else { format!("  asked: < {asked}") };
    let line = format!("{what:<44} {median:>14.0} ns/call{asked}\n");
    // A closed pipe is nobody's fault here.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

fn predict(model: &Model) -> impl FnMut() + '_ {
    let works: Vec<Work> = (0..64).map(|n| work(model.phase, n)).collect();
    let mut next = 0;
    move || {
        next = (next + 1) % works.len();
        black_box(model.predict(black_box(&works[next])));
    }
}

/// Shapes that all differ.
fn work(phase: Phase, n: usize) -> Work {
    let (batch, len) = ((1 + n % 32) as f64, 64.0 + 3.0 * n as f64);
    match phase {
        Phase::Decode => Work::decode_alike(batch, len, None),
        Phase::Prefill => Work::prefill_alike(1.0, (len, 0.0)),
    }
}

fn observation(phase: Phase, n: usize, repeats: usize) -> Observation {
    let work = work(phase, n);
    let noise = 1.0 + 0.02 * (n as f64).sin();
    let time_s = (2e-3 + 1e-4 * work.new_tokens + 1e-8 * work.attended) * noise;
    Observation {
        subject: Subject {
            source: Source::Engine,
            target: None,
            engine: "engine".to_owned(),
            device: "device".to_owned(),
            model: "model".to_owned(),
            tensor_parallel: 1,
            started_with: None,
        },
        method: "fp16".to_owned(),
        is_baseline: true,
        budget: None,
        pass: Pass { work, repeats_s: vec![time_s; repeats] },
        rows: Vec::new(),
    }
}

fn observations(n: usize) -> Vec<Observation> {
    let both = |n| [Phase::Prefill, Phase::Decode].map(|phase| observation(phase, n, 2));
    (0..n).flat_map(both).collect()
}

/// A text of so many bytes whose words depend on `seed`.
fn prompt(seed: usize) -> String {
    let mut text = String::with_capacity(PROMPT_BYTES + 16);
    let mut state = seed as u64;
    while text.len() < PROMPT_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(
            ["list", "three", "reasons", "why", "bees", "matter", "and", "explain"]
                [(state >> 61) as usize],
        );
        text.push_str(if state & 15 == 0 { ". " } else { " " });
    }
    text.truncate(PROMPT_BYTES);
    text
}

fn length_rows() -> anyhow::Result<()> {
    let sample = |n: usize| Sample {
        prompt: prompt(n),
        family: n,
        task: None,
        max_tokens: 512,
        method: "fp16".to_owned(),
        lengths: vec![Length { tokens: 20 + (n as u32 * 37) % 400, censored: false }],
    };
    let samples: Vec<Sample> = (0..400).map(sample).collect();
    let reads: Vec<length::model::Read> =
        samples.iter().map(|sample| length::model::Read::of(&sample.prompt)).collect();
    let known: Vec<Known<'_>> =
        samples.iter().zip(&reads).map(|(sample, read)| Known { sample, read }).collect();
    let options = length::model::Options {
        baseline: "fp16",
        llm: None,
        inputs: length::Inputs::Prompt,
        seed: 1,
    };
    let model = length::Model::fit(&known, &options)?;
    // As many texts as calls of a round would fill the caches with prompts; a router sees each once, these come back every 64 calls.
    let fresh: Vec<String> = (0..64).map(|n| prompt(1000 + n)).collect();
    let mut next = 0;
    let mut failed = None;
    row("length Model::predict, a prompt of 1 kB", "100 us", 200, &mut || {
        next = (next + 1) % fresh.len();
        let query = Query { prompt: &fresh[next], task: None, max_tokens: Some(512), method: None };
        match model.predict(black_box(&query)) {
            Ok(quantiles) => {
                black_box(quantiles);
            }
            Err(error) => failed = Some(error),
        }
    });
    failed.map_or(Ok(()), Err)
}
