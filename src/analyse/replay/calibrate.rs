//! Step times from whole requests of a few cells.
//!
//! What is judged later is a sum over the steps of a request's life, so that is what is fitted: the time from the first token of an
//! answer to its last is a sum over its steps of what each held (how many sequences, cached tokens, prompts of others), and all of
//! that can be counted from the arrivals of tokens, since engines step in time: a token of another request that came within the
//! answer was a part of one of its steps. A median of single steps would leave out what makes some of them long.
//!
//! The time to the first token of a request that met an idle engine is one step that holds its prompt, and what the way there and
//! back takes. The two cannot be told apart by such requests; the overhead of a step is known from the answers, and what remains is
//! called the way ([`Client::request_ns`](crate::predict::simulate::Client)).
//!
//! Rows that are in no trace (failed, not counted) were computed all the same, and nobody knows how much of them: whatever met one is
//! fitted to nothing.

use std::collections::BTreeSet;

use crate::{
    analyse::observed_trace::{CellTrace, NO_END, Observed},
    predict::{
        Work,
        nnls::nnls,
        simulate::{EngineConfig, LinearTimes, Mixing},
    },
    stats,
    units::ns_to_s,
};

/// Fewest requests of a fit: with seven coefficients fewer say nothing.
const REQUESTS_MIN: usize = 20;
/// Step, sequence, cached token, prompt, token of a prompt, pair of tokens, way.
const COSTS: usize = 7;
/// Rounds of weighting by what was fitted; more change nothing that can be seen.
const ROUNDS: usize = 8;
/// Robust standard deviations up to which errors count by their square.
const CLIP: f64 = 3.0;

/// What was fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Of the engine.
    pub times: LinearTimes,
    /// Of the way to the engine and back, once a request.
    pub request_s: f64,
    /// From the end of an answer to the next request of a closed loop; 0 where no closed loop shows it.
    pub turnaround_s: f64,
    /// Answers that were fitted.
    pub n_answers: usize,
    /// Requests that met an idle engine.
    pub n_alone: usize,
    /// Mean absolute error of the fit on these two kinds of times, in percent: in sample, so no forecast of anything.
    pub fit_error_pct: f64,
}

/// A time and what it is a sum of.
struct Row {
    costs: [f64; COSTS],
    time_s: f64,
}

impl Row {
    fn predicted_s(&self, costs: &[f64; COSTS]) -> f64 {
        self.costs.iter().zip(costs).map(|(n, cost)| n * cost).sum()
    }
}

/// Fits step times of one method to its calibration cells, whose engine has these rules.
///
/// # Errors
/// Too few requests beside rows that are in no trace, or none that met an idle engine; in words.
pub fn calibrate(cells: &[&CellTrace], config: &EngineConfig) -> Result<Calibration, String> {
    let (rows, n_answers) = rows_of(cells, config);
    let n_alone = rows.len() - n_answers;
    if n_answers < REQUESTS_MIN || n_alone == 0 {
        let n_met = |cell: &&CellTrace| {
            let whole = |own: &&Observed| met_left_out(cell, own.sent_ns, own.last_token_ns);
            cell.requests.iter().filter(whole).count()
        };
        let why = match cells.iter().map(n_met).sum::<usize>() {
            0 => String::new(),
            n => format!("; {n} requests met rows that failed or were not counted"),
        };
        return Err(format!(
            "expected {REQUESTS_MIN} answers whose tokens have their times and a request that met an idle engine, got {n_answers} and {n_alone}{why}"
        ));
    }
    let (costs, fit_error_pct) = fit(&rows).ok_or("expected times above 0, got none")?;
    Ok(Calibration {
        times: LinearTimes {
            step_s: costs[0],
            per_sequence_s: costs[1],
            per_kv_token_s: costs[2],
            per_prompt_s: costs[3],
            per_prompt_token_s: costs[4],
            per_pair_s: costs[5],
        },
        request_s: costs[6],
        turnaround_s: turnaround_s(cells),
        n_answers,
        n_alone,
        fit_error_pct,
    })
}

