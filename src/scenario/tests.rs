use super::*;
use crate::kernel::allreduce::Link;

pub(super) const FULL: &str = r#"
name = "full"
seed = 7
repeats = 2
baseline = "fp16"
telemetry_hz = 5

[slo]
ttft_ms = 500

[timing]
max_samples = 50

[model.toy]
num_layers = 2
num_heads = 4
num_kv_heads = 2
head_dim = 64

[target.zeta.kernel]
model = "toy"
device = "cpu"
methods = ["fp16", "kivi4"]

[target.alpha.engine]
url = "http://127.0.0.1:8000/"
endpoint = "completions"
method = "fp16"

[target.alpha.engine.metrics.names]
kv_usage = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"]
offload_read_bytes_total = ['vllm:kv_offload_total_bytes_total{transfer_type="CPU_to_GPU"}']

[method.kivi4.kivi]
bits = 4
group = 32
residual = 128

[method.fp16.fp16]

[method.h2o.h2o]
heavy = 64
recent = 64

[method.snap.snapkv]
window = 16
budget = 256
pooling = "max"
pool_width = 7

[method.stream.streaming]
sink = 4
window = 512

[workload.grid.shapes]
ops = ["decode", "prefill"]
batch = [1, 4]
kv_len = [1024]

[workload.words.synthetic]
n_requests = 20
prompt_tokens = { lognormal = { median = 100, sigma = 0.5, max = 400 } }
output_tokens = { fixed = 16 }

[workload.chat.dataset]
path = "datasets/tiny-sharegpt.json"
format = "sharegpt"
max_tokens = 64

[load.steady.poisson]
rate = [2.5, 5]

[load.bursty.gamma]
rate = [2.0]
burstiness = 0.25

[load.rise.ramp]
from = 1
to = 10
over_s = 60

[load.rush.burst]
base_rate = 0
burst_rate = 20
period_s = 30
burst_s = 5

[load.closed.closed]
concurrency = [1, 8]
"#;

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, "s.toml")
}

#[test]
fn a_full_file_is_read_in_file_order_with_documented_defaults() {
    let scenario = parse(FULL).expect("valid");
    assert_eq!(scenario.seed, 7);
    assert!(scenario.aa_control);
    let names: Vec<_> = scenario.methods.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["kivi4", "fp16", "h2o", "snap", "stream"]);
    let targets: Vec<_> = scenario.targets.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(targets, ["zeta", "alpha"]);
    assert_eq!((scenario.timing.warmup, scenario.timing.max_samples), (2, 50));
    let TargetKind::Engine(engine) = &scenario.targets[1].kind else { panic!("engine") };
    assert_eq!(engine.place, Place::Running { url: "http://127.0.0.1:8000".to_owned() });
    assert_eq!(engine.methods, ["fp16"]);
    let metrics = engine.metrics.as_ref().expect("metrics");
    assert_eq!((metrics.path.as_str(), metrics.format), ("/metrics", MetricsFormat::Prometheus));
    let usage = &metrics.names[&MetricName::KvUsage];
    assert_eq!(usage[1].family, "vllm:gpu_cache_usage_perc");
    assert_eq!(scenario.slo.and_then(|slo| slo.ttft_ms), Some(500.0));
    assert_eq!(scenario.loads[0].kind, Load::Poisson { rate: vec![2.5, 5.0] });
}

/// Replaces one line of [`FULL`] and checks the error's place and words.
#[track_caller]
fn broken(line: &str, by: &str, wanted: &[&str]) {
    assert!(FULL.contains(line), "{line}");
    let text = FULL.replacen(line, by, 1);
    let error = parse(&text).expect_err("must be refused");
    let offending = text.lines().nth(error.line - 1).expect("the line exists");
    let shown = error.to_string();
    for part in wanted {
        assert!(shown.contains(part), "{part:?} not in {shown}");
    }
    assert!(by.contains(offending) || offending.is_empty(), "points at {offending:?}: {shown}");
    assert!(shown.starts_with(&format!("s.toml:{}:{}: ", error.line, error.column)), "{shown}");
    assert!(shown.contains("\n  hint: "), "{shown}");
}

