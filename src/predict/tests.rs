//! From observations to predictions, whole.

use rand::RngExt as _;
use rand_distr::{Distribution as _, Normal};

use super::{
    Model, ModelFile, Observation, Pass, Phase, Prediction, Source, StepTimes as _, Subject, Work,
    curve::Terms,
    eval::{self, Predictor},
    fit::{Options, fit},
    model::Kind,
    origin::Rows,
    regret,
    split::Split,
};
use crate::stats;

mod files;

fn subject(source: Source) -> Subject {
    Subject {
        source,
        target: None,
        engine: "engine 1".into(),
        device: "device".into(),
        model: "model".into(),
        tensor_parallel: 1,
        started_with: None,
    }
}

fn seen(method: &str, work: Work, repeats_s: Vec<f64>) -> Observation {
    Observation {
        subject: subject(Source::Engine),
        method: method.into(),
        is_baseline: method == "fp16",
        budget: None,
        pass: Pass { work, repeats_s },
        rows: Vec::new(),
    }
}

fn decode(batch: u32, kv_len: f64) -> Work {
    Work::decode((0..batch).map(|_| kv_len), None)
}

fn truth(work: &Work) -> f64 {
    0.02 + 3e-4 * work.batch + 1e-7 * work.attended
}

/// 6 batches x 6 lengths of `method`, `factor` times the truth, with log-normal noise of `sigma` a shape.
fn sweep(method: &str, factor: f64, sigma: f64, rng: &mut impl rand::Rng) -> Vec<Observation> {
    let noise = Normal::<f64>::new(0.0, sigma).unwrap();
    let mut out = Vec::new();
    for batch in [1, 2, 4, 8, 16, 32] {
        for kv_len in [128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0] {
            let work = decode(batch, kv_len);
            let time_s = factor * truth(&work) * noise.sample(rng).exp();
            out.push(seen(method, work, vec![time_s]));
        }
    }
    out
}

fn only(seen: &[Observation]) -> Model {
    let fit = fit(seen, &Options::default());
    assert_eq!((fit.models.len(), fit.unfit.as_slice()), (1, [].as_slice()));
    fit.models.into_iter().next().unwrap()
}

#[test]
fn planted_costs_come_back_through_noise() {
    let model = only(&sweep("fp16", 1.0, 0.01, &mut stats::seeded(1)));
    for (cost, planted) in model.coefficients.iter().zip([0.02, 3e-4, 1e-7]) {
        assert!((cost.value / planted - 1.0).abs() < 0.03, "{cost:?}");
    }
    assert!(model.errors.is_some_and(|errors| errors.mape_pct < 1.5 && errors.n == 36));
    assert_eq!((model.kind, model.terms, model.noise), (Kind::Own, Terms::Step, None));
}

/// New shapes inside the range, of new draws of the noise.
#[test]
fn four_of_five_new_points_fall_into_the_interval() {
    let mut rng = stats::seeded(2);
    let noise = Normal::<f64>::new(0.0, 0.04).unwrap();
    let (mut inside, mut n) = (0, 0);
    for _ in 0..150 {
        let model = only(&sweep("fp16", 1.0, 0.04, &mut rng));
        for _ in 0..10 {
            let work = decode(rng.random_range(1..=32), rng.random_range(128.0..4096.0));
            let (low, high) = model.predict(&work).interval_s.unwrap();
            let time_s = truth(&work) * noise.sample(&mut rng).exp();
            inside += usize::from((low..=high).contains(&time_s));
            n += 1;
        }
    }
    let share = inside as f64 / f64::from(n);
    assert!((0.75..0.85).contains(&share), "{share}");
}

