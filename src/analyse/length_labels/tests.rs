use super::{merge::Runs, *};

const SCENARIO: &str = r#"
name = "x"
baseline = "f16"
aa_control = true
[target.l.engine]
engine = "llamacpp"
model = "m.gguf"
endpoint = "completions"
temperature = 1.0
[method.q8.engine]
kv = "q8_0"
[method.q8-seed.engine]
kv = "q8_0"
seed = 7
[method.f16-seed.engine]
kv = "f16"
seed = 9
[method.f16.engine]
kv = "f16"
[method.f16-warm.engine]
kv = "f16"
temperature = 1.1
seed = 5
[workload.w.dataset]
path = "d.json"
format = "sharegpt"
max_tokens = 8
[load.c.closed]
concurrency = [1]
"#;

#[test]
fn other_seeds_are_runs_and_the_control_is_not() {
    let runs = |text: &str| Runs::of(&Scenario::parse(text, "x").unwrap());
    let sampled = runs(SCENARIO);
    for (method, expected) in [
        ("f16", ("f16", 0)),
        ("f16-seed", ("f16", 9)),
        ("f16-aa", ("f16-aa", 0)),
        ("f16-warm", ("f16-warm", 5)),
        ("q8", ("q8", 0)),
        ("q8-seed", ("q8", 7)),
        ("unheard-of", ("unheard-of", 0)),
    ] {
        assert_eq!(sampled.of_method("l", method), expected, "{method}");
    }
    assert_eq!(sampled.llm("l").as_deref(), Some("m.gguf"));
    // Greedy decoding draws nothing, so another seed is no other run.
    let greedy = runs(&SCENARIO.replace("temperature = 1.0", "temperature = 0"));
    assert_eq!(greedy.of_method("l", "f16-seed"), ("f16-seed", 9));
}

fn row<'a>(finish_reason: Option<&'a str>, tokens: Option<i64>, failed: bool) -> Row<'a> {
    Row {
        cell_id: "c",
        target: "l",
        method: "f16",
        workload: "w",
        repeat: 0,
        request_id: 0,
        turn: 0,
        warmup: false,
        output_tokens: tokens,
        max_tokens: 8,
        finish_reason,
        failed,
        sha256: "",
    }
}

/// Repeats and methods count from 0, so that sums of their numbers with the run's seed meet: 1 + 0 + 0 and 0 + 1 + 0.
#[test]
fn answers_are_one_observation_only_where_the_server_was_sent_one_seed() {
    let seed = |run, method, repeat, request_id| {
        Row { repeat, request_id, ..row(None, None, false) }.seed(run, method).unwrap()
    };
    let all = [seed(0, 0, 0, 0), seed(0, 0, 1, 0), seed(1, 0, 0, 0), seed(0, 1, 0, 0)];
    let again = seed(0, 0, 0, 1);
    let distinct: BTreeSet<u64> = all.into_iter().chain([again]).collect();
    assert_eq!(distinct.len(), 5);
    assert_eq!(seed(3, 4, 5, 6), draws::sent(draws::of_request(draws::of_repeat(3, 5, 4), 6)));
    assert!(Row { request_id: -1, ..row(None, None, false) }.seed(0, 0).is_err());
}

#[test]
fn what_has_no_length_is_named() {
    let of = |finish, tokens, failed| row(finish, tokens, failed).length();
    assert_eq!(of(Some("stop"), Some(8), false), Ok(Length { tokens: 8, censored: false }));
    assert_eq!(of(Some("length"), Some(8), false), Ok(Length { tokens: 8, censored: true }));
    assert_eq!(of(Some("length"), Some(5), false), Err(Unusable::ContextFull.words()));
    assert_eq!(of(Some("stop"), None, false), Err(Unusable::Uncounted.words()));
    assert_eq!(of(Some("stop"), Some(5), true), Err(Unusable::Failed.words()));
    assert!(of(None, Some(5), false).unwrap_err().contains("did not say"));
}
