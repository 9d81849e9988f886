use super::*;
use crate::scenario::{Host, engine};

fn proof(kv_dtype: Option<&str>) -> Proof {
    Proof {
        url: "http://h".to_owned(),
        target: "t".to_owned(),
        method: "fp8".to_owned(),
        engine: Some("vllm".to_owned()),
        version: "1".to_owned(),
        version_source: "server",
        tells: BTreeMap::from([("kv_dtype".to_owned(), kv_dtype.map(str::to_owned))]),
        kv_bytes_per_token: None,
        kv_bytes_per_token_theory: None,
        command: None,
        process_arguments: None,
        ready_after_s: None,
        log: None,
        listener: None,
        verdict: Verdict::Valid,
        reasons: Vec::new(),
    }
}

#[test]
fn another_type_is_invalid_and_silence_is_suspect() {
    let setting = KvSetting { told: vec!["fp8".to_owned()], ..KvSetting::default() };
    let judged = |told| {
        let mut proof = proof(told);
        check_type(&mut proof, &setting);
        proof.verdict
    };
    assert_eq!(judged(Some("fp8")), Verdict::Valid);
    assert_eq!(judged(Some("auto")), Verdict::Invalid);
    assert_eq!(judged(None), Verdict::Suspect);
}

#[test]
fn bytes_are_compared_with_theory() {
    let mut off = proof(None);
    (off.kv_bytes_per_token, off.kv_bytes_per_token_theory) = (Some(2560.0), Some(2720.0));
    check_bytes(&mut off);
    assert_eq!(off.reasons, ["the engine keeps 2560 bytes for a cached token, theory says 2720"]);
    let mut close = proof(None);
    (close.kv_bytes_per_token, close.kv_bytes_per_token_theory) = (Some(10_242.5), Some(10_240.0));
    check_bytes(&mut close);
    assert_eq!(close.verdict, Verdict::Valid);
}

#[test]
fn labels_and_logs_are_read() {
    let text = "# TYPE a gauge\na{x=\"1\",cache_dtype=\"fp8\",y=\"q\\\"\"} 1.0\n";
    assert_eq!(label_of(text, "a", "cache_dtype").as_deref(), Some("fp8"));
    assert_eq!(label_of(text, "a", "y").as_deref(), Some("q\""));
    assert_eq!(label_of(text, "a", "dtype"), None);
    let log = "size = 1.5 MiB\nsize = 2.5 MiB\n";
    assert_eq!(in_log(log, r"size = ([0-9.]+) MiB", Some(2.0)).as_deref(), Some("5"));
}

/// The label stands at the target's own metrics path; at `/metrics` another one would be found.
#[test]
fn labels_are_read_where_the_target_has_its_metrics() {
    let told = |kind: &'static str| async move {
        format!("vllm:cache_config_info{{cache_dtype=\"{kind}\"}} 1.0\n")
    };
    let vllm = engine::built_in().unwrap().iter().find(|engine| engine.name == "vllm");
    let mut spec = vllm.unwrap().metrics.clone().unwrap();
    spec.path = "/own/metrics".to_owned();
    let target = EngineTarget {
        engine: Some(std::sync::Arc::new(vllm.unwrap().clone())),
        metrics: Some(spec),
        ..EngineTarget::running("http://h", crate::scenario::Endpoint::Completions, "fp8")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let proof = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let routes = axum::Router::new()
            .route("/metrics", axum::routing::get(move || told("wrong")))
            .route("/own/metrics", axum::routing::get(move || told("right")));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let question = Question {
            client: &http::client(None).unwrap(),
            base: &base,
            target: &target,
            name: "t",
            method: "fp8",
            version: Some("1"),
            session: None,
        };
        ask(&question, || Ok(None)).await.unwrap()
    });
    assert_eq!(proof.tells["kv_dtype"].as_deref(), Some("right"));
}

fn start(model: &str) -> Start {
    Start {
        model: model.to_owned(),
        program: None,
        flags: Vec::new(),
        variants: BTreeMap::new(),
        env: BTreeMap::new(),
        wrapper: Vec::new(),
        host: Host::new("127.0.0.1").unwrap(),
        port: None,
        timeout_s: 1.0,
    }
}

fn of_bits(bits: Option<f64>) -> KvSetting {
    KvSetting { bits, ..KvSetting::default() }
}

#[test]
fn theory_needs_the_models_shape() {
    let folder = tempfile::tempdir().unwrap();
    let start = start(&folder.path().display().to_string());
    let bytes = |bits| theory(&start, &of_bits(bits)).unwrap();
    assert_eq!(bytes(Some(32.0)), None, "no config.json");
    let config = r#"{"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    assert_eq!(bytes(Some(32.0)), Some(10_240.0));
    assert_eq!(bytes(None), None);
    let huge = r#"{"num_hidden_layers": 18446744073709551615, "num_attention_heads": 18446744073709551615, "head_dim": 64}"#;
    std::fs::write(folder.path().join("config.json"), huge).unwrap();
    assert!(bytes(Some(8.0)).is_some_and(f64::is_finite), "a product that does not fit");
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    let error = format!("{:#}", theory(&start, &of_bits(Some(8.0))).unwrap_err());
    assert!(error.contains("config.json: "), "{error}");
}