#[test]
fn unknown_keys_point_at_themselves() {
    broken("group = 32", "grup = 32", &["unknown key `grup`", "did you mean `group`?"]);
    broken("[slo]", "sed = 1\n[slo]", &["unknown key `sed`", "did you mean `seed`?"]);
    broken("[target.zeta.kernel]", "[target.zeta.kernl]", &["unknown name `kernl`", "`kernel`"]);
    broken("device = \"cpu\"", "device = \"cpus\"", &["did you mean `cpu`?"]);
}

#[test]
fn missing_keys_and_wrong_types() {
    broken("seed = 7", "seed = \"7\"", &["expected a whole number from 0", "string"]);
    broken(
        "repeats = 2",
        "repeats = 0",
        &["expected a whole number from 1 to 100, got integer `0`"],
    );
    broken("repeats = 2", "repeats = -1", &["got integer `-1`"]);
    broken("telemetry_hz = 5", "telemetry_hz = nan", &["expected a number from 0.1 to 100"]);
    broken("rate = [2.0]", "rate = [inf]", &["expected a number from 0.001 to 100000"]);
    broken("rate = [2.0]", "rate = []", &["expected a list of 1 to 256 values"]);
    broken("rate = [2.5, 5]", "rate = [5.0, 5]", &["expected every value once, got `5` twice"]);
    broken("[method.fp16.fp16]", "[method.fp16]", &["hint: name one kind in the header"]);
    broken("[method.fp16.fp16]", "[method.fp16.fp16]\nbits = 2", &["unknown key `bits`"]);
    let error = parse("name = \"x\"").expect_err("incomplete");
    assert!(error.message.contains("missing key `baseline`"), "{error}");
}

#[test]
fn references_must_resolve() {
    broken("baseline = \"fp16\"", "baseline = \"fp61\"", &["`baseline`", "did you mean `fp16`?"]);
    broken("model = \"toy\"", "model = \"llama-2-7\"", &["did you mean `llama-2-7b`?"]);
    broken("methods = [\"fp16\", \"kivi4\"]", "methods = [\"fp16\", \"kivi2\"]", &["`kivi4`?"]);
    broken(
        "methods = [\"fp16\", \"kivi4\"]",
        "methods = [\"kivi4\"]",
        &["hold the baseline `fp16`"],
    );
    broken("method = \"fp16\"", "method = \"nothing\"", &["hint: there are `kivi4`, `fp16`"]);
}

#[test]
fn names_of_metrics_are_checked() {
    let names = "[target.alpha.engine.metrics.names]";
    let usage = r#"kv_usage = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"]"#;
    let slip = ["unknown name `kv_usge`", "did you mean `kv_usage`?"];
    broken(usage, "kv_usge = [\"a\"]", &slip);
    broken(usage, "kv_usage = [\"9\"]", &["expected a name of letters", "got string \"9\""]);
    broken(usage, "kv_usage = [\"a\", \"a\"]", &["every value once"]);
    broken(
        names,
        &format!("[target.alpha.engine.metrics]\npath = \"metrics\"\n{names}"),
        &["`path` to be a plain path"],
    );
    broken(
        names,
        &format!("[target.alpha.engine.metrics]\nformat = \"json\"\n{names}"),
        &["`trtllm-json`"],
    );
}

