//! Rankings whose answers are known.

use std::collections::BTreeMap;

use rand_distr::{Distribution as _, Normal};

use super::{cells::Contender, *};
use crate::{
    analyse::{RunData, tests::data},
    record::KernelRow,
};

const METHODS: [&str; 3] = ["fp16", "fast", "even"];

/// Milliseconds of a launch: `fast` takes half as long on w1 and twice as long on w2, `even` two thirds on both.
fn duration_ms(method: &str, workload: &str) -> i64 {
    match (method, workload) {
        ("fast", "w1") => 3,
        ("fast", _) => 12,
        ("even", _) => 4,
        _ => 6,
    }
}

fn launches(missing: Option<(&str, &str)>) -> Vec<KernelRow> {
    let mut rows = Vec::new();
    for (workload, method) in ["w1", "w2"].iter().flat_map(|w| METHODS.map(|m| (*w, m))) {
        for (repeat, sample) in (0..3).flat_map(|repeat| (0..6).map(move |sample| (repeat, sample)))
        {
            let gone = missing == Some((method, workload));
            rows.push(KernelRow {
                cell_id: format!("example/cpu/{method}/{workload}/launch/{repeat}"),
                target: "cpu".into(),
                method: method.into(),
                workload: workload.into(),
                load: "launch".into(),
                repeat,
                op: "decode".into(),
                batch: 2,
                kv_len: 64,
                kv_tokens: 128,
                sample: Some(sample),
                duration_ns: (!gone).then(|| duration_ms(method, workload) * 1_000_000),
                bytes_moved: Some(1),
                verified: true,
                err: gone.then(|| "out of memory".to_owned()),
                ..KernelRow::default()
            });
        }
    }
    rows
}

fn run_of(rows: &[KernelRow]) -> RunData {
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.cell_id.as_str()).collect();
    data(&ids.into_iter().collect::<Vec<_>>(), rows, &[])
}

fn ranked(rows: &[KernelRow], metric: &str) -> Ranking {
    let runs = [Run::of(run_of(rows)).unwrap()];
    rank(&runs, metric.parse().unwrap(), None).unwrap()
}

fn of<'a>(ranking: &'a Ranking, name: &str) -> &'a Ranked {
    ranking.ranked.iter().find(|ranked| ranked.name == name).unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn geometric_means_by_hand() {
    let ranking = ranked(&launches(None), "decode_ms_p50");
    let names: Vec<&str> = ranking.ranked.iter().map(|ranked| ranked.name.as_str()).collect();
    assert_eq!(names[0], "even");
    assert_eq!((ranking.n_cells, ranking.n_repeats, ranking.left.len()), (2, 3, 0));
    // Best of w1: fast with 3 ms; of w2: even with 4 ms.
    assert!(close(of(&ranking, "even").to_best.value, (4.0_f64 / 3.0).sqrt()));
    assert!(close(of(&ranking, "fast").to_best.value, 3.0_f64.sqrt()));
    assert!(
        close(of(&ranking, "fast").to_baseline.unwrap().value, 1.0),
        "twice as fast and half as fast"
    );
    assert!(close(of(&ranking, "even").to_baseline.unwrap().value, 1.5));
    assert_eq!(of(&ranking, "fp16").to_baseline, None);
    assert!(close(of(&ranking, "even").in_common.unwrap(), of(&ranking, "even").to_best.value));
    let (low, high) = of(&ranking, "fast").to_baseline.unwrap().interval.unwrap();
    assert!(low < 0.5 && high > 2.0, "two cells that disagree tell nothing: {low} {high}");
    let firsts: f64 = ranking.ranked.iter().filter_map(|ranked| ranked.first).sum();
    assert!(close(firsts, 1.0), "{firsts}");
}

