use super::*;
use crate::predict::file::Origin;

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
