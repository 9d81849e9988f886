//! Engines: the catalogue is valid, and each method yields the exact command line that the engine's documentation asks for.

use super::{engine::built_in, *};

/// A scenario that starts one engine under the methods of `methods` (TOML).
fn scenario(engine: &str, target: &str, methods: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(&text(engine, target, methods), "s.toml")
}

fn text(engine: &str, target: &str, methods: &str) -> String {
    format!(
        r#"
name = "engines"
baseline = "base"
[target.x.engine]
engine = "{engine}"
model = "models/m-7b"
endpoint = "completions"
{target}
{methods}
[workload.words.synthetic]
n_requests = 2
prompt_tokens = {{ fixed = 8 }}
output_tokens = {{ fixed = 8 }}
[load.one.closed]
concurrency = [1]
"#
    )
}

#[track_caller]
fn engine_of(scenario: &Scenario) -> &EngineTarget {
    match &scenario.targets[0].kind {
        TargetKind::Engine(engine) => engine,
        TargetKind::Kernel(_) => panic!("expected an engine"),
    }
}

/// The command of one KV setting, as one would type it, without the environment.
#[track_caller]
fn words(engine: &str, kv: &str) -> String {
    let methods = format!("[method.base.engine]\nkv = \"{kv}\"");
    let scenario = scenario(engine, "", &methods).unwrap();
    words_of(&scenario, "base")
}

#[track_caller]
fn words_of(scenario: &Scenario, method: &str) -> String {
    let target = engine_of(scenario);
    let (start, engine) = (target.start().unwrap(), target.engine.as_ref().unwrap());
    let variant = start.variants.keys().next().unwrap();
    let spot = Spot { port: 4000, dir: "/run" };
    start
        .command(engine, &target.settings[method], variant, target.prefix_cache, spot)
        .words
        .join(" ")
}

#[test]
fn the_catalogue_is_valid_and_has_every_engine() {
    let names: Vec<_> = built_in().unwrap().iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(
        names,
        ["vllm", "lmdeploy", "sglang", "llamacpp", "tgi", "tensorrt-llm", "ray-serve"]
    );
    for engine in built_in().unwrap() {
        assert!(
            engine.setting("fp16").is_some()
                && engine.setting("auto").or(engine.setting("f16")).is_some()
        );
        let tells = engine.tells.contains_key("version") || engine.version_command.is_some();
        assert!(tells, "{}: no version, no measurement", engine.name);
        for (name, setting) in &engine.kv {
            let sum = |bits: f64| bits.is_finite() && bits > 0.0;
            assert!(setting.bits.is_none_or(sum), "{} {name}", engine.name);
        }
    }
}

#[test]
fn vllm() {
    let plain = "vllm serve models/m-7b --host 127.0.0.1 --port 4000 --served-model-name m-7b";
    let off = "--no-enable-prefix-caching";
    for (kv, flags) in [
        ("auto", "--kv-cache-dtype auto"),
        ("fp16", "--dtype float16 --kv-cache-dtype auto"),
        ("bf16", "--dtype bfloat16 --kv-cache-dtype auto"),
        ("fp8", "--kv-cache-dtype fp8"),
        ("fp8_e5m2", "--kv-cache-dtype fp8_e5m2"),
        ("fp8-token-head", "--kv-cache-dtype fp8_per_token_head"),
        ("turboquant4", "--kv-cache-dtype turboquant_4bit_nc"),
    ] {
        assert_eq!(words("vllm", kv), format!("{plain} {flags} {off}"));
    }
}

#[test]
fn lmdeploy() {
    let plain = "lmdeploy serve api_server models/m-7b --server-name 127.0.0.1 --server-port 4000 --model-name m-7b";
    for (kv, flags) in [
        ("fp16", "--dtype float16 --quant-policy 0"),
        ("int4", "--quant-policy 4"),
        ("int8", "--quant-policy 8"),
        ("fp8", "--quant-policy 16"),
        ("turbo_quant", "--quant-policy 42"),
    ] {
        assert_eq!(words("lmdeploy", kv), format!("{plain} {flags}"));
    }
}

