//! `kvbench predict length`: how long the answer to a prompt will be, from its text alone.

use std::{path::PathBuf, process::ExitCode};

use rayon::prelude::*;

use super::super::ui::Ui;
use crate::{
    analyse::length_labels::{self, Labels},
    predict::length::{
        Sample,
        encoder::Identity,
        model::{Known, Read},
    },
};

mod encoder;
mod eval;
mod explain;
mod fit;

use encoder::{Encoded, EncoderArgs};

/// Fit, judge and ask a predictor of answer lengths.
#[derive(Debug, clap::Args)]
pub(super) struct LengthArgs {
    #[command(subcommand)]
    command: LengthCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LengthCommand {
    /// Fit a model on the answers of runs and write it down.
    Fit(fit::FitArgs),
    /// Judge the predictor on families of prompts that it has not seen, beside simpler ones and the ceiling.
    Eval(eval::EvalArgs),
    /// Ask a model about a prompt, and why it says so.
    Explain(explain::ExplainArgs),
}

/// Where answers come from.
#[derive(Debug, clap::Args)]
struct Source {
    /// Folders that `kvbench run` made, of one LLM and one baseline.
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Where a data set of the runs lies now; it is known by its hash. As often as there are.
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Seed of folds, trees and intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Most tokens of a prompt that the encoder reads; as many as its tokenizer's files say unless given.
    #[arg(long, value_name = "N", requires = "path", value_parser = clap::value_parser!(u32).range(1..))]
    encoder_tokens: Option<u32>,
}

/// Samples with what was read of their prompts.
struct Loaded {
    labels: Labels,
    reads: Vec<Read>,
    /// What read the prompts beside, where an encoder was named.
    encoded: Option<Encoded>,
}

impl Source {
    /// Reads the runs and says what is left out.
    fn load(&self, ui: &Ui) -> anyhow::Result<Loaded> {
        // First, because a wrong path is soon told and runs may be large.
        let tokens_max = self.encoder_tokens.and_then(|tokens| usize::try_from(tokens).ok());
        let opened = self.encoder.open(tokens_max)?;
        let labels = length_labels::of_runs(&self.runs, &self.data)?;
        for left in &labels.left_out {
            ui.note(&format!(
                "left out: {} answers, {} (such as {})",
                left.n, left.why, left.example
            ));
        }
        labels.notes.iter().for_each(|note| ui.note(&format!("note: {note}")));
        let read = |sample: &Sample| Read::of(&sample.prompt);
        let mut reads: Vec<Read> = labels.samples.par_iter().map(read).collect();
        let Some(opened) = opened else { return Ok(Loaded { labels, reads, encoded: None }) };
        let prompts: Vec<&str> =
            labels.samples.iter().map(|sample| sample.prompt.as_str()).collect();
        let (embeddings, encoded) = encoder::encode(opened, &prompts, ui)?;
        reads = reads.into_iter().zip(embeddings).map(|(read, it)| read.with(it)).collect();
        Ok(Loaded { labels, reads, encoded: Some(encoded) })
    }

    /// Names of the runs, for errors.
    fn shown(&self) -> String {
        self.runs.iter().map(|run| run.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl Loaded {
    fn known(&self) -> Vec<Known<'_>> {
        let both = self.labels.samples.iter().zip(&self.reads);
        both.map(|(sample, read)| Known { sample, read }).collect()
    }

    fn identity(&self) -> Option<&Identity> {
        self.encoded.as_ref().map(|encoded| &encoded.identity)
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Runs or files that cannot be used, or a folder that cannot be written.
pub(super) fn run(args: &LengthArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        LengthCommand::Fit(args) => fit::run(args, ui),
        LengthCommand::Eval(args) => eval::run(args, ui),
        LengthCommand::Explain(args) => explain::run(args, ui),
    }
}
