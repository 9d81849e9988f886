//! The loops behind [`super::expand`].

use std::collections::BTreeMap;

use super::{Arrival, Cell, Task, order};
use crate::{
    kernel::Op,
    record::manifest::{SearchRule, SloFacts},
    scenario::{
        EngineTarget, KernelTarget, Load, NamedLoad, NamedMethod, NamedWorkload, Scenario, Target,
        TargetKind, Workload,
    },
};

/// A load with one value of its list.
struct LoadPoint {
    label: String,
    arrival: Arrival,
}

/// What all cells of a block share but method and id.
struct Block<'a> {
    target: &'a str,
    workload: String,
    load: String,
}

struct Builder<'a> {
    scenario: &'a Scenario,
    loads: Vec<LoadPoint>,
    cells: Vec<Cell>,
    block: usize,
}

pub(super) fn cells(scenario: &Scenario) -> Vec<Cell> {
    let slo = scenario.slo.map(Into::into);
    let loads = scenario.loads.iter().flat_map(|load| load_points(load, slo)).collect();
    let mut builder = Builder { scenario, loads, cells: Vec::new(), block: 0 };
    for target in &scenario.targets {
        for workload in &scenario.workloads {
            builder.point(target, workload);
        }
    }
    builder.engines();
    builder.cells
}

pub(super) fn searches(scenario: &Scenario) -> BTreeMap<String, SearchRule> {
    let slo = scenario.slo.map(Into::into);
    let points = scenario.loads.iter().flat_map(|load| load_points(load, slo));
    let rule = |point: LoadPoint| match point.arrival {
        Arrival::Saturation { rule, .. } => Some((point.label, rule)),
        _ => None,
    };
    points.filter_map(rule).collect()
}

fn load_points(load: &NamedLoad, slo: Option<SloFacts>) -> Vec<LoadPoint> {
    let arrivals: Vec<Arrival> = match &load.kind {
        Load::Closed { concurrency } => {
            concurrency.iter().map(|&concurrency| Arrival::Closed { concurrency }).collect()
        }
        Load::Constant { rate } => rate.iter().map(|&rate| Arrival::Constant { rate }).collect(),
        Load::Poisson { rate } => rate.iter().map(|&rate| Arrival::Poisson { rate }).collect(),
        Load::Gamma { rate, burstiness } => {
            let burstiness = *burstiness;
            rate.iter().map(|&rate| Arrival::Gamma { rate, burstiness }).collect()
        }
        // A valid scenario with a search has an SLO.
        &Load::Saturation(rule) => {
            slo.map(|slo| Arrival::Saturation { rule, slo }).into_iter().collect()
        }
        Load::Replay { speed } => speed.iter().map(|&speed| Arrival::Replay { speed }).collect(),
        &Load::Ramp { from, to, over_s, steps } => vec![Arrival::Ramp { from, to, over_s, steps }],
        &Load::Burst { base_rate, burst_rate, period_s, burst_s } => {
            vec![Arrival::Burst { base_rate, burst_rate, period_s, burst_s }]
        }
    };
    // The value holds no `-`, so `<name>-<value>` is unique among loads with unique names and values.
    let point = |arrival: Arrival| LoadPoint {
        label: format!("{}-{}", load.name, arrival.value()),
        arrival,
    };
    arrivals.into_iter().map(point).collect()
}

/// One way in which a server runs: it is started once for it in each repeat.
struct Configuration<'a> {
    /// Target and variant, as cell ids name them.
    name: String,
    target: &'a EngineTarget,
    variant: &'a str,
    method: NamedMethod,
}

fn configurations(scenario: &Scenario) -> Vec<Configuration<'_>> {
    let mut all = Vec::new();
    for target in &scenario.targets {
        let TargetKind::Engine(engine) = &target.kind else { continue };
        for (name, variant) in engine.variants(&target.name) {
            let one =
                |method| Configuration { name: name.clone(), target: engine, variant, method };
            all.extend(engine.methods.iter().filter_map(|name| named(scenario, name)).map(one));
        }
    }
    all
}

/// The method of that name, or the A/A control of the baseline.
fn named(scenario: &Scenario, name: &str) -> Option<NamedMethod> {
    let known = |wanted: &str| scenario.methods.iter().find(|method| method.name == wanted);
    let of =
        |method: &NamedMethod| NamedMethod { name: name.to_owned(), method: method.method.clone() };
    let control =
        || (name == format!("{}-aa", scenario.baseline)).then(|| known(&scenario.baseline))?;
    known(name).or_else(control).map(of)
}

