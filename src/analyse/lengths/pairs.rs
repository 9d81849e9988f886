//! Pairs of answers to one prompt, and what follows from them without a test.

use std::collections::BTreeMap;

use super::{
    D_DROPPED, Decomposition, Encode, LONG, LengthPoint, SHORT, Source, Unusable,
    answers::{Answer, Answers, End},
};
use crate::{
    analyse::{Estimate, Point, compare::baseline_at, summary::rng_for},
    scenario::{Control, Scenario},
    stats,
};

/// Characters that are compared of each answer.
const TEXT_MAX: usize = 65_536;

/// Where texts part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Divergence {
    /// Pairs with text on at least one side.
    pub n_compared: usize,
    /// Of them: the same text.
    pub n_same: usize,
    /// Position of the first differing character of each other pair, from 0, rising.
    pub characters: Vec<f64>,
    /// The same in tokens; `None` without a tokenizer.
    pub tokens: Option<Vec<f64>>,
}

/// One method's pairs at one place.
pub(super) struct Compared {
    pub(super) point: Point,
    /// Index of the point in [`Answers::points`].
    pub(super) own: usize,
    /// Index of the baseline's.
    pub(super) theirs: usize,
    pub(super) baseline: Point,
    pub(super) control: Option<Control>,
    pub(super) is_repeat: bool,
    bits: Option<(f64, f64)>,
    pub(super) pairs: Vec<Pair>,
    excluded: BTreeMap<Unusable, usize>,
    divergence: Divergence,
}

/// Two answers to one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    /// Index of the prompt in [`Answers::prompts`].
    prompt: usize,
    /// Tokens of the method and of the baseline.
    tokens: (i64, i64),
    end: (End, End),
    e2e_ns: (Option<i64>, Option<i64>),
}

/// Every point but the baselines, with its baseline under the same workload and load; then the baselines' other repeats.
pub(super) fn compared(source: Source<'_>, answers: &Answers<'_>) -> anyhow::Result<Vec<Compared>> {
    let manifest = source.manifest;
    // An imported run has no scenario that could name controls.
    let scenario = Scenario::parse(&manifest.scenario.text, "the run's scenario").ok();
    let controls = scenario.as_ref().map(Scenario::controls).unwrap_or_default();
    let bits = scenario.as_ref().map(Scenario::kv_bits).unwrap_or_default();
    let baseline = &manifest.scenario.baseline;
    let aa = format!("{baseline}-aa");
    let rank = |point: &Point| {
        manifest.cells.iter().position(|cell| point.is_of(cell)).unwrap_or(usize::MAX)
    };
    // Where every answer is as long as was asked for there is no effect on lengths to speak of.
    let is_free = |index: &usize| {
        let Point { target, workload, .. } = &answers.points[*index];
        !scenario.as_ref().is_some_and(|scenario| scenario.has_fixed_lengths(target, workload))
    };
    let mut order: Vec<usize> = (0..answers.points.len()).filter(is_free).collect();
    order.sort_by_key(|index| rank(&answers.points[*index]));
    let mut all = Vec::new();
    for &own in order.iter().filter(|own| answers.points[**own].method != *baseline) {
        let points = answers.points.iter();
        let Some(theirs) = baseline_at(&answers.points[own], points, baseline) else { continue };
        let method = &answers.points[own].method;
        let known = controls.get(method).copied();
        let control = known.or((*method == aa).then_some(Control::Again));
        let mut one = Compared::new(source, answers, (own, theirs), control)?;
        one.bits = bits.get(method).copied().zip(bits.get(baseline).copied());
        all.push(one);
    }
    for &own in order.iter().filter(|own| answers.points[**own].method == *baseline) {
        let repeats = Compared::new(source, answers, (own, own), None)?;
        if !repeats.pairs.is_empty() {
            all.push(repeats);
        }
    }
    Ok(all)
}