/// Answers, which stand first and are counted, and the first tokens of requests that met an idle engine.
fn rows_of(cells: &[&CellTrace], config: &EngineConfig) -> (Vec<Row>, usize) {
    let mut rows: Vec<Row> = Vec::new();
    for cell in cells {
        let prompts: Vec<Prompt> =
            cell.requests.iter().map(|own| prompt(own, cell, config)).collect();
        rows.extend(cell.requests.iter().filter_map(|own| answer(own, cell, &prompts, config)));
    }
    let n_answers = rows.len();
    rows.extend(cells.iter().flat_map(|cell| {
        let alone = cell.requests.iter().filter(|own| is_alone(own, cell));
        alone.filter_map(|own| first_token(own, config))
    }));
    (rows, n_answers)
}

/// Mean absolute error in percent on cells of repeats that the fit has not seen, each repeat left out in its turn. `None` where there
/// is one repeat, or where the others are too few to fit.
fn held_out_error_pct(cells: &[&CellTrace], config: &EngineConfig) -> Option<f64> {
    let repeats: BTreeSet<u32> = cells.iter().map(|trace| trace.cell.repeat).collect();
    if repeats.len() < 2 {
        return None;
    }
    let mut off = Vec::new();
    for repeat in repeats {
        let (held, others): (Vec<&CellTrace>, Vec<&CellTrace>) =
            cells.iter().partition(|trace| trace.cell.repeat == repeat);
        let (costs, _) = fit(&rows_of(&others, config).0)?;
        off.extend(
            rows_of(&held, config)
                .0
                .iter()
                .map(|row| (row.time_s / row.predicted_s(&costs) - 1.0).abs()),
        );
    }
    Some(100.0 * stats::mean(&off)?)
}

/// The same where the rules may have tiles: whether the engine computes in them depends on how it was built and on which device it runs,
/// which nobody tells, so the works with tiles stay where they foretell repeats that were held out better. With one repeat it is the
/// fit itself that decides; both ways have as many costs.
pub(super) fn calibrate_rules(
    cells: &[&CellTrace],
    config: &mut EngineConfig,
) -> Result<Calibration, String> {
    let found = calibrate(cells, config)?;
    let plain = EngineConfig { tiles: None, ..*config };
    if config.tiles.is_some() {
        let without = calibrate(cells, &plain)?;
        let (with_pct, without_pct) =
            match (held_out_error_pct(cells, config), held_out_error_pct(cells, &plain)) {
                (Some(with), Some(without)) => (with, without),
                _ => (found.fit_error_pct, without.fit_error_pct),
            };
        if without_pct <= with_pct {
            *config = plain;
            return Ok(without);
        }
    }
    Ok(found)
}

/// Costs and the mean absolute error in percent. Errors count relative to the fitted time (relative to the measured one, rows that
/// came out short would weigh more and the fit would end below the mean), and beyond [`CLIP`] robust standard deviations a row pulls
/// no harder than it would from there (Huber): one request that a busy machine held up says nothing of the engine.
fn fit(rows: &[Row]) -> Option<([f64; COSTS], f64)> {
    let mut scale: Vec<f64> = rows.iter().map(|row| row.time_s).collect();
    let mut weights = vec![1.0; rows.len()];
    let mut costs = [0.0; COSTS];
    let mut off = Vec::new();
    for _ in 0..ROUNDS {
        let weigh =
            || weights.iter().zip(&scale).map(|(weight, scale): (&f64, &f64)| weight / scale);
        let column =
            |cost: usize| rows.iter().zip(weigh()).map(move |(row, w)| row.costs[cost] * w);
        let columns: Vec<Vec<f64>> = (0..COSTS).map(|cost| column(cost).collect()).collect();
        let target: Vec<f64> = rows.iter().zip(weigh()).map(|(row, w)| row.time_s * w).collect();
        costs = nnls(&columns, &target)?.try_into().ok()?;
        scale = rows.iter().map(|row| row.predicted_s(&costs)).collect();
        if scale.iter().any(|time_s| *time_s <= 0.0) {
            return None;
        }
        off = rows.iter().zip(&scale).map(|(row, s)| (row.time_s / s - 1.0).abs()).collect();
        let sigma = 1.4826 * stats::median(&mut off.clone())?;
        let weight = |off: &f64| if *off > CLIP * sigma { CLIP * sigma / off } else { 1.0 };
        weights = off.iter().map(|off| weight(off).sqrt()).collect();
    }
    Some((costs, 100.0 * stats::mean(&off)?))
}

