//! Engine targets: where the server is, what it is, and how each method is selected there.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Engine, EngineTarget, Host, KvSetting, Place, PrefixCache, Sampling, Start,
    engine::{texts, words},
    error::Fault,
    method, places, secret,
    target::{Resolve, known_method, model_name, unknown, url},
    value::Sp,
    wire, wire_target,
};

type Checked<T> = Result<T, Fault>;

/// One `[target.x.engine]`.
pub(super) fn resolve(
    resolve: &Resolve<'_>,
    name: &Sp<String>,
    wire: &wire_target::EngineTarget,
) -> Checked<EngineTarget> {
    let engine = wire.engine.as_ref().map(|name| find(resolve.engines, name)).transpose()?;
    let (place, mut methods) = match (&wire.url, &engine) {
        (Some(at), _) => (Place::Running { url: url(at)? }, vec![running(resolve, at, wire)?]),
        (None, Some(engine)) => {
            (Place::Start(start(name, engine, wire)?), started(resolve, name, wire)?)
        }
        (None, None) => {
            return Err(Fault::new(
                name.at,
                format!(
                    "expected `url` or `engine` in the engine target `{}`, got neither",
                    name.value
                ),
                "`url` is a running server, `engine` one that kvbench starts",
            ));
        }
    };
    check_engine(name, wire, engine.as_ref())?;
    let mut settings = BTreeMap::new();
    if let Some(engine) = &engine {
        for method in &methods {
            settings.insert(method.clone(), setting(resolve, name, engine, method)?);
        }
    }
    let mut sampled = sampled(resolve, wire, &methods);
    if control(resolve, &place, &mut methods, &mut settings)
        && let Some(sampling) = sampled.get(resolve.baseline).copied()
    {
        sampled.insert(format!("{}-aa", resolve.baseline), sampling);
    }
    let metrics = match &wire.metrics {
        Some(metrics) => Some(metrics.spec()?),
        None => engine.as_ref().and_then(|engine| engine.metrics.clone()),
    };
    Ok(EngineTarget {
        place,
        engine: engine.map(Arc::new),
        endpoint: wire.endpoint,
        model: asked_name(wire)?,
        methods,
        settings,
        version: wire.version.as_ref().map(|version| version.value.clone()),
        prefix_cache: wire.prefix_cache.value,
        idle_timeout_s: wire.idle_timeout_s.0,
        request_timeout_s: wire.request_timeout_s.0,
        warmup_requests: wire.warmup_requests.usize(),
        api_key_file: wire.api_key_file.clone(),
        temperature: wire.temperature.0,
        sampled,
        ignore_eos: wire.ignore_eos,
        drain_s: wire.drain_s.0,
        continuous_usage: wire.continuous_usage,
        metrics,
        metrics_interval_s: wire.metrics_interval_s.0,
    })
}

/// A running server is asked for the model of that name; one that we start serves it under a name of ours.
fn asked_name(wire: &wire_target::EngineTarget) -> Checked<Option<String>> {
    match &wire.url {
        Some(_) => wire.model.as_ref().map(model_name).transpose(),
        None => Ok(None),
    }
}

fn find(engines: &[Engine], name: &Sp<String>) -> Checked<Engine> {
    let found = engines.iter().find(|engine| engine.name == name.value).cloned();
    let names = engines.iter().map(|engine| engine.name.as_str());
    found.ok_or_else(|| {
        unknown(name, "`engine` to be in engines.toml or a table in [engine]", names)
    })
}

/// The method that a running server runs. What only a start needs would be read by nobody.
fn running(
    resolve: &Resolve<'_>,
    at: &Sp<String>,
    wire: &wire_target::EngineTarget,
) -> Checked<String> {
    let misplaced = [
        (wire.methods.is_some(), "methods"),
        (!wire.flags.is_empty(), "flags"),
        (!wire.variants.is_empty(), "variants"),
        (wire.program.is_some(), "program"),
        (!wire.env.is_empty(), "env"),
        (!wire.wrapper.is_empty(), "wrapper"),
        (wire.port.is_some(), "port"),
        (wire.start_timeout_s.is_some(), "start_timeout_s"),
    ];
    if let Some((_, key)) = misplaced.iter().find(|(given, _)| *given) {
        return Err(Fault::new(
            at.at,
            format!("expected no `{key}` beside `url`: the server runs already"),
            "remove `url` to have kvbench start the engine, or remove the key",
        ));
    }
    let Some(method) = &wire.method else {
        let message = "expected `method`, the method that the running server runs, got none";
        return Err(Fault::new(at.at, message, "name a table in [method]"));
    };
    known_method(method, resolve.methods, "method")?;
    Ok(method.value.clone())
}

