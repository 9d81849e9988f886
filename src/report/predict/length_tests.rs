use super::*;
use crate::{
    predict::length::{
        Length, Sample,
        evaluate::{Column, Judged},
        score::{Guess, NAMES},
    },
    stats::Interval,
};

type Verdicts = [Verdict; NAMES.len()];

fn tau_of(tau: Option<f64>) -> Verdicts {
    let mut verdicts = [None; NAMES.len()];
    verdicts[TAU] = tau.map(|tau| (tau, Some(Interval { low: tau - 0.1, high: tau + 0.1 })));
    verdicts
}

/// What T1 and T0 reach, and their difference.
fn evaluation(t1: Option<f64>, t0: Option<f64>, difference: Option<f64>) -> Evaluation {
    let predictors = [(Predictor::T0, t0), (Predictor::T1, t1), (Predictor::Ceiling, Some(0.5))];
    Evaluation {
        n_prompts: 10,
        n_families: 10,
        n_answers: 14,
        n_censored: 0,
        n_repeated: 2,
        n_tasks: 1,
        judged: Judged {
            predictors: predictors.map(|(who, tau)| (who, tau_of(tau), 10)).to_vec(),
            differences: vec![(Predictor::T1, Predictor::T0, tau_of(difference))],
        },
        columns: Vec::new(),
        shifts: Vec::new(),
        methods: Vec::new(),
    }
}

#[test]
fn t0_ranks_nothing_only_where_it_has_no_tau() {
    let said = |t1, t0, difference| {
        against(&evaluation(t1, t0, difference), Predictor::T1, Predictor::T0, "T0")
    };
    let nothing = said(Some(0.4), None, None);
    assert!(nothing.starts_with("T1 beats T0: it says one length") && nothing.contains("0.400"));
    let both = said(Some(0.4), Some(0.3), None);
    assert!(both.starts_with("T1 and T0 cannot be compared"), "{both}");
    let neither = said(None, None, None);
    assert!(neither.starts_with("T1 and T0 cannot be compared"), "{neither}");
    let worse = said(Some(0.4), Some(0.7), Some(-0.3));
    assert!(worse.starts_with("T1 is worse than T0: tau differs by -0.300"), "{worse}");
}

#[test]
fn a_tier_that_was_not_judged_is_not_spoken_of() {
    let mut found = evaluation(Some(0.4), Some(0.3), Some(0.1));
    assert!(!finding(&found).join(" ").contains("T2"));
    found.judged.predictors.push((Predictor::T2, tau_of(Some(0.6)), 10));
    found.judged.differences.push((Predictor::T2, Predictor::T1, tau_of(Some(0.2))));
    let said = finding(&found).join(" ");
    assert!(said.contains("T2 ranks unseen prompts with Kendall's tau-b 0.600"), "{said}");
    assert!(said.contains("T2 beats T1 (the prompt's text"), "{said}");
    assert!(said.contains("T2 was not compared with T0"), "{said}");
}

/// Eight prompts with one answer and two with three: two others each.
#[test]
fn others_of_the_ceiling_are_those_of_prompts_that_have_some() {
    let said = ceiling(&evaluation(None, None, None));
    assert!(said.contains("the other answers to the same prompt, 2.0 on average"), "{said}");
}

#[test]
fn answers_without_rank_and_cut_ones_are_counted() {
    let length = |tokens| Length { tokens, censored: false };
    let sample = |tokens: &[u32]| Sample {
        prompt: String::new(),
        family: 0,
        task: None,
        max_tokens: 100,
        method: "m".into(),
        lengths: tokens.iter().copied().map(length).collect(),
    };
    let guess = Guess { middle: 5.0, ends: None, of_twins: false };
    let marked = [&[1, 2][..], &[3]]
        .map(|tokens| Some(Marked::new(&sample(tokens), vec![guess; tokens.len()], 0, &[])));
    let mut evaluation = evaluation(Some(0.4), None, None);
    evaluation.columns = vec![Column { predictor: Predictor::Constant, marked: marked.to_vec() }];
    let said = finding(&evaluation).join(" ");
    assert!(said.contains("1 of 14 answers are in no measure of rank"), "{said}");
    let difference = Difference {
        mean: 0.1,
        low: None,
        high: None,
        n_prompts: 9,
        n_left_out: 3,
        n_own_cut: 2,
        n_other_cut: 1,
        n_both_cut: 0,
    };
    let shift = Shift { method: "q4".into(), difference, null: None, slope: None };
    let said = shift_words(&shift);
    assert!(said.contains("Of 9 prompts 2 have") && said.contains("3 more"), "{said}");
    let table = shifts(&[shift]);
    assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
}

#[test]
fn cut_answers_are_drawn_as_a_series_of_their_own() {
    let sample = |censored: bool| Sample {
        prompt: String::new(),
        family: 0,
        task: None,
        max_tokens: 100,
        method: "m".into(),
        lengths: vec![Length { tokens: if censored { 100 } else { 20 }, censored }],
    };
    let guess = Guess { middle: 30.0, ends: Some((5.0, 100.0)), of_twins: false };
    let drawn = |cut: &[bool]| {
        let marked =
            cut.iter().map(|cut| Some(Marked::new(&sample(*cut), vec![guess], 0, &[]))).collect();
        let columns = vec![Column { predictor: Predictor::T1, marked }];
        predicted(&Evaluation { columns, ..evaluation(Some(0.4), None, None) }).unwrap()
    };
    let figure = drawn(&[false, true, false]);
    let series = &figure.panels[0].series;
    let n: Vec<(&str, usize)> =
        series.iter().map(|series| (series.name.as_str(), series.points.len())).collect();
    assert_eq!(n, [("answer ended", 2), ("answer cut at max_tokens", 1)]);
    assert!(figure.caption.contains("longer than drawn"), "{}", figure.caption);
    let whole = drawn(&[false, false]);
    assert!(!whole.caption.contains("longer than drawn") && whole.panels[0].series.len() == 1);
}