#[test]
fn sglang() {
    let plain = "python3 -m sglang.launch_server --model-path models/m-7b --host 127.0.0.1 --port 4000 \
                 --served-model-name m-7b --enable-metrics --enable-cache-report";
    for (kv, flags) in [
        ("fp16", "--dtype float16 --kv-cache-dtype auto"),
        ("fp8", "--kv-cache-dtype fp8_e4m3"),
        ("fp8_e5m2", "--kv-cache-dtype fp8_e5m2"),
    ] {
        assert_eq!(words("sglang", kv), format!("{plain} {flags} --disable-radix-cache"));
    }
}

#[test]
fn llamacpp() {
    let plain = "llama-server -m models/m-7b --host 127.0.0.1 --port 4000 --alias m-7b --offline --metrics --no-webui";
    for kv in ["f16", "q8_0", "q4_0", "iq4_nl"] {
        let flags = format!("-ctk {kv} -ctv {kv} -fa on");
        assert_eq!(words("llamacpp", kv), format!("{plain} {flags} --cache-ram 0"));
    }
}

#[test]
fn tgi() {
    let plain = "text-generation-launcher --model-id models/m-7b --hostname 127.0.0.1 --port 4000";
    assert_eq!(words("tgi", "fp16"), format!("{plain} --dtype float16"));
    assert_eq!(words("tgi", "fp8"), format!("{plain} --kv-cache-dtype fp8_e4m3fn"));
}

/// The file of one setting.
#[track_caller]
fn file(engine: &str, kv: &str, name: &str) -> String {
    let methods = format!("[method.base.engine]\nkv = \"{kv}\"");
    let scenario = scenario(engine, "", &methods).unwrap();
    let target = engine_of(&scenario);
    let (start, spec) = (target.start().unwrap(), target.engine.as_ref().unwrap());
    let spot = Spot { port: 4000, dir: "/run" };
    start.command(spec, &target.settings["base"], "", target.prefix_cache, spot).files[name].clone()
}

#[test]
fn tensorrt_llm_and_ray_serve_take_files() {
    let words_of = words("tensorrt-llm", "fp8");
    assert!(
        words_of.ends_with("--backend pytorch --extra_llm_api_options /run/options.yaml"),
        "{words_of}"
    );
    for (kv, dtype) in [("fp8", "fp8"), ("nvfp4", "nvfp4"), ("fp16", "auto")] {
        let options = file("tensorrt-llm", kv, "options.yaml");
        assert!(
            options.contains(&format!("  dtype: {dtype}\n")) && !options.contains('{'),
            "{options}"
        );
    }
    assert_eq!(words("ray-serve", "fp8"), "serve run /run/serve.yaml");
    let serve = file("ray-serve", "fp8", "serve.yaml");
    for line in [
        "port: 4000",
        "model_source: models/m-7b",
        "model_id: m-7b",
        "kv_cache_dtype: fp8",
        "dtype: auto",
    ] {
        assert!(serve.contains(&format!(" {line}\n")), "{line} not in {serve}");
    }
    assert!(file("ray-serve", "fp16", "serve.yaml").contains(" dtype: float16\n"));
}

#[test]
fn our_methods_select_the_engines_own() {
    let methods = "[method.base.fp16]\n[method.eight.fp8]\n[method.tq.turboquant4]";
    let scenario = scenario("vllm", "flags = [\"--max-model-len\", \"512\"]", methods).unwrap();
    assert_eq!(engine_of(&scenario).methods, ["base", "eight", "tq", "base-aa"]);
    let words = words_of(&scenario, "eight");
    assert!(
        words.contains("--kv-cache-dtype fp8 ") && words.ends_with("--max-model-len 512"),
        "{words}"
    );
    assert_eq!(words_of(&scenario, "base"), words_of(&scenario, "base-aa"));
}

#[test]
fn wrappers_get_the_environment_and_programs_take_the_first_words_place() {
    let target = r#"
program = "/opt/llama-server"
wrapper = ["docker", "run", "{docker-env}", "image"]
env = { A = "b c" }
prefix_cache = "on""#;
    let scenario = scenario("llamacpp", target, "[method.base.engine]\nkv = \"f16\"").unwrap();
    let words = words_of(&scenario, "base");
    assert!(
        words.starts_with("docker run -e A=b c image /opt/llama-server -m models/m-7b"),
        "{words}"
    );
    assert!(!words.contains("--cache-ram"), "{words}");
    let target = engine_of(&scenario);
    let version = target.start().unwrap().version_command(target.engine.as_ref().unwrap()).unwrap();
    assert_eq!(version.shown(), "A='b c' docker run -e 'A=b c' image /opt/llama-server --version");
}

