use super::*;
use crate::{
    predict::file::Origin,
    route::experiment::{Plan, cells, run_cell},
};

const TEXT: &str = "
name = \"r\"
seed = 3
seeds = 2
baseline = \"fp16\"
[engine]
max_num_seqs = 4
mixing = \"decode-first\"
[method.fp16.speed.linear]
step_s = 0.01
source = \"made up\"
[pool.one]
engines = { fp16 = 1 }
[trace.t.synthetic]
n_requests = 50
prompt_tokens = { lognormal = { median = 100, sigma = 1.0, max = 1000 } }
output_tokens = { fixed = 7 }
tasks = { chat = 3, code = 1 }
[load.r.poisson]
rate = [1]
[skill.s]
length_sigma_log = 0.5
knows_shift = true
guard_answers = 100
[policy.jsq]
rule = \"join_shortest_queue\"
";

fn scenario(text: &str) -> RouteScenario {
    RouteScenario::parse(text, "r.toml").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_synthetic_trace_is_the_same_whatever_stands_beside_it() {
    let alone = build(&scenario(TEXT)).unwrap().experiment.traces;
    let other = "[trace.a.synthetic]\nn_requests = 5\nprompt_tokens = { fixed = 3 }\noutput_tokens = { fixed = 7 }\n[trace.t.";
    let beside = build(&scenario(&TEXT.replacen("[trace.t.", other, 1))).unwrap().experiment.traces;
    assert_eq!(alone[0], beside[1]);
    assert!(alone[0].is_sample && alone[0].rows.len() == DRAWN.0);
    let chat = alone[0].rows.iter().filter(|row| row.task.as_deref() == Some("chat")).count();
    let share = chat as f64 / alone[0].rows.len() as f64;
    // Within four standard deviations of three quarters.
    assert!((share - 0.75).abs() < 4.0 * (0.75 * 0.25 / DRAWN.0 as f64).sqrt(), "{share}");
    assert!(beside[0].rows.iter().all(|row| row.task.is_none() && row.prompt_tokens == 3));
    let reseeded = build(&scenario(&TEXT.replace("seed = 3", "seed = 4"))).unwrap();
    assert_ne!(alone, reseeded.experiment.traces);
}

#[test]
fn windows_and_longest_requests_are_kept_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    let rows = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                10,m,5,1,6,a\n11,m,900,200,1100,a\n12,m,6,2,8,a\n30,m,7,3,10,a\n";
    std::fs::write(&path, rows).unwrap();
    let file = format!(
        "[trace.f.file]\npath = {:?}\nformat = \"burstgpt\"\nn_requests = 2\nstart_s = 0.5\nduration_s = 5\nmax_request_tokens = 1000\ntask = \"chat\"\n[load.",
        path.display().to_string()
    );
    let text = TEXT.replacen("[load.", &file, 1);
    let short = build(&scenario(&text)).unwrap_err().to_string();
    assert!(short.contains("at least 2 requests for trace `f`, got 1"), "{short}");
    let built = build(&scenario(&text.replace("start_s = 0.5", "start_s = 0"))).unwrap();
    let rows = &built.experiment.traces[1].rows;
    assert_eq!(rows.iter().map(|row| row.at_ns).collect::<Vec<_>>(), [0, 2_000_000_000]);
    assert_eq!(rows[1].task.as_deref(), Some("chat"));
    assert_eq!(built.notes.len(), 1, "{:?}", built.notes);
    assert!(built.notes[0].contains("1 of 3 requests are longer than 1000 tokens"));
    assert_eq!(built.inputs.len(), 1);
}

