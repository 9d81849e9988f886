//! Arguments, printing and exit codes; one file a command. The only module that prints.

use std::process::ExitCode;

use clap::{
    CommandFactory as _, Parser, Subcommand,
    builder::{EnumValueParser, TypedValueParser as _},
};

use crate::report::Format;

pub mod adaptive;
pub mod data;
pub mod definitions;
pub mod doctor;
pub mod doctor_client;
mod facts;
pub mod import;
pub mod kernels;
mod keys;
pub mod lengths;
pub mod negatives;
pub mod plan;
pub mod plot;
mod plots;
pub mod predict;
pub mod progress;
pub mod report;
pub mod route;
pub mod run;
pub mod schema;
pub mod score;
mod score_run;
mod scored;
pub mod signals;
mod splice;
pub mod supervise;
pub mod token;
pub mod ui;

const EXAMPLES: &str = "\
Examples:
  kvbench run scenarios/quickstart.toml              measure this machine, in two to five minutes
  kvbench run scenarios/kivi.toml --filter decode    only the cells whose id matches
  kvbench run --resume results/20261124T101500Z-kivi-1a2b3c
  kvbench plan scenarios/cpu-kernels.toml            list the cells and what they may cost
  kvbench report results/... --format csv            judge and draw a run again
  kvbench plot results/... --figure fig1,cdf         figures for a paper, with captions
  kvbench lengths results/...                        how much longer answers get, beside what chance does
  kvbench negatives results/...                      prompts that a method breaks, beside the null
  kvbench doctor                                     what is here, and what to do about what is not

Exit codes: 0 all cells good, 1 some cells failed or the verdict is INVALID (`--strict`: or a cell is SUSPECT), 2 bad input,
130 interrupted.";

/// Measures what KV-cache compression really does to LLM serving.
#[derive(Parser)]
#[command(name = "kvbench", version, about, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    /// Print results and errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print what happens inside; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Format of printed tables.
    #[arg(long, global = true, value_parser = EnumValueParser::<Format>::new().map(plot::Form::Table), default_value = "text")]
    format: plot::Form,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a scenario, or go on with an interrupted run.
    Run(run::RunArgs),
    /// List the cells of a scenario and an estimate of their cost; run nothing.
    Plan(plan::PlanArgs),
    /// Judge and draw a run again from its rows.
    Report(report::ReportArgs),
    /// Figures for papers, with their captions.
    Plot(plot::PlotArgs),
    /// The kernels: list, verify, bench.
    Kernels(kernels::KernelsArgs),
    /// What each metric means: ids, formulas, what to mind.
    Definitions(definitions::DefinitionsArgs),
    /// Data sets: inspect a file, make a small one.
    Data(data::DataArgs),
    /// Results of other load generators under our definitions.
    Import(import::ImportArgs),
    /// Lengths of answers against the baseline's and against chance.
    Lengths(lengths::LengthsArgs),
    /// Prompts whose answer a method breaks, from a run or from score files, beside the null.
    Negatives(negatives::NegativesArgs),
    /// What choosing the method by the prompt could win at most, and how much of that is luck.
    Adaptive(adaptive::AdaptiveArgs),
    /// Models fitted on runs: what a pass takes, how long an answer will be, and how far to trust them.
    Predict(predict::PredictArgs),
    /// Which engine a request goes to where engines compress the KV cache differently: policies, simulated and live.
    Route(route::RouteArgs),
    /// Answers of a run or of a file, scored by the rules of their data sets: LongBench, GSM8K, MATH, RULER.
    Score(score::ScoreArgs),
    /// Tokenizers and chat templates: what is sent, and how long it is.
    Token(token::TokenArgs),
    /// What this machine has, with the remedy for what it lacks.
    Doctor(doctor::DoctorArgs),
    /// JSON Schema of the scenario file.
    Schema(schema::SchemaArgs),
    /// Shell completions.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The server of known timing, for `doctor --client`.
    #[command(hide = true)]
    ServeKnown(doctor_client::ServeArgs),
    /// The parent of an engine that `run` has started.
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
}

/// Parses the command line, runs the command and maps every error to one message and exit code 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    diagnostics(cli.verbose, cli.quiet);
    let ui = ui::Ui::new(cli.format.table(), cli.quiet, no_color());
    match dispatch(cli.command, &ui) {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command, ui: &ui::Ui) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run_command(&args, ui),
        Command::Plan(args) => plan::run(&args, ui),
        Command::Report(args) => report::run(&args, ui),
        Command::Plot(args) => plot::run(&args, ui),
        Command::Kernels(args) => kernels::run(&args, ui),
        Command::Data(args) => data::run(&args, ui),
        Command::Definitions(args) => definitions::run(&args, ui),
        Command::Import(args) => import::run(&args, ui),
        Command::Lengths(args) => lengths::run(&args, ui),
        Command::Negatives(args) => negatives::run(&args, ui),
        Command::Adaptive(args) => adaptive::run(&args, ui),
        Command::Predict(args) => predict::run(&args, ui),
        Command::Route(args) => route::run(&args, ui),
        Command::Score(args) => score::run(&args, ui),
        Command::Token(args) => token::run(&args, ui),
        Command::Doctor(args) => doctor::run(&args, ui),
        Command::Schema(args) => schema::run(&args, ui),
        Command::Completions { shell } => completions(shell, ui),
        Command::ServeKnown(args) => doctor_client::serve_known(&args, ui),
        Command::Supervise(args) => supervise::run(&args),
    }
}

fn completions(shell: clap_complete::Shell, ui: &ui::Ui) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kvbench", &mut script);
    ui.out(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Diagnostics go to stderr and never carry results. `RUST_LOG` narrows them.
fn diagnostics(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "kvbench=info,warn",
        (false, _) => "kvbench=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

#[expect(clippy::disallowed_methods, reason = "cli is where the environment is read")]
fn no_color() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}
