//! Configurations of the proxy that are taken, and sentences about those that are not.

use super::*;

/// Every key once.
pub(crate) const FULL: &str = r#"
name = "live"
seed = 3
baseline = "f16"
listen = "127.0.0.1:0"
public = false
token_env = "PROXY_TOKEN"
results = "results"
bytes_per_token = 3.5

[engine.a]
url = "http://127.0.0.1:8081/"
method = "f16"
model = "m"
key_env = "KEY_A"
health = "/health"
metrics = "/metrics"
max_num_seqs = 4
max_batched_tokens = 2048
chunked_prefill = true
kv_tokens = 8192
[engine.a.speed.linear]
step_s = 0.01
per_sequence_s = 0.001
per_kv_token_s = 0.0000001
per_prompt_s = 0
per_prompt_token_s = 0.0001
per_pair_s = 0

[engine.b]
url = "http://127.0.0.1:8082"
method = "stream-512"
max_num_seqs = 8
kv_budget = 512
speed.model = { path = "speed.json", subject = "llama" }

[policy]
rule = "marginal_cost"
length.constant = 128
guard = { risks = "risks.json", epsilon = 0.05 }

[limits]
body_bytes = 1000
stall_s = 0.5
buffer_bytes = 100000
header_bytes = 4096
header_fields = 32
connections = 100
requests = 50
header_s = 5
body_s = 6
idle_s = 7
write_s = 8
connect_s = 1
first_byte_s = 60
drain_s = 9
attempts = 3

[health]
interval_s = 0.25
timeout_s = 2
reload_s = 3
record_s = 4

[breaker]
failures = 2
open_s = 1
"#;

#[test]
fn a_full_configuration_is_taken() {
    let proxy = Proxy::parse(FULL, "f").unwrap();
    assert_eq!(
        (proxy.methods.as_slice(), proxy.baseline),
        (&["f16".to_owned(), "stream-512".into()][..], 0)
    );
    assert_eq!(proxy.engines[0].url, "http://127.0.0.1:8081");
    assert_eq!(proxy.engines[0].config.kv_blocks, Some(512));
    assert_eq!(proxy.engines[1].config.kv_budget, Some(512));
    let Some(ProxySpeed::Model { method, .. }) = &proxy.engines[1].speed else { panic!("a model") };
    assert_eq!(method, "stream-512");
    assert_eq!((proxy.limits.body_bytes, proxy.limits.stall), (1000, Duration::from_millis(500)));
    assert_eq!(proxy.limits.attempts, 3);
    assert_eq!(proxy.policy.guard.map(|guard| guard.risk), Some(RiskKnowledge::Learned));
    assert_eq!(proxy.risks, Some("risks.json".into()));
}

/// The error of [`FULL`] with `from` replaced by `to`.
fn error(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    Proxy::parse(&FULL.replacen(from, to, 1), "f").unwrap_err().to_string()
}

#[test]
fn errors_have_a_place_and_a_remedy() {
    for (from, to, place, words) in [
        (
            "baseline = \"f16\"",
            "baseline = \"f17\"",
            "f:4:12",
            "the engines' methods are `f16`, `stream-512`",
        ),
        ("127.0.0.1:0", "localhost", "f:5:10", "expected an IP address and a port"),
        ("127.0.0.1:0", "0.0.0.0:1", "f:5:10", "public = true"),
        ("PROXY_TOKEN", "sk-secret value", "f:7:13", "name of a variable"),
        ("http://127.0.0.1:8081/", "ftp://x", "f:12:7", "http"),
        ("max_num_seqs = 4", "max_num_seqs = 0", "f:18:16", "a whole number from 1"),
        ("max_batched_tokens = 2048", "max_batched_tokens = 2", "f:19:22", "max_num_seqs"),
        ("health = \"/health\"", "health = \"x\"", "f:16:10", "begins with a slash"),
        (
            "speed.model = { path = \"speed.json\", subject = \"llama\" }",
            "",
            "f:38:8",
            "[engine.b.speed.linear]",
        ),
        ("rule = \"marginal_cost\"", "rule = \"marginal\"", "f:38:8", "marginal_cost"),
        ("failures = 2", "failure = 2", "f:66:1", "did you mean `failures`?"),
        ("[engine.b]", "[engine.B]", "f:30:9", "a-z"),
    ] {
        let error = error(from, to);
        assert!(error.starts_with(&format!("{place}: ")) && error.contains(words), "{to}: {error}");
        assert!(error.contains("\n  hint: "), "{error}");
    }
    assert!(
        !error("PROXY_TOKEN", "sk-secret value").contains("sk-secret"),
        "what may be a secret is not shown"
    );
}

/// Keys of a schema.
fn keys(schema: &serde_json::Value, found: &mut Vec<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            let properties = object.get("properties").and_then(|own| own.as_object());
            found.extend(properties.into_iter().flat_map(|own| own.keys().cloned()));
            object.values().for_each(|value| keys(value, found));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_full_configuration_has_every_key() {
    let mut found = Vec::new();
    keys(&schema(), &mut found);
    assert!(found.len() > 40, "the walk found {} keys only", found.len());
    for key in found {
        let has = |before: &str, after: &str| FULL.contains(&format!("{before}{key}{after}"));
        // `length.model` is the other choice beside `length.constant`.
        let is_there =
            has("", " = ") || has("", "]") || has("[", ".") || has("\n", ".") || has(".", " = ");
        assert!(is_there, "{key}");
    }
}

#[test]
fn each_line_is_blamed_for_its_own_fault() {
    let lines: Vec<&str> = FULL.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let misspelt = format!("{key}x = {value}");
        let wrong = format!("{key} = {{ wrong = 1 }}");
        for own in [misspelt, wrong] {
            let mut text = lines.clone();
            text[at] = &own;
            let error = Proxy::parse(&text.join("\n"), "f").unwrap_err();
            assert_eq!(error.line, at + 1, "{own}: {error}");
            assert!(!error.hint.is_empty() && !error.message.contains('\n'), "{error}");
        }
        let mut text = lines.clone();
        text.remove(at);
        if let Err(error) = Proxy::parse(&text.join("\n"), "f") {
            assert!(!error.hint.is_empty() && !error.message.contains('\n'), "{line}: {error}");
        }
    }
}

#[test]
fn an_address_that_others_reach_needs_a_word_and_a_token() {
    let open =
        FULL.replacen("127.0.0.1:0", "0.0.0.0:1", 1).replacen("public = false", "public = true", 1);
    assert!(Proxy::parse(&open, "f").is_ok());
    let tokenless = open.replacen("token_env = \"PROXY_TOKEN\"", "", 1);
    assert!(Proxy::parse(&tokenless, "f").unwrap_err().to_string().contains("token_env"));
}

#[test]
fn no_engine_is_an_error() {
    let error = Proxy::parse(
        "name = \"x\"\nbaseline = \"f16\"\nengine = {}\n[policy]\nrule = \"random\"\nlength.constant = 1\n",
        "f",
    );
    assert!(error.unwrap_err().to_string().contains("at least one engine"));
}

proptest::proptest! {
    #![proptest_config(crate::scenario::fuzz::config())]

    #[test]
    fn mutated_configurations(bytes in crate::scenario::fuzz::mutated(FULL)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Proxy::parse(&text, "f") {
            assert!(error.line >= 1 && !error.message.contains('\n'), "{error}");
        }
    }
}
