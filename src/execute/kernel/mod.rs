//! Times our own kernels: verifies each, then samples all methods at one shape side by side in alternating order.
//!
//! A block is every method at one shape and repeat. Its kernels are prepared with the same seed, checked against f64,
//! and launched in rounds of one sample each; a read-bandwidth probe takes part in every round, since shared hosts
//! drift by a factor of two within minutes. A kernel that fails its check, or cannot be prepared, is a row with `err`
//! and without a time, and the others go on. Where the kernels of a block do not fit into memory together they are
//! measured in groups, one after another, each beside its own probe samples, and a notice says so.

use std::{collections::BTreeSet, sync::Arc};

use rayon::ThreadPool;

use crate::{
    execute::{Backend, Context},
    kernel::{Kernel, KernelSpec, Op},
    method::Method,
    plan::{self, Cell},
    record::{KernelRow, Row},
    scenario::{Device, Timing},
};

mod lab;
mod memory;
mod order;
mod rounds;
mod row;
mod slowed;
mod step;
pub mod stop;
#[cfg(test)]
mod tests;

pub use lab::{Available, Lab, Labs, MakePool, Open, ReadLengths, ReadState};
pub use step::Lengths;

use rounds::Entrant;
use step::Step;

/// Measures kernel cells.
pub struct KernelBackend {
    labs: Labs,
    /// The device of the block that is measured.
    lab: Arc<Lab>,
    timing: Timing,
    seed: u64,
    told: BTreeSet<String>,
}

/// How far the cells of a block are.
struct Tally {
    taken: Vec<i64>,
    probe_taken: i64,
}

/// What stays the same over the steps of a block.
struct Block<'a> {
    cells: &'a [&'a Cell],
    pool: ThreadPool,
    seed: u64,
}

/// A prepared and verified kernel with the row its samples are copied from.
struct Ready {
    cell: usize,
    kernel: Box<dyn Kernel>,
    template: KernelRow,
}

impl KernelBackend {
    /// `timing` and `seed` are the scenario's.
    pub fn new(labs: Labs, timing: Timing, seed: u64) -> Self {
        Self { lab: Arc::clone(&labs.cpu), labs, timing, seed, told: BTreeSet::new() }
    }
}

impl Backend for KernelBackend {
    fn run(&mut self, cells: &[&Cell], context: &mut Context<'_>) -> anyhow::Result<()> {
        let Some(first) = cells.first() else { return Ok(()) };
        let mut tally = Tally { taken: vec![0; cells.len()], probe_taken: 0 };
        match self.prepare(cells, first, context) {
            Ok((block, steps)) => {
                if !self.all_steps(&block, &steps, &mut tally, context)? {
                    return Ok(());
                }
            }
            Err(error) => self.refuse(cells, &format!("{error:#}"), context)?,
        }
        let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
        context.sink.finished(&ids)?;
        Ok(())
    }
}

