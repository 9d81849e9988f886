//! `kvbench predict eval`: predictions against measurements.

use std::{path::PathBuf, process::ExitCode};

use super::eval_files::{self, FilesArgs, Predictor};
use crate::cli::ui::Ui;

/// Hold predictions against measurements.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Measured throughput: CSV with the columns model,method,bsz,prompt_len,stage,thr; .gz too.
    #[arg(long, value_name = "FILE")]
    pub measured: PathBuf,
    /// Model whose rows count, or a part of its name.
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// What predicts.
    #[arg(long, value_enum, default_value_t = Predictor::Interpolate)]
    pub predictor: Predictor,
    #[command(flatten)]
    pub files: FilesArgs,
}

/// Compares and prints.
///
/// # Errors
/// As [`eval_files::run`].
pub fn run(args: &EvalArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    eval_files::run(&args.files, &args.measured, &args.model, args.predictor, ui)
}