#[test]
fn names_are_parts_of_ids() {
    broken("name = \"full\"", "name = \"Full\"", &["1 to 64 characters of `a-z`"]);
    broken("name = \"full\"", "name = \"\"", &["1 to 64 characters"]);
    broken("[workload.words.synthetic]", "[workload.w-b1-kv2.synthetic]", &["look like a shape"]);
    broken("[workload.words.synthetic]", "[workload.w-tp2.synthetic]", &["end like a kernel"]);
    broken("[workload.words.synthetic]", "[workload.w-page64.synthetic]", &["`-page…`"]);
    broken("[method.h2o.h2o]", "[method.probe.h2o]", &["`probe`"]);
    broken("[method.h2o.h2o]", "[method.fp16-aa.h2o]", &["A/A control"]);
    broken("[model.toy]", "[model.llama-3-8b]", &["preset"]);
}

#[test]
fn parameters_must_agree() {
    broken("residual = 128", "residual = 100", &["multiple of `group` (32)", "residual = 128"]);
    broken("bits = 4", "bits = 3", &["2 or 4"]);
    broken("group = 32", "group = 48", &["power of two", "try `group = 64`"]);
    broken("group = 32", "group = 128", &["divide the head dimension 64"]);
    broken("budget = 256", "budget = 16", &["above `window` (16)"]);
    broken("pool_width = 7", "pool_width = 8", &["odd"]);
    broken("num_kv_heads = 2", "num_kv_heads = 3", &["divide `num_heads` (4)"]);
    broken("head_dim = 64", "head_dim = 65", &["multiple of 32"]);
    let uneven = ["the 4 query and 2 KV heads of `toy` evenly, got 3", "hint: 1, 2, 4 do"];
    broken("device = \"cpu\"", "tensor_parallel = [1, 3]", &uneven);
    broken("device = \"cpu\"", "tensor_parallel = [2, 2]", &["got `2` twice"]);
    broken("device = \"cpu\"", "page = 32", &["`page` to be 16 or 64, got 32", "vLLM"]);
    broken(
        "max_samples = 50",
        "min_samples = 60\nmax_samples = 50",
        &["at most `max_samples` (50)"],
    );
    broken(
        "output_tokens = { fixed = 16 }",
        "output_tokens = { uniform = { min = 9, max = 8 } }",
        &["at most `max` (8)"],
    );
    broken("[slo]\nttft_ms = 500", "[slo]", &["at least one of `ttft_ms`"]);
}

#[test]
fn urls_are_bases_without_secrets() {
    let url = "url = \"http://127.0.0.1:8000/\"";
    broken(url, "url = \"127.0.0.1:8000\"", &["start with `http://`"]);
    broken(url, "url = \"http://127.0.0.1:8000/v1/\"", &["without `/v1`"]);
    broken(url, "url = \"http://me:secret@host\"", &["KVBENCH_API_KEY"]);
    broken(url, "url = \"http://ho st\"", &["without blanks"]);
}