/// The step of a prompt: what it costs beside a step of those that decode meanwhile.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    /// Tokens that are computed.
    new_tokens: f64,
    /// Pairs of tokens that cost what prompts' pairs do.
    pairs: f64,
    /// Cached tokens that are read as decoding reads them, beyond those of the sequences that decode; below 0 where these are among
    /// the pairs.
    kv_tokens: f64,
}

/// The prompt of a request beside all that decoded when its first token came.
fn prompt(own: &Observed, cell: &CellTrace, config: &EngineConfig) -> Prompt {
    let at = own.first_token_ns;
    let decodes = |other: &&Observed| other.first_token_ns < at && at <= other.last_token_ns;
    let kv = |other: &Observed| {
        let came = other.token_ns.partition_point(|token| *token < at) as u64;
        config
            .kv_budget
            .map_or(other.prompt_tokens + came, |most| most.min(other.prompt_tokens + came))
            as f64
    };
    let decoding: Vec<f64> = cell.requests.iter().filter(decodes).map(kv).collect();
    in_pass(own, &decoding, config)
}

fn in_pass(own: &Observed, decoding: &[f64], config: &EngineConfig) -> Prompt {
    let cached = own.cached_tokens.min(own.prompt_tokens - 1) as f64;
    let chunk = (own.prompt_tokens as f64 - cached, cached);
    let Some(tiles) = config.tiles else {
        return Prompt {
            new_tokens: chunk.0,
            pairs: Work::prefill([chunk]).attended,
            kv_tokens: 0.0,
        };
    };
    let (prefill, decode) = tiles.pass(decoding, &[chunk]);
    let kv_tokens = decode.attended - decoding.iter().sum::<f64>();
    Prompt { new_tokens: chunk.0, pairs: prefill.attended, kv_tokens }
}

/// The steps between the first token of an answer and its last. `prompts` are those of the cell's requests, in their order.
fn answer(
    own: &Observed,
    cell: &CellTrace,
    prompts: &[Prompt],
    config: &EngineConfig,
) -> Option<Row> {
    let (mixing, kv_budget) = (config.mixing, config.kv_budget);
    let (first, last) = (own.first_token_ns, own.last_token_ns);
    if own.token_ns.len() < 2 || last <= first || met_left_out(cell, first, last) {
        return None;
    }
    let kept = |kv: u64| kv_budget.map_or(kv, |most| kv.min(most)) as f64;
    let mut costs = [0.0; COSTS];
    costs[0] = (own.token_ns.len() - 1) as f64;
    let others = cell.requests.iter().zip(prompts);
    for (other, prompt) in others.filter(|(o, _)| o.sent_ns < last && o.last_token_ns > first) {
        if other.token_ns.is_empty() {
            return None;
        }
        let same = std::ptr::eq(own, other);
        for (place, at) in other.token_ns.iter().enumerate() {
            if *at <= first || *at > last {
            } else if place > 0 {
                let kv = other.prompt_tokens + place as u64;
                costs[1] += 1.0;
                costs[2] += kept(kv);
            } else if !same {
                add_prompt(&mut costs, *prompt);
                // A prompt that shares no step with decoding has one of its own.
                costs[0] += f64::from(u8::from(mixing == Mixing::PrefillFirst));
            }
        }
        // The step that drew another's stop token held that one too, and nothing came of it.
        if other.is_stopped && other.last_token_ns > first && other.last_token_ns < last {
            costs[1] += 1.0;
            costs[2] += kept(other.prompt_tokens + other.output_tokens);
        }
    }
    // What decoded in a prompt's step may have been counted at another token of it.
    costs[2] = costs[2].max(0.0);
    Some(Row { costs, time_s: ns_to_s(last - first) })
}

