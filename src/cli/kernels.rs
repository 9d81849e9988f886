//! `kvbench kernels`: what our own kernels are, whether they are right, and a quick look at how fast they are.

use std::process::ExitCode;

use crate::{
    cli::ui::Ui,
    execute::kernel::{Lab, Labs},
    kernel::Op,
    method::{Gear, Method, Pooling},
    report::{Column, Table, Value, render},
    scenario::{Device, ModelShape, NamedMethod},
};

mod bench;
mod build;
mod error;
mod verify;

pub use bench::BenchArgs;
pub use build::BuildArgs;
pub use error::ErrorArgs;
pub use verify::VerifyArgs;

/// Operations on a method's cache; not every device has each for every method.
const OPS: [Op; 5] = [Op::Prefill, Op::Decode, Op::Compress, Op::Append, Op::Flush];

/// List, verify or time the built-in kernels.
#[derive(Debug, clap::Args)]
pub struct KernelsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KernelsCommand,
}

/// Subcommands of `kvbench kernels`.
#[derive(Debug, clap::Subcommand)]
pub enum KernelsCommand {
    /// Which kernels exist on this machine.
    List,
    /// Compares every kernel with f64 attention over what its cache stores; exit 1 if one is off.
    Verify(VerifyArgs),
    /// Compiles the CUDA kernels for architectures, without a GPU; exit 1 if a kernel fails or spills registers.
    Build(BuildArgs),
    /// What each method costs in exactness: its error on seeded data, with the closed form beside it.
    Error(ErrorArgs),
    /// Times kernels at one shape, without a scenario and without files.
    Bench(BenchArgs),
}

/// Runs a subcommand on this machine's kernels.
///
/// # Errors
/// As [`run_on`].
pub fn run(args: &KernelsArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    run_on(args, ui, Labs::here())
}

/// Runs a subcommand on the devices of `labs`.
///
/// # Errors
/// An unknown model or method; CUDA is asked for; the result cannot be written.
pub fn run_on(args: &KernelsArgs, ui: &Ui, labs: Labs) -> anyhow::Result<ExitCode> {
    match &args.command {
        KernelsCommand::List => list(ui, &labs),
        KernelsCommand::Verify(args) => verify::run(args, ui, &labs),
        KernelsCommand::Build(args) => build::run(args, ui),
        KernelsCommand::Error(args) => error::run(args, ui),
        KernelsCommand::Bench(args) => bench::run(args, ui, labs),
    }
}

fn list(ui: &Ui, labs: &Labs) -> anyhow::Result<ExitCode> {
    let columns = ["op", "method", "backend", "device"].map(|name| Column::new(name, ""));
    let mut table = Table::new("Kernels on this machine", columns.to_vec());
    for lab in [&labs.cpu, &labs.gpu].into_iter().filter(|lab| lab.missing.is_none()) {
        table.rows.extend(lab.kernels.iter().map(|&(op, method)| row(op, method, lab)));
    }
    ui.out(&render(&table, ui.format, ui.color))?;
    if let Some(missing) = &labs.gpu.missing {
        ui.note(&format!("no CUDA kernels here: {missing}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(op: Op, method: &str, lab: &Lab) -> Vec<Value> {
    let words = [op.name(), method, &lab.backend, &lab.device];
    words.map(|word| Value::Text(word.to_owned())).to_vec()
}

/// Every method at the parameters of the shipped scenarios.
fn catalogue() -> Vec<NamedMethod> {
    let kivi = |bits| Method::Kivi { bits, group: 32, residual: 128 };
    let gear = |bits| {
        let (group, residual, iterations, outliers) = (64, 64, 3, 0.02);
        Method::Gear(Gear { bits, group, residual, rank: 4, flush_rank: 2, iterations, outliers })
    };
    let snapkv = Method::Snapkv { window: 32, budget: 512, pooling: Pooling::Avg, pool_width: 5 };
    let methods = [
        ("fp16", Method::Fp16),
        ("int8", Method::Int8),
        ("int4", Method::Int4),
        ("fp8", Method::Fp8),
        ("bf16", Method::Bf16),
        ("fp8-token-head", Method::Fp8TokenHead),
        ("kivi-4", kivi(4)),
        ("kivi-2", kivi(2)),
        ("gear-4", gear(4)),
        ("gear-2", gear(2)),
        ("turboquant-4", Method::Turboquant4),
        ("streaming", Method::Streaming { sink: 4, window: 508 }),
        ("h2o", Method::H2o { heavy: 256, recent: 256 }),
        ("snapkv", snapkv),
    ];
    methods.map(|(name, method)| NamedMethod::new(name, method)).to_vec()
}

/// Those of the catalogue that are named, or all.
fn chosen(names: &[String]) -> anyhow::Result<Vec<NamedMethod>> {
    let all = catalogue();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|known| known.name != **name)) {
        let known: Vec<&str> = all.iter().map(|named| named.name.as_str()).collect();
        anyhow::bail!("--method: expected one of {}, got `{unknown}`", known.join(", "));
    }
    let wanted = |named: &NamedMethod| names.is_empty() || names.contains(&named.name);
    Ok(all.into_iter().filter(wanted).collect())
}

fn model(name: &str) -> anyhow::Result<ModelShape> {
    ModelShape::preset(name).ok_or_else(|| {
        let known = ModelShape::preset_names().join(", ");
        anyhow::anyhow!("--model: expected one of {known}, got `{name}`")
    })
}

/// The device that was asked for, if it is there.
fn present(labs: &Labs, device: Device) -> anyhow::Result<&Lab> {
    let lab = labs.choose(device);
    if let Some(missing) = &lab.missing {
        anyhow::bail!("--device: expected CUDA, got {missing}");
    }
    Ok(lab)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_in_the_order_of_the_catalogue() {
        let names = ["kivi-2".to_owned(), "fp16".to_owned()];
        let chosen: Vec<String> =
            chosen(&names).unwrap().into_iter().map(|named| named.name).collect();
        assert_eq!(chosen, ["fp16", "kivi-2"]);
        assert_eq!(super::chosen(&[]).unwrap().len(), catalogue().len());
        let error = super::chosen(&["kivi".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("kivi-4") && error.contains("`kivi`"));
    }

    #[test]
    fn models_are_the_presets() {
        assert_eq!(model("llama-3-8b").unwrap().num_kv_heads, 8);
        assert!(model("llama").unwrap_err().to_string().contains("llama-2-7b"));
    }
}