/// Shapes of a small grid held out as `predict eval` holds them out, those at its edge among them: there the interval is wider, and the
/// residuals of other edges are in it already.
#[test]
fn four_of_five_held_out_shapes_of_a_small_grid_fall_into_the_interval() {
    let prompts = |batch: f64, len: f64| Work::prefill_alike(batch, (len, 0.0));
    let steps = |batch: f64, len: f64| Work::decode_alike(batch, len, None);
    let prefill = |work: &Work| 2e-3 + 4e-6 * work.new_tokens + 6e-9 * work.attended;
    let grids: [Known<'_>; 2] = [
        (grid(&[1.0, 2.0], &[128.0, 256.0, 512.0, 1024.0], prompts), &prefill),
        (
            grid(&[1.0, 2.0, 4.0, 8.0, 16.0], &[512.0, 1024.0, 2048.0, 4096.0, 8192.0], steps),
            &truth,
        ),
    ];
    let mut rng = stats::seeded(15);
    let noise = Normal::<f64>::new(0.0, 0.03).unwrap();
    for (works, truth) in &grids {
        let (mut inside, mut n) = (0, 0);
        while n < 2000 {
            let points: Vec<Observation> = works
                .iter()
                .map(|work| seen("fp16", *work, vec![truth(work) * noise.sample(&mut rng).exp()]))
                .collect();
            let held = eval::held_out(&points);
            let random = held.iter().filter(|one| one.split == Split::Random);
            for covered in random.filter_map(|one| one.is_covered()) {
                inside += usize::from(covered);
                n += 1;
            }
        }
        let share = inside as f64 / f64::from(n);
        assert!((0.75..=0.85).contains(&share), "{} shapes: {share}", works.len());
    }
}

/// Works, and the seconds that each takes.
type Known<'a> = (Vec<Work>, &'a dyn Fn(&Work) -> f64);

fn grid(batches: &[f64], lens: &[f64], work: impl Fn(f64, f64) -> Work) -> Vec<Work> {
    batches.iter().flat_map(|batch| lens.iter().map(|len| work(*batch, *len))).collect()
}

#[test]
fn one_repeat_is_less_certain_than_the_median_of_several() {
    let mut rng = stats::seeded(3);
    let noise = Normal::<f64>::new(0.0, 0.05).unwrap();
    let mut points = sweep("fp16", 1.0, 0.0, &mut rng);
    for point in &mut points {
        let middle = point.pass.repeats_s[0];
        point.pass.repeats_s = (0..9).map(|_| middle * noise.sample(&mut rng).exp()).collect();
    }
    let model = only(&points);
    assert!(model.noise.is_some_and(|noise| (0.02..0.06).contains(&noise)));
    let Prediction { interval_s, one_repeat_s, .. } = model.predict(&decode(3, 700.0));
    let (inner, outer) = (interval_s.unwrap(), one_repeat_s.unwrap());
    assert!(outer.0 < inner.0 && inner.1 < outer.1);
    assert_eq!(model.n_repeats, 36 * 9);
}

/// Beyond the range the interval widens with the distance.
#[test]
fn far_from_the_data_the_interval_is_wider() {
    let model = only(&sweep("fp16", 1.0, 0.03, &mut stats::seeded(4)));
    let width = |work: &Work| {
        let said = model.predict(work);
        let (low, high) = said.interval_s.unwrap();
        (high / low).ln()
    };
    let (inside, outside) = (width(&decode(32, 4096.0)), width(&decode(64, 4096.0)));
    assert!((outside / inside - 2_f64.sqrt()).abs() < 1e-6, "{inside} {outside}");
    let far = model.predict(&decode(200, 4096.0));
    assert!(far.place.far && far.time_s > 0.0);
    assert_eq!((far.interval_s, far.one_repeat_s), (None, None), "nothing tells how far off it is");
}

#[test]
fn a_method_with_few_points_is_calibrated_on_its_baseline() {
    let mut rng = stats::seeded(5);
    let mut points = sweep("fp16", 1.0, 0.01, &mut rng);
    let four = [0, 13, 22, 35];
    let method = sweep("kivi-4", 0.8, 0.01, &mut rng);
    points.extend(four.map(|at| method[at].clone()));
    let models = fit(&points, &Options::default()).models;
    let kivi = models.iter().find(|model| model.method == "kivi-4").unwrap();
    assert_eq!(kivi.kind, Kind::Calibrated);
    assert!(kivi.factor.is_some_and(|factor| (factor - 0.8).abs() < 0.01));
    assert!((kivi.time_s(&decode(5, 900.0)) / (0.8 * truth(&decode(5, 900.0))) - 1.0).abs() < 0.02);
    assert!(kivi.null.is_some_and(|null| (null.mape_pct - 25.0).abs() < 2.0));
}

