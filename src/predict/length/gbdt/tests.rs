use rand::RngExt as _;

use super::*;

fn one(value: f64) -> Vec<Label> {
    vec![Label { value, weight: 1.0 }]
}

/// y = step of x plus uniform noise on [0, 1]: quantile q of a row is its step + q.
fn steps(n: usize, seed: u64) -> (Columns, Vec<Vec<Label>>, Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut columns = vec![Vec::new(), Vec::new(), Vec::new()];
    let (mut labels, mut truth) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let (x, other): (f64, f64) = (rng.random(), rng.random());
        let step = if x < 0.3 { 0.0 } else { 2.0 + 2.0 * f64::from(u8::from(x > 0.7)) };
        columns[0].push(x as f32);
        columns[1].push(other as f32);
        columns[2].push(1.0);
        truth.push(step);
        labels.push(one(step + rng.random::<f64>()));
    }
    (Columns { columns }, labels, truth)
}

#[test]
fn quantiles_follow_the_steps() {
    let (columns, labels, truth) = steps(800, 1);
    for q in [0.1, 0.5, 0.9] {
        let forest = fit(&columns, &labels, q, &Options::for_rows(800), 2);
        let off: Vec<f64> = (0..800)
            .map(|row| {
                let features: Vec<f32> = columns.columns.iter().map(|c| c[row]).collect();
                (forest.predict(&features) - truth[row] - q).abs()
            })
            .collect();
        let mean = off.iter().sum::<f64>() / 800.0;
        assert!(mean < 0.12, "q {q}: {mean}");
    }
}

#[test]
fn the_same_seed_is_the_same_forest() {
    let (columns, labels, _) = steps(200, 3);
    let of = |seed| fit(&columns, &labels, 0.5, &Options::for_rows(200), seed);
    assert_eq!(of(5), of(5));
    assert_ne!(of(5), of(6));
}

#[test]
fn contributions_add_up() {
    let (columns, labels, _) = steps(300, 4);
    let forest = fit(&columns, &labels, 0.9, &Options::for_rows(300), 1);
    let features: Vec<f32> = columns.columns.iter().map(|column| column[7]).collect();
    let (start, moved) = forest.explain(&features, 3);
    let sum = start + moved.iter().sum::<f64>();
    assert!((sum - forest.predict(&features)).abs() < 1e-4, "{sum}");
    assert!(moved[0].abs() > moved[1].abs() && moved[2].abs() < 1e-12);
}

#[test]
fn labels_without_end_do_not_run_away() {
    let columns = Columns { columns: vec![(0..100_u8).map(f32::from).collect()] };
    let labels: Vec<Vec<Label>> =
        (0..100).map(|i| one(if i % 2 == 0 { f64::INFINITY } else { 3.0 })).collect();
    let forest = fit(&columns, &labels, 0.9, &Options::for_rows(100), 1);
    assert!((forest.predict(&[50.0]) - 3.0).abs() < 1e-5);
}

#[test]
fn nothing_and_constants_are_no_panic() {
    let none = fit(&Columns::default(), &[], 0.5, &Options::for_rows(0), 1);
    assert!(none.predict(&[]).abs() < 1e-9);
    let columns = Columns { columns: vec![vec![1.0; 40]] };
    let forest = fit(&columns, &vec![one(2.0); 40], 0.5, &Options::for_rows(40), 1);
    assert!((forest.predict(&[9.0]) - 2.0).abs() < 1e-6);
}

#[test]
fn weighted_quantiles() {
    let mut values = [(3.0, 1.0), (1.0, 1.0), (2.0, 2.0)];
    assert_eq!(quantile(&mut values, 0.5), Some(2.0));
    assert_eq!(quantile(&mut values, 0.25), Some(1.0));
    assert_eq!(quantile(&mut values, 0.9), Some(3.0));
    assert_eq!(quantile(&mut [], 0.5), None);
}
