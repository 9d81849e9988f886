//! The whole predictor on made corpora whose structure is known.

use rand::RngExt as _;
use rand_distr::{Distribution as _, Normal};

use super::{
    evaluate::{self, Evaluation, Predictor, Tier},
    family,
    inputs::Scores,
    model::{Known, Options, Read},
    score::{COVERAGE, TAU},
    *,
};
use crate::stats;

mod encoder;

const BASE: &str = "f16";

/// Samples with what was read of their prompts.
struct Corpus {
    samples: Vec<Sample>,
    reads: Vec<Read>,
}

impl Corpus {
    fn of(mut samples: Vec<Sample>) -> Self {
        let prompts: Vec<&str> = samples.iter().map(|sample| sample.prompt.as_str()).collect();
        let families = family::families(&prompts);
        samples.iter_mut().zip(families).for_each(|(sample, family)| sample.family = family);
        let reads = samples.iter().map(|sample| Read::of(&sample.prompt)).collect();
        Self { samples, reads }
    }

    fn known(&self) -> Vec<Known<'_>> {
        let both = self.samples.iter().zip(&self.reads);
        both.map(|(sample, read)| Known { sample, read }).collect()
    }

    fn fit(&self, inputs: Inputs) -> Result<Model, FitError> {
        let options = Options { baseline: BASE, llm: Some("m"), inputs, seed: 1 };
        Model::fit(&self.known(), &options)
    }

    fn evaluate(&self) -> Evaluation {
        let tier = Tier::T1;
        let options = evaluate::Options { baseline: BASE, folds: 5, seed: 1, resamples: 40, tier };
        evaluate::evaluate(&self.known(), &options).unwrap()
    }
}

fn sample(prompt: String, method: &str, max_tokens: u32, tokens: &[f64]) -> Sample {
    let length = |tokens: &f64| {
        let whole = tokens.round() as u32;
        Length { tokens: whole.min(max_tokens), censored: whole > max_tokens }
    };
    let lengths = tokens.iter().map(length).collect();
    Sample { prompt, family: 0, task: None, max_tokens, method: method.into(), lengths }
}

fn value(evaluation: &Evaluation, predictor: Predictor, measure: usize) -> Option<f64> {
    let all = &evaluation.judged.predictors;
    let (_, verdicts, _) = all.iter().find(|(known, ..)| *known == predictor).unwrap();
    verdicts[measure].map(|(value, _)| value)
}

/// Prompts that ask for a number of words, answered with about as many tokens: the logarithm has a normal error of 0.3.
fn asking(n: usize, seed: u64, max_tokens: impl Fn(usize) -> u32) -> Vec<Sample> {
    let mut rng = stats::seeded(seed);
    let error = Normal::new(0.0, 0.3).unwrap();
    (0..n)
        .map(|at| {
            let words = [20, 50, 100, 200, 400, 800][rng.random_range(0..6)];
            let filler: String = (0..rng.random_range(20..250))
                .map(|_| if rng.random_bool(0.15) { ' ' } else { rng.random_range('a'..='z') })
                .collect();
            let tokens: Vec<f64> =
                (0..2).map(|_| f64::from(words) * f64::exp(error.sample(&mut rng))).collect();
            let prompt = format!("Write {words} words about {filler}.");
            sample(prompt, BASE, max_tokens(at), &tokens)
        })
        .collect()
}

#[test]
fn what_a_prompt_asks_for_is_learnt_nearly_to_the_ceiling() {
    let corpus = Corpus::of(asking(700, 1, |_| 4096));
    let found = corpus.evaluate();
    let of = |predictor, measure| value(&found, predictor, measure).unwrap();
    let (tau, ceiling) = (of(Predictor::T1, TAU), of(Predictor::Ceiling, TAU));
    assert!(tau > ceiling - 0.06 && tau > 0.6, "{tau} of {ceiling}");
    assert!(of(Predictor::PromptLength, TAU).abs() < 0.15);
    assert_eq!(value(&found, Predictor::T0, TAU), None, "there is one group");
    let coverage = of(Predictor::T1, COVERAGE);
    assert!((0.87..=0.93).contains(&coverage), "{coverage}");
    let (.., verdicts) = found
        .judged
        .differences
        .iter()
        .find(|(a, b, _)| (*a, *b) == (Predictor::T1, Predictor::PromptLength))
        .unwrap();
    assert!(verdicts[TAU].unwrap().1.unwrap().low > 0.3);
}

