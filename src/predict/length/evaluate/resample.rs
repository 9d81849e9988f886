//! Intervals: families are drawn with replacement, and everything is measured on the same draw, so that differences are paired.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rayon::prelude::*;

use super::{
    super::score::{self, Marked, Measures, NAMES},
    Column, Options, Predictor,
};
use crate::stats::{self, Interval};

/// A measure with its interval; `None` where it is not defined.
pub type Verdict = Option<(f64, Option<Interval>)>;

/// What the bootstrap says.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Each predictor with one verdict a measure, and the prompts behind it.
    pub predictors: Vec<(Predictor, [Verdict; NAMES.len()], usize)>,
    /// `(a, b)` with the differences a - b, one a measure, on the prompts that both speak of.
    pub differences: Vec<(Predictor, Predictor, [Verdict; NAMES.len()])>,
}

/// What is compared.
const COMPARED: [(Predictor, Predictor); 12] = [
    (Predictor::T1, Predictor::T0),
    (Predictor::T1, Predictor::PromptLength),
    (Predictor::T1NoTask, Predictor::T0),
    (Predictor::T1NoTask, Predictor::PromptLength),
    (Predictor::T1, Predictor::T1NoTask),
    (Predictor::T2, Predictor::T1),
    (Predictor::T2, Predictor::T0),
    (Predictor::T2, Predictor::PromptLength),
    (Predictor::T2NoTask, Predictor::T1NoTask),
    (Predictor::T2, Predictor::T2NoTask),
    (Predictor::Ceiling, Predictor::T1),
    (Predictor::Ceiling, Predictor::T2),
];

/// All measures of all predictors on some prompts, and the differences.
struct Drawn {
    predictors: Vec<Measures>,
    differences: Vec<Measures>,
}

pub(super) fn judge(columns: &[Column], families: &[usize], options: &Options<'_>) -> Judged {
    let find =
        |predictor: Predictor| columns.iter().position(|column| column.predictor == predictor);
    let compared: Vec<(usize, usize)> =
        COMPARED.iter().filter_map(|(a, b)| Some((find(*a)?, find(*b)?))).collect();
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    families
        .iter()
        .enumerate()
        .for_each(|(row, family)| members.entry(*family).or_default().push(row));
    let members: Vec<Vec<usize>> = members.into_values().collect();
    let all: Vec<usize> = (0..families.len()).collect();
    let whole = drawn(columns, &compared, &all, score::measures);
    let one = |number: usize| {
        let mut rng = stats::seeded(options.seed.wrapping_add(number as u64));
        let rows: Vec<usize> = (0..members.len())
            .flat_map(|_| members[rng.random_range(0..members.len())].iter().copied())
            .collect();
        drawn(columns, &compared, &rows, score::measures_of_draw)
    };
    let draws: Vec<Drawn> = (0..options.resamples).into_par_iter().map(one).collect();
    let predictors = columns.iter().enumerate().map(|(at, column)| {
        let of = |drawn: &Drawn| drawn.predictors[at];
        let n = column.marked.iter().flatten().count();
        (column.predictor, verdicts(&whole, &draws, of), n)
    });
    let differences = compared.iter().enumerate().map(|(at, (a, b))| {
        let of = |drawn: &Drawn| drawn.differences[at];
        (columns[*a].predictor, columns[*b].predictor, verdicts(&whole, &draws, of))
    });
    Judged { predictors: predictors.collect(), differences: differences.collect() }
}

fn drawn(
    columns: &[Column],
    compared: &[(usize, usize)],
    rows: &[usize],
    measures: fn(&[&Marked]) -> Measures,
) -> Drawn {
    let measure = |column: &Column| {
        let marked: Vec<&Marked> =
            rows.iter().filter_map(|row| column.marked[*row].as_ref()).collect();
        measures(&marked)
    };
    let predictors: Vec<Measures> = columns.iter().map(measure).collect();
    let difference = |(a, b): &(usize, usize)| {
        let is_whole = |at: usize| columns[at].marked.iter().all(Option::is_some);
        // Only the ceiling leaves prompts out; everybody else has been measured on the same ones already.
        let (of_a, of_b) = if is_whole(*a) && is_whole(*b) {
            (predictors[*a], predictors[*b])
        } else {
            let (a, b) = (&columns[*a].marked, &columns[*b].marked);
            let both = rows.iter().filter_map(|row| a[*row].as_ref().zip(b[*row].as_ref()));
            let (a, b): (Vec<&Marked>, Vec<&Marked>) = both.unzip();
            (measures(&a), measures(&b))
        };
        std::array::from_fn(|at| Some(of_a[at]? - of_b[at]?))
    };
    let differences = compared.iter().map(difference).collect();
    Drawn { predictors, differences }
}

fn verdicts(
    whole: &Drawn,
    draws: &[Drawn],
    of: impl Fn(&Drawn) -> Measures,
) -> [Verdict; NAMES.len()] {
    let values = of(whole);
    let drawn: Vec<Measures> = draws.iter().map(of).collect();
    std::array::from_fn(|at| {
        let value = values[at]?;
        Some((
            value,
            interval(drawn.iter().filter_map(|measures| measures[at]).collect(), draws.len()),
        ))
    })
}

/// 95 % percentile interval; `None` where more than 5 % of the draws have no value.
fn interval(mut values: Vec<f64>, n_draws: usize) -> Option<Interval> {
    if values.is_empty() || values.len() * 20 < n_draws * 19 {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(Interval {
        low: stats::quantile_sorted(&values, 0.025)?,
        high: stats::quantile_sorted(&values, 0.975)?,
    })
}