#[test]
fn who_failed_is_said_and_compared_in_common_cells() {
    let ranking = ranked(&launches(Some(("fast", "w2"))), "decode_ms_p50");
    let fast = of(&ranking, "fast");
    assert_eq!((fast.n_cells, ranking.n_cells), (1, 2));
    assert!(close(fast.to_best.value, 1.0), "it is the best where it ran");
    assert!(close(of(&ranking, "even").in_common.unwrap(), 4.0 / 3.0), "w1 alone");
    let [left] = ranking.left.as_slice() else { panic!("{:?}", ranking.left) };
    assert_eq!(
        (left.method.as_str(), left.place.as_str(), left.n, left.of),
        ("fast", "w2/launch", 3, 3)
    );
    assert!(left.why.contains("out of memory"), "{}", left.why);
}

#[test]
fn a_cell_in_which_everybody_failed_is_not_forgotten() {
    let mut rows = launches(None);
    for row in rows.iter_mut().filter(|row| row.workload == "w2") {
        (row.duration_ns, row.err) = (None, Some("no such device".to_owned()));
    }
    let ranking = ranked(&rows, "decode_ms_p50");
    assert_eq!((ranking.n_cells, ranking.left.len()), (1, 3), "{:?}", ranking.left);
}

#[test]
fn a_sample_too_small_is_told() {
    let ranking = ranked(&launches(None), "decode_ms_p99");
    assert!(ranking.ranked.is_empty());
    assert_eq!(ranking.left.len(), 6);
    assert!(ranking.left.iter().all(|left| left.why == "n too small for decode_ms_p99: 18 of 368"));
}

#[test]
fn repeats_of_two_runs_add_up_and_another_baseline_is_refused() {
    let run = || Run::of(run_of(&launches(None))).unwrap();
    let ranking = rank(&[run(), run()], "decode_ms_mean".parse().unwrap(), None).unwrap();
    assert_eq!((ranking.n_cells, ranking.n_repeats), (2, 6));
    let mut other = run_of(&launches(None));
    other.manifest.scenario.baseline = "even".to_owned();
    let runs = [run(), Run::of(other).unwrap()];
    let error = one_baseline(&runs).unwrap_err().to_string();
    assert!(error.contains("got fp16 in r and even in r"), "{error}");
}

/// Twelve cells, three repeats each: the ratio of a cell scatters by 10 % around 1.25, repeats by 3 %.
#[test]
fn the_true_ratio_is_covered() {
    let (between, within) =
        (Normal::new(1.25_f64.ln(), 0.1).unwrap(), Normal::new(0.0, 0.03).unwrap());
    let metric: Metric = "decode_ms_mean".parse().unwrap();
    let mut rng = stats::seeded(3);
    let (mut held, n_draws) = (0, 60);
    for _ in 0..n_draws {
        let cells: Vec<Cell> = (0..12)
            .map(|number| {
                let log = between.sample(&mut rng);
                let mut turns = |centre: f64| -> BTreeMap<cells::Turn, Vec<f64>> {
                    (0..3)
                        .map(|repeat| {
                            ((0, repeat), vec![f64::exp(centre + within.sample(&mut rng))])
                        })
                        .collect()
                };
                let contender = |name: &str, turns| Contender {
                    name: name.into(),
                    method: name.into(),
                    target: "cpu".into(),
                    turns,
                };
                let spot = Spot { workload: format!("w{number}"), ..Spot::default() };
                let contenders = vec![contender("fp16", turns(log)), contender("int4", turns(0.0))];
                Cell { spot, contenders }
            })
            .collect();
        let ranked = Field::new(&cells, &metric, "fp16", "fp16-aa").ranked(&mut rng);
        let int4 = ranked.iter().find(|ranked| ranked.name == "int4").unwrap();
        let (low, high) = int4.to_baseline.unwrap().interval.unwrap();
        held += usize::from(low <= 1.25 && 1.25 <= high);
    }
    let share = held as f64 / f64::from(n_draws);
    assert!((0.88..=1.0).contains(&share), "{share}");
}