/// A method of other costs gets its own, unless a factor is asked for; one that only differs by a factor does not.
#[test]
fn own_costs_are_fitted_where_one_factor_does_worse() {
    let mut rng = stats::seeded(10);
    let mut points = sweep("fp16", 1.0, 0.01, &mut rng);
    let mut other = sweep("kivi-4", 1.0, 0.01, &mut rng);
    for point in &mut other {
        point.pass.repeats_s[0] += 0.01;
    }
    points.extend(other);
    let kind = |options: &Options| fit(&points, options).models[1].kind;
    assert_eq!(kind(&Options::default()), Kind::Own);
    assert_eq!(kind(&Options { calibrate: vec!["kivi-4".into()] }), Kind::Calibrated);
    let mut alike = sweep("fp16", 1.0, 0.01, &mut rng);
    alike.extend(sweep("kivi-4", 0.9, 0.01, &mut rng));
    assert_eq!(fit(&alike, &Options::default()).models[1].kind, Kind::Calibrated);
}

#[test]
fn few_points_without_a_baseline_are_named_not_fitted() {
    let points: Vec<Observation> =
        [1, 2, 4].map(|b| seen("kivi-4", decode(b, 100.0), vec![1.0])).to_vec();
    let fit = fit(&points, &Options::default());
    assert!(fit.models.is_empty());
    assert_eq!(fit.unfit[0].n_points, 3);
    assert!(fit.unfit[0].reason.starts_with("expected 4 shapes"), "{:?}", fit.unfit);
}

/// A bump that no sum of costs has, on a kernel measured often enough: corrected where that helps.
#[test]
fn repeated_points_of_a_bump_are_corrected_locally() {
    let mut points = Vec::new();
    for batch in [1, 2, 4, 8, 16, 32, 64, 128] {
        for step in 0..10 {
            let work = decode(
                batch,
                64.0 * f64::from(1 << (step / 2)) * (1.0 + f64::from(step % 2) / 2.0),
            );
            let bump = 1.0 + 0.2 * (work.attended / work.batch).ln().sin();
            let time_s = truth(&work) * bump;
            points.push(seen("fp16", work, vec![time_s, time_s * 1.001, time_s * 0.999]));
        }
    }
    let with = only(&points);
    assert!(with.residuals.is_some());
    // Single shots may be noise, however many.
    points.iter_mut().for_each(|point| point.pass.repeats_s.truncate(1));
    let without = only(&points);
    assert!(without.residuals.is_none());
    let mape = |model: &Model| model.errors.unwrap().mape_pct;
    assert!(mape(&with) < 0.7 * mape(&without), "{} {}", mape(&with), mape(&without));
}

/// 8 x 10 shapes, three repeats each, with a bump that no sum of costs has, and 5 % by which each shape differs from its neighbours.
fn peculiar(method: &str, factor: f64, longer: f64) -> Vec<Observation> {
    let noise = Normal::<f64>::new(0.0, 0.05).unwrap();
    let mut rng = stats::seeded(11);
    let mut out = Vec::new();
    for batch in [1, 2, 4, 8, 16, 32, 64, 128] {
        for step in 0..10 {
            let kv_len = 64.0 * f64::from(1 << (step / 2)) * (1.0 + f64::from(step % 2) / 2.0);
            let work = decode(batch, kv_len * longer);
            let bump = 1.0 + 0.3 * (work.attended / work.batch).ln().sin();
            let time_s = factor * truth(&work) * bump * noise.sample(&mut rng).exp();
            out.push(seen(method, work, vec![time_s; 3]));
        }
    }
    out
}

/// A second load at nearly the same lengths does not tell how well a new shape is predicted.
#[test]
fn a_copy_of_a_shape_is_held_out_with_it() {
    let mut points = peculiar("fp16", 1.0, 1.0);
    points.extend(peculiar("fp16", 1.0, 1.002));
    let model = only(&points);
    assert!(model.residuals.is_some());
    assert!(model.errors.is_some_and(|errors| errors.mape_pct > 3.0), "{:?}", model.errors);
}

