//! Where scores come from: a run folder or files, for `negatives` and `adaptive`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{score_run::rows, ui::Ui};
use crate::{
    analyse::{
        RunData,
        negatives::{self, Scores, export},
        score_run::{self, Place, Subjects},
    },
    record::Manifest,
    scenario::{Control, DatasetFormat},
};

/// A run folder, or files.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Folder that `kvbench run` made; it is scored first where it has no scores.parquet.
    #[arg(value_name = "RUN_DIR", conflicts_with_all = ["baseline", "methods", "baseline_repeat"])]
    pub(super) run_dir: Option<PathBuf>,
    /// Scores of the baseline: JSON lines of `dataset`, `id` and `score` (0 to 1).
    #[arg(long, value_name = "FILE", required_unless_present = "run_dir")]
    pub(super) baseline: Option<PathBuf>,
    /// Scores of a method, as NAME=FILE; once each.
    #[arg(long = "method", value_name = "NAME=FILE", required_unless_present = "run_dir", value_parser = named)]
    pub(super) methods: Vec<(String, PathBuf)>,
    /// Another run of the baseline: what it "breaks" is the noise floor. As often as there are runs.
    #[arg(long, value_name = "FILE")]
    pub(super) baseline_repeat: Vec<PathBuf>,
    /// With RUN_DIR: which of its places, as WORKLOAD/LOAD, or TARGET/WORKLOAD/LOAD where several targets ran the baseline.
    #[arg(long, value_name = "PLACE", requires = "run_dir")]
    pub(super) place: Option<String>,
    /// The data set: with RUN_DIR where it lies now, with files where the rows of --export come from. As often as there are
    /// files.
    #[arg(long, value_name = "FILE")]
    pub(super) data: Vec<PathBuf>,
}

/// Splits NAME=FILE.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => Err(format!("expected NAME=FILE, got `{text}`")),
    }
}

/// A run that scores come from.
pub(super) struct FromRun {
    pub(super) data: RunData,
    pub(super) place: Place,
}

impl FromRun {
    /// Where the data set of the place's workload lies.
    pub(super) fn data_file(&self, files: &[PathBuf]) -> anyhow::Result<PathBuf> {
        let workload = &self.place.workload;
        let file = score_run::data_file(&self.data.manifest, workload, files)?;
        match file {
            Some((path, DatasetFormat::Longbench)) => Ok(path),
            _ => bail!(
                "expected a LongBench file behind workload {workload}, got another\n  hint: rows of format `longbench` alone can be exported"
            ),
        }
    }

    /// What an exported scenario is made of.
    pub(super) fn source(&self) -> export::Source<'_> {
        export::Source {
            text: &self.data.manifest.scenario.text,
            workload: &self.place.workload,
            load: &self.place.load,
        }
    }
}

impl Source {
    /// Reads the scores, and the run where they are of one.
    ///
    /// # Errors
    /// A file that cannot be read or holds a bad row, a run that cannot be scored, or a place that must be chosen.
    pub(super) fn read(&self, ui: &Ui) -> anyhow::Result<(Subjects, Option<FromRun>)> {
        if let Some(dir) = &self.run_dir {
            let (subjects, from) = self.of_run(dir, ui)?;
            return Ok((subjects, Some(from)));
        }
        if self.place.is_some() {
            bail!("--place: expected RUN_DIR beside it, got files of scores");
        }
        let taken = |name: &String| name == "baseline" || name.starts_with("baseline repeat");
        if let Some((name, _)) = self.methods.iter().find(|(name, _)| taken(name)) {
            bail!("--method {name}: expected another name, which the baseline has");
        }
        let Some(baseline) = &self.baseline else {
            bail!("expected RUN_DIR, or --baseline and --method, got neither");
        };
        let again = self.baseline_repeat.iter().enumerate();
        let again = again.map(|(i, path)| load(&format!("baseline repeat {}", i + 1), path));
        let subjects = Subjects {
            baseline: load("baseline", baseline)?,
            methods: self
                .methods
                .iter()
                .map(|(name, path)| load(name, path))
                .collect::<Result<_, _>>()?,
            again: again.collect::<Result<_, _>>()?,
            repeats: std::collections::BTreeMap::new(),
        };
        Ok((subjects, None))
    }

    fn of_run(&self, dir: &Path, ui: &Ui) -> anyhow::Result<(Subjects, FromRun)> {
        let data = RunData::load(dir)?;
        let rows = rows(dir, &data, &self.data, ui)?;
        let manifest: &Manifest = &data.manifest;
        let places = score_run::places(manifest, &rows);
        for point in score_run::elsewhere(&rows, &places) {
            ui.note(&format!("{point}: left out, there is no baseline to compare it with"));
        }
        let place = score_run::choose(places, self.place.as_deref())?;
        let mut subjects = score_run::subjects(manifest, &rows, &place)?;
        for (name, control) in score_run::controls(manifest) {
            if let Control::Temperature(_) = control {
                ui.note(&format!("{name}: left out, a control with another temperature is neither noise nor a method"));
            }
        }
        for name in subjects.drop_strangers() {
            ui.note(&format!(
                "{name}: left out, it holds none of the samples of the baseline's repeat 0"
            ));
        }
        Ok((subjects, FromRun { data, place }))
    }
}

fn load(name: &str, path: &Path) -> anyhow::Result<Scores> {
    let place = path.display().to_string();
    let file = File::open(path).with_context(|| format!("{place}: cannot be read"))?;
    negatives::read(name, &place, BufReader::new(file))
}
