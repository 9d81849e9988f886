//! Step times from a file of `kvbench predict fit`.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::bail;

use super::Fitted;
use crate::predict::{Model, ModelFile, Phase, Source, StepTimes, Work};

/// Models of a method. Prefill was fitted to times to the first token at the client, so its overhead holds the way to the engine and
/// back, which delays a request and keeps no engine busy: what it has more than decode's is taken for that.
struct Times {
    prefill: Model,
    decode: Model,
    way_s: f64,
}

fn overhead_s(model: &Model) -> f64 {
    model.coefficients.first().map_or(0.0, |cost| cost.value)
}

impl StepTimes for Times {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        let prompts = prefill.map(|work| self.prefill.time_s(work) - self.way_s);
        let tokens = decode.map(|work| self.decode.time_s(work));
        match (prompts, tokens) {
            (Some(prompts), Some(tokens)) => {
                let shared = overhead_s(&self.decode).min(overhead_s(&self.prefill) - self.way_s);
                (prompts + tokens - shared).max(prompts.max(tokens))
            }
            (one, other) => one.or(other).unwrap_or(0.0),
        }
    }
}

/// Step times of a method on the one engine of the file that `subject` calls, see [`Subject::is_called`](crate::predict::Subject::is_called). `budget` is the most tokens of a sequence that
/// the method keeps in the run that is replayed, `None` where it keeps all: times of another budget are those of another method.
///
/// # Errors
/// No such engine or several, times of one attention layer alone, or an engine without prefill or decode of the method at that budget.
pub fn from_file(
    file: &ModelFile,
    subject: &str,
    method: &str,
    budget: Option<u64>,
) -> anyhow::Result<Fitted> {
    let words = engine_of(file, subject, method)?;
    let of = |phase: Phase| {
        let own = file.models.iter().filter(|model| is_engine_of(model, method));
        own.filter(|model| model.subject.words() == words).filter(move |model| model.phase == phase)
    };
    // Prefill has no budget: what a method evicts is evicted after it.
    let (Some(prefill), Some(_)) = (of(Phase::Prefill).next(), of(Phase::Decode).next()) else {
        return Err(not_there(file, method));
    };
    let bits = budget.map(|most| (most as f64).to_bits());
    let Some(decode) = of(Phase::Decode).find(|model| model.budget.map(f64::to_bits) == bits)
    else {
        let kept = |most: Option<f64>| most.map_or("all".to_owned(), |most| most.to_string());
        let found: BTreeSet<String> = of(Phase::Decode).map(|model| kept(model.budget)).collect();
        bail!(
            "--model: expected decode of {method} that keeps {} tokens of a sequence, as in this run, got {}\n  hint: fit a run whose {method} keeps as many, or leave --model out",
            kept(budget.map(|most| most as f64)),
            listed(&found)
        );
    };
    let (prefill, decode) = (prefill.clone(), decode.clone());
    let way_s = (overhead_s(&prefill) - overhead_s(&decode)).max(0.0);
    Ok(Fitted {
        source: format!("{words}, from the file"),
        times: Arc::new(Times { prefill, decode, way_s }),
        request_s: way_s,
        turnaround_s: 0.0,
        calibration: None,
    })
}

fn is_engine_of(model: &Model, method: &str) -> bool {
    model.method == method && model.subject.source != Source::Kernel
}

/// The words of the one engine that is meant. A kernel's subject is passed over: an engine's step is many layers and what lies between
/// them, so the times of one are none of its steps.
fn engine_of(file: &ModelFile, subject: &str, method: &str) -> anyhow::Result<String> {
    let called = file.subjects(subject)?;
    let meant = |model: &&Model| called.contains(&model.subject);
    let words = |of: &dyn Fn(&&Model) -> bool| -> BTreeSet<String> {
        file.models.iter().filter(meant).filter(of).map(|model| model.subject.words()).collect()
    };
    let engines = words(&|model| is_engine_of(model, method));
    if engines.len() > 1 {
        bail!(
            "--model: expected one subject of {method}, got {}: {}\n  hint: say which with --subject",
            engines.len(),
            listed(&engines)
        );
    }
    let kernels = words(&|model| model.method == method);
    match engines.into_iter().next() {
        Some(words) => Ok(words),
        None if kernels.is_empty() => Err(not_there(file, method)),
        None => bail!(
            "--model: expected times of whole steps of {method}, got those of one attention layer: {}\n  hint: fit a run of the engine, or leave --model out",
            listed(&kernels)
        ),
    }
}

