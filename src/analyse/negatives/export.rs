//! Negative samples as a benchmark of their own: the rows of the data set as they stand in its file, and a scenario that runs
//! nothing but them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value};

use super::Score;
use crate::{
    scenario::{DatasetFormat, Scenario},
    workload::dataset,
};

/// Longest name of a scenario.
const NAME_MAX: usize = 64;
/// What the name of the exported scenario ends with.
const SUFFIX: &str = "-negatives";

/// JSON lines of the rows of `files` (LongBench) that `wanted` names by data set and id, in the order of the files. Lines are
/// copied as they are; a row without an id gets the one that it had in its file as `_id`, or it would be called otherwise in
/// the new one.
///
/// # Errors
/// A file that cannot be read, a row that is in none of them, or two rows of one data set and id.
pub fn rows(files: &[PathBuf], wanted: &[&Score]) -> anyhow::Result<String> {
    let mut keys: Vec<(&str, &str)> = wanted.iter().map(|row| (&*row.dataset, &*row.id)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut found = vec![false; keys.len()];
    let mut out = String::new();
    for path in files {
        let shown = path.display();
        let (samples, _) = dataset::read(path, DatasetFormat::Longbench)?;
        let bytes = std::fs::read(path).with_context(|| format!("{shown}: cannot be read"))?;
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        for sample in &samples {
            let Some(reference) = &sample.reference else { continue };
            let Ok(key) = keys.binary_search(&(&reference.dataset, &sample.id)) else { continue };
            let at = || format!("{shown}:{}", sample.line);
            ensure!(
                !std::mem::replace(&mut found[key], true),
                "{}: expected each row once, got {} of {} twice\n  hint: without ids of their own, rows of several files are all \
                 called `row-<n>`: add `_id` to each",
                at(),
                sample.id,
                reference.dataset
            );
            let line = usize::try_from(sample.line - 1).ok().and_then(|line| lines.get(line));
            let line = std::str::from_utf8(line.with_context(at)?).with_context(at)?;
            out += &with_id(line, &sample.id).with_context(at)?;
            out.push('\n');
        }
    }
    let n_found = found.iter().filter(|found| **found).count();
    if let Some((_, (dataset, id))) = found.iter().zip(&keys).find(|(found, _)| !**found) {
        bail!(
            "expected the rows of {} negative samples, got {n_found} of them; {id} of {dataset} is not there\n  hint: ids of \
             scores must be the `_id` of the data set's rows, and every file of it must be named with --data",
            keys.len()
        );
    }
    Ok(out)
}

fn with_id(line: &str, id: &str) -> anyhow::Result<String> {
    let line = line.trim_start_matches('\u{feff}').trim_end_matches('\r');
    let mut row: Map<String, Value> = serde_json::from_str(line)?;
    if matches!(row.get("_id"), Some(Value::Number(_)))
        || row.get("_id").and_then(Value::as_str).is_some_and(|id| !id.is_empty())
    {
        return Ok(line.to_owned());
    }
    row.insert("_id".to_owned(), Value::from(id));
    Ok(serde_json::to_string(&row)?)
}

/// What an exported scenario is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Text of the run's scenario.
    pub text: &'a str,
    /// Workload whose data set is replaced.
    pub workload: &'a str,
    /// Load under which the samples were found, as in cell ids.
    pub load: &'a str,
}

/// The run's scenario with nothing but the exported rows as its workload, and of its loads the one under which they were found,
/// with all of its values. Targets of our own kernels are left out: they give no answers.
///
/// # Errors
/// The text is no scenario, or what is made of it is none.
pub fn scenario(source: &Source<'_>, path: &Path, comment: &str) -> anyhow::Result<String> {
    let mut file: toml::Table = toml::from_str(source.text).context("the run's scenario")?;
    if let Some(toml::Value::String(name)) = file.get_mut("name") {
        name.truncate(NAME_MAX - SUFFIX.len());
        name.push_str(SUFFIX);
    }
    keep(&mut file, "workload", |name, _| name == source.workload);
    let load = source.load.rsplit_once('-').map_or(source.load, |(name, _)| name);
    keep(&mut file, "load", |name, _| name == load);
    keep(&mut file, "target", |_, target| target.get("kernel").is_none());
    let workload = file.get_mut("workload").and_then(|all| all.get_mut(source.workload));
    let dataset = workload.and_then(|one| one.get_mut("dataset")?.as_table_mut());
    let dataset = dataset.with_context(|| {
        format!("expected a `dataset` as workload {}, got another kind", source.workload)
    })?;
    dataset.insert("path".to_owned(), toml::Value::String(path.display().to_string()));
    // All of them: there are fewer rows now than were drawn before.
    dataset.remove("n_requests");
    let text = format!("{}\n{}", commented(comment), toml::to_string(&file)?);
    Scenario::parse(&text, "the exported scenario")?;
    Ok(text)
}