impl Compared {
    /// A point beside itself is its first repeat beside the others.
    fn new(
        source: Source<'_>,
        answers: &Answers<'_>,
        (own, theirs): (usize, usize),
        control: Option<Control>,
    ) -> anyhow::Result<Self> {
        let is_repeat = own == theirs;
        let mut new = Self {
            point: answers.points[own].clone(),
            own,
            theirs,
            baseline: answers.points[theirs].clone(),
            control,
            is_repeat,
            bits: None,
            pairs: Vec::new(),
            excluded: BTreeMap::new(),
            divergence: Divergence {
                tokens: source.encode.map(|_| Vec::new()),
                ..Divergence::default()
            },
        };
        let first = answers.prompts.iter().flatten().filter(|a| a.point == own).map(|a| a.repeat);
        let first = first.min().unwrap_or(0);
        for (index, prompt) in answers.prompts.iter().enumerate() {
            for answer in prompt.iter().filter(|a| a.point == own) {
                if !is_repeat {
                    let same = |a: &&Answer<'_>| {
                        a.point == theirs
                            && (a.repeat, a.request) == (answer.repeat, answer.request)
                    };
                    new.take(index, answer, prompt.iter().find(same), source.encode)?;
                } else if answer.repeat != first {
                    // Prompts come in another order in each repeat; one that a repeat did not draw has no pair.
                    let same = |a: &&Answer<'_>| a.point == own && a.repeat == first;
                    if let Some(other) = prompt.iter().find(same) {
                        new.take(index, answer, Some(other), source.encode)?;
                    }
                }
            }
        }
        new.divergence.characters.sort_by(f64::total_cmp);
        new.divergence.tokens.iter_mut().for_each(|tokens| tokens.sort_by(f64::total_cmp));
        Ok(new)
    }

    fn take(
        &mut self,
        prompt: usize,
        own: &Answer<'_>,
        theirs: Option<&Answer<'_>>,
        encode: Option<&Encode<'_>>,
    ) -> anyhow::Result<()> {
        let lengths = own.tokens.and_then(|tokens| {
            let theirs = theirs.ok_or(Unusable::OtherPrompt)?;
            Ok((tokens, theirs.tokens.map_err(|_| Unusable::BaselineUnusable)?, theirs))
        });
        let (tokens, their_tokens, theirs) = match lengths {
            Ok(lengths) => lengths,
            Err(why) => {
                *self.excluded.entry(why).or_default() += 1;
                return Ok(());
            }
        };
        self.pairs.push(Pair {
            prompt,
            tokens: (tokens, their_tokens),
            end: (own.end, theirs.end),
            e2e_ns: (own.e2e_ns, theirs.e2e_ns),
        });
        if !(own.text.is_empty() && theirs.text.is_empty()) {
            self.divergence.take(own.text, theirs.text, encode)?;
        }
        Ok(())
    }

    /// Whether it repeats the baseline's lengths exactly.
    pub(super) fn is_copy(&self) -> bool {
        self.pairs.iter().all(|pair| pair.tokens.0 == pair.tokens.1)
    }

    /// Everything but the tests against the controls.
    pub(super) fn point(&self, seed: u64) -> LengthPoint {
        let pairs = &self.pairs;
        let share = |of: &dyn Fn(&Pair) -> bool| {
            pairs.iter().filter(|pair| of(pair)).count() as f64 / pairs.len().max(1) as f64
        };
        let by_prompt = ByPrompt::of(pairs);
        let logs = by_prompt.means(|pair| pair.ratio().map(f64::ln));
        let mut ratios: Vec<f64> = pairs.iter().filter_map(Pair::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let label = |what: &str| format!("{} {what} {}", self.point, self.is_repeat);
        let mean = |of: fn(&Pair) -> i64| {
            pairs.iter().map(|pair| of(pair) as f64).sum::<f64>() / pairs.len().max(1) as f64
        };
        LengthPoint {
            point: self.point.clone(),
            baseline: self.baseline.clone(),
            control: self.control,
            is_repeat: self.is_repeat,
            bits: self.bits,
            n_pairs: pairs.len(),
            n_prompts: by_prompt.len(),
            excluded: self.excluded.clone(),
            mean_tokens: (mean(|p| p.tokens.0), mean(|p| p.tokens.1)),
            ratio: geometric(seed, &label("length ratio"), &logs),
            ratio_p50: stats::quantile_sorted(&ratios, 0.5),
            long: by_prompt.share(|pair| pair.is_long()),
            long_mirror: by_prompt.share(|pair| pair.is_long_mirror()),
            short: by_prompt.share(|pair| pair.is_short()),
            capped: (share(&|p| p.end.0 == End::Cap), share(&|p| p.end.1 == End::Cap)),
            p_capped: by_prompt.cap_flips(),
            eos: (share(&|p| p.end.0 == End::Eos), share(&|p| p.end.1 == End::Eos)),
            n_empty: (
                pairs.iter().filter(|p| p.tokens.0 == 0).count(),
                pairs.iter().filter(|p| p.tokens.1 == 0).count(),
            ),
            n_dropped_by_paper: pairs
                .iter()
                .filter(|p| p.d().is_some_and(|d| d < D_DROPPED))
                .count(),
            n_without_d: pairs.iter().filter(|p| p.d().is_none()).count(),
            p_wilcoxon: stats::wilcoxon(&logs),
            shift: None,
            spread: None,
            e2e: self.decomposition(seed, &by_prompt),
            divergence: self.divergence.clone(),
            ratios,
        }
    }

    /// Only pairs of which all four numbers are known, so that the product is exact.
    fn decomposition(&self, seed: u64, by_prompt: &ByPrompt<'_>) -> Option<Decomposition> {
        let e2e = by_prompt.means(|pair| Some(pair.e2e_ratio()?.ln()));
        let length = by_prompt.means(|pair| pair.e2e_ratio().and(pair.ratio()).map(f64::ln));
        let per_token: Vec<f64> =
            e2e.iter().zip(&length).map(|(e2e, length)| e2e - length).collect();
        if e2e.is_empty() {
            return None;
        }
        // One label, so that the three are drawn from the same resamples.
        let label = format!("{} e2e", self.point);
        let one = |logs: &[f64]| geometric(seed, &label, logs);
        Some(Decomposition { e2e: one(&e2e), length: one(&length), per_token: one(&per_token) })
    }
}