/// What is peculiar to a shape is in the baseline's point there and in the method's.
#[test]
fn the_baseline_does_not_tell_of_the_shape_that_is_held_out() {
    let mut points = peculiar("fp16", 1.0, 1.0);
    points.extend(peculiar("kivi-4", 0.8, 1.0));
    let models = fit(&points, &Options { calibrate: vec!["kivi-4".into()] }).models;
    assert!(models[0].residuals.is_some());
    let kivi = &models[1];
    assert_eq!(kivi.kind, Kind::Calibrated);
    assert!(kivi.errors.is_some_and(|errors| errors.mape_pct > 3.0), "{:?}", kivi.errors);
    assert!(kivi.null.is_some_and(|null| null.p95_pct > 30.0), "{:?}", kivi.null);
}

/// Of 24 points of a method that keeps 512 tokens four differ in what is read.
#[test]
fn lengths_beyond_the_budget_are_one_shape() {
    let mut points = sweep("fp16", 1.0, 0.01, &mut stats::seeded(12));
    for batch in [1, 2, 4, 8] {
        for kv_len in [512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0] {
            let work = Work::decode((0..batch).map(|_| kv_len), Some(512.0));
            let mut one = seen("h2o", work, vec![0.01 + truth(&work)]);
            one.budget = Some(512.0);
            points.push(one);
        }
    }
    let models = fit(&points, &Options::default()).models;
    assert_eq!((models[1].n_points, models[1].kind), (24, Kind::Calibrated));
}

#[test]
fn a_kernel_gets_more_terms_where_they_help() {
    let mut points = Vec::new();
    for batch in [1, 2, 4, 8] {
        for kv_len in [256.0, 512.0, 1024.0, 2048.0] {
            let time_s = 1e-5 + 1e-8 * kv_len + 1e-9 * kv_len * f64::from(batch);
            let mut point = seen("fp16", decode(batch, kv_len), vec![time_s]);
            point.subject = subject(Source::Kernel);
            points.push(point);
        }
    }
    let model = only(&points);
    assert_eq!(model.terms, Terms::Kernel);
    assert!(model.errors.is_some_and(|errors| errors.mape_pct < 1e-6));
}

fn with_prefill() -> Vec<Observation> {
    let mut rng = stats::seeded(6);
    let mut points = sweep("fp16", 1.0, 0.02, &mut rng);
    for chunk in [64.0, 128.0, 256.0, 512.0, 1024.0] {
        let work = Work::prefill([(chunk, 0.0)]);
        points.push(seen("fp16", work, vec![0.015 + 1e-4 * chunk, 0.015 + 1.01e-4 * chunk]));
    }
    points
}

#[test]
fn a_mixed_pass_has_one_overhead() {
    let file = ModelFile::new(Vec::new(), fit(&with_prefill(), &Options::default()).models);
    let steps = file.steps("model", "fp16").unwrap();
    let (prompts, tokens) = (Work::prefill([(512.0, 0.0)]), decode(8, 1000.0));
    let (one, other) = (steps.step_s(Some(&prompts), None), steps.step_s(None, Some(&tokens)));
    let both = steps.step_s(Some(&prompts), Some(&tokens));
    let overhead = |model: &Model| model.curve().overhead_s();
    let shared = overhead(steps.prefill).min(overhead(steps.decode));
    assert!((both - (one + other - shared)).abs() < 1e-12 && shared > 0.0);
    assert!(file.steps("model", "kivi-4").is_none());
}

/// A method that is faster at short lengths and slower at long ones: the choice changes, and a static one pays for it.
#[test]
fn choices_by_a_good_model_beat_the_best_static_one() {
    let mut points = Vec::new();
    for batch in [1, 2, 4, 8] {
        for kv_len in [128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0] {
            let work = decode(batch, kv_len);
            points.push(seen("fp16", work, vec![0.01 + 1e-6 * work.attended]));
            points.push(seen("kivi-4", work, vec![0.011 + 5e-7 * work.attended]));
        }
    }
    let held = eval::held_out(&points);
    let decided = &regret::decisions(&held, Predictor::Roofline)[0];
    assert_eq!((decided.n, decided.n_left_out), (24, 0));
    assert!(decided.regret_pct.0 < 0.01 && decided.best_static.0 > 0.5, "{decided:?}");
    assert_eq!(decided.best_static.1[0].1, "kivi-4");
    assert!(decided.baseline_pct.is_some_and(|regret| regret > decided.best_static.0));
    assert_eq!(decided.signs_10.0, decided.signs_10.1);
    let null = &regret::decisions(&held, Predictor::Null)[0];
    assert!(null.regret_pct.0 > decided.regret_pct.0);
}