fn add_prompt(costs: &mut [f64; COSTS], prompt: Prompt) {
    costs[2] += prompt.kv_tokens;
    costs[3] += 1.0;
    costs[4] += prompt.new_tokens;
    costs[5] += prompt.pairs;
}

fn is_alone(own: &Observed, cell: &CellTrace) -> bool {
    let mut others = cell.requests.iter().filter(|other| !std::ptr::eq(own, *other));
    others.all(|other| other.ended_ns < own.sent_ns || other.sent_ns > own.first_token_ns)
        && !met_left_out(cell, own.sent_ns, own.first_token_ns)
}

/// Whether a row that is in no trace was in flight at some moment between the two.
fn met_left_out(cell: &CellTrace, from_ns: i64, until_ns: i64) -> bool {
    cell.left_out_ns.iter().any(|(sent_ns, end_ns)| *sent_ns <= until_ns && *end_ns >= from_ns)
}

/// One step and the way.
fn first_token(own: &Observed, config: &EngineConfig) -> Option<Row> {
    let mut costs = [0.0; COSTS];
    (costs[0], costs[6]) = (1.0, 1.0);
    add_prompt(&mut costs, in_pass(own, &[], config));
    let time_s = own.ttft_s();
    (time_s > 0.0).then_some(Row { costs, time_s })
}

/// Measured over fitted time to the first token, of each request of these cells that met an idle engine.
pub(super) fn idle_ratios(
    cells: &[&CellTrace],
    config: &EngineConfig,
    fit: &Calibration,
) -> Vec<f64> {
    let times = &fit.times;
    let costs = [
        times.step_s,
        times.per_sequence_s,
        times.per_kv_token_s,
        times.per_prompt_s,
        times.per_prompt_token_s,
        times.per_pair_s,
        fit.request_s,
    ];
    let of_cell = |cell: &&CellTrace| {
        let alone = cell.requests.iter().filter(|own| is_alone(own, cell));
        let rows = alone.filter_map(|own| first_token(own, config));
        rows.map(|row| row.time_s / row.predicted_s(&costs)).collect::<Vec<_>>()
    };
    cells.iter().flat_map(of_cell).collect()
}

/// What is left of a closed loop's time beside its requests: with `n` in flight, `n` times the time from first to last. Rows that
/// failed held their place as long as any other.
fn turnaround_s(cells: &[&CellTrace]) -> f64 {
    let (mut idle_s, mut gaps) = (0.0, 0.0);
    for cell in cells {
        let Some(n) = cell.cell.concurrency.map(|n| n as usize) else { continue };
        let Some(start) = cell.requests.first().map(|r| r.sent_ns) else { continue };
        let others = cell.left_out_ns.iter().copied().filter(|(_, end)| *end > start);
        let spans: Vec<(i64, i64)> =
            cell.requests.iter().map(|r| (r.sent_ns, r.ended_ns)).chain(others).collect();
        // Who does not know how long a place was taken cannot tell how long it was free.
        if spans.len() <= 2 * n || spans.iter().any(|(_, end)| *end == NO_END) {
            continue;
        }
        // At the end the loop runs dry, so only what was sent while all places were taken tells.
        let until = spans.iter().map(|(sent, _)| *sent).max().unwrap_or(start);
        let inside: f64 = spans
            .iter()
            .map(|(sent, end)| ns_to_s((*end).min(until) - (*sent).clamp(start, until)))
            .sum();
        idle_s += n as f64 * ns_to_s(until - start) - inside;
        gaps += (spans.len() - n) as f64;
    }
    if gaps > 0.0 { (idle_s / gaps).max(0.0) } else { 0.0 }
}