fn start(name: &Sp<String>, engine: &Engine, wire: &wire_target::EngineTarget) -> Checked<Start> {
    let Some(model) = &wire.model else {
        let message = format!("expected `model`, what `{}` is to serve, got none", name.value);
        return Err(Fault::new(
            name.at,
            message,
            "a folder, a file or a name that the engine knows",
        ));
    };
    if let Some(version) = &wire.version {
        let message = "expected no `version` for an engine that kvbench starts: it is asked";
        return Err(Fault::new(version.at, message, "remove the key"));
    }
    let Some(host) = Host::new(&wire.host.value) else {
        let message =
            format!("expected `host` to be an address or a name, got `{}`", wire.host.value);
        let hint = "for example \"127.0.0.1\" or \"::1\"; the port has a key of its own";
        return Err(Fault::new(wire.host.at, message, hint));
    };
    check_places(engine, wire)?;
    no_secrets(name, wire)?;
    for variant in wire.variants.keys() {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if variant.is_empty() || !variant.chars().all(good) {
            let message = format!(
                "expected the names of `variants` to be of `a-z`, `0-9` and `-`, got `{variant}`"
            );
            return Err(Fault::new(
                name.at,
                message,
                "they become part of the target's name in cell ids",
            ));
        }
    }
    Ok(Start {
        model: model_name(model)?,
        program: wire.program.as_ref().map(|program| program.value.clone()),
        flags: words(&wire.flags),
        variants: variants(wire),
        env: texts(&wire.env),
        wrapper: words(&wire.wrapper),
        host,
        port: wire.port.map(|port| u16::try_from(port.usize()).unwrap_or(u16::MAX)),
        timeout_s: wire.start_timeout_s.map_or(engine.start_timeout_s, |s| s.0),
    })
}

/// Names of the places of an engine.
fn known(engine: &Engine) -> impl Iterator<Item = &str> + Clone {
    places::BUILT_IN.into_iter().chain(engine.set.keys().map(String::as_str))
}

/// As in the engine's own words; a wrapper also takes the environment, as words of their own.
fn check_places(engine: &Engine, wire: &wire_target::EngineTarget) -> Checked<()> {
    let own = wire.flags.iter().chain(wire.variants.values().flatten()).chain(wire.env.values());
    places::check_all(own, known(engine))?;
    let environment = ["env", "docker-env"];
    let whole = |word: &&Sp<String>| environment.iter().any(|e| word.value == format!("{{{e}}}"));
    let words = wire.wrapper.iter().filter(|word| !whole(word));
    for word in words.clone() {
        if let Some(name) = environment.iter().find(|name| places::has(&word.value, name)) {
            let message =
                format!("expected `{{{name}}}` to be a word of its own, got `{}`", word.value);
            let hint = "it becomes several words; `env NAME=value` puts them in front of a command";
            return Err(Fault::new(word.at, message, hint));
        }
    }
    places::check_all(words, known(engine).chain(environment))
}

/// The scenario's text, the command and its environment are kept with the results.
fn no_secrets(name: &Sp<String>, wire: &wire_target::EngineTarget) -> Checked<()> {
    let program = wire.program.iter().map(|program| &program.value);
    let words = wire.flags.iter().chain(wire.variants.values().flatten()).chain(&wire.wrapper);
    let given = secret::in_words(words.map(|word| &word.value).chain(program))
        .or_else(|| secret::in_table(&texts(&wire.env)));
    given.map_or(Ok(()), |given| Err(secret_fault(name.at, &given)))
}

/// Refuses a secret; `given` is its name, never its value.
pub(super) fn secret_fault(at: usize, given: &str) -> Fault {
    Fault::new(
        at,
        format!(
            "expected no secret in a scenario, got `{given}`: it would be stored with the results"
        ),
        "export it in kvbench's own environment, which the engine inherits (`-e NAME` without a value hands it through docker)",
    )
}

/// At least one: the plain one has no name.
fn variants(wire: &wire_target::EngineTarget) -> BTreeMap<String, Vec<String>> {
    if wire.variants.is_empty() {
        BTreeMap::from([(String::new(), Vec::new())])
    } else {
        wire.variants.iter().map(|(name, list)| (name.clone(), words(list))).collect()
    }
}

