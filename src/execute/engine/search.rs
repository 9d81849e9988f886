//! A saturation search: probes at rates that [`crate::plan::search`] chooses, each a cell's worth of requests of its own. All of
//! them become rows of the one cell, told apart by their `load`.

use super::{
    Context, EngineBackend, Prepared, health::ClientHealth, health::Probe as Watch, health::Tally,
    row,
};
use crate::{
    plan::{
        Arrival, Cell, Task,
        search::{Probe, Step, next, probe_label},
    },
    record::{
        Row,
        manifest::{SearchRule, SloFacts},
    },
};

/// A search under way.
struct Search<'a> {
    cell: &'a Cell,
    slo: SloFacts,
    probes: Vec<Probe>,
    /// How the client fared in the probe where it fared worst: a mean over probes would hide that one, and starting the
    /// engine is no part of any.
    worst: Option<ClientHealth>,
    n_sent: u64,
}

impl EngineBackend {
    /// Runs a search; whether it came to its end.
    pub(super) fn search(
        &mut self,
        cell: &Cell,
        (rule, slo): (&SearchRule, SloFacts),
        context: &mut Context<'_>,
    ) -> anyhow::Result<bool> {
        let mut search = Search { cell, slo, probes: Vec::new(), worst: None, n_sent: 0 };
        while let Step::Send { rate, n } = next(rule, &search.probes) {
            if !self.probe(&mut search, rate, n, context)? {
                break;
            }
        }
        self.health.extend(search.worst);
        Ok(!context.stop.is_raised())
    }

    /// Sends `n` more requests at a rate; whether the search can go on.
    fn probe(
        &mut self,
        search: &mut Search<'_>,
        rate: f64,
        n: usize,
        context: &mut Context<'_>,
    ) -> anyhow::Result<bool> {
        let again = search.probes.last().filter(|last| last.rate.to_bits() == rate.to_bits());
        let n_before = again.map_or(0, |last| last.n);
        let cell = probe_cell(search.cell, rate, n);
        let mut prepared = match self.prepare(&cell, &batch(&cell, n_before), context)? {
            Ok(prepared) => prepared,
            Err(_) if context.stop.is_raised() => return Ok(false),
            Err(text) => {
                let row = row::without_request(context.run_id, &cell, context.clock.now_ns(), text);
                context.sink.row(Row::Request(row))?;
                return Ok(false);
            }
        };
        prepared.requests.iter_mut().for_each(|request| request.id += n_before as u64);
        if search.n_sent == 0 {
            self.warm_up(&prepared, context)?;
        }
        if n_before == 0 {
            search.probes.push(Probe { rate, good: 0, n: 0, n_failed: 0 });
        }
        self.record_probe(search, &prepared, context)?;
        Ok(!context.stop.is_raised())
    }

    fn record_probe(
        &self,
        search: &mut Search<'_>,
        prepared: &Prepared<'_>,
        context: &mut Context<'_>,
    ) -> anyhow::Result<()> {
        let Search { cell, slo, probes, worst, n_sent } = search;
        let (watch, mut tally) = (Watch::start(&self.shards)?, Tally::default());
        let total = *n_sent + prepared.requests.len() as u64;
        self.record(prepared, None, &mut tally, context, &mut |row, observer| {
            if let Some(probe) = probes.last_mut() {
                probe.n += 1;
                probe.good += usize::from(slo.holds(row));
                probe.n_failed += usize::from(row.err.is_some());
            }
            *n_sent += 1;
            observer.progress(*n_sent, total);
        })?;
        let health = watch.finish(&cell.id, &self.shards, &tally);
        if worst.as_ref().is_none_or(|worst| health.is_worse_than(worst)) {
            *worst = Some(health);
        }
        Ok(())
    }
}

/// The cell as a Poisson load of this rate.
fn probe_cell(cell: &Cell, rate: f64, n: usize) -> Cell {
    let mut probe = cell.clone();
    probe.load = probe_label(&cell.load, rate);
    if let Task::Serve { workload, arrival, .. } = &mut probe.task {
        *workload = workload.with_requests(n);
        *arrival = Arrival::Poisson { rate };
    }
    probe
}

/// More requests at one rate are other requests.
fn batch(probe: &Cell, n_before: usize) -> Cell {
    let mut batch = probe.clone();
    if n_before > 0 {
        batch.load = format!("{}+{n_before}", probe.load);
    }
    batch
}
