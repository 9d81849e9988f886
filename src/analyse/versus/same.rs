//! Whether two runs can be compared at all: what differs between them besides what is compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::side::Side;
use crate::record::{Manifest, manifest::Status};

/// Characters of a value that are shown.
const SHOWN_MAX: usize = 160;

/// What must be alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// CPU, GPU, build.
    Machine,
    /// Driver and operating system.
    Driver,
    /// The model, or the shapes of its kernels.
    Model,
    /// What was sent.
    Prompts,
    /// How it was counted, timed and scored.
    Definitions,
    /// Cells of the base that are missing.
    Cells,
}

impl Kind {
    /// As `--allow` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Machine => "machine",
            Kind::Driver => "driver",
            Kind::Model => "model",
            Kind::Prompts => "prompts",
            Kind::Definitions => "definitions",
            Kind::Cells => "cells",
        }
    }
}

/// Something that differs and must not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mismatch {
    /// Of what kind.
    pub kind: Kind,
    /// What, with both values.
    pub what: String,
}

/// Everything that forbids a comparison.
pub fn mismatches(base: &Side, new: &Side) -> Vec<Mismatch> {
    let mut found = Found(Vec::new());
    let (old, now) = (&base.manifest, &new.manifest);
    machine(&mut found, old, now);
    found.unlike(Kind::Machine, "device of kernels", &base.ways.devices, &new.ways.devices);
    found.unlike(Kind::Model, "models of the engines", &models(old), &models(now));
    shapes(&mut found, base, new);
    prompts(&mut found, old, now);
    found.unlike(
        Kind::Definitions,
        "who counted output tokens",
        &base.ways.token_sources,
        &new.ways.token_sources,
    );
    found.unlike(Kind::Definitions, "clock of kernels", &base.ways.timers, &new.ways.timers);
    found.unlike(Kind::Definitions, "rules of scores", &scorers(base), &scorers(new));
    found.unlike(Kind::Definitions, "SLO", &old.scenario.slo, &now.scenario.slo);
    let missing: Vec<&String> =
        base.cells.keys().filter(|id| !new.cells.contains_key(*id)).collect();
    if let Some(first) = missing.first() {
        let what =
            format!("{} cells of the base are not in the other, such as {first}", missing.len());
        found.0.push(Mismatch { kind: Kind::Cells, what });
    }
    found.0
}

struct Found(Vec<Mismatch>);

impl Found {
    fn unlike<T: PartialEq + std::fmt::Debug>(&mut self, kind: Kind, what: &str, old: &T, now: &T) {
        if old != now {
            let what = format!("{what}: {} before, {} now", plain(old), plain(now));
            self.0.push(Mismatch { kind, what });
        }
    }
}

/// A value for people: without the marks of the language.
fn plain<T: std::fmt::Debug>(value: &T) -> String {
    let text = format!("{value:?}").replace("Some(", "").replace(['"', ')', '('], "");
    match text.chars().count() {
        _ if text == "None" || text == "{}" => "unknown".to_owned(),
        0..=SHOWN_MAX => text,
        _ => text.chars().take(SHOWN_MAX).chain("...".chars()).collect(),
    }
}

fn machine(found: &mut Found, old: &Manifest, now: &Manifest) {
    let (a, b) = (&old.machine, &now.machine);
    found.unlike(Kind::Machine, "CPU", &a.cpu_model, &b.cpu_model);
    found.unlike(Kind::Machine, "CPUs", &a.cpus, &b.cpus);
    found.unlike(Kind::Machine, "CPU features", &a.cpu_features, &b.cpu_features);
    found.unlike(Kind::Machine, "platform", &a.platform, &b.platform);
    found.unlike(Kind::Machine, "build profile of kvbench", &a.profile, &b.profile);
    found.unlike(Kind::Driver, "operating system", &a.kernel, &b.kernel);
    found.unlike(Kind::Driver, "NVIDIA driver", &old.gpu_driver, &now.gpu_driver);
}

