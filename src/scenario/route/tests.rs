use std::path::Path;

use super::*;
use crate::{
    predict::simulate::Mixing,
    route::{GuardSpec, LengthKnowledge, RiskKnowledge, Rule, experiment::Arrivals},
};

const FULL: &str = r#"
name = "full"
seed = 9
baseline = "fp16"

[slo]
ttft_ms = 500

[engine]
max_num_seqs = 64
max_batched_tokens = 4096
mixing = "prefill-first"
kv_tokens = 60000
block_tokens = 64

[method.stream.speed.linear]
step_s = 0.03
per_kv_token_s = 8.7e-7
source = "made up"

[method.stream]
kv_budget = 512
kv_tokens = 1280
length = { mean_log = 0.1, sigma_log = 0.4, source = "made up" }
excess = { other = 0.05, by_task = { qa = 0.2 }, source = "made up" }

[method.fp16.speed.model]
path = "m.json"

[pool.mixed]
engines = { fp16 = 1, stream = 2 }

[pool.own]
engines = { stream = 3 }

[trace.long.synthetic]
n_requests = 100
prompt_tokens = { uniform = { min = 1000, max = 4000 } }
output_tokens = { lognormal = { median = 200, sigma = 0.8, max = 1024 } }
tasks = { qa = 1, chat = 3 }

[trace.conv.file]
path = "azure.csv"
format = "azure"
n_requests = 500
order = "sample"

[load.poisson.poisson]
rate = [2, 2.5]

[load.rho.utilisation]
rho = [0.9]

[skill.noisy]
length_sigma_log = 0.6
knows_shift = true
guard_answers = 300

[skill.fast]
length_sigma_log = 0.6
knows_shift = true
speed_factor = 0.8
guard_answers = 300

[policy.marginal]
rule = "marginal_cost"
length = "predicted"
guard = { epsilon = 0.02 }

[policy.jsq]
rule = "join_shortest_queue"

[report]
pool = "own"
load = "rho-0.9"
"#;

fn parse(text: &str) -> Result<RouteScenario, ScenarioError> {
    RouteScenario::parse(text, "r.toml")
}

/// What is said of the full file after one text in it was replaced, and the line that it is said of.
fn broken(from: &str, to: &str) -> (String, String) {
    assert!(FULL.contains(from), "{from}");
    let text = FULL.replacen(from, to, 1);
    let error = parse(&text).expect_err(to);
    let shown = error.to_string();
    assert!(shown.starts_with(&format!("r.toml:{}:{}: ", error.line, error.column)), "{shown}");
    let line = text.lines().nth(error.line - 1).expect("the line exists").to_owned();
    (shown, line)
}

#[test]
fn a_full_file_is_read_in_file_order() {
    let read = parse(FULL).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((read.n_seeds, read.seed, read.baseline), (5, 9, 1));
    let [stream, fp16] = read.methods.as_slice() else { panic!("two methods") };
    assert_eq!((stream.config.kv_budget, stream.config.kv_blocks), (Some(512), Some(20)));
    assert_eq!((fp16.config.kv_budget, fp16.config.kv_blocks), (None, Some(937)));
    assert_eq!(stream.config.mixing, Mixing::PrefillFirst);
    assert_eq!(stream.excess.keys().map(String::as_str).collect::<Vec<_>>(), ["", "qa"]);
    assert_eq!(stream.sources.len(), 3);
    assert!(
        matches!(&fp16.speed, Speed::Model { method, subject, .. } if method == "fp16" && subject.is_empty())
    );
    assert_eq!(read.pools[0].engines[2], ("stream-2".to_owned(), 0));
    let loads: Vec<_> = read.loads.iter().map(|load| load.name.as_str()).collect();
    assert_eq!(loads, ["poisson-2", "poisson-2.5", "rho-0.9"]);
    assert!(matches!(read.loads[2].arrivals, Arrivals::Utilisation { rho } if rho > 0.8));
    let policies: Vec<_> = read.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(policies, ["marginal", "jsq"]);
    let guard = Some(GuardSpec { risk: RiskKnowledge::Learned, epsilon: 0.02 });
    let marginal = &read.policies[0];
    assert_eq!(
        (marginal.rule, marginal.length, marginal.guard),
        (Rule::MarginalCost, LengthKnowledge::Predicted, guard)
    );
    assert_eq!(read.headline, Headline { pool: 1, trace: 0, load: 2, skill: 0 });
    assert_eq!(read.slo.and_then(|slo| slo.ttft_s).map(|s| s.to_bits()), Some(0.5_f64.to_bits()));
    assert_eq!(read.n_cells(), 2 * 2 * 3 * 2 * 2 * 5);
    assert!((read.skills[1].skill.speed_factor - 0.8).abs() < 1e-12);
}

