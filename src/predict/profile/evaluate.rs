//! A profile against measured throughput: the 36 points on which the throughput predictor of arXiv 2503.24000 was judged, without
//! the two faults of its script.
//!
//! - Batch 1, 2, 4; prompts of 256 to 4000 tokens; decode and prefill.
//! - Decode: one token a sequence, attention over as many cached tokens as the method keeps.
//! - Prefill: an engine that reads 4096 tokens a pass takes `min(4096 / len, batch)` prompts at once (at least one). Both sides are of that
//!   many: the script predicted a pass of so many prompts and held it against the time of the whole batch. Attention is that
//!   of one prompt of `sqrt(n) * len` tokens, as the profile's rows are of one sequence and its cost is quadratic.
//! - Linear operations are looked up at tokens rounded up to 8, at most 4096, as kernels pad and engines cut.
//! - Measured: the mean of rows of one shape, straight lines between prompt lengths, no further than the outermost; rows of
//!   the one model only, where the script mixed all of a file.
//! - Accuracy: 1 less the mean relative error, all points alike.

use super::{LayerTimes, line::Line};
use crate::{
    predict::{Phase, measured::MeasuredRow},
    stats,
};

const BATCHES: [u32; 3] = [1, 2, 4];
const LENS: [u32; 6] = [256, 512, 1024, 2048, 3072, 4000];
/// Most tokens of a pass.
const PASS_TOKENS: u32 = 4096;
/// Tokens are padded to a multiple of this.
const PAD_TOKENS: f64 = 8.0;
const S_PER_MS: f64 = 1e-3;

/// One point.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Decode or prefill.
    pub phase: Phase,
    /// Batch of the grid.
    pub bsz: u32,
    /// Prompt tokens.
    pub prompt_len: u32,
    /// Sequences of the pass that is compared.
    pub sequences: u32,
    /// Seconds it took.
    pub measured_s: f64,
    /// Seconds predicted.
    pub predicted_s: f64,
}

impl Point {
    /// Predicted over measured, less 1.
    pub fn relative_error(&self) -> f64 {
        self.predicted_s / self.measured_s - 1.0
    }
}

/// All points.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// In the order of the grid.
    pub points: Vec<Point>,
    /// Points of the grid that could not be compared, with the reason.
    pub left_out: Vec<String>,
}

impl Evaluation {
    /// Mean absolute relative error in percent, of one phase or of all; `None` without points.
    pub fn mape_pct(&self, phase: Option<Phase>) -> Option<f64> {
        let errors: Vec<f64> = self
            .points
            .iter()
            .filter(|point| phase.is_none_or(|phase| point.phase == phase))
            .map(|point| 100.0 * point.relative_error().abs())
            .collect();
        stats::mean(&errors)
    }

    /// 100 less [`Self::mape_pct`].
    pub fn accuracy_pct(&self, phase: Option<Phase>) -> Option<f64> {
        self.mape_pct(phase).map(|mape| 100.0 - mape)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Measured rows, of one model and one method.
    pub rows: &'a [MeasuredRow],
    /// Layers of the model.
    pub layers: u32,
    /// Most cached tokens of a sequence that the method keeps.
    pub kv_cap: Option<f64>,
}

/// Predicts every point of the grid and holds it against what was measured.
pub fn evaluate(times: &dyn LayerTimes, question: &Question<'_>) -> Evaluation {
    let mut all = Evaluation { points: Vec::new(), left_out: Vec::new() };
    for phase in [Phase::Decode, Phase::Prefill] {
        for bsz in BATCHES {
            for prompt_len in LENS {
                match point(times, question, (phase, bsz, prompt_len)) {
                    Ok(point) => all.points.push(point),
                    Err(reason) => {
                        all.left_out.push(format!("{phase:?} {bsz} x {prompt_len}: {reason}"));
                    }
                }
            }
        }
    }
    all
}

fn point(
    times: &dyn LayerTimes,
    question: &Question<'_>,
    (phase, bsz, prompt_len): (Phase, u32, u32),
) -> Result<Point, String> {
    let sequences = match phase {
        Phase::Decode => bsz,
        Phase::Prefill => (PASS_TOKENS / prompt_len).clamp(1, bsz),
    };
    let (n, len) = (f64::from(sequences), f64::from(prompt_len));
    let thr = thr(question.rows, phase, sequences, len)?;
    let (tokens, attention_ms) = match phase {
        Phase::Decode => {
            let kv_len = question.kv_cap.map_or(len, |most| len.min(most));
            (n, times.decode_ms(n, kv_len)?)
        }
        Phase::Prefill => (n * len, times.prefill_ms(n.sqrt() * len)),
    };
    let padded = ((tokens / PAD_TOKENS).ceil() * PAD_TOKENS).min(f64::from(PASS_TOKENS));
    let layer_ms = times.linear_ms(padded) + attention_ms;
    Ok(Point {
        phase,
        bsz,
        prompt_len,
        sequences,
        measured_s: tokens / thr,
        predicted_s: f64::from(question.layers) * layer_ms * S_PER_MS,
    })
}

/// Measured tokens per second at a length.
fn thr(rows: &[MeasuredRow], phase: Phase, bsz: u32, len: f64) -> Result<f64, String> {
    let same = rows.iter().filter(|row| row.phase == phase && row.bsz == bsz);
    let line = Line::of_means(same.map(|row| (f64::from(row.prompt_len), row.thr)));
    if line.is_empty() {
        return Err(format!("nothing was measured at batch {bsz}"));
    }
    Ok(line.at(len))
}