impl KernelBackend {
    /// Everything that must be there before the first kernel; an error here is the error of every cell.
    fn prepare<'a>(
        &mut self,
        cells: &'a [&'a Cell],
        first: &Cell,
        context: &Context<'_>,
    ) -> anyhow::Result<(Block<'a>, Vec<Step>)> {
        let target = step::target(first)?;
        if let Some(cell) = cells.iter().find(|cell| cell.task != first.task) {
            anyhow::bail!("{}: expected the same task as {} in one block", cell.id, first.id);
        }
        self.lab = Arc::clone(self.labs.choose(target.device));
        if let Some(missing) = &self.lab.missing {
            anyhow::bail!("device: expected CUDA, got {missing}");
        }
        if target.device == Device::Auto {
            self.tell_missing_gpu(context);
        }
        for notice in self.lab.notices.clone() {
            self.tell(context, notice);
        }
        // Repeats see other data, methods of one repeat the same.
        let seed = plan::cell_seed(self.seed, first);
        let (steps, notice) = step::steps(first, &self.lab, self.timing, seed)?;
        if let Some(notice) = notice {
            self.tell(context, format!("{}: {notice}", first.workload));
        }
        Ok((Block { cells, pool: (self.lab.pool)(target.threads)?, seed }, steps))
    }

    fn tell_missing_gpu(&mut self, context: &Context<'_>) {
        if let Some(missing) = self.labs.gpu.missing.clone() {
            let missing = missing.lines().next().unwrap_or_default().to_owned();
            let text = format!(
                "kernel targets with device = \"auto\" run on the CPU ({}): {missing}",
                self.labs.cpu.device
            );
            self.tell(context, text);
        }
    }

    /// Says a thing once a run.
    fn tell(&mut self, context: &Context<'_>, text: String) {
        if !self.told.contains(&text) {
            context.observer.notice(&text);
            self.told.insert(text);
        }
    }

    /// A block that cannot begin: one row a cell.
    fn refuse(&self, cells: &[&Cell], err: &str, context: &mut Context<'_>) -> anyhow::Result<()> {
        for cell in cells {
            let known = step::steps(cell, &self.lab, self.timing, plan::cell_seed(self.seed, cell))
                .ok()
                .and_then(|(steps, _)| steps.into_iter().next());
            let template = match known {
                Some(step) => row::template(context.run_id, &self.lab, cell, &step),
                None => row::bare(context.run_id, &self.lab, cell),
            };
            context.sink.row(Row::Kernel(row::failure(template, err.to_owned())))?;
        }
        Ok(())
    }

    /// Returns `false` when the stop flag ended the block early.
    fn all_steps(
        &mut self,
        block: &Block<'_>,
        steps: &[Step],
        tally: &mut Tally,
        context: &mut Context<'_>,
    ) -> anyhow::Result<bool> {
        let Some(first) = steps.first() else { return Ok(true) };
        let mut probes = Vec::new();
        for &op in &self.lab.probes {
            probes.extend(self.open_probe(block, first, op, context)?);
        }
        for step in steps {
            let specs = self.specs(block, step);
            let needs: Vec<_> = specs.iter().map(memory::need).collect();
            let seating = memory::seat(&needs, (self.lab.available)());
            if seating.groups.len() > 1 {
                self.tell(context, turns_notice(block, step, seating.groups.len()));
            }
            for (cell, err) in seating.refused {
                let template = self.template(block, cell, step, context);
                context.sink.row(Row::Kernel(row::failure(template, err)))?;
            }
            for group in seating.groups {
                let ready = self.open_group(block, step, &specs, &group, context)?;
                if !self.sample_group(block, step, ready, &mut probes, tally, context)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// One specification a cell: same data, another method.
    fn specs(&self, block: &Block<'_>, step: &Step) -> Vec<KernelSpec> {
        let spec = |cell: &&Cell| self.spec(step, cell.method.ours(), step.op, block.seed);
        block.cells.iter().map(spec).collect()
    }

    fn spec(&self, step: &Step, method: &Method, op: Op, seed: u64) -> KernelSpec {
        let rotation = step.timing.rotate_llc.max(self.lab.rotate_least);
        let rotate_bytes = (self.lab.llc_bytes as f64 * rotation) as u64;
        KernelSpec {
            op,
            method: method.clone(),
            shape: step.shape.clone(),
            seed,
            page: step.page,
            rotate_bytes,
        }
    }

    fn template(
        &self,
        block: &Block<'_>,
        cell: usize,
        step: &Step,
        context: &Context<'_>,
    ) -> KernelRow {
        row::template(context.run_id, &self.lab, block.cells[cell], step)
    }

    /// Prepares and verifies the kernels of a group; those that fail become rows and are left out.
    fn open_group(
        &self,
        block: &Block<'_>,
        step: &Step,
        specs: &[KernelSpec],
        group: &[usize],
        context: &mut Context<'_>,
    ) -> anyhow::Result<Vec<Ready>> {
        let mut ready = Vec::with_capacity(group.len());
        for &cell in group {
            if context.stop.is_raised() {
                break;
            }
            let template = self.template(block, cell, step, context);
            match self.open(&block.pool, &specs[cell], template) {
                Ok((kernel, template)) => ready.push(Ready { cell, kernel, template }),
                Err(failed) => {
                    context.sink.row(Row::Kernel(*failed))?;
                }
            }
        }
        Ok(ready)
    }

    /// A kernel that may be timed and its row, or the row that says why not.
    fn open(
        &self,
        pool: &ThreadPool,
        spec: &KernelSpec,
        template: KernelRow,
    ) -> Result<(Box<dyn Kernel>, KernelRow), Box<KernelRow>> {
        let mut kernel = pool
            .install(|| (self.lab.open)(spec))
            .map_err(|error| Box::new(row::failure(template.clone(), format!("{error:#}"))))?;
        let check = pool
            .install(|| kernel.verify())
            .map_err(|error| Box::new(row::failure(template.clone(), format!("{error:#}"))))?;
        let work = kernel.work();
        let template = KernelRow {
            bytes_moved: i64::try_from(work.bytes_moved).ok(),
            flops: i64::try_from(work.flops).ok(),
            max_rel_err: check.max_rel_err.is_finite().then_some(check.max_rel_err),
            verified: check.passed(),
            lane_instructions: kernel.lane_instructions().and_then(|n| i64::try_from(n).ok()),
            ..template
        };
        if check.passed() {
            return Ok((kernel, template));
        }
        let err = format!(
            "verification failed: expected a relative error of at most {:e}, got {:e}",
            check.gate, check.max_rel_err
        );
        Err(Box::new(row::failure(template, err)))
    }

    /// The probe of a block; without it the block is still measured, and a row says what is missing.
    fn open_probe(
        &self,
        block: &Block<'_>,
        step: &Step,
        op: Op,
        context: &mut Context<'_>,
    ) -> anyhow::Result<Option<Ready>> {
        let spec = self.spec(step, &Method::Fp16, op, block.seed);
        let template = row::probe_template(context.run_id, &self.lab, block.cells[0], (step, op));
        let seating = memory::seat(&[memory::need(&spec)], (self.lab.available)());
        let opened = match seating.refused.into_iter().next() {
            Some((_, err)) => Err(Box::new(row::failure(template, err))),
            None => self.open(&block.pool, &spec, template),
        };
        match opened {
            Ok((kernel, template)) => Ok(Some(Ready { cell: usize::MAX, kernel, template })),
            Err(failed) => {
                let err = failed.err.as_deref().unwrap_or_default();
                context.observer.notice(&format!("{} bandwidth probe: {err}", op.name()));
                context.sink.row(Row::Kernel(*failed))?;
                Ok(None)
            }
        }
    }

    /// Samples what is ready beside the probe and frees it. Returns `false` when the stop flag was raised.
    fn sample_group(
        &self,
        block: &Block<'_>,
        step: &Step,
        mut ready: Vec<Ready>,
        probes: &mut [Ready],
        tally: &mut Tally,
        context: &mut Context<'_>,
    ) -> anyhow::Result<bool> {
        let n_judged = ready.len();
        if n_judged == 0 || context.stop.is_raised() {
            return Ok(!context.stop.is_raised());
        }
        let cells: Vec<usize> = ready.iter().map(|ready| ready.cell).collect();
        let mut entrants: Vec<Entrant<'_>> = ready
            .iter_mut()
            .map(|r| Entrant::new(r.kernel.as_mut(), r.template.clone(), tally.taken[r.cell]))
            .collect();
        for probe in probes {
            let op = (step, probe.kernel.op());
            let here = row::probe_template(context.run_id, &self.lab, block.cells[0], op);
            let template = row::measured_like(here, &probe.template);
            entrants.push(Entrant::new(probe.kernel.as_mut(), template, tally.probe_taken));
        }
        let how = (step.timing, block.cells[0].repeat);
        let state = self.lab.state.as_deref();
        context.observer.timing(true);
        let complete =
            rounds::sample_all(&mut entrants, n_judged, how, (&block.pool, state), context);
        context.observer.timing(false);
        let complete = complete?;
        for (entrant, &cell) in entrants.iter().zip(&cells) {
            tally.taken[cell] = entrant.taken;
        }
        if let Some(probe) = entrants.get(n_judged) {
            tally.probe_taken = probe.taken;
        }
        Ok(complete)
    }
}

fn turns_notice(block: &Block<'_>, step: &Step, groups: usize) -> String {
    format!(
        "{} {}: the kernels do not fit into memory together and are measured in {groups} groups, one after another; \
         drift between groups shows in the probe only",
        block.cells[0].workload,
        step.op.name()
    )
}
