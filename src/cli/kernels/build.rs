//! `kvbench kernels build`: the CUDA kernels compiled for architectures, without a GPU.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use rayon::prelude::*;

use crate::{
    cli::ui::Ui,
    execute::{clock::now, probe},
    kernel::cuda::{
        self,
        compile::{Binary, Compiler},
        program::Instance,
    },
    report::{Column, Table, Value, render},
};

/// What to compile for.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Architectures as NVRTC names them, comma-separated.
    #[arg(long, value_name = "SM", value_delimiter = ',', default_value = "sm_80,sm_90a", value_parser = arch)]
    pub arch: Vec<String>,
    /// Only instances whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Folder to write one .cubin an instance and architecture to.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn arch(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sm_").unwrap_or_default().trim_end_matches(['a', 'f']);
    let known = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    known
        .then(|| text.to_owned())
        .ok_or_else(|| format!("expected an architecture such as sm_80 or sm_90a, got `{text}`"))
}

/// One attempt.
struct Built {
    arch: String,
    instance: Instance,
    seconds: f64,
    result: anyhow::Result<Binary>,
}

impl Built {
    fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|binary| binary.resources.spill_bytes == 0)
    }

    fn name(&self) -> String {
        let Instance { source, expression, head_dim, .. } = &self.instance;
        format!("{} {expression} (D {head_dim}) for {}", source.file(), self.arch)
    }
}

/// Compiles and prints.
///
/// # Errors
/// No NVRTC, nothing matches the filter, or the folder cannot be written to.
pub(super) fn run(args: &BuildArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let wanted = |instance: &Instance| {
        args.filter.as_ref().is_none_or(|text| instance.expression.contains(text.as_str()))
    };
    let instances: Vec<Instance> = cuda::instances().into_iter().filter(wanted).collect();
    anyhow::ensure!(
        !instances.is_empty(),
        "--filter: expected part of a kernel's name, got `{}`\n  hint: without it all are built",
        args.filter.as_deref().unwrap_or_default()
    );
    let tools = probe::tools();
    let mut built = Vec::new();
    for arch in &args.arch {
        let compiler = Compiler::new(&tools, arch)?;
        if built.is_empty() {
            introduce(&compiler, instances.len(), ui);
        }
        built.extend(build_all(&compiler, arch, &instances));
    }
    if let Some(dir) = &args.out {
        write(dir, &built)?;
    }
    ui.out(&render(&table(&built), ui.format, ui.color))?;
    Ok(conclude(&built, ui))
}

fn introduce(compiler: &Compiler, n_instances: usize, ui: &Ui) {
    let nvrtc = compiler.nvrtc();
    let counting = match compiler.cuobjdump() {
        Some(tool) => format!("instructions counted by {}", tool.display()),
        None => "no cuobjdump: instructions are not counted".to_owned(),
    };
    ui.note(&format!(
        "{n_instances} kernels, NVRTC {} ({}); {counting}",
        nvrtc.version_text(),
        nvrtc.path.display()
    ));
}

fn build_all(compiler: &Compiler, arch: &str, instances: &[Instance]) -> Vec<Built> {
    let build = |instance: &Instance| {
        let started = now();
        let result = compiler.build(instance);
        let seconds = started.elapsed().as_secs_f64();
        Built { arch: arch.to_owned(), instance: instance.clone(), seconds, result }
    };
    instances.par_iter().with_max_len(1).map(build).collect()
}

fn table(built: &[Built]) -> Table {
    let columns = [
        ("arch", ""),
        ("source", ""),
        ("kernel", ""),
        ("head_dim", ""),
        ("registers", ""),
        ("spills", "B"),
        ("stack", "B"),
        ("smem_static", "B"),
        ("loop", "instr"),
        ("per_kv_element", "lane instr"),
        ("compile", "s"),
        ("from", ""),
    ];
    let columns = columns.map(|(name, unit)| Column::new(name, unit)).to_vec();
    let mut table = Table::new("CUDA kernels", columns);
    table.rows = built.iter().map(row).collect();
    table
}

fn row(built: &Built) -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let Instance { source, expression, head_dim, .. } = &built.instance;
    let mut cells = vec![text(&built.arch), text(source.file()), text(expression)];
    cells.push(Value::Int(i64::try_from(*head_dim).unwrap_or(i64::MAX)));
    match &built.result {
        Ok(binary) => {
            let used = binary.resources;
            let numbers = [used.registers, used.spill_bytes, used.stack_bytes, used.smem_bytes];
            cells.extend(numbers.map(|n| Value::Int(i64::from(n))));
            cells.push(binary.loop_instructions.map_or(Value::Missing, |n| Value::Int(n.into())));
            cells.push(Value::maybe(binary.instructions_per_element()));
            cells.push(Value::Float(built.seconds));
            cells.push(text(if binary.cached { "cache" } else { "compiler" }));
        }
        Err(_) => {
            cells.extend([const { Value::Missing }; 6]);
            cells.push(Value::Float(built.seconds));
            cells.push(text("FAILED"));
        }
    }
    cells
}

fn write(dir: &std::path::Path, built: &[Built]) -> anyhow::Result<()> {
    let place =
        || format!("--out: expected a folder that can be written to, got {}", dir.display());
    std::fs::create_dir_all(dir).with_context(place)?;
    for built in built {
        let Ok(binary) = &built.result else { continue };
        let Instance { source, expression, head_dim, .. } = &built.instance;
        let slug: String =
            expression.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let stem = source.file().trim_end_matches(".cu");
        let name = format!("{stem}.{slug}.d{head_dim}.{}.cubin", built.arch);
        std::fs::write(dir.join(name), &binary.cubin).with_context(place)?;
    }
    Ok(())
}

/// Says what went wrong.
fn conclude(built: &[Built], ui: &Ui) -> ExitCode {
    for bad in built.iter().filter(|built| !built.is_good()) {
        let why = match &bad.result {
            Ok(binary) => format!("spills {} bytes of registers", binary.resources.spill_bytes),
            Err(error) => format!("{error:#}"),
        };
        ui.note(&format!("{}: {why}", bad.name()));
    }
    let n_bad = built.iter().filter(|built| !built.is_good()).count();
    ui.note(&format!("{} built without spills, {n_bad} not", built.len() - n_bad));
    ExitCode::from(u8::from(n_bad > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_names_of_nvrtc() {
        assert!(["sm_80", "sm_90a", "sm_120f"].iter().all(|name| arch(name).is_ok()));
        assert!(["80", "sm_", "compute_90", "sm_x"].iter().all(|name| arch(name).is_err()));
    }
}
