//! Which methods of a scenario compress nothing, so that what they do to answers is noise.

use std::collections::BTreeMap;

use super::{EngineTarget, KvSetting, Scenario, TargetKind};

/// In what a control differs from the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Control {
    /// In nothing: the A/A control, or the same settings under another name.
    Again,
    /// In the sampling seed.
    Seed,
    /// In the sampling temperature, by this much. Not noise, but a yardstick: how much does a setting do that nobody worries about?
    Temperature(f64),
    /// In how it stores numbers, with no fewer bits: rounding alone.
    Uncompressed,
}

impl Scenario {
    /// Controls by method: methods that every engine target which runs them keeps as uncompressed as the baseline. A method that is
    /// also timed as a kernel is one of ours and no control.
    pub fn controls(&self) -> BTreeMap<String, Control> {
        let mut controls: BTreeMap<String, Option<Control>> = BTreeMap::new();
        for target in &self.targets {
            let TargetKind::Engine(target) = &target.kind else { continue };
            for method in target.methods.iter().filter(|method| **method != self.baseline) {
                let here = of_target(target, method, &self.baseline);
                let known = controls.entry(method.clone()).or_insert(here);
                if *known != here {
                    *known = None;
                }
            }
        }
        controls.into_iter().filter_map(|(method, control)| Some((method, control?))).collect()
    }
}

impl Scenario {
    /// Whether answers of this workload from this target are as long as was asked for, whatever a method does; the target may carry
    /// the name of a variant.
    pub fn has_fixed_lengths(&self, target: &str, workload: &str) -> bool {
        let fixed = |named: &super::NamedWorkload| {
            let mode = named.kind.mode();
            named.name == workload
                && matches!(mode, super::AnswerMode::Fixed | super::AnswerMode::Forced)
        };
        let ignores = |named: &super::Target| match &named.kind {
            TargetKind::Engine(engine) => {
                let names = engine.variants(&named.name);
                engine.ignore_eos && names.iter().any(|(name, _)| name == target)
            }
            TargetKind::Kernel(_) => false,
        };
        self.workloads.iter().any(fixed) || self.targets.iter().any(ignores)
    }

    /// Bits of one stored number by method, where every engine target that runs it says the same.
    pub fn kv_bits(&self) -> BTreeMap<String, f64> {
        let mut bits: BTreeMap<String, Option<f64>> = BTreeMap::new();
        for target in &self.targets {
            let TargetKind::Engine(target) = &target.kind else { continue };
            for (method, setting) in &target.settings {
                let known = bits.entry(method.clone()).or_insert(setting.bits);
                if *known != setting.bits {
                    *known = None;
                }
            }
        }
        bits.into_iter().filter_map(|(method, bits)| Some((method, bits?))).collect()
    }
}

fn of_target(target: &EngineTarget, method: &str, baseline: &str) -> Option<Control> {
    let (own, theirs) = (target.settings.get(method)?, target.settings.get(baseline)?);
    let (sampled, usual) = (target.sampling(method), target.sampling(baseline));
    let warmer = sampled.temperature - usual.temperature;
    let (same_heat, same_seed) = (warmer.abs() < 1e-9, sampled.seed == usual.seed);
    match (own == theirs, same_heat, same_seed) {
        (true, true, true) => Some(Control::Again),
        // Greedy decoding draws nothing.
        (true, true, false) if usual.temperature > 0.0 => Some(Control::Seed),
        (true, true, false) => Some(Control::Again),
        (true, false, _) => Some(Control::Temperature(warmer)),
        (false, true, _) if no_fewer_bits(target, own, theirs) => Some(Control::Uncompressed),
        _ => None,
    }
}

/// Bits of a number that is stored as it was computed: with fewer the baseline itself is compressed.
const UNCOMPRESSED_BITS: f64 = 16.0;

/// Both are settings of the engine as they stand: words of a method's own may do anything, so a method that has some is no control.
fn no_fewer_bits(target: &EngineTarget, own: &KvSetting, baseline: &KvSetting) -> bool {
    let plain = |setting: &KvSetting| {
        let engine = target.engine.as_ref();
        engine.is_some_and(|engine| engine.kv.values().any(|known| known == setting))
    };
    let wide = own
        .bits
        .zip(baseline.bits)
        .is_some_and(|(own, theirs)| theirs >= UNCOMPRESSED_BITS && own >= theirs);
    wide && plain(own) && plain(baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_nothing_is_a_control() {
        let text = r#"
name = "x"
baseline = "f16"
[target.l.engine]
engine = "llamacpp"
model = "m.gguf"
endpoint = "completions"
temperature = 1.0
[method.f16.engine]
kv = "f16"
[method.f16-seed.engine]
kv = "f16"
seed = 1
[method.f16-warm.engine]
kv = "f16"
temperature = 1.1
[method.bf16.engine]
kv = "bf16"
[method.q8.engine]
kv = "q8_0"
[method.q8-seed.engine]
kv = "q8_0"
seed = 1
[method.flagged.engine]
kv = "f16"
flags = ["--draft-max", "4"]
[workload.w.dataset]
path = "d.json"
format = "sharegpt"
max_tokens = 8
[load.c.closed]
concurrency = [1]
"#;
        let scenario = Scenario::parse(text, "test").unwrap();
        let controls = scenario.controls();
        let known: Vec<&str> = controls.keys().map(String::as_str).collect();
        assert_eq!(known, ["bf16", "f16-aa", "f16-seed", "f16-warm"]);
        assert_eq!(controls["bf16"], Control::Uncompressed);
        assert_eq!((controls["f16-aa"], controls["f16-seed"]), (Control::Again, Control::Seed));
        let Control::Temperature(by) = controls["f16-warm"] else { panic!("{controls:?}") };
        assert!((by - 0.1).abs() < 1e-9);
        let greedy = Scenario::parse(&text.replace("temperature = 1.0", "temperature = 0"), "test");
        assert_eq!(greedy.unwrap().controls()["f16-seed"], Control::Again);
        let compressed = text.replace("baseline = \"f16\"", "baseline = \"q8\"");
        let compressed = Scenario::parse(&compressed, "test").unwrap().controls();
        let known: Vec<&str> = compressed.keys().map(String::as_str).collect();
        assert_eq!(known, ["q8-aa", "q8-seed"], "wider than a compressed baseline is no null");
        assert_eq!(scenario.kv_bits().get("q8"), Some(&8.5));
        assert!(!scenario.has_fixed_lengths("l", "w"));
        let fixed = text.replace("max_tokens = 8", "mode = { fixed = 8 }");
        assert!(Scenario::parse(&fixed, "test").unwrap().has_fixed_lengths("l", "w"));
        let ignoring = text.replace("temperature = 1.0", "ignore_eos = true");
        assert!(Scenario::parse(&ignoring, "test").unwrap().has_fixed_lengths("l", "w"));
        let TargetKind::Engine(target) = &scenario.targets[0].kind else { panic!() };
        assert_eq!(
            target.sampling("f16-seed"),
            super::super::Sampling { temperature: 1.0, seed: 1 }
        );
        assert_eq!(target.sampling("q8"), super::super::Sampling { temperature: 1.0, seed: 0 });
    }
}