#[test]
fn variants_are_targets_of_their_own_names() {
    let target =
        "[target.x.engine.variants]\nplain = []\nspec = [\"--speculative-config\", \"{}\"]";
    let scenario = scenario("vllm", target, "[method.base.fp16]").unwrap();
    let start = engine_of(&scenario).start().unwrap();
    assert_eq!(start.variants.keys().collect::<Vec<_>>(), ["plain", "spec"]);
}

#[test]
fn a_scenario_adds_an_engine_without_touching_rust() {
    let methods = r#"
[method.base.engine]
kv = "half"
[engine.mine]
title = "Mine"
endpoints = ["completions"]
launch = ["mine", "{model}", "{host}:{port}"]
health = { path = "/up", timeout_s = 5 }
[engine.mine.kv]
half = { flags = ["--half"], bits = 16 }"#;
    let scenario = scenario("mine", "", methods).unwrap();
    assert_eq!(words_of(&scenario, "base"), "mine models/m-7b 127.0.0.1:4000 --half");
}

const MINE: &str = r#"
[method.base.engine]
kv = "half"
[engine.mine]
title = "Mine"
endpoints = ["completions"]
launch = ["mine", "{model}", "{address}", '{"a":{"b":1}}']
version_command = ["mine", "--version", "{model}"]
health = { path = "/up", timeout_s = 5 }
[engine.mine.set]
x = "{port}"
[engine.mine.kv]
half = { flags = ["--half", "{x}"], bits = 16 }
[engine.mine.files]
"mine.yaml" = """
port: {port}
model: {model}
x: {x}
"""
"#;

#[test]
fn places_are_filled_once_and_in_wrappers() {
    let target = r#"
host = "::1"
flags = ['--kv-transfer-config', '{"port":{port}}', "{{port}}"]
env = { MODEL = "{model}" }
wrapper = ["box", "-p", "{port}:{port}", "-v", "{dir}:{dir}", "{docker-env}", "{{env}}"]"#;
    let scenario = scenario("mine", target, MINE).unwrap();
    assert_eq!(
        words_of(&scenario, "base"),
        "box -p 4000:4000 -v /run:/run -e MODEL=models/m-7b {env} mine models/m-7b [::1]:4000 {\"a\":{\"b\":1}} --half \
         {port} --kv-transfer-config {\"port\":4000} {port}"
    );
    let target = engine_of(&scenario);
    let (start, engine) = (target.start().unwrap(), target.engine.as_ref().unwrap());
    let spot = Spot { port: 4000, dir: "/run" };
    let command = start.command(engine, &target.settings["base"], "", target.prefix_cache, spot);
    assert_eq!(command.method_flags, ["--half", "{port}"], "as they stand in the command");
    assert_eq!(command.env["MODEL"], "models/m-7b");
    assert_eq!(command.files["mine.yaml"], "port: 4000\nmodel: models/m-7b\nx: {port}\n");
    let version = start.version_command(engine).unwrap();
    assert_eq!(
        version.words.join(" "),
        "box -p 65535:65535 -v /tmp:/tmp -e MODEL=models/m-7b {env} mine --version models/m-7b"
    );
}

#[test]
fn names_of_models_stay_values_in_config_files() {
    for (name, source) in [
        ("a: b #c", "\"a: b #c\""),
        ("it's \\\"x\\\"", "\"it's \\\"x\\\"\""),
        ("{port}", "\"{port}\""),
        ("true", "\"true\""),
        ("org/m-7b", "org/m-7b"),
    ] {
        let methods = "[method.base.engine]\nkv = \"fp8\"";
        let text = text("ray-serve", "", methods).replace("models/m-7b", name);
        let scenario = Scenario::parse(&text, "s.toml").unwrap();
        let target = engine_of(&scenario);
        let (start, engine) = (target.start().unwrap(), target.engine.as_ref().unwrap());
        let spot = Spot { port: 4000, dir: "/run" };
        let command =
            start.command(engine, &target.settings["base"], "", target.prefix_cache, spot);
        let file = &command.files["serve.yaml"];
        assert!(file.contains(&format!(" model_source: {source}\n")), "{name}: {file}");
        assert!(file.contains("  host: \"127.0.0.1\"\n  port: 4000\n"), "{file}");
    }
}