/// Lengths that are the same within a family and say nothing otherwise: whoever splits by rows finds them predictable.
#[test]
fn a_family_is_never_on_both_sides() {
    let mut rng = stats::seeded(2);
    let samples = (0..240).map(|at| {
        let family = at / 4;
        let mut family_rng = stats::seeded(1000 + family);
        let body: String = (0..40).map(|word| format!("w{family}v{word} ")).collect();
        let tokens = 20.0 + 400.0 * family_rng.random::<f64>();
        sample(format!("{body} again{at}"), BASE, 999, &[tokens + 2.0 * rng.random::<f64>()])
    });
    let corpus = Corpus::of(samples.collect());
    let found = corpus.evaluate();
    assert_eq!(found.n_families, 60);
    let tau = value(&found, Predictor::T1, TAU).unwrap();
    assert!(tau.abs() < 0.25, "{tau}");
}

/// Half of the prompts are cut at 60 tokens. The truth is `words * exp(0.3 z)`.
#[test]
fn cut_answers_are_lower_bounds_and_no_lengths() {
    let cap = |at: usize| if at.is_multiple_of(2) { 60 } else { 4096 };
    let samples = asking(700, 3, cap);
    assert!(samples.iter().filter(|sample| sample.n_censored() > 0).count() > 150);
    let mut naive = samples.clone();
    let all = naive.iter_mut().flat_map(|sample| &mut sample.lengths);
    all.for_each(|length| length.censored = false);
    // The forests alone: moving their ends on held-out prompts would mend what taking cuts for lengths has spoilt.
    let off = |samples: Vec<Sample>| -> [f64; 2] {
        let model = Corpus::of(samples).fit(Inputs::Prompt).unwrap();
        let fresh = asking(200, 77, |_| 4096);
        let one = |sample: &Sample| -> [f64; 2] {
            let words: f64 = sample.prompt.split(' ').nth(1).unwrap().parse().unwrap();
            let [_, middle, high] =
                model.raw(&model.row(&Read::of(&sample.prompt), None, Scores::default()));
            [(middle - words.ln()).abs(), (high - words.ln() - 0.3 * 1.2816).abs()]
        };
        let all: Vec<[f64; 2]> = fresh.iter().map(one).collect();
        [0, 1].map(|at| all.iter().map(|off| off[at]).sum::<f64>() / all.len() as f64)
    };
    let (heeded, taken) = (off(samples), off(naive));
    assert!(heeded[0] < 0.2 && heeded[0] < 0.8 * taken[0], "q50: {heeded:?} {taken:?}");
    assert!(heeded[1] < 0.3 && heeded[1] < taken[1], "q90: {heeded:?} {taken:?}");
}

#[test]
fn a_file_is_the_same_model() {
    let mut samples = asking(120, 4, |_| 300);
    samples.iter_mut().enumerate().for_each(|(at, sample)| {
        sample.task = Some(["a", "b"][at % 2].to_owned());
    });
    let longer: Vec<Sample> = samples
        .iter()
        .map(|one| {
            let lengths = one.lengths.iter();
            let tokens: Vec<f64> = lengths.map(|length| 1.3 * f64::from(length.tokens)).collect();
            Sample { task: one.task.clone(), ..sample(one.prompt.clone(), "q4", 300, &tokens) }
        })
        .collect();
    samples.extend(longer);
    let model = Corpus::of(samples).fit(Inputs::PromptAndTask).unwrap();
    let text = model.to_json().unwrap();
    let read = Model::from_json(&text, "m.json").unwrap();
    assert_eq!(model, read);
    assert_eq!(text, read.to_json().unwrap());
    let prompts = ["", "Write 400 words.", "写一首诗", "\u{202e}🦀", "?", &"long ".repeat(9999)];
    for prompt in prompts {
        for (task, max_tokens) in [(Some("a"), Some(50)), (None, None), (Some("new"), Some(0))] {
            let query = Query { prompt, task, max_tokens, method: Some("q4") };
            let tokens = model.predict(&query).unwrap();
            assert_eq!(tokens.map(f64::to_bits), read.predict(&query).unwrap().map(f64::to_bits));
            assert!(0.0 <= tokens[0] && tokens[0] <= tokens[1] && tokens[1] <= tokens[2]);
            let most = max_tokens.map_or(f64::MAX, f64::from);
            assert!(tokens[2] <= most, "{tokens:?} {most}");
        }
    }
    let other = text.replacen("kvbench-length/1", "kvbench-length/9", 1);
    let error = Model::from_json(&other, "m.json").unwrap_err().to_string();
    assert!(error.starts_with(
        "m.json: expected schema kvbench-length/1 or kvbench-length/2, got kvbench-length/9"
    ));
    assert!(Model::from_json("[]", "m.json").unwrap_err().to_string().contains("hint"));
    let cut = text.replacen("\"forests\":[{", "\"forests\":[],\"x\":[{", 1);
    assert!(Model::from_json(&cut, "m.json").is_err());
    let query = Query { prompt: "", task: None, max_tokens: None, method: Some("nope") };
    assert!(model.predict(&query).unwrap_err().to_string().contains("f16, q4"));
}

