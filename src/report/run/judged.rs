//! What was judged beyond the numbers themselves, as tables: the steady parts, the answers, the verdict on each cell.

use super::tables::{columns, count, estimate, percentile, text};
use crate::{
    analyse::{CellVerdict, Judgement, SteadyPoint, TextPoint, Verdict, doubtful},
    report::table::{Table, Value},
    stats::needed_for,
};

/// Steady state, answers against the baseline's, verdict per cell: each only if there is something to say.
pub(super) fn tables(judgement: &Judgement) -> Vec<Table> {
    let mut tables = beside_headline(judgement);
    tables.extend(super::lengths::tables(&judgement.lengths));
    tables.extend(super::forced::tables(&judgement.forced));
    tables.extend(super::quality::tables(&judgement.quality));
    tables.push(verdicts(&judgement.cells));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// Those of them that a terminal shows; it lists doubtful cells by themselves.
pub fn beside_headline(judgement: &Judgement) -> Vec<Table> {
    let tables = [steady(judgement), texts(&judgement.texts)];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

/// Numbers of the steady part beside those of the whole run.
fn steady(judgement: &Judgement) -> Table {
    let names = [
        ("target", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("steady", "repeats"),
        ("share_of_run", "%"),
        ("requests_within", ""),
        ("requests_per_s", ""),
        ("whole_requests_per_s", ""),
        ("output_tokens_per_s", ""),
        ("whole_output_tokens_per_s", ""),
        ("ttft_p50", "ms"),
        ("tpot_p50", "ms"),
        ("e2e_p50", "ms"),
        ("note", ""),
    ];
    let mut table = Table::new("Steady state, without ramp and drain", columns(&names));
    table.rows = judgement.steady.iter().map(|point| steady_row(judgement, point)).collect();
    table
}

fn steady_row(judgement: &Judgement, p: &SteadyPoint) -> Vec<Value> {
    let whole = judgement.requests.iter().find(|whole| whole.point == p.point);
    let p50 = |name: &str| percentile(p.metric(name), 50);
    let note = p.missing.as_ref().map_or(Value::Missing, |why| {
        let without = p.n_repeats - p.n_steady;
        text(&format!("no steady window in {without} of {} repeats: {why}", p.n_repeats))
    });
    vec![
        text(&p.point.target),
        text(&p.point.workload),
        text(&p.point.load),
        text(&p.point.method),
        text(&format!("{} of {}", p.n_steady, p.n_repeats)),
        Value::maybe(p.share.map(|share| 100.0 * share)),
        count(p.n_within),
        estimate(p.requests_per_s),
        estimate(whole.and_then(|whole| whole.requests_per_s)),
        estimate(p.output_tokens_per_s),
        estimate(whole.and_then(|whole| whole.output_tokens_per_s)),
        p50("steady_ttft"),
        p50("steady_tpot"),
        p50("steady_e2e"),
        note,
    ]
}

fn texts(points: &[TextPoint]) -> Table {
    let names = [
        ("target", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("prompts", ""),
        ("excess_bits", "bits/character"),
        ("worse", "prompts"),
        ("p", ""),
        ("unseen_words", "%"),
        ("baseline_unseen_words", "%"),
        ("empty", ""),
        ("loops", ""),
        ("identical", ""),
        ("first_difference_p50", "characters"),
        ("reads_like_baseline", ""),
    ];
    let mut table = Table::new("Answers against the baseline's", columns(&names));
    table.rows = points.iter().map(text_row).collect();
    table
}

fn text_row(p: &TextPoint) -> Vec<Value> {
    let percent = |share: Option<f64>| Value::maybe(share.map(|share| 100.0 * share));
    let beside = |(own, theirs): (usize, usize)| text(&format!("{own} ({theirs})"));
    // Without a prompt to learn from nothing was tested, and a p-value would look as if it had been.
    let p_value = p.excess_bits.map(|_| p.p_value);
    let verdict = match (p.reasons.is_empty(), p.excess_bits) {
        (false, _) => text("NO"),
        (true, Some(_)) => text("yes"),
        (true, None) => Value::Missing,
    };
    vec![
        text(&p.point.target),
        text(&p.point.workload),
        text(&p.point.load),
        text(&p.point.method),
        count(p.n_prompts),
        Value::maybe(p.excess_bits),
        count(p.n_worse),
        Value::maybe(p_value),
        percent(p.unseen_words),
        percent(p.baseline_unseen_words),
        beside(p.n_empty),
        beside(p.n_loops),
        text(&format!("{} of {}", p.n_identical, p.n_compared)),
        middle(p.first_difference, p.n_compared - p.n_identical),
        verdict,
    ]
}

/// A median of `n` values, where they can hold one.
fn middle(value: Option<f64>, n: usize) -> Value {
    Value::percentile(value.filter(|_| n >= needed_for(50)), 50, n)
}

/// How many cells are not VALID and how bad the worst is; `None` where all are.
pub(super) fn doubt(cells: &[CellVerdict]) -> Option<(Verdict, String)> {
    let doubtful = doubtful(cells);
    let worst = doubtful.first()?.verdict;
    let (n, all) = (doubtful.len(), cells.len());
    Some((
        worst,
        format!("{n} of {all} cells are not VALID by themselves: see the table Verdict per cell"),
    ))
}

/// One row a cell: a reader who uses one number must see what speaks against that one.
fn verdicts(cells: &[CellVerdict]) -> Table {
    let names = [("cell", ""), ("verdict", ""), ("reasons", "")];
    let mut table = Table::new("Verdict per cell", columns(&names));
    let row = |cell: &CellVerdict| {
        let reasons = cell.reasons.join("; ");
        let reasons = if reasons.is_empty() { Value::Missing } else { Value::Text(reasons) };
        vec![text(&cell.cell_id), text(&cell.verdict.to_string()), reasons]
    };
    table.rows = cells.iter().map(row).collect();
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analyse::Point,
        report::{Format, render},
    };

    fn point() -> Point {
        let name = str::to_owned;
        Point {
            target: name("srv"),
            workload: name("chat"),
            load: name("c-2"),
            method: name("int8"),
        }
    }

    fn judgement(
        steady: Vec<SteadyPoint>,
        texts: Vec<TextPoint>,
        cells: Vec<CellVerdict>,
    ) -> Judgement {
        Judgement {
            summary: vec![],
            kernels: vec![],
            parallel: vec![],
            requests: vec![],
            searches: vec![],
            comparisons: vec![],
            engines: crate::analyse::Engines::default(),
            steady,
            texts,
            cells,
            warm_ups: vec![],
            clients: vec![],
            lengths: vec![],
            forced: vec![],
            quality: crate::analyse::quality::Quality::default(),
            warnings: vec![],
            verdict: Verdict::Valid,
        }
    }

    #[test]
    fn no_steady_window_is_said_and_its_numbers_are_empty() {
        let without = SteadyPoint {
            point: point(),
            n_repeats: 2,
            n_steady: 0,
            share: None,
            n_within: 0,
            requests_per_s: None,
            output_tokens_per_s: None,
            metrics: vec![],
            missing: Some("at most 1 of 2 requests were in flight together".to_owned()),
        };
        let tables = tables(&judgement(vec![without], vec![], vec![]));
        assert_eq!(tables.len(), 1);
        let csv = render(&tables[0], Format::Csv, false);
        let expected = "srv,chat,c-2,int8,0 of 2,,0,,,,,,,,no steady window in 2 of 2 repeats: at most 1 of 2 requests \
                        were in flight together";
        assert_eq!(csv.lines().nth(1), Some(expected));
    }

    #[test]
    fn garbage_and_doubtful_cells_have_their_reasons() {
        let text = TextPoint {
            point: point(),
            baseline: point(),
            n_prompts: 6,
            n_worse: 6,
            excess_bits: Some(2.5),
            bits: Some(4.5),
            baseline_bits: Some(2.0),
            p_value: 0.015_625,
            unseen_words: Some(0.5),
            baseline_unseen_words: Some(0.125),
            n_empty: (1, 0),
            n_loops: (0, 2),
            n_compared: 6,
            n_identical: 0,
            first_difference: Some(1.5),
            reasons: vec!["answers need more bits".to_owned()],
        };
        let cell = |id: &str, verdict, reasons: &[&str]| CellVerdict {
            cell_id: id.to_owned(),
            verdict,
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        };
        let cells = vec![cell("a", Verdict::Valid, &[]), cell("b", Verdict::Suspect, &["x", "y"])];
        let doubt = doubt(&cells).unwrap();
        assert_eq!(doubt.0, Verdict::Suspect);
        assert!(doubt.1.starts_with("1 of 2 cells"), "{}", doubt.1);
        let tables = tables(&judgement(vec![], vec![text.clone()], cells));
        let [texts, verdicts] = &tables[..] else { panic!("{tables:?}") };
        let row = "srv,chat,c-2,int8,6,2.5,6,0.015625,50.0,12.5,1 (0),0 (2),0 of 6,1.5,NO";
        assert_eq!(render(texts, Format::Csv, false).lines().nth(1), Some(row));
        let csv = render(verdicts, Format::Csv, false);
        assert_eq!(csv.lines().skip(1).collect::<Vec<_>>(), ["a,VALID,", "b,SUSPECT,x; y"]);
        let unknown = TextPoint { excess_bits: None, reasons: vec![], ..text };
        assert_eq!(text_row(&unknown)[14], Value::Missing, "not tested is not passed");
    }
}