#[test]
fn unknown_places_are_refused_with_their_line() {
    let error = |target: &str, methods: &str| {
        scenario("mine", target, methods).expect_err("an unknown place").to_string()
    };
    // The target's keys begin in line 8 of the text.
    for key in ["flags", "wrapper", "variants.a"] {
        let error = error(&format!("env = {{}}\n{key} = [\"-p\", \"{{prot}}\"]"), MINE);
        assert!(error.starts_with("s.toml:9:"), "{error}");
        assert!(error.contains("a place that is known, got `{prot}`"), "{error}");
        assert!(error.contains("did you mean `{port}`? there are `{model}`, `{name}`"), "{error}");
        assert!(
            error.contains("`{x}`") && error.contains("`{{prot}}` writes the braces"),
            "{error}"
        );
    }
    for (from, to, wanted) in [
        ("\"{model}\", \"{address}\"", "\"{model}\", \"{address}\", \"{y}\"", "got `{y}`"),
        ("\"--half\", \"{x}\"", "\"{half}\"", "got `{half}`"),
        ("kv = \"half\"", "kv = \"half\"\nflags = [\"{prot}\"]", "got `{prot}`"),
        ("port: {port}", "port: {prot}", "got `{prot}`"),
        ("model: {model}", "model: x{model}", "`{model}` in `mine.yaml` to be a whole value"),
        ("x = \"{port}\"", "x = \"\"\nport = \"1\"", "`set` to have names of its own, got `port`"),
        ("x = \"{port}\"", "x = \"\"\nX = \"1\"", "a name of `set` to be of"),
        ("bits = 16", "bits = 16, set = { z = \"1\" }", "a place of the engine's `set`, got `z`"),
    ] {
        let methods = MINE.replacen(from, to, 1);
        assert_ne!(methods, MINE, "{from}");
        let error = error("", &methods);
        assert!(error.contains(wanted) && error.contains("\n  hint: "), "{error}");
    }
    let error = error("wrapper = [\"x{env}\"]", MINE);
    assert!(error.contains("`{env}` to be a word of its own"), "{error}");
}

#[test]
fn ipv6_is_called_in_brackets() {
    let fp16 = "[method.base.fp16]";
    for host in ["::1", "[::1]"] {
        let scenario = scenario("vllm", &format!("host = \"{host}\""), fp16).unwrap();
        assert!(words_of(&scenario, "base").contains("--host ::1 --port 4000"));
        let host = &engine_of(&scenario).start().unwrap().host;
        assert_eq!(format!("http://{host}:4000"), "http://[::1]:4000");
        std::net::TcpListener::bind((&**host, 0)).expect("an address that can be bound to");
    }
    refused("host = \"box:8000\"", fp16, &["`host` to be an address", "a key of its own"]);
    let attached = |url: &str| {
        let text = text("vllm", &format!("url = \"{url}\"\nmethod = \"base\""), fp16);
        Scenario::parse(&text, "s.toml")
    };
    attached("http://[::1]:8000").unwrap();
    for url in ["http://::1:8000", "http://[::1:8000", "http://[box]:8000"] {
        let error = attached(url).expect_err(url).to_string();
        assert!(error.contains("IPv6 address") && error.contains("http://[::1]:8000"), "{error}");
    }
}