#[test]
fn products_are_limited() {
    broken("kv_len = [1024]", "kv_len = [1048577]", &["expected a whole number from 1 to 1048576"]);
    let huge = FULL
        .replace("kv_len = [1024]", "kv_len = [1048576]")
        .replace("batch = [1, 4]", "batch = [4096]");
    let error = parse(&huge).expect_err("2 TiB");
    assert!(error.message.contains("of fp16 cache per layer"), "{error}");
    broken(
        "[workload.words.synthetic]\nn_requests = 20",
        "[workload.words.synthetic]\nn_requests = 1000000",
        &["prompt tokens in all"],
    );
    let many = |n: usize| (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let grid = FULL
        .replace("batch = [1, 4]", &format!("batch = [{}]", many(256)))
        .replace("kv_len = [1024]", &format!("kv_len = [{}]", many(256)));
    let error = parse(&grid).expect_err("too many cells");
    assert!(error.message.contains("at most 100000 cells"), "{error}");
}

#[test]
fn ranks_hold_their_heads_and_at_least_one_kv_head() {
    let split = |ranks: usize| {
        let rank = ModelShape::preset("llama-3-8b").expect("known").rank(ranks);
        (rank.num_heads, rank.num_kv_heads)
    };
    assert_eq!([1, 2, 8, 16].map(split), [(32, 8), (16, 4), (4, 1), (2, 1)]);
    let keys = "tensor_parallel = [1, 8]\nlink = { bandwidth_gb_s = 450, latency_us = 1.5 }\n";
    let scenario = parse(&[KERNEL, keys, GRID].concat()).expect("valid");
    let TargetKind::Kernel(kernel) = &scenario.targets[0].kind else { panic!("kernel") };
    assert_eq!(kernel.tensor_parallel, [1, 8]);
    assert_eq!(kernel.link, Some(Link { bandwidth_gb_s: 450.0, latency_us: 1.5 }));
    refused(&[KERNEL, "link = { bandwidth_gb_s = 450 }\n", GRID], "missing key `latency_us`", 6);
}

const KERNEL: &str = "name = \"k\"\nbaseline = \"fp16\"\n[method.fp16.fp16]\n[target.cpu.kernel]\nmodel = \"llama-3-8b\"\n";
const ENGINE: &str = "name = \"e\"\nbaseline = \"fp16\"\n[method.fp16.fp16]\n[target.srv.engine]\nurl = \"http://h\"\nendpoint = \"chat\"\nmethod = \"fp16\"\n";
const WORDS: &str = "[workload.w.synthetic]\nn_requests = 2\nprompt_tokens = { fixed = 8 }\noutput_tokens = { fixed = 8 }\n";
const GRID: &str = "[workload.g.shapes]\nops = [\"decode\"]\nbatch = [1]\nkv_len = [64]\n";

#[track_caller]
fn refused(parts: &[&str], wanted: &str, line: usize) {
    let error = parse(&parts.concat()).expect_err("must be refused");
    assert!(error.message.contains(wanted), "{error}");
    assert_eq!(error.line, line, "{error}");
}

#[test]
fn impossible_combinations() {
    let rates = "[load.r.poisson]\nrate = [1]\n";
    refused(&[KERNEL, WORDS, rates], "got only rates", 4);
    refused(&[KERNEL, WORDS], "`closed` load", 4);
    refused(&[ENGINE, GRID], "a `dataset` or `synthetic` workload", 4);
    refused(&[ENGINE, WORDS], "a load for the engine target", 4);
    refused(&[ENGINE, WORDS, GRID, rates], "a kernel target for the shapes of `g`", 12);
    refused(&[KERNEL, GRID, rates], "that use the load `r`", 10);
    let asked = parse(&["aa_control = true\n", ENGINE, WORDS, rates].concat())
        .expect("a server measured twice");
    assert!(asked.aa_control);
    assert!(parse(&[KERNEL, GRID].concat()).is_ok());
    let engine = parse(&[ENGINE, WORDS, rates].concat()).expect("valid");
    assert!(!engine.aa_control);
}

#[test]
fn rates_that_change() {
    let scenario = parse(FULL).expect("valid");
    let ramp = Load::Ramp { from: 1.0, to: 10.0, over_s: 60.0, steps: None };
    assert_eq!(scenario.loads[2].kind, ramp);
    broken(
        "from = 1\nto = 10",
        "from = 1\nto = 1",
        &["expected `from` to differ from `to`, got 1 twice"],
    );
    broken(
        "burst_s = 5",
        "burst_s = 30",
        &["expected `burst_s` to be less than `period_s` (30), got 30"],
    );
    broken("over_s = 60", "over_s = 60\nsteps = 1", &["expected a whole number from 2 to 1000"]);
}

#[test]
fn traces_and_their_times() {
    let trace = |format: &str, more: &str| {
        format!("[workload.t.trace]\npath = \"t.csv\"\nformat = \"{format}\"\n{more}")
    };
    let replay = "[load.real.replay]\nspeed = [1, 2.5]\n";
    let azure = trace("azure", "start_s = 60\nduration_s = 120\n");
    let scenario = parse(&[ENGINE, &azure, replay].concat()).expect("valid");
    let Workload::Trace(window) = &scenario.workloads[0].kind else { panic!("a trace") };
    assert_eq!((window.format, window.duration_s), (TraceFormat::Azure, Some(120.0)));
    assert_eq!(scenario.loads[0].kind, Load::Replay { speed: vec![1.0, 2.5] });
    let wanted = "expected workloads with times for the `replay` load `real`, got `t`";
    refused(&[ENGINE, &trace("lengths", ""), replay], wanted, 11);
    let wanted = "expected workloads with times for the `replay` load `real`, got `w`";
    refused(&[ENGINE, WORDS, replay], wanted, 12);
    let wanted = "expected a format with times for `start_s` and `duration_s`";
    refused(&[ENGINE, &trace("lengths", "start_s = 1\n"), replay], wanted, 11);
    let poisson = "[load.r.poisson]\nrate = [1]\n";
    assert!(parse(&[ENGINE, &trace("lengths", ""), poisson].concat()).is_ok());
}

#[test]
fn a_search_needs_an_objective() {
    let search = "[load.sat.saturation]\nstart_rate = 2\n";
    refused(&[ENGINE, WORDS, search], "expected [slo] for the `saturation` load `sat`", 12);
    let slo = "[slo]\nttft_ms = 200\n";
    let scenario = parse(&[ENGINE, WORDS, slo, search].concat()).expect("valid");
    let Load::Saturation(rule) = scenario.loads[0].kind else { panic!("a search") };
    assert_eq!((rule.requests_per_probe, rule.probe_max_requests), (100, 400));
    let few = "probe_max_requests = 50\nrequests_per_probe = 60\n";
    refused(&[ENGINE, WORDS, slo, search, few], "at most `probe_max_requests` (50), got 60", 17);
}

#[test]
fn conversations_have_turns_and_time_to_think() {
    let talk = "max_tokens = 64\nturns = 4\nthink_s = { uniform = { min = 0.5, max = 3 } }";
    let scenario = parse(&FULL.replace("max_tokens = 64", talk)).expect("valid");
    let Workload::Dataset { turns, think, .. } = &scenario.workloads[2].kind else {
        panic!("a data set")
    };
    assert_eq!((*turns, *think), (4, Some(TimeDist::Uniform { min: 0.5, max: 3.0 })));
    let plain = parse(FULL).expect("valid");
    let Workload::Dataset { turns: 1, think: None, .. } = plain.workloads[2].kind else {
        panic!("one turn unless told")
    };
    let twisted = talk.replace("min = 0.5", "min = 5");
    broken("max_tokens = 64", &twisted, &["expected `min` to be at most `max` (3), got 5"]);
}

#[test]
fn answers_end_by_themselves_or_at_a_length() {
    let of = |keys: &str| parse(&FULL.replace("max_tokens = 64\n", keys)).expect("valid");
    let keys = |scenario: &Scenario| match &scenario.workloads[2].kind {
        Workload::Dataset { mode, max_tokens, .. } => (*mode, *max_tokens),
        _ => panic!("a data set"),
    };
    assert_eq!(keys(&of("mode = { fixed = 9 }\n")), (AnswerMode::Fixed, Some(9)));
    let matched = FULL.replace("max_tokens = 64", "mode = \"matched\"\nmax_tokens = 7");
    let longbench = matched.replacen("format = \"sharegpt\"", "format = \"longbench\"", 1);
    assert_eq!(keys(&parse(&longbench).expect("valid")), (AnswerMode::Matched, Some(7)));
    let error = format!("{:#}", parse(&matched).expect_err("nothing to score by"));
    assert!(error.contains("expected `format = \"longbench\"` beside"), "{error}");
    let both = "max_tokens = 64\nmode = { fixed = 9 }";
    broken("max_tokens = 64", both, &["expected no `max_tokens` beside `mode = { fixed"]);
}

#[test]
fn words_have_turns_and_traces_a_tokenizer() {
    let talk = "turns = 3\nthink_s = { fixed = 2 }\n";
    let closed = "[load.c.closed]\nconcurrency = [1]\n";
    let scenario = parse(&[ENGINE, WORDS, talk, closed].concat()).expect("valid");
    let Workload::Dialogues(dialogues) = &scenario.workloads[0].kind else {
        panic!("conversations")
    };
    assert_eq!(
        (dialogues.n_conversations, dialogues.turns, dialogues.think),
        (2, 3, Some(TimeDist::Fixed(2.0)))
    );
    let Workload::Dialogues(more) = scenario.workloads[0].kind.with_requests(9) else {
        panic!("conversations")
    };
    assert_eq!(more.n_conversations, 9);
    refused(&[ENGINE, WORDS, "think_s = { fixed = 2 }\n", closed], "expected `turns` beside", 12);
    let template = "turns = 3\ntokenizer = \"m\"\nchat_template = \"auto\"\n";
    refused(&[ENGINE, WORDS, template, closed], "no `chat_template` beside `turns`", 14);
    let trace = "[workload.t.trace]\npath = \"t.csv\"\nformat = \"azure\"\n";
    let scenario = parse(&[ENGINE, trace, "tokenizer = \"m\"\n", closed].concat()).expect("valid");
    let Workload::Trace(found) = &scenario.workloads[0].kind else { panic!("a trace") };
    assert_eq!(found.tokens.as_ref().map(|t| t.tokenizer.as_path()), Some(Path::new("m")));
    let alone = "chat_template = \"auto\"\n";
    refused(&[ENGINE, trace, alone, closed], "expected `tokenizer` beside `chat_template`", 11);
}

#[test]
fn loading_names_the_file() {
    let error = Scenario::load(Path::new("no/such.toml")).expect_err("missing");
    assert!(format!("{error:#}").starts_with("no/such.toml: cannot read"), "{error:#}");
}

/// Every property and every variant of the schema, with its default where it has one.
fn keys(schema: &serde_json::Value, found: &mut Vec<(String, Option<serde_json::Value>)>) {
    match schema {
        serde_json::Value::Object(object) => {
            for (key, property) in
                object.get("properties").and_then(|p| p.as_object()).into_iter().flatten()
            {
                found.push((key.clone(), property.get("default").cloned()));
            }
            object.values().for_each(|value| keys(value, found));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_and_default_is_documented() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/README.md");
    let text = std::fs::read_to_string(readme).expect("scenarios/README.md");
    let mut found = Vec::new();
    keys(&schema(), &mut found);
    keys(&route::schema(), &mut found);
    keys(&proxy::schema(), &mut found);
    assert!(found.len() > 60, "the walk found {} keys only", found.len());
    for (key, default) in found {
        let documented = |line: &&str| {
            line.contains(&format!("`{key}`"))
                || line.contains(&format!(".{key}]`"))
                || line.contains(&format!("{{ {key} = "))
        };
        let inner = ["min", "max", "median", "sigma"].contains(&key.as_str())
            && text.contains(&format!("{key} = "));
        let lines: Vec<_> = text.lines().filter(documented).collect();
        assert!(inner || !lines.is_empty(), "`{key}` is missing in scenarios/README.md");
        let Some(default) = default.filter(|default| !default.is_object() && !default.is_null())
        else {
            continue;
        };
        let shown = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        let shown = format!("| `{}` |", shown.strip_suffix(".0").unwrap_or(&shown));
        assert!(
            lines.iter().any(|line| line.contains(&shown)),
            "default of `{key}`: expected {shown}"
        );
    }
}

#[test]
fn every_committed_scenario_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("scenarios/") {
        let path = entry.expect("entry").path();
        // `engines.toml` says how engines are started; it is no scenario.
        // An experiment of the router and a configuration of its proxy have grammars and tests of their own.
        let own = ["engines.toml", "route-"];
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".toml") && !own.iter().any(|own| name.starts_with(own)) {
            Scenario::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
            n += 1;
        }
    }
    assert!(n > 0);
}
