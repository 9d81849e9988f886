//! `kvbench kernels verify`.

use std::process::ExitCode;

use rayon::ThreadPool;

use super::{OPS, catalogue, model, present};
use crate::{
    cli::ui::Ui,
    execute::kernel::{Lab, Labs},
    kernel::{KernelSpec, Op, Shape},
    report::{Column, Table, Value, render},
    scenario::{Device, ModelShape, NamedMethod, PAGES},
};

/// Which kernels to check.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Presets of head shapes; the default has one with and one without grouped queries.
    #[arg(long, value_name = "PRESET", value_delimiter = ',', default_values = ["llama-2-7b", "llama-3-8b"])]
    pub model: Vec<String>,
    /// Cached tokens; the defaults lie on and beside the borders of groups, residuals and budgets.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 33, 160, 577], value_parser = positive)]
    pub kv_len: Vec<usize>,
    /// Sequences; each is one token longer than the one before.
    #[arg(long, default_value_t = 2, value_parser = positive)]
    pub batch: usize,
    /// Where.
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Seed of the data.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Tokens of a page of the cache on CUDA: 16 or 64; KIVI's is 128, the CPU's cache is not paged.
    #[arg(long, default_value_t = PAGES[0], value_parser = page)]
    pub page: usize,
}

/// As the longest `kv_len` of a scenario: a typing error must not ask for terabytes.
const COUNT_MAX: usize = 1 << 20;

/// A count above zero, and not beyond reason.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=COUNT_MAX).contains(&count) => Ok(count),
        _ => Err(format!("expected a number from 1 to {COUNT_MAX}")),
    }
}

/// A page size that there are kernels for.
pub(super) fn page(text: &str) -> Result<usize, String> {
    let known = text.parse().ok().filter(|page| PAGES.contains(page));
    known.ok_or_else(|| format!("expected 16 or 64, got `{text}`"))
}

/// One comparison.
struct Checked {
    cells: Vec<Value>,
    passed: bool,
}

pub(super) fn run(args: &VerifyArgs, ui: &Ui, labs: &Labs) -> anyhow::Result<ExitCode> {
    let lab = present(labs, args.device)?;
    let pool = (lab.pool)(None)?;
    let mut table = Table::new("Kernels against f64 attention over the stored cache", columns());
    let mut failed = 0;
    for name in &args.model {
        let model = model(name)?;
        for (op, &kv_len) in OPS.iter().flat_map(|op| args.kv_len.iter().map(move |len| (op, len)))
        {
            let has = |named: &NamedMethod| lab.kernels.contains(&(*op, named.ours().family()));
            for named in catalogue().into_iter().filter(has) {
                let checked = check(args, lab, &pool, &model, (*op, kv_len), &named);
                failed += usize::from(!checked.passed);
                table.rows.push(checked.cells);
            }
        }
    }
    ui.out(&render(&table, ui.format, ui.color))?;
    ui.note(&format!("{} of {} kernels verified", table.rows.len() - failed, table.rows.len()));
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn columns() -> Vec<Column> {
    let names = ["model", "op", "method", "batch", "kv_len", "rel_err", "gate", "verdict"];
    names.map(|name| Column::new(name, "")).to_vec()
}

fn check(
    args: &VerifyArgs,
    lab: &Lab,
    pool: &ThreadPool,
    model: &ModelShape,
    (op, kv_len): (Op, usize),
    named: &NamedMethod,
) -> Checked {
    let shape = Shape {
        kv_lens: (0..args.batch).map(|sequence| kv_len + sequence).collect(),
        heads_q: model.num_heads,
        heads_kv: model.num_kv_heads,
        head_dim: model.head_dim,
    };
    let method = named.ours().clone();
    // Nothing is timed, so one copy of the data is enough.
    let spec = KernelSpec { op, method, shape, seed: args.seed, page: args.page, rotate_bytes: 0 };
    let result = pool.install(|| (lab.open)(&spec).and_then(|mut kernel| kernel.verify()));
    let mut cells: Vec<Value> =
        [&model.name, op.name(), &named.name].map(|word| Value::Text(word.to_owned())).to_vec();
    cells.extend([args.batch, kv_len].map(|n| Value::Int(i64::try_from(n).unwrap_or(i64::MAX))));
    match result {
        Ok(check) => {
            let error = Some(check.max_rel_err).filter(|error| error.is_finite());
            cells.extend([Value::maybe(error), Value::Float(check.gate)]);
            cells.push(Value::Text(if check.passed() { "ok" } else { "FAILED" }.to_owned()));
            Checked { cells, passed: check.passed() }
        }
        Err(error) => {
            cells.extend([Value::Missing, Value::Missing]);
            cells.push(Value::Text(format!("{error:#}")));
            Checked { cells, passed: false }
        }
    }
}