/// The methods to start an engine with.
fn started(
    resolve: &Resolve<'_>,
    name: &Sp<String>,
    wire: &wire_target::EngineTarget,
) -> Checked<Vec<String>> {
    if let Some(method) = &wire.method {
        let hint = "write `methods = [...]`; `method` names what a running server (`url`) runs";
        return Err(Fault::new(method.at, "expected no `method` without `url`", hint));
    }
    let Some(list) = &wire.methods else {
        return Ok(resolve.methods.0.iter().map(|(name, _)| name.value.clone()).collect());
    };
    for method in &list.0 {
        known_method(method, resolve.methods, "methods")?;
    }
    if !list.0.iter().any(|method| method.value == resolve.baseline) {
        let message = format!("expected `methods` to hold the baseline `{}`", resolve.baseline);
        return Err(Fault::new(
            name.at,
            message,
            "every comparison is with the baseline on the same engine",
        ));
    }
    Ok(list.0.iter().map(|method| method.value.clone()).collect())
}

fn check_engine(
    name: &Sp<String>,
    wire: &wire_target::EngineTarget,
    engine: Option<&Engine>,
) -> Checked<()> {
    let salts = engine.is_some_and(|engine| !engine.prefix_cache.salt_request.is_empty());
    if wire.prefix_cache.value == PrefixCache::Salt && !salts {
        return Err(Fault::new(
            wire.prefix_cache.at,
            "expected an engine that takes a salt for `prefix_cache = \"salt\"`",
            "use \"off\", or add `salt_request` to the engine's `prefix_cache` table",
        ));
    }
    match engine.filter(|engine| !engine.endpoints.contains(&wire.endpoint)) {
        Some(engine) => Err(Fault::new(
            name.at,
            format!("expected an `endpoint` of {}, got another", engine.title),
            "see its `endpoints` in engines.toml",
        )),
        None => Ok(()),
    }
}

/// How the engine is told to run a method.
fn setting(
    resolve: &Resolve<'_>,
    target: &Sp<String>,
    engine: &Engine,
    method: &str,
) -> Checked<KvSetting> {
    let wire = resolve.methods.0.iter().find(|(name, _)| name.value == method);
    let Some((name, wire)) = wire else {
        return Err(Fault::new(target.at, format!("expected `{method}` in [method]"), "add it"));
    };
    let (key, at, more) = match wire {
        wire::Method::Engine(wire) => {
            places::check_all(&wire.flags, known(engine))?;
            (wire.kv.value.clone(), wire.kv.at, words(&wire.flags))
        }
        ours => (family(ours)?, name.at, Vec::new()),
    };
    if let Some(given) = secret::in_words(&more) {
        return Err(secret_fault(at, &given));
    }
    let Some(setting) = engine.setting(&key) else {
        return Err(Fault::new(
            at,
            format!(
                "expected {} to have the method `{key}`, got {}",
                engine.title,
                engine.setting_names().join(", ")
            ),
            format!(
                "leave it out of the `methods` of `{}`, or say how it is selected in `[engine.{}.kv]`",
                target.value, engine.name
            ),
        ));
    };
    let mut setting = setting.clone();
    setting.flags.extend(more);
    Ok(setting)
}

fn family(wire: &wire::Method) -> Checked<String> {
    Ok(method::method(wire)?.map_or_else(String::new, |method| method.family().to_owned()))
}

/// Methods with a temperature or a seed of their own.
fn sampled(
    resolve: &Resolve<'_>,
    target: &wire_target::EngineTarget,
    methods: &[String],
) -> BTreeMap<String, Sampling> {
    let one = |(name, method): &(Sp<String>, wire::Method)| {
        let wire::Method::Engine(wire) = method else { return None };
        let seed = wire.seed.0.unsigned_abs();
        if (wire.temperature.is_none() && seed == 0) || !methods.contains(&name.value) {
            return None;
        }
        let temperature = wire.temperature.as_ref().unwrap_or(&target.temperature).0;
        Some((name.value.clone(), Sampling { temperature, seed }))
    };
    resolve.methods.0.iter().filter_map(one).collect()
}

/// The baseline a second time, so that the noise of two starts is known; whether there is one.
fn control(
    resolve: &Resolve<'_>,
    place: &Place,
    methods: &mut Vec<String>,
    settings: &mut BTreeMap<String, KvSetting>,
) -> bool {
    let asked = resolve.aa_control.unwrap_or(matches!(place, Place::Start(_)));
    if !asked || !methods.iter().any(|method| method == resolve.baseline) {
        return false;
    }
    let name = format!("{}-aa", resolve.baseline);
    if let Some(setting) = settings.get(resolve.baseline).cloned() {
        settings.insert(name.clone(), setting);
    }
    methods.push(name);
    true
}