impl Builder<'_> {
    fn point(&mut self, target: &Target, workload: &NamedWorkload) {
        match (&target.kind, &workload.kind) {
            (TargetKind::Kernel(kernel), Workload::Shapes { ops, batch, kv_len }) => {
                for &op in ops {
                    for &batch in batch {
                        for &kv_len in kv_len {
                            self.launch(&target.name, kernel, &workload.name, (op, batch, kv_len));
                        }
                    }
                }
            }
            (TargetKind::Kernel(kernel), _) => self.replay(&target.name, kernel, workload),
            (TargetKind::Engine(_), _) => {}
        }
    }

    fn launch(
        &mut self,
        target: &str,
        kernel: &KernelTarget,
        workload: &str,
        (op, batch, kv_len): (Op, usize, usize),
    ) {
        for &tensor_parallel in &kernel.tensor_parallel {
            let task = Task::Launch { target: kernel.clone(), op, batch, kv_len, tensor_parallel };
            let workload =
                format!("{workload}-{}-b{batch}-kv{kv_len}{}", op.name(), task.variant());
            let block = Block { target, workload, load: "launch".to_owned() };
            self.kernel_blocks(&block, kernel, &task);
        }
    }

    fn replay(&mut self, target: &str, kernel: &KernelTarget, workload: &NamedWorkload) {
        for (label, batch) in self.closed_loads() {
            for &tensor_parallel in &kernel.tensor_parallel {
                let task = Task::Replay {
                    target: kernel.clone(),
                    workload: workload.kind.clone(),
                    batch,
                    tensor_parallel,
                };
                let named = format!("{}{}", workload.name, task.variant());
                let block = Block { target, workload: named, load: label.clone() };
                self.kernel_blocks(&block, kernel, &task);
            }
        }
    }

    fn closed_loads(&self) -> Vec<(String, usize)> {
        let closed = |point: &LoadPoint| match point.arrival {
            Arrival::Closed { concurrency } => Some((point.label.clone(), concurrency)),
            _ => None,
        };
        self.loads.iter().filter_map(closed).collect()
    }

    fn kernel_blocks(&mut self, block: &Block<'_>, kernel: &KernelTarget, task: &Task) {
        let methods = self.kernel_methods(kernel);
        for repeat in 0..self.scenario.repeats {
            for method in &methods {
                self.push(block, method.clone(), repeat, task.clone());
            }
            self.block += 1;
        }
    }

    fn kernel_methods(&self, kernel: &KernelTarget) -> Vec<NamedMethod> {
        let mut methods: Vec<_> =
            kernel.methods.iter().filter_map(|name| self.method(name)).collect();
        if self.scenario.aa_control
            && let Some(baseline) =
                methods.iter().find(|method| method.name == self.scenario.baseline)
        {
            let name = format!("{}-aa", baseline.name);
            methods.push(NamedMethod { name, method: baseline.method.clone() });
        }
        methods
    }

    fn method(&self, name: &str) -> Option<NamedMethod> {
        self.scenario.methods.iter().find(|method| method.name == name).cloned()
    }

    /// Every engine cell, one configuration after another in the scenario's order.
    fn engines(&mut self) {
        let configurations = configurations(self.scenario);
        for (repeat, configuration) in order::in_order(self.scenario, &configurations) {
            for workload in &self.scenario.workloads {
                if !matches!(workload.kind, Workload::Shapes { .. }) {
                    self.serve(configuration, workload, repeat);
                }
            }
        }
    }

    fn serve(&mut self, at: &Configuration<'_>, workload: &NamedWorkload, repeat: u32) {
        for i in 0..self.loads.len() {
            let (label, arrival) = (self.loads[i].label.clone(), self.loads[i].arrival);
            let task = Task::Serve {
                target: Box::new(at.target.clone()),
                variant: at.variant.to_owned(),
                workload: workload.kind.clone(),
                arrival,
            };
            let block = Block { target: &at.name, workload: workload.name.clone(), load: label };
            self.push(&block, at.method.clone(), repeat, task);
            self.block += 1;
        }
    }

    fn push(&mut self, block: &Block<'_>, method: NamedMethod, repeat: u32, task: Task) {
        let id = format!(
            "{}/{}/{}/{}/{}/r{repeat}",
            self.scenario.name, block.target, method.name, block.workload, block.load
        );
        self.cells.push(Cell {
            id,
            block: self.block,
            target: block.target.to_owned(),
            method,
            workload: block.workload.clone(),
            load: block.load.clone(),
            repeat,
            task,
        });
    }
}