#[test]
fn step_times_are_those_of_the_method_and_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.json");
    let rows = "model,method,bsz,prompt_len,stage,thr\n".to_owned()
        + &[(1, 100), (2, 100), (4, 100), (1, 1000), (2, 1000), (4, 1000)]
            .iter()
            .map(|(b, l)| {
                let (b, l) = (f64::from(*b), f64::from(*l));
                let decode_s = 0.03 + 1e-6 * b * l;
                let prefill_s = 0.02 + 1e-4 * b * l;
                format!(
                    "m,None,{b},{l},decode,{}\nm,None,{b},{l},prefill,{}\n",
                    b / decode_s,
                    b * l / prefill_s
                )
            })
            .collect::<String>();
    let seen = crate::predict::measured::read(rows.as_bytes(), "m.csv", None).unwrap();
    let fit = crate::predict::fit::fit(&seen, &Default::default());
    let origin = Origin { run_id: None, path: "m.csv".to_owned() };
    std::fs::write(&path, ModelFile::new(vec![origin], fit.models).text().unwrap()).unwrap();
    let (times, input) = step_times(&path, "", "None", None).unwrap();
    let took = times.step_s(None, Some(&Work::decode([100.0, 500.0], None)));
    assert!((took - 0.0306).abs() < 1e-6, "{took}");
    assert_eq!(input.sha256.len(), 64);
    let error = |budget| format!("{:#}", step_times(&path, "", "None", budget).err().unwrap());
    assert!(error(Some(512)).contains("that keeps 512 tokens"), "{}", error(Some(512)));
    let missing = step_times(&dir.path().join("no.json"), "", "None", None).err().unwrap();
    assert!(format!("{missing:#}").contains("kvbench predict fit"), "{missing:#}");
}

const PROXY: &str = "
name = \"p\"
baseline = \"f16\"
[engine.a]
url = \"http://127.0.0.1:8081\"
method = \"f16\"
max_num_seqs = 4
[engine.a.speed.linear]
step_s = 0.01
per_sequence_s = 0.0
per_kv_token_s = 0.0
per_prompt_s = 0.0
per_prompt_token_s = 0.0
per_pair_s = 0.0
[engine.b]
url = \"http://127.0.0.1:8082\"
method = \"q4\"
max_num_seqs = 4
[engine.b.speed.linear]
step_s = 0.01
per_sequence_s = 0.0
per_kv_token_s = 0.0
per_prompt_s = 0.0
per_prompt_token_s = 0.0
per_pair_s = 0.0
[policy]
rule = \"join_shortest_queue\"
length.constant = 64
";

fn asked(request_id: i64, output_tokens: i64) -> RouteRequestRow {
    let arrived_ns = 1_000_000_000 + request_id * 5_000_000;
    RouteRequestRow {
        request_id,
        arrived_ns,
        finished_ns: Some(arrived_ns + output_tokens * 10_000_000),
        prompt_tokens: Some(20),
        output_tokens: Some(output_tokens),
        predicted_output_tokens: Some(2.0 * output_tokens as f64),
        engine: Some("a".to_owned()),
        ..RouteRequestRow::default()
    }
}

#[test]
fn what_a_proxy_recorded_can_be_simulated() {
    let proxy = Proxy::parse(PROXY, "p.toml").unwrap_or_else(|error| panic!("{error}"));
    let mut rows: Vec<RouteRequestRow> = (0..30).map(|id| asked(id, 1 + id % 7)).collect();
    rows.push(RouteRequestRow { err: Some("gone".to_owned()), ..asked(30, 3) });
    let built = recorded(&proxy, &rows, &[], 2).unwrap();
    let trace = &built.experiment.traces[0];
    assert_eq!((trace.rows.len(), trace.rows[0].at_ns, trace.is_sample), (30, 0, false));
    // Predictions that are all twice too long differ from the truth by a constant.
    assert!(built.experiment.skills[0].skill.length_sigma_log < 1e-9);
    let plan = Plan::new(built.experiment).unwrap();
    let all = cells(&plan);
    assert!(!all.is_empty());
    for cell in &all {
        let told = run_cell(&plan, cell).unwrap();
        assert!(told.requests.iter().all(|row| row.err.is_none()));
    }
    let error = recorded(&proxy, &rows[30..], &[], 2).unwrap_err().to_string();
    assert!(error.contains("expected requests that ended well"), "{error}");
}