#[test]
fn theory_of_a_gguf_knows_the_blocks_of_its_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let keys: [(&str, &[u32]); 4] = [
        ("block_count", &[5]),
        ("embedding_length", &[512]),
        ("attention.head_count", &[8]),
        ("attention.head_count_kv", &[4]),
    ];
    std::fs::write(&path, gguf::tests::written(3, "llama", &keys)).unwrap();
    let start = start(path.to_str().unwrap());
    let built_in = crate::scenario::engine::built_in().unwrap();
    let llama = built_in.iter().find(|engine| engine.name == "llamacpp").unwrap();
    // 5 layers x 4 heads x (64 + 64) numbers; blocks of 32 with a scale of two bytes.
    for (kv, bytes) in
        [("f16", 2560.0 * 2.0), ("q8_0", 2560.0 * 34.0 / 32.0), ("q4_0", 2560.0 * 18.0 / 32.0)]
    {
        assert_eq!(theory(&start, &llama.kv[kv]).unwrap(), Some(bytes), "{kv}");
    }
    std::fs::write(&path, b"GGUF\x09\0\0\0").unwrap();
    let error = format!("{:#}", theory(&start, &llama.kv["f16"]).unwrap_err());
    assert!(error.contains("m.gguf: expected GGUF version 2 or 3"), "{error}");
}

/// Lines of llama-server 0.3.36 (`-lv 5 -c 2048 -np 4 -ctk q8_0 -ctv q8_0`).
#[test]
fn llamacpp_logs_the_bytes_of_its_cache() {
    let log = "0.00.048.099 I llama_context: n_ctx                 = 2048\n\
               0.00.048.099 I llama_context: n_ctx_seq             = 512\n\
               0.00.048.576 I llama_kv_cache:        CPU KV buffer size =     5.31 MiB\n\
               0.00.048.582 I llama_kv_cache: size =    5.31 MiB (   512 cells,   5 layers,  4/4 seqs), K (q8_0):    2.66 MiB, V (q8_0):    2.66 MiB\n";
    let built_in = crate::scenario::engine::built_in().unwrap();
    let llama = built_in.iter().find(|engine| engine.name == "llamacpp").unwrap();
    let told = |name: &str| {
        let Tells::Log { pattern, scale } = &llama.tells[name] else { panic!("{name}") };
        in_log(log, pattern, *scale)
    };
    assert_eq!(told("kv_tokens").as_deref(), Some("2048"));
    let bytes: f64 = told("kv_memory_bytes").unwrap().parse().unwrap();
    let theory = llama.kv["q8_0"].bytes_per_token(5, 4, 64).unwrap();
    assert!((bytes / 2048.0 / theory - 1.0).abs() < BYTES_TOLERANCE, "{bytes} {theory}");
}

#[test]
fn flags_are_compared_as_they_were_filled() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let judged = |flags: &[&str]| {
        let mut proof = proof(None);
        proof.process_arguments =
            Some(words(&["vllm", "--port", "4000", "--kv-cache-dtype", "fp8"]));
        check_flags(&mut proof, &words(flags), Some(&start("m")));
        proof.verdict
    };
    assert_eq!(judged(&["--kv-cache-dtype", "fp8"]), Verdict::Valid);
    assert_eq!(judged(&["--kv-cache-dtype", "{kv_dtype}"]), Verdict::Suspect);
}

#[test]
fn ours_has_to_be_among_the_models() {
    let place = Tells::Json { path: "/v1/models".to_owned(), pointer: "/data/0/root".to_owned() };
    let judged = |json: &str| {
        let mut proof = proof(None);
        let named = others(&place, json);
        check_model(&mut proof, &named, Some(&start("models/m-7b")));
        proof.verdict
    };
    let adapters = r#"{"data": [{"id": "lora", "root": "adapters/x"}, {"id": "m-7b", "root": "models/m-7b"}]}"#;
    assert_eq!(judged(adapters), Verdict::Valid);
    assert_eq!(judged(r#"{"data": [{"root": "m-7b"}]}"#), Verdict::Valid, "the served name");
    let path = std::path::absolute("models/m-7b").unwrap().display().to_string();
    assert_eq!(judged(&format!(r#"{{"data": [{{"root": "{path}"}}]}}"#)), Verdict::Valid);
    assert_eq!(judged(r#"{"data": [{"root": "./models/m-7b"}]}"#), Verdict::Valid);
    for other in ["other/m-7b", "/elsewhere/models/m-7b", "models/m-7b-chat"] {
        let json = format!(r#"{{"data": [{{"root": "{other}"}}]}}"#);
        assert_eq!(judged(&json), Verdict::Suspect, "{other}");
    }
    assert_eq!(judged("no JSON"), Verdict::Valid, "silence is no other model");
}
