//! `kvbench kernels error`: what each method costs in exactness, measured on seeded data, with the closed form beside it.

use std::process::ExitCode;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{chosen, model, verify::positive};
use crate::{
    cli::ui::Ui,
    method::{
        Method,
        closed_form::{self, Errors},
        study::{Heads, Kind, Layer},
    },
    report::{Column, Table, Value, render},
    scenario::{ModelShape, NamedMethod},
};

/// What to measure the error of.
#[derive(Debug, clap::Args)]
pub struct ErrorArgs {
    /// Preset of head shapes.
    #[arg(long, value_name = "PRESET", default_value = "llama-3-8b")]
    pub model: String,
    /// Tokens of the prompt, at most 16384: all keys and values are held in f64, several times over.
    #[arg(long, default_value_t = 1024, value_parser = tokens)]
    pub kv_len: usize,
    /// Methods of `kvbench kernels list`, comma-separated. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub method: Vec<String>,
    /// Independent draws of the data.
    #[arg(long, default_value_t = 3, value_parser = positive)]
    pub draws: usize,
    /// Seed of the first draw.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Longest prompt: about 2 GB at 32 KV heads.
const TOKENS_MAX: usize = 1 << 14;

fn tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=TOKENS_MAX).contains(&count) => Ok(count),
        _ => Err(format!("expected a number from 1 to {TOKENS_MAX}")),
    }
}

pub(super) fn run(args: &ErrorArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let (model, methods) = (model(&args.model)?, chosen(&args.method)?);
    let heads = Heads {
        kv: model.num_kv_heads,
        group: model.num_heads / model.num_kv_heads,
        d: model.head_dim,
    };
    methods
        .iter()
        .try_for_each(|named| named.ours().check_head_dim(heads.d).map_err(anyhow::Error::msg))?;
    let mut table = Table::new(&title(args, &model), columns());
    for kind in Kind::ALL {
        let found = measure(args, kind, heads, &methods);
        for (i, named) in methods.iter().enumerate() {
            let draws: Vec<Errors> = found.iter().map(|draw| draw[i]).collect();
            table.rows.push(row(kind, named, &draws, args.kv_len, heads.d));
        }
    }
    ui.out(&render(&table, ui.format, ui.color))?;
    if let Some(whole) = methods.iter().find(|named| is_untouched(named, args.kv_len)) {
        ui.note(&format!(
            "some methods, such as {}, have nothing to compress at {} tokens: no error says nothing about them",
            whole.name, args.kv_len
        ));
    }
    ui.note("relative L2 errors; random data is the worst case: no measure of a model's quality");
    Ok(ExitCode::SUCCESS)
}

/// Whether a method that compresses leaves a prompt of this length as it is.
fn is_untouched(named: &NamedMethod, len: usize) -> bool {
    let method = named.ours();
    let nothing = method.kept_tokens(len) == len && method.quantised_tokens(len) == (0, 0);
    nothing && !matches!(method, Method::Fp16 | Method::Bf16)
}

fn title(args: &ErrorArgs, model: &ModelShape) -> String {
    let ModelShape { name, num_heads, num_kv_heads, head_dim, .. } = model;
    format!(
        "Method error against uncompressed attention: {name} ({num_heads}/{num_kv_heads} heads, D {head_dim}), {} tokens, {} \
         draws from seed {}",
        args.kv_len, args.draws, args.seed
    )
}

/// Errors by draw and method. A draw's data is the same for every method.
fn measure(
    args: &ErrorArgs,
    kind: Kind,
    heads: Heads,
    methods: &[NamedMethod],
) -> Vec<Vec<Errors>> {
    let draw = |i: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed.wrapping_add(i));
        let layer = Layer::draw(&mut rng, kind, heads, args.kv_len);
        let exact = layer.exact();
        let of = |named: &NamedMethod| layer.errors::<ChaCha8Rng>(named.ours(), &exact);
        methods.par_iter().map(of).collect()
    };
    (0..args.draws as u64).map(draw).collect()
}

fn columns() -> Vec<Column> {
    let names = [
        "data",
        "method",
        "key",
        "value",
        "output_min",
        "output_mean",
        "output_max",
        "n",
        "closed_form",
        "mean_over_form",
    ];
    names.map(|name| Column::new(name, "")).to_vec()
}

fn row(kind: Kind, named: &NamedMethod, draws: &[Errors], len: usize, d: usize) -> Vec<Value> {
    let n = draws.len() as f64;
    let mean = |of: fn(&Errors) -> f64| draws.iter().map(of).sum::<f64>() / n;
    let outputs = || draws.iter().map(|errors| errors.output);
    let output = mean(|errors| errors.output);
    // The formula holds for normals alone, and where nothing is lost there is nothing to compare.
    let form = (kind == Kind::Normal).then(|| closed_form::expected(named.ours(), len, d).output);
    let ratio = form.filter(|&form| form > 0.0).map(|form| output / form);
    vec![
        Value::Text(kind.name().to_owned()),
        Value::Text(named.name.clone()),
        Value::Float(mean(|errors| errors.key)),
        Value::Float(mean(|errors| errors.value)),
        Value::Float(outputs().fold(f64::INFINITY, f64::min)),
        Value::Float(output),
        Value::Float(outputs().fold(0.0, f64::max)),
        Value::Int(i64::try_from(draws.len()).unwrap_or(i64::MAX)),
        Value::maybe(form),
        Value::maybe(ratio),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_stand_beside_normals_only() {
        let errors = Errors { output: 0.2, key: 0.1, value: 0.1 };
        let named = chosen(&["int4".to_owned()]).unwrap().remove(0);
        let normal = row(Kind::Normal, &named, &[errors], 1024, 128);
        let outlier = row(Kind::Outlier, &named, &[errors], 1024, 128);
        assert_eq!(normal.len(), columns().len());
        assert!(matches!(normal[9], Value::Float(ratio) if (1.2..1.6).contains(&ratio)));
        assert_eq!((&outlier[8], &outlier[9]), (&Value::Missing, &Value::Missing));
    }
}