#[test]
fn constant_features_and_too_few_prompts() {
    let mut rng = stats::seeded(5);
    let same = |at: usize, rng: &mut rand_chacha::ChaCha8Rng| {
        let word: String = (0..8).map(|bit| if at >> bit & 1 == 1 { 'k' } else { 'j' }).collect();
        sample(format!("about {word} today"), BASE, 999, &[100.0 + rng.random_range(0..50) as f64])
    };
    let samples: Vec<Sample> = (0..80).map(|at| same(at, &mut rng)).collect();
    let model = Corpus::of(samples.clone()).fit(Inputs::PromptLength).unwrap();
    let query =
        Query { prompt: "about kkkkkkkk today", task: None, max_tokens: None, method: None };
    let [low, middle, high] = model.predict(&query).unwrap();
    assert!((115.0..135.0).contains(&middle) && low < middle && middle < high, "{low} {high}");
    let few = Corpus::of(samples[..30].to_vec()).fit(Inputs::Prompt).unwrap_err();
    let said = few.to_string();
    assert!(said.starts_with("expected answers of the baseline `f16` to at least 40 prompts"));
    assert!(said.contains("got 30 in 30"), "{said}");
}

/// A method that is 1.3 times as long, and one whose effect grows with the prompt.
#[test]
fn shifts_are_found_beside_the_null() {
    let base = asking(300, 6, |_| 100_000);
    let mut rng = stats::seeded(7);
    let error = Normal::new(0.0, 0.1).unwrap();
    let mut all = base.clone();
    for one in &base {
        let by_length = 0.3 * (one.prompt.len() as f64).ln() - 1.0;
        for (method, log) in [("q4", 1.3_f64.ln()), ("sparse", by_length)] {
            let tokens: Vec<f64> = one
                .lengths
                .iter()
                .map(|length| f64::from(length.tokens) * f64::exp(log + error.sample(&mut rng)))
                .collect();
            all.push(sample(one.prompt.clone(), method, 100_000, &tokens));
        }
    }
    let corpus = Corpus::of(all);
    let shifts = shift::learn(&corpus.known(), BASE, 1);
    let [q4, sparse] = shifts.as_slice() else { panic!("{shifts:?}") };
    assert!((f64::from(q4.difference.mean) - 1.3_f64.ln()).abs() < 0.03, "{q4:?}");
    assert_eq!((q4.exceeds_null(), &q4.slope), (Some(true), &None));
    let null = q4.null.as_ref().unwrap();
    assert!(null.low.unwrap() < 0.0 && null.high.unwrap() > 0.0 && null.n_prompts == 300);
    let slope = sparse.slope.as_ref().unwrap();
    assert!((slope.slope - 0.3).abs() < 0.05, "{slope:?}");
}