#[track_caller]
fn refused(target: &str, methods: &str, wanted: &[&str]) {
    let error = scenario("vllm", target, methods).expect_err("must be refused").to_string();
    assert!(error.contains("\n  hint: "), "{error}");
    for part in wanted {
        assert!(error.contains(part), "{part:?} not in {error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let fp16 = "[method.base.fp16]";
    refused(
        "",
        "[method.base.kivi]\nbits = 4\ngroup = 32\nresidual = 32",
        &["vLLM to have the method `kivi`", "[engine.vllm.kv]"],
    );
    refused("", "[method.base.engine]\nkv = \"q4_0\"", &["`q4_0`", "fp8_e5m2"]);
    refused(
        "url = \"http://h:1\"\nmethod = \"base\"\nflags = [\"x\"]",
        fp16,
        &["no `flags` beside `url`"],
    );
    refused("url = \"http://h:1\"", fp16, &["expected `method`"]);
    refused("method = \"base\"", fp16, &["no `method` without `url`"]);
    refused("version = \"1\"", fp16, &["no `version`"]);
    refused("env = { HF_TOKEN = \"x\" }", fp16, &["HF_TOKEN", "kvbench's own environment"]);
    refused("flags = [\"--api-key\", \"x\"]", fp16, &["--api-key"]);
    let files = "[method.base.fp16]\n[engine.vllm]\ntitle = \"v\"\nendpoints = [\"completions\"]\n\
                 launch = [\"v\", \"{model}\", \"{host}:{port}\"]\nhealth = { path = \"/\", timeout_s = 5 }\n\
                 files = { \"../x\" = \"\" }\n[engine.vllm.kv]\nfp16 = {}";
    refused("", files, &["names of `files`", "../x"]);
    let twice = "variants = { b = [] }\n[target.x-b.engine]\nengine = \"vllm\"\nmodel = \"m\"\nendpoint = \"chat\"";
    refused(twice, fp16, &["one target of the name `x-b`"]);
    let error = scenario("vllmm", "", fp16).expect_err("unknown").to_string();
    assert!(error.contains("did you mean `vllm`?"), "{error}");
    let error =
        scenario("llamacpp", "prefix_cache = \"salt\"", fp16).expect_err("no salt").to_string();
    assert!(error.contains("takes a salt"), "{error}");
}

/// Whatever is stored or shown: flags of target, variant and method, wrapper, environment, the engine's own tables.
#[test]
fn secrets_are_refused_wherever_they_stand_and_never_repeated() {
    let plain = "[method.base.engine]\nkv = \"fp16\"";
    let own = |more: &str| {
        format!(
            "{plain}\n[engine.vllm]\ntitle = \"V\"\nendpoints = [\"completions\"]\n\
             launch = [\"v\", \"{{model}}\", \"{{host}}\", \"{{port}}\"]\n\
             health = {{ path = \"/\", timeout_s = 1 }}\nkv.fp16 = {{}}\n{more}"
        )
    };
    let mine = plain.to_owned();
    for (target, methods, name) in [
        ("flags = ['--api-key=s3cret']", mine.clone(), "--api-key="),
        ("flags = ['--hf-token', 's3cret']", mine.clone(), "--hf-token"),
        ("variants = { v = ['--api-key=s3cret'] }", mine.clone(), "--api-key="),
        ("wrapper = ['docker', 'run', '-e', 'HF_TOKEN=s3cret']", mine.clone(), "HF_TOKEN="),
        ("env = { HF_TOKEN = 's3cret' }", mine.clone(), "HF_TOKEN"),
        ("env = { HTTP_PROXY = 'http://me:s3cret@h' }", mine, "HTTP_PROXY"),
        ("", format!("{plain}\nflags = ['--api-key=s3cret']"), "--api-key="),
        ("", own("env = { HF_TOKEN = 's3cret' }"), "HF_TOKEN"),
        ("", own("version_command = ['v', '--api-key', 's3cret']"), "--api-key"),
        ("", own("request = { api_key = 's3cret' }"), "api_key"),
        ("", own("files = { 'f' = \"a: 1\\nhf_token: s3cret\" }"), "hf_token:"),
        ("", own("prefix_cache = { off_flags = ['--password=s3cret'] }"), "--password="),
    ] {
        let error = scenario("vllm", target, &methods).unwrap_err().to_string();
        assert!(error.contains("expected no secret") && error.contains(name), "{name}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let through = "wrapper = ['docker', 'run', '-e', 'HF_TOKEN', 'IMAGE']";
    scenario("vllm", through, plain).unwrap();
}
