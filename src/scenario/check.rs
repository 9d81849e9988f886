//! From the file's words to the domain type: what no single value can check about itself.

use super::{
    Engine, Load, NAME_MAX, NamedLoad, NamedWorkload, Scenario, Slo, Target, TargetKind, Timing,
    Workload, engine,
    error::{Fault, SEE_README},
    forced, limit, load, method, target,
    value::{Ordered, Sp},
    wire, workload,
};

type Checked<T> = Result<T, Fault>;

/// Turns a parsed file into a scenario, or says what is wrong with it first.
pub(super) fn scenario(file: wire::File, text: &str) -> Checked<Scenario> {
    check_name(&file.name, "`name`")?;
    let methods = named(&file.method, "method", method::build)?;
    let baseline = check_baseline(&file.baseline, &file.method)?;
    let models = named(&file.model, "model", target::model)?;
    let engines = known_engines(&file)?;
    let resolve = target::Resolve {
        models: &models,
        engines: &engines,
        methods: &file.method,
        baseline: &baseline,
        aa_control: file.aa_control.as_ref().map(|asked| asked.value),
    };
    let targets = named(&file.target, "target", |name, wire| {
        Ok(Target { name: name.value.clone(), kind: resolve.target(name, wire)? })
    })?;
    let workloads = named(&file.workload, "workload", |name, wire| {
        workload::check_name(name)?;
        Ok(NamedWorkload { name: name.value.clone(), kind: workload::build(name, wire)? })
    })?;
    let loads = named(&file.load, "load", |name, wire| {
        Ok(NamedLoad { name: name.value.clone(), kind: load::build(wire)? })
    })?;
    let scenario = Scenario {
        name: file.name.value.clone(),
        text: text.to_owned(),
        seed: file.seed.0.unsigned_abs(),
        repeats: file.repeats.u32(),
        aa_control: check_aa(file.aa_control.as_ref(), &baseline, &targets, &file.method)?,
        baseline,
        order: file.order,
        slo: file.slo.as_ref().map(check_slo).transpose()?,
        targets,
        methods,
        workloads,
        loads,
        timing: check_timing(&file.timing)?,
        telemetry_hz: file.telemetry_hz.0,
    };
    method::fit_targets(&scenario, &file)?;
    combinations(&scenario, &file)?;
    forced::fit_targets(&scenario, &file)?;
    load::have_times(&scenario, &file)?;
    load::have_slo(&scenario, &file)?;
    limit::check(&scenario, &file)?;
    Ok(scenario)
}

/// Checks the names of one section and builds each entry.
pub(super) fn named<W, T>(
    tables: &Ordered<W>,
    section: &str,
    build: impl Fn(&Sp<String>, &W) -> Checked<T>,
) -> Checked<Vec<T>> {
    if let Some((extra, _)) = tables.0.get(limit::TABLES_MAX) {
        let message = format!(
            "expected at most {} tables in [{section}], got {}",
            limit::TABLES_MAX,
            tables.0.len()
        );
        return Err(Fault::new(extra.at, message, "split the scenario into several files"));
    }
    tables
        .0
        .iter()
        .map(|(name, wire)| {
            check_name(name, &format!("the name in [{section}]"))?;
            build(name, wire)
        })
        .collect()
}

/// The built-in engines, each replaced by the scenario's own of the same name, and then the scenario's others.
fn known_engines(file: &wire::File) -> Checked<Vec<Engine>> {
    for (name, _) in &file.engine.0 {
        check_name(name, "the name in [engine]")?;
    }
    let own = engine::engines(&file.engine)?;
    let built_in =
        engine::built_in().map_err(|error| Fault::new(0, error.to_string(), error.hint))?;
    let is_own = |engine: &&Engine| !own.iter().any(|own| own.name == engine.name);
    let mut known: Vec<Engine> = built_in.iter().filter(is_own).cloned().collect();
    known.extend(own);
    Ok(known)
}

