//! Methods against everything that compresses nothing.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;

use super::{
    LONG, LengthPoint, PROMPTS_MIN,
    answers::{Answer, Answers},
    is_null,
    pairs::Compared,
};
use crate::{analyse::summary::rng_for, stats};

/// How a method stands against the baseline-like runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Mean over prompts: of ln tokens less that of the others, or of the share of long answers less that of long others.
    pub value: f64,
    /// Two-sided p-value of the randomisation test.
    pub p: f64,
    /// The same with the false discovery rate held over the methods of the run; controls have their own p.
    pub q: f64,
    /// Smallest effect that one such test would find in 80 % of such runs; `None` where nothing varies.
    pub found_at: Option<f64>,
    /// Prompts.
    pub n_prompts: usize,
    /// Controls whose lengths differ from the baseline's, the baseline's other repeats counted as one.
    pub n_controls: usize,
    /// Controls that repeat the baseline's lengths exactly: they say nothing of chance.
    pub n_copies: usize,
}

/// Of a method's values and the others'; 0 on average where any of them could have been any other.
pub(super) type Statistic = fn(&[f64], &[f64]) -> f64;
/// One of the two tests of a point.
type Tested = fn(&mut LengthPoint) -> Option<&mut Against>;

/// ln tokens of one prompt's answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    /// The method's.
    pub(super) own: Vec<f64>,
    /// The baseline's, and those of all controls that are noise.
    pub(super) others: Vec<f64>,
}

/// Fills in `shift` and `spread` of every point of `compared`.
pub(super) fn judge(
    seed: u64,
    answers: &Answers<'_>,
    compared: &[Compared],
    points: &mut [LengthPoint],
) {
    for (one, point) in compared.iter().zip(points.iter_mut()) {
        let blocks = blocks(answers, one, compared);
        if one.is_repeat || blocks.len() < PROMPTS_MIN {
            continue;
        }
        let controls: Vec<&Compared> = compared.iter().filter(|other| beside(one, other)).collect();
        let n_copies = controls.iter().filter(|control| control.is_copy()).count();
        let label = format!("{} shift", one.point);
        let test = |statistic| {
            let mut against = against(&blocks, &mut rng_for(seed, &label), statistic)?;
            (against.n_controls, against.n_copies) = (controls.len() - n_copies, n_copies);
            Some(against)
        };
        point.shift = test(longer as Statistic);
        point.spread = test(long_share);
    }
    let tested: [Tested; 2] = [|point| point.shift.as_mut(), |point| point.spread.as_mut()];
    for of in tested {
        hold(points.iter_mut().filter(|point| point.is_subject()).filter_map(of).collect());
    }
}

/// Holds the false discovery rate over tests of one question.
pub(super) fn hold(mut tests: Vec<&mut Against>) {
    let adjusted =
        stats::benjamini_hochberg(&tests.iter().map(|against| against.p).collect::<Vec<_>>());
    tests.iter_mut().zip(adjusted).for_each(|(against, q)| against.q = q);
}

/// One value a prompt, however many runs are behind it: runs may be copies of one another (greedy repeats, the A/A control), and only
/// prompts are independent.
pub(super) fn against(
    blocks: &[Block],
    rng: &mut ChaCha8Rng,
    statistic: Statistic,
) -> Option<Against> {
    let values: Vec<f64> =
        blocks.iter().map(|block| statistic(&block.own, &block.others)).collect();
    of_values(&values, rng)
}

/// The test of one value a prompt; controls are not counted yet.
pub(super) fn of_values(values: &[f64], rng: &mut ChaCha8Rng) -> Option<Against> {
    let found = stats::sign_flip_test(values, rng)?;
    Some(Against {
        value: found.mean,
        p: found.p,
        q: found.p,
        found_at: (found.error > 0.0).then_some(stats::POWER_80 * found.error),
        n_prompts: values.len(),
        n_controls: 0,
        n_copies: 0,
    })
}

/// Mean of ln tokens over the mean of the others.
pub(super) fn longer(own: &[f64], others: &[f64]) -> f64 {
    mean(own) - mean(others)
}

/// Share of pairs (own, other) of which own is long, less the share of which the other is.
pub(super) fn long_share(own: &[f64], others: &[f64]) -> f64 {
    let bar = LONG.ln() - 1e-12;
    let (mut long, mut mirror) = (0_usize, 0_usize);
    for own in own {
        for other in others {
            long += usize::from(own - other >= bar);
            mirror += usize::from(other - own >= bar);
        }
    }
    (long as f64 - mirror as f64) / (own.len() * others.len()) as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Whether `other` is noise beside `own`.
fn beside(own: &Compared, other: &Compared) -> bool {
    let is_noise = other.is_repeat || other.control.is_some_and(is_null);
    is_noise && other.theirs == own.theirs && (other.is_repeat || other.own != own.own)
}

/// One block a prompt that both the method and the baseline or a control answered.
fn blocks(answers: &Answers<'_>, own: &Compared, all: &[Compared]) -> Vec<Block> {
    let mut role: HashMap<usize, bool> = HashMap::from([(own.theirs, false), (own.own, true)]);
    let controls = all.iter().filter(|other| !other.is_repeat && beside(own, other));
    role.extend(controls.map(|other| (other.own, false)));
    let of = |prompt: &[Answer<'_>], is_own: bool| -> Vec<f64> {
        let mine = prompt.iter().filter(|answer| role.get(&answer.point) == Some(&is_own));
        mine.filter_map(|answer| answer.tokens.ok()).map(|n| (n.max(1) as f64).ln()).collect()
    };
    let block = |prompt: &Vec<Answer<'_>>| {
        let block = Block { own: of(prompt, true), others: of(prompt, false) };
        (!block.own.is_empty() && !block.others.is_empty()).then_some(block)
    };
    answers.prompts.iter().filter_map(block).collect()
}
