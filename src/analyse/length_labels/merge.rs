//! Which methods of a scenario are one method sampled with other seeds.

use std::collections::BTreeMap;

use crate::scenario::{EngineTarget, Scenario, TargetKind};

/// By target (with the name of its variant) and method: the method that it is a run of, and its seed beside the repeat's.
pub(super) struct Runs {
    methods: BTreeMap<(String, String), (String, u64)>,
    llms: BTreeMap<String, String>,
}

impl Runs {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let (mut methods, mut llms) = (BTreeMap::new(), BTreeMap::new());
        for target in &scenario.targets {
            let TargetKind::Engine(engine) = &target.kind else { continue };
            let first_of = merged(engine, &scenario.baseline);
            for (name, _) in engine.variants(&target.name) {
                for (method, run) in &first_of {
                    methods.insert((name.clone(), method.clone()), run.clone());
                }
                let started = engine.start().map(|start| start.model.clone());
                if let Some(llm) = engine.model.clone().or(started) {
                    llms.insert(name, llm);
                }
            }
        }
        Self { methods, llms }
    }

    /// The method that a row counts for, and the seed that its method adds; a method that nothing is known of is itself.
    pub(super) fn of_method<'a>(&'a self, target: &str, method: &'a str) -> (&'a str, u64) {
        let found = self.methods.get(&(target.to_owned(), method.to_owned()));
        found.map_or((method, 0), |(first, seed)| (first, *seed))
    }

    pub(super) fn llm(&self, target: &str) -> Option<String> {
        self.llms.get(target).cloned()
    }
}

/// Each method with the first of those that keep the cache and draw at the same temperature, the baseline before all others. A method
/// with the seed of one before it is no other run, and stays itself: the A/A control, for one.
fn merged(engine: &EngineTarget, baseline: &str) -> BTreeMap<String, (String, u64)> {
    let mut order: Vec<&String> = engine.methods.iter().collect();
    order.sort_by_key(|method| *method != baseline);
    let mut firsts: Vec<(&String, Vec<u64>)> = Vec::new();
    let mut found = BTreeMap::new();
    for method in order {
        let sampling = engine.sampling(method);
        let alike = |other: &str| {
            let settings = (engine.settings.get(method), engine.settings.get(other));
            let same_heat =
                (sampling.temperature - engine.sampling(other).temperature).abs() < 1e-9;
            settings.0.is_some()
                && settings.0 == settings.1
                && same_heat
                && sampling.temperature > 0.0
        };
        let first = firsts
            .iter_mut()
            .find(|(first, seeds)| alike(first.as_str()) && !seeds.contains(&sampling.seed));
        let of = match first {
            Some((first, seeds)) => {
                seeds.push(sampling.seed);
                (*first).clone()
            }
            None => {
                firsts.push((method, vec![sampling.seed]));
                method.clone()
            }
        };
        found.insert(method.clone(), (of, sampling.seed));
    }
    found
}