pub(super) fn check_name(name: &Sp<String>, what: &str) -> Checked<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.value.is_empty() && name.value.len() <= NAME_MAX && name.value.chars().all(good) {
        return Ok(());
    }
    Err(Fault::new(
        name.at,
        format!(
            "expected {what} to be 1 to {NAME_MAX} characters of `a-z`, `0-9` and `-`, got `{}`",
            shorten(&name.value)
        ),
        "names become parts of cell ids and file names",
    ))
}

pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(NAME_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(NAME_MAX).is_some() {
        short.push('…');
    }
    short
}

fn check_baseline(baseline: &Sp<String>, methods: &Ordered<wire::Method>) -> Checked<String> {
    target::known_method(baseline, methods, "baseline")?;
    Ok(baseline.value.clone())
}

fn check_aa(
    asked: Option<&Sp<bool>>,
    baseline: &str,
    targets: &[Target],
    methods: &Ordered<wire::Method>,
) -> Checked<bool> {
    let control_at = |target: &Target| match &target.kind {
        TargetKind::Kernel(_) => true,
        TargetKind::Engine(engine) => {
            engine.methods.iter().any(|method| method == &format!("{baseline}-aa"))
        }
    };
    let any = targets.iter().any(control_at);
    if let Some(asked) = asked.filter(|asked| asked.value && !any) {
        return Err(Fault::new(
            asked.at,
            "expected a target that runs the baseline for `aa_control = true`, got none",
            "remove the key, or let an engine target run the baseline",
        ));
    }
    let control = format!("{baseline}-aa");
    match methods.0.iter().find(|(name, _)| name.value == control) {
        Some((name, _)) => Err(Fault::new(
            name.at,
            format!(
                "expected another name than `{control}`, which is the A/A control of `{baseline}`"
            ),
            "rename the method",
        )),
        None => Ok(asked.map_or(any, |asked| asked.value)),
    }
}

pub(super) fn check_slo(slo: &Sp<wire::Slo>) -> Checked<Slo> {
    let built = Slo {
        ttft_ms: slo.value.ttft_ms.map(|limit| limit.0),
        tpot_ms: slo.value.tpot_ms.map(|limit| limit.0),
        e2e_ms: slo.value.e2e_ms.map(|limit| limit.0),
    };
    if built == Slo::default() {
        let message = "expected at least one of `ttft_ms`, `tpot_ms`, `e2e_ms` in [slo], got none";
        return Err(Fault::new(slo.at, message, "remove [slo] if every answer counts as good"));
    }
    Ok(built)
}

fn check_timing(timing: &wire::Timing) -> Checked<Timing> {
    let (least, most) = (timing.min_samples.value.usize(), timing.max_samples.usize());
    if least > most {
        return Err(Fault::new(
            timing.min_samples.at,
            format!("expected `min_samples` to be at most `max_samples` ({most}), got {least}"),
            "raise `max_samples` beside it, or lower `min_samples`",
        ));
    }
    Ok(Timing {
        warmup: timing.warmup.usize(),
        min_samples: least,
        max_samples: most,
        target_rel_ci: timing.target_rel_ci.0,
        max_seconds: timing.max_seconds.0,
        rotate_llc: timing.rotate_llc.0,
    })
}