#[test]
fn a_model_is_judged_beside_the_null_on_points_without_the_baseline() {
    let mut rng = stats::seeded(9);
    let mut points = sweep("fp16", 1.0, 0.01, &mut rng);
    points.extend(sweep("kivi-4", 0.5, 0.01, &mut rng));
    let held = eval::held_out(&points);
    let scores = eval::scores(&held, Predictor::Roofline);
    let random = scores.iter().find(|score| score.split == Split::Random).unwrap();
    assert_eq!((random.n, random.phase), (72, Phase::Decode));
    let (own, null) = random.against_null.unwrap();
    assert_eq!(own.n, 36);
    assert!(own.mape_pct < 2.0 && null.mape_pct > 80.0);
    assert!(random.coverage().is_some_and(|share| (0.65..0.95).contains(&share)));
    assert!(random.n_outside.is_some());
    // Neither has intervals; those of the model are not theirs.
    for predictor in [Predictor::Null, Predictor::Interpolate] {
        for score in eval::scores(&held, predictor) {
            assert_eq!((score.covered, score.n_outside), (None, None), "{predictor:?}");
        }
    }
    let four = scores.iter().find(|score| score.split == Split::NewMethod4).unwrap();
    assert!(four.n == 32 && four.roofline.is_some_and(|errors| errors.mape_pct < 3.0));
    let zero = scores.iter().find(|score| score.split == Split::NewMethod0).unwrap();
    assert!(zero.roofline.is_some_and(|errors| errors.mape_pct > 80.0));
    let table = random.interpolate.unwrap();
    assert!(table.n < random.n && table.mape_pct < 40.0, "{table:?}");
}

/// Points of two methods are two cases of a new method, however many there are.
#[test]
fn few_methods_do_not_show_what_a_new_one_gains() {
    let mut rng = stats::seeded(13);
    let mut points = sweep("fp16", 1.0, 0.01, &mut rng);
    points.extend(sweep("kivi-4", 0.5, 0.01, &mut rng));
    points.extend(sweep("kivi-2", 0.4, 0.01, &mut rng));
    let gains = |points: &[Observation], split: Split| {
        let scores = eval::scores(&eval::held_out(points), Predictor::Roofline);
        scores.iter().find(|score| score.split == split).unwrap().gain
    };
    assert_eq!(gains(&points, Split::NewMethod4), None);
    assert!(gains(&points, Split::Random).is_some_and(|gain| gain.low > 50.0));
    for factor in [0.6, 0.7, 0.8] {
        points.extend(sweep(&format!("kivi-{factor}"), factor, 0.01, &mut rng));
    }
    assert_eq!(gains(&points, Split::NewMethod4), None, "five methods");
    points.extend(sweep("kivi-0.45", 0.45, 0.01, &mut rng));
    assert!(gains(&points, Split::NewMethod4).is_some_and(|gain| gain.low > 0.0), "six methods");
}

/// A method that was measured at one batch has nothing to learn from; its baseline's model is not its own.
#[test]
fn a_method_of_one_batch_is_not_predicted_by_its_baseline() {
    let mut rng = stats::seeded(14);
    let mut points = sweep("fp16", 1.0, 0.01, &mut rng);
    let other = sweep("kivi-4", 0.5, 0.01, &mut rng);
    points.extend(other.into_iter().filter(|one| (one.pass.work.batch - 16.0).abs() < 0.5));
    let held = eval::held_out(&points);
    let of = |split: Split| {
        let here = held.iter().filter(move |h| h.split == split && h.method == "kivi-4");
        here.map(|h| h.model.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(of(Split::Batch2x), [false; 6]);
    assert_eq!(of(Split::NewMethod0), [true; 6]);
    let scores = eval::scores(&held, Predictor::Roofline);
    let batch = scores.iter().find(|score| score.split == Split::Batch2x).unwrap();
    assert_eq!((batch.n, batch.n_not_predicted), (12, 6));
    assert!(batch.roofline.is_some_and(|errors| errors.n == 6 && errors.mape_pct < 5.0));
    assert_eq!(batch.against_null, None);
}