/// Models that the engines say they serve.
fn models(manifest: &Manifest) -> BTreeSet<String> {
    let listed =
        manifest.engines.values().filter_map(|engine| engine["facts"]["models"].as_array());
    listed.flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn scorers(side: &Side) -> BTreeSet<&str> {
    side.scores.iter().map(|row| row.scorer.as_str()).collect()
}

/// Kernels of one cell that did not run at the same shapes.
fn shapes(found: &mut Found, base: &Side, new: &Side) {
    for (id, cell) in &base.cells {
        let other = new.cells.get(id).filter(|other| !other.shapes.is_empty());
        if let Some(other) = other.filter(|_| !cell.shapes.is_empty()) {
            found.unlike(Kind::Model, &format!("shapes of {id}"), &cell.shapes, &other.shapes);
        }
    }
}

fn prompts(found: &mut Found, old: &Manifest, now: &Manifest) {
    found.unlike(Kind::Prompts, "seed", &old.scenario.seed, &now.scenario.seed);
    let unlike = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        let shared = a
            .iter()
            .filter_map(|(key, hash)| Some((key.clone(), hash.clone(), b.get(key)?.clone())));
        shared.filter(|(_, a, b)| a != b).map(|(key, ..)| key).collect::<Vec<_>>()
    };
    let sent = unlike(&old.schedules, &now.schedules);
    if let Some(first) = sent.first() {
        let what = format!("{} schedules of prompts differ, such as {first}", sent.len());
        found.0.push(Mismatch { kind: Kind::Prompts, what });
    }
    let files = |manifest: &Manifest| -> BTreeMap<String, String> {
        manifest.inputs.iter().map(|input| (input.path.clone(), input.sha256.clone())).collect()
    };
    for path in unlike(&files(old), &files(now)) {
        found
            .0
            .push(Mismatch { kind: Kind::Prompts, what: format!("the content of {path} differs") });
    }
}

/// What a reader must know, though it forbids nothing: versions that differ are mostly what is compared.
pub(super) fn notes(base: &Side, new: &Side) -> Vec<String> {
    let mut said = Vec::new();
    for side in [base, new] {
        let Manifest { status, verdict, test_slowdown, .. } = &side.manifest;
        if let Some(factor) = test_slowdown {
            said.push(format!(
                "{}: THIS RUN IS A TEST AND NO MEASUREMENT: its CPU kernels were made {factor} times as slow (KVBENCH_TEST_SLOWDOWN)",
                side.place
            ));
        }
        if *status != Status::Complete {
            said.push(format!("{}: the run is {}", side.place, status.name()));
        }
        match verdict {
            Some(verdict) if *verdict != crate::record::manifest::Verdict::Valid => {
                said.push(format!(
                    "{}: its own verdict is {verdict}; `kvbench report` says why",
                    side.place
                ));
            }
            _ => {}
        }
    }
    let (old, now) = (&base.manifest, &new.manifest);
    let version = |manifest: &Manifest| {
        let revision = manifest.kvbench_git_revision.as_deref().unwrap_or("unknown revision");
        format!("{} ({revision})", manifest.kvbench_version)
    };
    if version(old) != version(now) {
        said.push(format!("kvbench: {} before, {} now", version(old), version(now)));
    }
    if engines(old) != engines(now) {
        said.push(format!(
            "engines: {} before, {} now",
            plain(&engines(old)),
            plain(&engines(now))
        ));
    }
    let added = new.cells.keys().filter(|id| !base.cells.contains_key(*id)).count();
    if added > 0 {
        said.push(format!("{added} cells are not in the base and are not compared"));
    }
    said
}

fn engines(manifest: &Manifest) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let one = |engine: &Value| {
        let facts = &engine["facts"];
        format!("{} {}", text(&facts["owned_by"]), text(&facts["version"]))
    };
    manifest.engines.values().map(one).collect()
}