/// The geometric mean of values given by their logarithms.
pub(super) fn geometric(seed: u64, label: &str, logs: &[f64]) -> Estimate {
    let mut rng = rng_for(seed, label);
    let interval = stats::mean_interval(logs, &mut rng);
    let interval =
        interval.map(|ends| stats::Interval { low: ends.low.exp(), high: ends.high.exp() });
    Estimate::new(stats::mean(logs).map_or(f64::NAN, f64::exp), interval, logs.len())
}

impl Pair {
    /// Length of the method's answer over the baseline's; `None` where one is empty.
    fn ratio(&self) -> Option<f64> {
        let (own, theirs) = self.tokens;
        (own > 0 && theirs > 0).then(|| own as f64 / theirs as f64)
    }

    fn is_long(&self) -> bool {
        self.tokens.1 > 0 && self.tokens.0 as f64 >= LONG * self.tokens.1 as f64
    }

    fn is_long_mirror(&self) -> bool {
        self.tokens.1 as f64 >= LONG * self.tokens.0 as f64
    }

    fn is_short(&self) -> bool {
        self.tokens.1 > 0 && self.tokens.0 as f64 <= SHORT * self.tokens.1 as f64
    }

    /// D of the paper, percent.
    fn d(&self) -> Option<f64> {
        let (own, theirs) = self.tokens;
        (theirs > 0).then(|| 100.0 * (theirs - own) as f64 / theirs as f64)
    }

    fn e2e_ratio(&self) -> Option<f64> {
        self.ratio()?;
        let (own, theirs) = (self.e2e_ns.0?, self.e2e_ns.1?);
        (own > 0 && theirs > 0).then(|| own as f64 / theirs as f64)
    }
}

/// Pairs of each prompt: repeats of one prompt are not independent, so a prompt is what is drawn and counted.
struct ByPrompt<'a>(Vec<&'a [Pair]>);

impl<'a> ByPrompt<'a> {
    /// Pairs were taken prompt by prompt.
    fn of(pairs: &'a [Pair]) -> Self {
        Self(pairs.chunk_by(|a, b| a.prompt == b.prompt).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// Mean over the pairs of each prompt that have a value.
    fn means(&self, value: impl Fn(&Pair) -> Option<f64>) -> Vec<f64> {
        let mean =
            |pairs: &&[Pair]| stats::mean(&pairs.iter().filter_map(&value).collect::<Vec<_>>());
        self.0.iter().filter_map(mean).collect()
    }

    /// Mean share over prompts whose baseline's answer is not empty.
    fn share(&self, of: impl Fn(&Pair) -> bool) -> Estimate {
        let shares = self.means(|pair| (pair.tokens.1 > 0).then(|| f64::from(u8::from(of(pair)))));
        let share = stats::mean(&shares).unwrap_or(f64::NAN);
        Estimate::new(share, stats::wilson_share(share, shares.len()), shares.len())
    }

    fn cap_flips(&self) -> f64 {
        let first = self.0.iter().filter_map(|pairs| pairs.first());
        let flips = |own: bool| {
            let flipped =
                move |pair: &&Pair| (pair.end.0 == End::Cap, pair.end.1 == End::Cap) == (own, !own);
            first.clone().filter(flipped).count()
        };
        stats::mcnemar(flips(true), flips(false))
    }
}

impl Divergence {
    fn take(&mut self, own: &str, theirs: &str, encode: Option<&Encode<'_>>) -> anyhow::Result<()> {
        self.n_compared += 1;
        if own == theirs {
            self.n_same += 1;
            return Ok(());
        }
        let same = own.chars().zip(theirs.chars()).take(TEXT_MAX).take_while(|(a, b)| a == b);
        self.characters.push(same.count() as f64);
        if let (Some(encode), Some(tokens)) = (encode, &mut self.tokens) {
            let (own, theirs) = (encode(own)?, encode(theirs)?);
            tokens.push(own.iter().zip(&theirs).take_while(|(a, b)| a == b).count() as f64);
        }
        Ok(())
    }
}