/// Every target needs something it can run, every workload and load a target that runs it.
fn combinations(scenario: &Scenario, file: &wire::File) -> Checked<()> {
    nothing_empty(scenario)?;
    unique_configurations(scenario, file)?;
    for ((name, _), target) in file.target.0.iter().zip(&scenario.targets) {
        match target.kind {
            TargetKind::Kernel(_) => kernel_has_work(name, scenario)?,
            TargetKind::Engine(_) => engine_has_work(name, scenario)?,
        }
    }
    let engines = scenario.targets.iter().any(|t| matches!(t.kind, TargetKind::Engine(_)));
    let prompts = scenario.workloads.iter().any(|w| !is_shapes(&w.kind));
    for ((name, _), workload) in file.workload.0.iter().zip(&scenario.workloads) {
        if is_shapes(&workload.kind) && !has_kernel(scenario) {
            return Err(Fault::new(
                name.at,
                format!(
                    "expected a kernel target for the shapes of `{}`, got engine targets only",
                    name.value
                ),
                "add `[target.cpu.kernel]`, or send a `dataset`, `synthetic` or `trace` workload",
            ));
        }
    }
    for ((name, _), load) in file.load.0.iter().zip(&scenario.loads) {
        let runs = prompts && (engines || matches!(load.kind, Load::Closed { .. }));
        if !runs {
            return Err(Fault::new(
                name.at,
                format!(
                    "expected a target and a workload that use the load `{}`, got none",
                    name.value
                ),
                "kernel targets replay `dataset`, `synthetic` and `trace` workloads under `closed` loads; shapes need no load",
            ));
        }
    }
    Ok(())
}

/// A target and its variant share a name in cell ids, which another target may have.
fn unique_configurations(scenario: &Scenario, file: &wire::File) -> Checked<()> {
    let mut seen = std::collections::BTreeSet::new();
    for ((at, _), target) in file.target.0.iter().zip(&scenario.targets) {
        let names = match &target.kind {
            TargetKind::Engine(engine) => engine.variants(&target.name),
            TargetKind::Kernel(_) => vec![(target.name.clone(), "")],
        };
        for (name, _) in names {
            if !seen.insert(name.clone()) {
                let message =
                    format!("expected one target of the name `{name}`, variants included, got two");
                return Err(Fault::new(at.at, message, "rename the target or the variant"));
            }
        }
    }
    Ok(())
}

fn nothing_empty(scenario: &Scenario) -> Checked<()> {
    let sections = [
        ("target", scenario.targets.is_empty()),
        ("method", scenario.methods.is_empty()),
        ("workload", scenario.workloads.is_empty()),
    ];
    match sections.iter().find(|(_, empty)| *empty) {
        Some((section, _)) => Err(Fault::new(
            0,
            format!("expected at least one table in [{section}], got none"),
            SEE_README,
        )),
        None => Ok(()),
    }
}

fn is_shapes(workload: &Workload) -> bool {
    matches!(workload, Workload::Shapes { .. })
}

fn has_kernel(scenario: &Scenario) -> bool {
    scenario.targets.iter().any(|target| matches!(target.kind, TargetKind::Kernel(_)))
}

fn kernel_has_work(name: &Sp<String>, scenario: &Scenario) -> Checked<()> {
    let replays = scenario.workloads.iter().any(|workload| !is_shapes(&workload.kind));
    let closed = scenario.loads.iter().any(|load| matches!(load.kind, Load::Closed { .. }));
    if replays && !closed && !scenario.workloads.iter().any(|w| is_shapes(&w.kind)) {
        return Err(Fault::new(
            name.at,
            format!(
                "expected a `closed` load (the batch size) for the kernel target `{}`, got {}",
                name.value,
                if scenario.loads.is_empty() { "none" } else { "only rates" }
            ),
            "add `[load.batch.closed]` with `concurrency = [4]`, or a `shapes` workload",
        ));
    }
    Ok(())
}

fn engine_has_work(name: &Sp<String>, scenario: &Scenario) -> Checked<()> {
    let fault = |wanted: &str, hint: &str| {
        let message = format!("expected {wanted} for the engine target `{}`, got none", name.value);
        Err(Fault::new(name.at, message, hint))
    };
    if scenario.workloads.iter().all(|workload| is_shapes(&workload.kind)) {
        return fault(
            "a `dataset` or `synthetic` workload",
            "shapes run on kernel targets only; add `[workload.words.synthetic]`",
        );
    }
    if scenario.loads.is_empty() {
        return fault("a load", "add `[load.steady.closed]` with `concurrency = [8]`");
    }
    Ok(())
}
