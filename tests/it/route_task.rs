//! How often the form of a prompt tells its task, on prompts that the cues were written for and on others.
//!
//! In view when cues were written: the prompts of `LongBench`'s 21 tasks. Not in view: the texts of `kvbench data make` in the neutral
//! layout, whose questions nobody wrote with a classifier in mind, and its dialogues, which are of no task.

use kvbench::{
    route::task::{Signals, classify},
    scenario::DatasetFormat,
    workload::{
        dataset,
        longbench::{self, Group, Metric},
        make::{self, MakeTask},
    },
};

/// What was told of so many prompts.
#[derive(Debug, Default, PartialEq)]
struct Told {
    right: usize,
    wrong: usize,
    silent: usize,
}

impl Told {
    fn add(&mut self, prompt: &str, task: Option<&str>) {
        let found = classify(&Signals { prompt: Some(prompt), ..Signals::default() });
        match (found, task) {
            (None, _) => self.silent += 1,
            (Some(found), Some(task)) if found.name == task => self.right += 1,
            _ => self.wrong += 1,
        }
    }
}

fn read(text: &str, format: DatasetFormat) -> Vec<dataset::Sample> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, text).unwrap();
    dataset::read(&path, format).unwrap().0
}

fn made(task: MakeTask, name: &str) -> Told {
    let mut told = Told::default();
    for sample in read(&make::generate_task(task, 30, None, 7), DatasetFormat::Longbench) {
        told.add(&sample.prompt, Some(name));
    }
    told
}

/// Around other texts than `LongBench`'s own, so that it is the prompt that tells.
#[test]
fn the_prompts_that_cues_were_written_for_are_told() {
    let texts = read(&make::generate(DatasetFormat::Longbench, 4, 7), DatasetFormat::Longbench);
    let mut told = Told::default();
    for name in [
        "narrativeqa",
        "qasper",
        "multifieldqa_en",
        "hotpotqa",
        "dureader",
        "gov_report",
        "qmsum",
        "multi_news",
        "vcsum",
        "trec",
        "triviaqa",
        "samsum",
        "lsht",
        "passage_count",
        "passage_retrieval_en",
        "passage_retrieval_zh",
        "lcc",
        "repobench-p",
    ] {
        let task = longbench::task(name).unwrap();
        let group = match task.group {
            Group::SingleDocQa | Group::MultiDocQa => "qa",
            Group::Summarization => "summarization",
            Group::FewShot => "few_shot",
            Group::Synthetic => "synthetic",
            Group::Code => "code",
        };
        assert!(task.metric != Metric::Count || group == "synthetic");
        for text in &texts {
            told.add(&task.prompt(&text.prompt, "What is it?"), Some(group));
        }
    }
    assert_eq!(told.wrong, 0, "{told:?}");
    assert!(told.right >= 9 * told.silent, "{told:?}");
}

/// The small mixture: lookups, counts, classes (all questions about a text) and summaries by turns.
#[test]
fn prompts_of_other_words_are_told_or_left_open() {
    let mut told = Told::default();
    let rows = read(&make::generate(DatasetFormat::Longbench, 40, 7), DatasetFormat::Longbench);
    for (at, sample) in rows.iter().enumerate() {
        told.add(&sample.prompt, Some(if at % 4 == 3 { "summarization" } else { "qa" }));
    }
    assert_eq!(
        (told.right, told.wrong),
        (10, 0),
        "summaries are told, short questions are left open: {told:?}"
    );
    let sums = made(MakeTask::Arithmetic, "maths");
    assert_eq!(sums.wrong, 0, "{sums:?}");
    for task in [
        MakeTask::NiahSingle,
        MakeTask::NiahMultikey,
        MakeTask::VariableTracking,
        MakeTask::CommonWords,
    ] {
        let told = made(task, "synthetic");
        assert_eq!(told.wrong, 0, "{task:?}: {told:?}");
    }
}

#[test]
fn dialogues_are_of_no_task() {
    let mut told = Told::default();
    for sample in read(&make::generate(DatasetFormat::Sharegpt, 100, 7), DatasetFormat::Sharegpt) {
        told.add(&sample.prompt, None);
    }
    assert!(told.wrong <= 5 && told.silent >= 95, "{told:?}");
}