fn not_there(file: &ModelFile, method: &str) -> anyhow::Error {
    let all = file.models.iter().map(|m| format!("{} of {}", m.method, m.subject.words()));
    anyhow::anyhow!(
        "--model: expected prefill and decode of {method}, got {}\n  hint: fit a run in which {method} met an idle engine, or leave --model out",
        listed(&all.collect())
    )
}

fn listed(words: &BTreeSet<String>) -> String {
    words.iter().cloned().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::{
        Observation, Pass, Source, Subject,
        fit::{Options, fit},
    };

    fn file(engines: &[&str]) -> ModelFile {
        let mut observations = Vec::new();
        for engine in engines {
            for i in 1..20 {
                let n = f64::from(i * 10);
                let batch = 1 + i as usize % 4;
                // 5 ms of overhead at the client, 1 ms of it the engine's.
                let passes = [
                    (Work::prefill([(n, 0.0)]), 0.005 + 1e-4 * n),
                    (
                        Work::decode(vec![n; batch], None),
                        0.001 + 0.002 * batch as f64 + 1e-6 * n * batch as f64,
                    ),
                ];
                observations.extend(passes.map(|(work, time_s)| Observation {
                    subject: Subject {
                        source: Source::Engine,
                        target: None,
                        engine: (*engine).to_owned(),
                        device: "cpu".to_owned(),
                        model: "m".to_owned(),
                        tensor_parallel: 1,
                        started_with: None,
                    },
                    method: "fp16".to_owned(),
                    is_baseline: true,
                    budget: None,
                    pass: Pass { work, repeats_s: vec![time_s; 2] },
                    rows: Vec::new(),
                }));
            }
        }
        ModelFile::new(Vec::new(), fit(&observations, &Options::default()).models)
    }

    #[test]
    fn the_way_is_no_time_of_the_engine() {
        let fitted = from_file(&file(&["a 1"]), "", "fp16", None).unwrap();
        assert!((fitted.request_s - 0.004).abs() < 1e-6, "{}", fitted.request_s);
        let (prompt, token) = (Work::prefill([(50.0, 0.0)]), Work::decode([50.0], None));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(fitted.step_s(Some(&prompt), None), 0.001 + 0.005));
        assert!(close(fitted.step_s(None, Some(&token)), 0.003_05));
        assert!(close(fitted.step_s(Some(&prompt), Some(&token)), 0.001 + 0.005 + 0.002_05));
    }

    #[test]
    fn one_subject_is_needed() {
        let of = |subject: &str, method: &str| {
            from_file(&file(&["a 1", "b 2"]), subject, method, None)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(of("b 2", "fp16"), Ok(()));
        assert!(of("", "fp16").unwrap_err().contains("--subject"));
        assert_eq!(of("B 2", "fp16"), Ok(()), "in any case");
        let none = of("c 3", "fp16").unwrap_err();
        assert!(none.starts_with("--subject: expected a part of one of the subjects"), "{none}");
        assert!(of("", "int8").unwrap_err().contains("prefill and decode of int8"));
    }

    #[test]
    fn one_attention_layer_is_no_engine() {
        let mut file = file(&["a 1", "cpu-avx2"]);
        let layer = |model: &&mut Model| model.subject.engine == "cpu-avx2";
        file.models.iter_mut().filter(layer).for_each(|m| m.subject.source = Source::Kernel);
        let fitted = from_file(&file, "", "fp16", None).unwrap();
        assert!(fitted.source.contains("a 1"), "the engine is meant: {}", fitted.source);
        let error = from_file(&file, "avx2", "fp16", None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("one attention layer") && error.contains("cpu-avx2"), "{error}");
    }

    #[test]
    fn times_of_another_budget_are_refused() {
        let mut file = file(&["a 1"]);
        let own = file.models.iter().find(|model| model.phase == Phase::Decode).unwrap().clone();
        for (budget, slower) in [(512.0, 2.0), (1024.0, 3.0)] {
            let mut model = Model { budget: Some(budget), ..own.clone() };
            model.coefficients.iter_mut().for_each(|cost| cost.value *= slower);
            file.models.insert(0, model);
        }
        let token = Work::decode([50.0], None);
        for (budget, times) in [(None, 1.0), (Some(512), 2.0), (Some(1024), 3.0)] {
            let fitted = from_file(&file, "", "fp16", budget).unwrap();
            let took = fitted.step_s(None, Some(&token));
            assert!((took - times * 0.003_05).abs() < 1e-6, "{budget:?}: {took}");
        }
        let error = from_file(&file, "", "fp16", Some(2048)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("keeps 2048") && error.contains("got 1024; 512; all"), "{error}");
    }
}
