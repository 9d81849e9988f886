//! `kvbench plot` from the outside, and the scenarios of the paper's figures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::serve::{Server, fp16_and_fp8, run_scenario};

fn kvbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn plot(run: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    kvbench(&[&["plot", run.to_str().unwrap()], args].concat())
}

fn served() -> (tempfile::TempDir, PathBuf) {
    let server = Server::start();
    let methods = fp16_and_fp8(&format!("http://{}", server.address));
    let scenario = format!(
        "name = \"served\"\nbaseline = \"fp16\"\nrepeats = 2\ntelemetry_hz = 20\n{methods}\n\
         [workload.words.synthetic]\nn_requests = 12\nprompt_tokens = {{ fixed = 20 }}\noutput_tokens = {{ fixed = 6 }}\n\
         [load.loop.closed]\nconcurrency = [2, 4]\n"
    );
    let (work, output, folder) = run_scenario(&scenario, &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    (work, folder)
}

#[test]
fn figures_of_a_served_run_are_files_with_captions() {
    let (_work, run) = served();
    let (code, out, err) = plot(&run, &["--figure", "cdf,timeline,fig1", "--size", "page"]);
    assert_eq!(code, Some(0), "{err}");
    for name in ["cdf", "timeline", "fig1"] {
        let read = |ending: &str| {
            fs::read_to_string(run.join("figures").join(format!("{name}.{ending}"))).unwrap()
        };
        let (svg, caption) = (read("svg"), read("txt"));
        assert!(svg.contains("width=\"7in\"") && svg.contains("@font-face"), "{name}");
        assert!(out.contains(&format!("{name}: {caption}")), "{out}");
        assert!(caption.contains(run.file_name().unwrap().to_str().unwrap()), "{caption}");
        assert!(read("tex").contains(&format!("{{{name}.svg}}")));
    }
    assert!(out.contains("n = 24 good requests a curve."), "12 in each of two repeats: {out}");
}

#[test]
fn the_form_follows_the_flag_or_the_name() {
    let (_work, run) = served();
    let to = |name: &str| run.join(name).to_str().unwrap().to_owned();
    let (code, _, err) = plot(&run, &["--figure", "cdf", "--out", &to("mine.pdf")]);
    assert_eq!(code, Some(0), "{err}");
    assert!(fs::read(run.join("mine.pdf")).unwrap().starts_with(b"%PDF"));
    assert!(fs::read_to_string(run.join("mine.tex")).unwrap().contains("{mine.pdf}"));
    let (code, _, err) = plot(&run, &["--figure", "cdf", "--format", "png", "--out", &to("here")]);
    assert_eq!(code, Some(0), "{err}");
    assert!(fs::read(run.join("here/cdf.png")).unwrap().starts_with(b"\x89PNG"));

    for (args, expected) in [
        (
            vec!["--figure", "cdf,fig1", "--out", "two.svg"],
            "expected a folder for 2 figures (cdf, fig1)",
        ),
        (
            vec!["--figure", "cdf", "--format", "png", "--out", "a.svg"],
            "ends with .png as --format says",
        ),
    ] {
        let (code, out, err) = plot(&run, &args);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(expected), "{err}");
    }
    let run = run.to_str().unwrap();
    let (code, _, err) = kvbench(&["--format", "json", "plot", run, "--figure", "cdf"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("expected svg, png or pdf for a picture"), "{err}");
    let (code, _, err) = kvbench(&["plot", run, "--figure", "cdf", "--format", "json"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("possible values: svg, png, pdf"), "{err}");
    let (code, out, err) = kvbench(&["lengths", run, "--format", "pdf"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("possible values: text, md, json, csv"), "{err}");
}

#[test]
fn what_a_run_lacks_is_one_sentence_with_a_scenario_that_makes_it() {
    let (_work, run) = served();
    for (figure, lacks, scenario) in [
        ("roofline", "timed kernels", "fig1-decode"),
        ("lengths", "pairs of answers", "fig4-lengths"),
        ("negatives", "scores", "fig6-negatives"),
    ] {
        let (code, out, err) = plot(&run, &["--figure", figure]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(run.to_str().unwrap()) && err.contains(lacks), "{err}");
        let path = format!("scenarios/paper/{scenario}.toml");
        assert!(err.contains(&path), "{err}");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file());
    }
    assert!(!run.join("figures").exists(), "nothing is written where a figure is missing");
}

#[test]
fn kernels_are_drawn_against_length_and_batch_and_under_their_roof() {
    let scenario = "name = \"k\"\nbaseline = \"fp16\"\naa_control = false\n\
         [timing]\nwarmup = 1\nmin_samples = 6\nmax_samples = 6\nmax_seconds = 1.0\n\
         [target.cpu.kernel]\nmodel = \"llama-2-7b\"\ndevice = \"cpu\"\n[method.fp16.fp16]\n[method.int8.int8]\n\
         [workload.step.shapes]\nops = [\"decode\"]\nbatch = [1, 2]\nkv_len = [64, 128]\n";
    let (_work, output, run) = run_scenario(scenario, &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let out = run.join("pictures");
    let args =
        ["--figure", "fig1,roofline,pareto", "--format", "pdf", "--out", out.to_str().unwrap()];
    let (code, said, err) = plot(&run, &args);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        said.contains("(a) Decode, by length.") && said.contains("(b) Decode, by batch."),
        "{said}"
    );
    assert!(said.contains("n = 6 launches a point. n = 1 repeats."), "{said}");
    for name in ["fig1.pdf", "fig1.txt", "fig1.tex", "roofline.pdf", "pareto.pdf"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

#[test]
fn every_scenario_of_the_paper_has_a_plan_and_stands_in_the_map() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/paper");
    let map = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut n = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".toml") {
            continue;
        }
        n += 1;
        let (code, _, err) = kvbench(&["--quiet", "plan", path.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{name}");
        assert!(map.contains(&format!("]({name})")), "{name} is not in scenarios/paper/README.md");
    }
    let links = map.matches(".toml](").count();
    assert!(n >= 14 && links >= n, "{n} {links}");
    // What the map names is there.
    for target in map.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(folder.join(target).is_file(), "{target}");
    }
}
