//! Step times from a file of `kvbench predict fit`.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::bail;

use super::Fitted;
use crate::predict::{Model, ModelFile, Phase, StepTimes, Subject, Work};

/// Models of a method. Prefill was fitted to times to the first token at the client, so its overhead holds the way to the engine and
/// back, which delays a request and keeps no engine busy: what it has more than decode's is taken for that.
struct Times {
    prefill: Model,
    decode: Model,
    way_s: f64,
}

fn listed(words: impl Iterator<Item = String>) -> String {
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
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

/// Step times of a method on the one subject of the file that `subject` calls, see [`Subject::is_called`].
///
/// # Errors
/// No such subject or several, or one without prefill or decode of the method.
pub fn from_file(file: &ModelFile, subject: &str, method: &str) -> anyhow::Result<Fitted> {
    let called = file.subjects(subject)?;
    let here = || file.models.iter().filter(|model| called.contains(&model.subject));
    let of_method = || here().filter(|model| model.method == method);
    let subjects: BTreeSet<&Subject> = of_method().map(|model| &model.subject).collect();
    if subjects.len() > 1 {
        bail!(
            "--model: expected one subject of {method}, got {}: {}\n  hint: say which with --subject",
            subjects.len(),
            listed(subjects.into_iter().map(Subject::full))
        );
    }
    let of = |phase: Phase| of_method().find(|model| model.phase == phase).cloned();
    let (Some(prefill), Some(decode)) = (of(Phase::Prefill), of(Phase::Decode)) else {
        let words =
            |m: &Model| format!("{} of {} of {}", m.phase.name(), m.method, m.subject.full());
        bail!(
            "--model: expected prefill and decode of {method}, got {}\n  hint: fit a run in which {method} met an idle engine, or leave --model out",
            listed(here().map(words))
        );
    };
    let words = prefill.subject.words();
    let way_s = (overhead_s(&prefill) - overhead_s(&decode)).max(0.0);
    Ok(Fitted {
        source: format!("{words}, from the file"),
        times: Arc::new(Times { prefill, decode, way_s }),
        request_s: way_s,
        turnaround_s: 0.0,
        calibration: None,
    })
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
                    },
                    method: "fp16".to_owned(),
                    is_baseline: true,
                    budget: None,
                    pass: Pass { work, repeats_s: vec![time_s; 2] },
                }));
            }
        }
        ModelFile::new(Vec::new(), fit(&observations, &Options::default()).models)
    }

    #[test]
    fn the_way_is_no_time_of_the_engine() {
        let fitted = from_file(&file(&["a 1"]), "", "fp16").unwrap();
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
            from_file(&file(&["a 1", "b 2"]), subject, method)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(of("b 2", "fp16"), Ok(()));
        assert!(of("", "fp16").unwrap_err().contains("--subject"));
        for called in ["B 2", "A 1"] {
            assert_eq!(of(called, "fp16"), Ok(()), "in any case");
        }
        assert!(of("ENGINE", "fp16").unwrap_err().contains("--subject"), "the source of both");
        let none = of("c 3", "fp16").unwrap_err();
        assert!(none.starts_with("--subject: expected a part of one of the subjects"), "{none}");
        assert!(none.contains("got `c 3`\n  hint: they are m on cpu (a 1) [engine]; "), "{none}");
        assert!(of("", "int8").unwrap_err().contains("prefill and decode of int8"));
    }
}