/// 120 prompts, one answer a method: the second method is twice as long, so that its answers are cut at 100 where the baseline's are not.
#[test]
fn lengthening_that_is_cut_is_not_dropped() {
    let both = |at: usize| {
        let prompt: String = (0..30).map(|word| format!("w{at}v{word} ")).collect();
        let tokens = 20.0 + at as f64;
        [sample(prompt.clone(), BASE, 100, &[tokens]), sample(prompt, "q4", 100, &[2.0 * tokens])]
    };
    let corpus = Corpus::of((0..120).flat_map(both).collect());
    let shifts = shift::learn(&corpus.known(), BASE, 1);
    let found = &shifts[0].difference;
    // 2 (20 + n) > 100 from the 31st on, 20 + n > 100 from the 81st on.
    assert_eq!((found.n_prompts, found.n_own_cut, found.n_left_out), (81, 50, 39));
    assert_eq!((found.n_other_cut, found.n_both_cut), (0, 0));
    let expected: f64 =
        (0..81).map(|at| to_log((2 * (20 + at)).min(100)) - to_log(20 + at)).sum::<f64>() / 81.0;
    assert!((f64::from(found.mean) - expected).abs() < 1e-5, "{found:?} {expected}");
}

/// Three answers each, many of them cut: the first against the others must not look shorter or longer.
#[test]
fn the_null_of_cut_answers_is_none() {
    let mut rng = stats::seeded(9);
    let samples = (0..600).map(|at| {
        let prompt: String = (0..30).map(|word| format!("w{at}v{word} ")).collect();
        let tokens: [f64; 3] = std::array::from_fn(|_| rng.random_range(1.0..160.0_f64).round());
        let twin = tokens.map(|_| rng.random_range(1.0..160.0_f64).round());
        [sample(prompt.clone(), BASE, 100, &tokens), sample(prompt, "again", 100, &twin[..1])]
    });
    let corpus = Corpus::of(samples.flatten().collect());
    let shifts = shift::learn(&corpus.known(), BASE, 1);
    let null = shifts[0].null.as_ref().unwrap();
    assert!(null.n_both_cut > 50 && null.n_left_out > 10, "{null:?}");
    for found in [null, &shifts[0].difference] {
        assert!(found.low.unwrap() < 0.0 && found.high.unwrap() > 0.0, "{found:?}");
    }
}

#[test]
fn a_prediction_is_explained() {
    let corpus = Corpus::of(asking(300, 8, |_| 300));
    let model = corpus.fit(Inputs::PromptAndTask).unwrap();
    let query = |prompt, task| Query { prompt, task, max_tokens: Some(300), method: None };
    let told = model.explain(&query("Write 20 words about it.", None)).unwrap();
    let words: Vec<&str> = told.moved.iter().take(2).map(|moved| moved.feature.as_str()).collect();
    assert!(words.contains(&"ln_asked_words") || words.contains(&"words"), "{words:?}");
    assert!(told.moved[0].factor < 0.8 && told.tokens[1] < 40.0, "{told:?}");
    let long = "Write 800 words about it. ".repeat(400);
    let told = model.explain(&query(&long, Some("never"))).unwrap();
    assert!(told.notes[0].starts_with("outside of what was learnt from: ln_bytes"), "{told:?}");
    assert!(told.notes[1].contains("`never` was not learnt"), "{:?}", told.notes);
    let notes = |words: u32, max_tokens| {
        let prompt = format!("Write {words} words about it.");
        let query = Query { prompt: &prompt, task: None, max_tokens, method: None };
        model.explain(&query).unwrap().notes.join("; ")
    };
    assert!(notes(800, None).contains("q90 reaches 300 tokens"), "{}", notes(800, None));
    // Cut at what is asked for, whatever was learnt from.
    assert!(!notes(800, Some(1)).contains("q90 reaches"), "{}", notes(800, Some(1)));
    assert!(!notes(20, None).contains("300"), "{}", notes(20, None));
    let above = notes(20, Some(u32::MAX));
    assert!(above.contains("4294967295 is more than the 300 that it learnt from"), "{above}");
}

#[test]
fn a_shift_that_is_not_shown_is_said_not_to_be_applied() {
    let mut all = asking(300, 6, |_| 100_000);
    let twins: Vec<Sample> =
        all.iter().map(|one| Sample { method: "q4".into(), ..one.clone() }).collect();
    all.extend(twins);
    let model = Corpus::of(all).fit(Inputs::PromptAndTask).unwrap();
    let notes = |method| {
        let prompt = "Write 20 words about it.";
        let query = Query { prompt, task: None, max_tokens: None, method };
        model.explain(&query).unwrap().notes.join("; ")
    };
    assert!(notes(Some("q4")).contains("q4: its shift is not shown"), "{}", notes(Some("q4")));
    assert!(!notes(None).contains("shift"), "{}", notes(None));
}
