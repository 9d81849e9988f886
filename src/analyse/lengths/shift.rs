//! Methods against everything that compresses nothing.

use std::collections::HashMap;

use super::{LONG, LengthPoint, PROMPTS_MIN, answers::Answers, is_null, pairs::Compared};
use rand_chacha::ChaCha8Rng;

use crate::{
    analyse::summary::rng_for,
    stats::{self, Block, permutation_test},
};

/// How a method stands against the baseline-like runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Statistic: mean difference of ln tokens, or of the share of long answers over what labels dealt by chance give.
    pub value: f64,
    /// Two-sided p-value of the randomisation test.
    pub p: f64,
    /// The same with the false discovery rate held over the methods of the run; controls have their own p.
    pub q: f64,
    /// Smallest effect that would be found in 80 % of such runs.
    pub found_at: f64,
    /// Prompts.
    pub n_prompts: usize,
    /// Baseline-like runs of each prompt, at least, besides the baseline's first; 0: no control ran.
    pub n_controls: usize,
}

/// Of a method's values and the others'.
pub(super) type Statistic = fn(&[f64], &[f64]) -> f64;
/// One of the two tests of a point.
type Tested = fn(&mut LengthPoint) -> Option<&mut Against>;

/// Fills in `shift` and `spread` of every point of `compared`.
pub(super) fn judge(
    seed: u64,
    answers: &Answers<'_>,
    compared: &[Compared],
    points: &mut [LengthPoint],
) {
    for (one, point) in compared.iter().zip(points.iter_mut()) {
        if one.is_repeat {
            continue;
        }
        let blocks = blocks(answers, one, compared);
        if blocks.len() < PROMPTS_MIN {
            continue;
        }
        let label = format!("{} shift", one.point);
        let test = |statistic| against(&blocks, &mut rng_for(seed, &label), statistic);
        point.shift = test(longer as Statistic);
        point.spread = test(long_share);
    }
    let tested: [Tested; 2] = [|point| point.shift.as_mut(), |point| point.spread.as_mut()];
    for of in tested {
        let mut tests: Vec<&mut Against> =
            points.iter_mut().filter(|point| point.is_subject()).filter_map(of).collect();
        let adjusted =
            stats::benjamini_hochberg(&tests.iter().map(|against| against.p).collect::<Vec<_>>());
        tests.iter_mut().zip(adjusted).for_each(|(against, q)| against.q = q);
    }
}

pub(super) fn against(
    blocks: &[Block],
    rng: &mut ChaCha8Rng,
    statistic: Statistic,
) -> Option<Against> {
    let found = permutation_test(blocks, rng, statistic)?;
    let n_others = blocks.iter().map(|block| block.values.len() - block.n_own).min()?;
    Some(Against {
        value: found.value - found.centre,
        p: found.p,
        q: found.p,
        found_at: stats::POWER_80 * found.deviation,
        n_prompts: blocks.len(),
        n_controls: n_others - 1,
    })
}

/// Mean of ln tokens over the mean of the others.
pub(super) fn longer(own: &[f64], others: &[f64]) -> f64 {
    mean(own) - mean(others)
}

/// Share of pairs (own, other) in which own is long.
pub(super) fn long_share(own: &[f64], others: &[f64]) -> f64 {
    let bar = LONG.ln() - 1e-12;
    let long = own.iter().map(|own| others.iter().filter(|other| own - **other >= bar).count());
    long.sum::<usize>() as f64 / (own.len() * others.len()) as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// One block a prompt: ln tokens of the method's answers, then of the baseline's and of all null controls beside it. A prompt
/// without an answer of either kind is left out.
fn blocks(answers: &Answers<'_>, own: &Compared, all: &[Compared]) -> Vec<Block> {
    let beside = |other: &&Compared| {
        !other.is_repeat
            && other.own != own.own
            && other.theirs == own.theirs
            && other.control.is_some_and(is_null)
    };
    let mut role: HashMap<usize, bool> = HashMap::from([(own.theirs, false), (own.own, true)]);
    role.extend(all.iter().filter(beside).map(|other| (other.own, false)));
    let of = |prompt: &Vec<super::answers::Answer<'_>>, is_own: bool| -> Vec<f64> {
        let mine = prompt.iter().filter(|answer| role.get(&answer.point) == Some(&is_own));
        mine.filter_map(|answer| answer.tokens.ok()).map(|n| (n.max(1) as f64).ln()).collect()
    };
    let block = |prompt: &Vec<super::answers::Answer<'_>>| {
        let (mut values, others) = (of(prompt, true), of(prompt, false));
        let n_own = values.len();
        values.extend(&others);
        (n_own > 0 && !others.is_empty()).then_some(Block { values, n_own })
    };
    answers.prompts.iter().filter_map(block).collect()
}