/// What is replaced by what, what is said of it, and a part of the line that it is said of.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("kv_budget = 512", "kv_bugdet = 512", "did you mean `kv_budget`?", "kv_bugdet"),
    (
        "rule = \"marginal_cost\"",
        "rule = \"marginal_cots\"",
        "did you mean `marginal_cost`?",
        "rule",
    ),
    ("baseline = \"fp16\"", "baseline = \"fp61\"", "did you mean `fp16`?", "fp61"),
    ("stream = 2 }", "steam = 2 }", "did you mean `stream`?", "steam"),
    ("pool = \"own\"", "pool = \"owl\"", "did you mean `own`?", "owl"),
    ("load = \"rho-0.9\"", "load = \"rho\"", "expected the name of a load, got `rho`", "load = "),
    (
        "other = 0.05",
        "other = 5",
        "expected a number from 0 to 1, got floating point `5.0`",
        "other",
    ),
    (
        "source = \"made up\"\n\n[method.stream]",
        "\n[method.stream]",
        "add `source`",
        "[method.stream",
    ),
    (
        "sigma_log = 0.4, source = \"made up\"",
        "sigma_log = 0.4, source = \" \"",
        "where the numbers are from",
        "length",
    ),
    (
        "max_batched_tokens = 4096",
        "max_batched_tokens = 32",
        "at least max_num_seqs (64), got 32",
        "max_num_seqs",
    ),
    ("kv_tokens = 1280", "kv_tokens = 63", "kv_blocks: expected at least 1, got 0", "max_num_seqs"),
    ("mixing = \"prefill-first\"", "mixing = \"slots\"", "chunked_prefill", "max_num_seqs"),
    ("step_s = 0.03", "step_s = 0", "expected steps of `stream` to take time", "[method.stream"),
    ("min = 1000", "min = 5000", "expected `min` to be at most `max`", "min = 5000"),
    (
        "engines = { stream = 3 }",
        "engines = {}",
        "1 to 1024 engines in pool `own`, got 0",
        "[pool.own",
    ),
    (
        "[load.rho.utilisation]\nrho = [0.9]",
        "[load.rho.recorded]\nspeed = [1]",
        "got `long`, which has none",
        "[load.rho",
    ),
    (
        "excess = { other = 0.05, by_task = { qa = 0.2 }, source = \"made up\" }",
        "",
        "expected `excess` of every method but the baseline, got none of `stream`",
        "[method.stream",
    ),
    (
        "n_requests = 500",
        "n_requests = 0",
        "expected a whole number from 1 to 1000000",
        "n_requests",
    ),
];

#[test]
fn what_is_wrong_is_said_with_its_line_and_a_remedy() {
    for (from, to, wanted, place) in WRONG {
        let (shown, line) = broken(from, to);
        assert!(shown.contains(wanted) && shown.contains("hint: "), "{to}: {shown}");
        assert!(line.contains(place), "{to}: points at {line}: {shown}");
    }
}

#[test]
fn the_baseline_differs_from_itself_in_nothing() {
    let (shown, _) = broken("baseline = \"fp16\"", "baseline = \"stream\"");
    assert!(shown.contains("expected no `length` of the baseline"), "{shown}");
}

#[test]
fn too_many_simulations_are_refused() {
    let text = FULL
        .replace("seed = 9", "seeds = 1000")
        .replace("[2, 2.5]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]");
    let error = parse(&text).expect_err("176000 simulations");
    assert!(error.line == 2 && error.message.contains("got 176000"), "{error}");
}

#[test]
fn kinds_of_files_are_told_apart() {
    assert!(RouteScenario::is_meant(FULL));
    assert!(!RouteScenario::is_meant(crate::scenario::tests::FULL));
}

#[test]
fn every_committed_experiment_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("scenarios/") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "toml") && RouteScenario::is_meant(&text) {
            RouteScenario::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
            n += 1;
        }
    }
    assert!(n > 0);
}

proptest::proptest! {
    #![proptest_config(crate::scenario::fuzz::config())]
    #[test]
    fn whatever_the_bytes_there_is_an_experiment_or_an_error(
        bytes in crate::scenario::fuzz::mutated(FULL),
    ) {
        let text = String::from_utf8_lossy(&bytes);
        match parse(&text) {
            Ok(read) => assert!(!read.methods.is_empty() && read.baseline < read.methods.len()),
            Err(error) => assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}"),
        }
    }
}
