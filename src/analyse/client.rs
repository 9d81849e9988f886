//! How the load client fared, cell by cell: what the verdicts were judged by, for a table.

use serde_json::Value;

use super::{Point, RunData, judgement::Verdict};

/// The client in one cell; `None` is unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientView {
    /// Which.
    pub point: Point,
    /// Repeat, from 0.
    pub repeat: i64,
    /// As it judged itself.
    pub verdict: Verdict,
    /// How long an arrival would have waited for its stamp (p99), on the receiving thread where that was worst.
    pub lag_p99_ms: Option<f64>,
    /// How late the load thread woke (p99).
    pub load_lag_p99_ms: Option<f64>,
    /// How late requests were sent (p99).
    pub schedule_lag_p99_ms: Option<f64>,
    /// Connections opened by measured requests.
    pub n_connects: Option<i64>,
    /// How long they took to open (p99).
    pub connect_p99_ms: Option<f64>,
    /// Part of the time for which the busiest receiving thread ran, 0 to 1.
    pub thread_share_max: Option<f64>,
    /// Part of all cores that kvbench used, 0 to 1.
    pub cpu_share: Option<f64>,
    /// CPU time of kvbench for each event.
    pub cpu_us_per_event: Option<f64>,
    /// Chunks with output for each read that brought any.
    pub events_per_read: Option<f64>,
}

/// One entry a served cell, in plan order.
pub(super) fn views(data: &RunData) -> Vec<ClientView> {
    let view = |facts: &crate::record::manifest::ClientFacts| {
        let cell = data.manifest.cells.iter().find(|cell| cell.id == facts.cell_id)?;
        let number = |place: &str| facts.measured.pointer(place).and_then(Value::as_f64);
        Some(ClientView {
            point: Point {
                target: cell.target.clone(),
                method: cell.method.clone(),
                workload: cell.workload.clone(),
                load: cell.load.clone(),
            },
            repeat: i64::from(cell.repeat),
            verdict: facts.verdict,
            lag_p99_ms: number("/watchdog_lag/p99_ms"),
            load_lag_p99_ms: number("/load_lag/p99_ms"),
            schedule_lag_p99_ms: number("/schedule_lag/p99_ms"),
            n_connects: facts.measured.get("n_connects").and_then(Value::as_i64),
            connect_p99_ms: number("/connect_time/p99_ms"),
            thread_share_max: number("/thread_share_max"),
            cpu_share: number("/cpu_share"),
            cpu_us_per_event: number("/cpu_us_per_event"),
            events_per_read: number("/events_per_read"),
        })
    };
    let mut views: Vec<ClientView> = data.manifest.client_health.iter().filter_map(view).collect();
    views.sort_by_key(|view| (data.rank(&view.point), view.repeat));
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::manifest::ClientFacts;

    #[test]
    fn what_was_not_measured_stays_unknown() {
        let id = "example/vllm/fp16/chat/closed-1/0";
        let mut data = super::super::tests::data(&[id], &[], &[]);
        let facts = |measured| ClientFacts {
            cell_id: id.to_owned(),
            verdict: Verdict::Suspect,
            reasons: Vec::new(),
            measured,
        };
        let measured = serde_json::json!({
            "watchdog_lag": { "p50_ms": 0.1, "p99_ms": 0.5, "max_ms": 3.0 },
            "connect_time": null, "n_connects": 0, "cpu_us_per_event": 12.5
        });
        data.manifest.client_health = vec![facts(measured)];
        let views = views(&data);
        assert_eq!(views.len(), 1);
        assert_eq!((views[0].lag_p99_ms, views[0].cpu_us_per_event), (Some(0.5), Some(12.5)));
        assert_eq!((views[0].connect_p99_ms, views[0].n_connects), (None, Some(0)));
    }
}
