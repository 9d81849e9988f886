//! What a saturation search found, from its rows and its rule alone.

use std::collections::BTreeMap;

use super::{
    Point, RunData,
    judgement::{Rate, Saturation},
    requests::Served,
};
use crate::{
    plan::search::{self, Finding, Probe, Step},
    record::manifest::SearchRule,
};

/// One answer a cell that searched, in plan order.
pub(super) fn searches(data: &RunData, served: &Served) -> Vec<Saturation> {
    let rules = &data.manifest.scenario.searches;
    let searched = |cell: &_| found(served, cell, rules);
    data.manifest.cells.iter().filter_map(searched).collect()
}

fn found(
    served: &Served,
    cell: &crate::record::manifest::CellFacts,
    rules: &BTreeMap<String, SearchRule>,
) -> Option<Saturation> {
    let rule = rules.get(&cell.load)?;
    let probes = probes(served, &cell.id);
    let (rate_per_s, overloaded_per_s) = search::bracket(rule, &probes);
    let reason = match search::next(rule, &probes) {
        Step::Stop(reason) => Some(reason),
        Step::Send { .. } => None,
    };
    (!probes.is_empty()).then(|| Saturation {
        point: Point {
            target: cell.target.clone(),
            workload: cell.workload.clone(),
            load: cell.load.clone(),
            method: cell.method.clone(),
        },
        repeat: i64::from(cell.repeat),
        attainment: rule.attainment,
        rate_per_s,
        overloaded_per_s,
        reason,
        probes: probes.iter().map(|probe| rate(rule, probe)).collect(),
    })
}

/// The probes of a cell in the order in which they were made.
fn probes(served: &Served, cell_id: &str) -> Vec<Probe> {
    let mut started: BTreeMap<u64, (i64, Probe)> = BTreeMap::new();
    for (row, facts) in
        served.rows.iter().zip(&served.facts).filter(|(row, _)| row.cell_id == cell_id)
    {
        let Some(rate) = search::probe_rate(&row.load) else { continue };
        let empty = Probe { rate, good: 0, n: 0, n_failed: 0 };
        let (first_ns, probe) = started.entry(rate.to_bits()).or_insert((row.due_ns, empty));
        *first_ns = row.due_ns.min(*first_ns);
        probe.n += 1;
        probe.good += usize::from(facts.within_slo == Some(true));
        probe.n_failed += usize::from(facts.failed);
    }
    let mut probes: Vec<(i64, Probe)> = started.into_values().collect();
    probes.sort_by_key(|(first_ns, _)| *first_ns);
    probes.into_iter().map(|(_, probe)| probe).collect()
}

fn rate(rule: &SearchRule, probe: &Probe) -> Rate {
    Rate {
        rate_per_s: probe.rate,
        n_good: probe.good,
        n: probe.n,
        n_failed: probe.n_failed,
        interval: probe.interval().map(|interval| (interval.low, interval.high)),
        sustained: probe.finding(rule.attainment) == Finding::Sustained,
        decided: probe.decided(rule.attainment).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        analyse::{Reason, judge},
        record::{
            KernelRow, RequestRow, Table,
            manifest::{SloFacts, example},
            parquet::TableRow as _,
        },
    };

    const CELL: &str = "example/srv/fp16/w/sat-slo0.9/0";
    const MS: i64 = 1_000_000;

    /// One probe: the first token of `n_good` requests comes after 10 ms, of the others after a second.
    fn probe(rate: f64, first_id: i64, start_ms: i64, n_good: i64, n: i64) -> Vec<RequestRow> {
        let row = |i: i64| RequestRow {
            cell_id: CELL.to_owned(),
            target: "srv".to_owned(),
            method: "fp16".to_owned(),
            workload: "w".to_owned(),
            load: search::probe_label("sat-slo0.9", rate),
            request_id: first_id + i,
            due_ns: (start_ms + i) * MS,
            sent_ns: Some((start_ms + i) * MS),
            first_token_ns: Some((start_ms + i + if i < n_good { 10 } else { 1000 }) * MS),
            last_token_ns: Some((start_ms + i + 2000) * MS),
            done_ns: Some((start_ms + i + 2000) * MS),
            attempt: 1,
            ..RequestRow::default()
        };
        (0..n).map(row).collect()
    }

    fn data(rows: &[RequestRow]) -> RunData {
        let mut manifest = example("r", &[CELL]);
        manifest.scenario.slo = Some(SloFacts { ttft_ms: Some(100.0), ..SloFacts::default() });
        let rule = SearchRule {
            attainment: 0.9,
            start_rate: 1.0,
            tolerance: 0.5,
            requests_per_probe: 100,
            probe_max_requests: 200,
        };
        manifest.scenario.searches.insert("sat-slo0.9".to_owned(), rule);
        RunData {
            manifest,
            requests: RequestRow::frame(rows).unwrap(),
            warm_up: Table::Requests.empty().unwrap(),
            kernels: KernelRow::frame(&[]).unwrap(),
            telemetry: Table::Telemetry.empty().unwrap(),
            engine_metrics: Table::EngineMetrics.empty().unwrap(),
            finished: BTreeSet::from([CELL.to_owned()]),
            scores: vec![],
            matched: vec![],
            scores_unused: vec![],
        }
    }

    #[test]
    fn the_answer_follows_from_rows() {
        // Doubling to 4, then 3 in doubt: 90 of 100, then 185 of 200, by the part.
        let rows = [
            probe(1.0, 0, 0, 100, 100),
            probe(2.0, 0, 10_000, 100, 100),
            probe(4.0, 0, 20_000, 40, 100),
            probe(3.0, 0, 30_000, 90, 100),
            probe(3.0, 100, 40_000, 95, 100),
        ]
        .concat();
        let judgement = judge(&data(&rows)).unwrap();
        let [found] = judgement.searches.as_slice() else { panic!("one search") };
        assert_eq!((found.rate_per_s, found.overloaded_per_s), (Some(3.0), Some(4.0)));
        assert_eq!((found.reason, found.point.load.as_str()), (Some(Reason::Found), "sat-slo0.9"));
        let probes: Vec<_> =
            found.probes.iter().map(|p| (p.rate_per_s, p.n_good, p.n, p.decided)).collect();
        let wanted = [
            (1.0, 100, 100, true),
            (2.0, 100, 100, true),
            (4.0, 40, 100, true),
            (3.0, 185, 200, false),
        ];
        assert_eq!(probes, wanted);
        // Each probe is a point of its own, and no summary stands twice under one id.
        assert_eq!(judgement.requests.len(), 4);
        let ids: BTreeSet<_> =
            judgement.summary.iter().map(|row| (row.cell_id.clone(), row.metric.clone())).collect();
        assert_eq!(ids.len(), judgement.summary.len());
    }

    #[test]
    fn a_search_cut_short_says_so() {
        let judgement = judge(&data(&probe(1.0, 0, 0, 100, 100))).unwrap();
        let found = &judgement.searches[0];
        assert_eq!(
            (found.rate_per_s, found.overloaded_per_s, found.reason),
            (Some(1.0), None, None)
        );
    }
}