/// The part of a scenario that says which rows to send, for scores that no run of ours stands behind.
///
/// # Errors
/// The path cannot be written as TOML.
pub fn workload(path: &Path, comment: &str) -> anyhow::Result<String> {
    let facts = [
        ("path", toml::Value::String(path.display().to_string())),
        ("format", toml::Value::String("longbench".to_owned())),
        ("max_tokens", toml::Value::Integer(512)),
    ];
    let dataset: toml::Table =
        facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let nested = ["dataset", "negatives", "workload"].into_iter().fold(dataset, |inner, key| {
        std::iter::once((key.to_owned(), toml::Value::Table(inner))).collect()
    });
    Ok(format!("{}\n{}", commented(comment), toml::to_string(&nested)?))
}

fn commented(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

fn keep(file: &mut toml::Table, section: &str, keep: impl Fn(&str, &toml::Value) -> bool) {
    if let Some(toml::Value::Table(entries)) = file.get_mut(section) {
        entries.retain(|name, value| keep(name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "\u{feff}{\"_id\":\"a\",\"context\":\"c\",\"input\":\"q\",\"answers\":[\"x\"],\"dataset\":\"qasper\",\"more\":1}\r\n\
        \n{\"context\":\"c2\",\"input\":\"q\",\"answers\":[\"x\"],\"dataset\":\"qasper\",\"length\":7}\n\
        {\"_id\":\"b\",\"context\":\"c3\",\"input\":\"q\",\"answers\":[\"x\"],\"dataset\":\"trec\",\"all_classes\":[\"x\"]}\n";

    fn score(dataset: &str, id: &str) -> Score {
        Score { dataset: dataset.into(), id: id.into(), score: 1.0, prompt_sha256: None }
    }

    #[test]
    fn rows_are_copied_and_read_again_under_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, ROWS).unwrap();
        let wanted = [score("qasper", "row-1"), score("qasper", "a")];
        let text = rows(std::slice::from_ref(&path), &wanted.iter().collect::<Vec<_>>()).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("{\"_id\":\"a\"") && first.ends_with("\"more\":1}"), "{first}");
        let out = dir.path().join("out.jsonl");
        std::fs::write(&out, &text).unwrap();
        let (again, report) = dataset::read(&out, DatasetFormat::Longbench).unwrap();
        let ids: Vec<&str> = again.iter().map(|sample| sample.id.as_str()).collect();
        assert_eq!((ids, report.n_bad), (vec!["a", "row-1"], 0));
        let lost = [score("trec", "a")];
        let error = rows(std::slice::from_ref(&path), &lost.iter().collect::<Vec<_>>());
        assert!(error.unwrap_err().to_string().contains("a of trec is not there"));
        let twice = rows(&[path.clone(), path], &wanted.iter().collect::<Vec<_>>());
        assert!(twice.unwrap_err().to_string().contains("twice"));
    }

    const SCENARIO: &str = r#"
name = "long"
repeats = 2
baseline = "fp16"
aa_control = true
[target.cpu.kernel]
model = "llama-2-7b"
[target.b.engine]
engine = "vllm"
model = "m"
endpoint = "chat"
methods = ["zeta", "fp16"]
[method.zeta.fp8]
[method.fp16.fp16]
[workload.grid.shapes]
ops = ["decode"]
batch = [1]
kv_len = [128]
[workload.lb.dataset]
path = "datasets/tiny-longbench.jsonl"
format = "longbench"
n_requests = 10
max_tokens = 64
[load.loop.closed]
concurrency = [3, 4]
[load.more.poisson]
rate = [1]
"#;

    #[test]
    fn the_scenario_runs_nothing_else() {
        let source = Source { text: SCENARIO, workload: "lb", load: "loop-3" };
        let text = scenario(&source, Path::new("out/neg.jsonl"), "two\nlines").unwrap();
        assert!(text.starts_with("# two\n# lines\n"), "{text}");
        let parsed = Scenario::parse(&text, "x").unwrap();
        assert_eq!(parsed.name, "long-negatives");
        let names = |scenario: &Scenario| -> Vec<String> {
            scenario.methods.iter().map(|method| method.name.clone()).collect()
        };
        assert_eq!(names(&parsed), ["zeta", "fp16"], "in the order of the file");
        assert_eq!((parsed.targets.len(), parsed.workloads.len(), parsed.loads.len()), (1, 1, 1));
        assert_eq!(parsed.workloads[0].kind.file(), Some(Path::new("out/neg.jsonl")));
        assert!(!text.contains("n_requests"));
        let grid = Source { workload: "grid", ..source };
        assert!(scenario(&grid, Path::new("x"), "").is_err());
    }

    #[test]
    fn the_workload_alone_is_a_part_of_a_scenario() {
        let part = workload(Path::new("n.jsonl"), "add a target").unwrap();
        let rest = SCENARIO.split("[workload").next().unwrap();
        let rest = format!("{rest}[load.c.closed]\nconcurrency = [1]\n{part}");
        let parsed = Scenario::parse(&rest, "x").unwrap();
        assert_eq!(parsed.workloads[0].kind.file(), Some(Path::new("n.jsonl")));
    }
}
