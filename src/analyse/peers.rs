//! Rows of other implementations, taken beside a run on the same machine by `scripts/gpu-peers.py`: they join its points, so
//! that one plot holds both. They were not interleaved with the run's samples, so no paired speed-up is made of them.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use super::RunData;
use crate::{
    record::{Table, parquet, parquet::TableRow as _, rows::KernelRow},
    units::hex,
};

/// What the methods of peers are called: `peer:torch-flash`.
const PREFIX: &str = "peer:";

/// What became of the rows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// Rows that are among the run's now.
    pub n_rows: usize,
    /// Rows at shapes that the run does not have.
    pub n_elsewhere: usize,
    /// Peers that failed, with the place and the reason.
    pub failed: Vec<String>,
}

impl RunData {
    /// Takes the rows of a peers' file in, with a notice of where they come from.
    ///
    /// # Errors
    /// No such file, another schema, rows that are no peers' or of another device.
    pub fn join_peers(&mut self, path: &Path) -> anyhow::Result<Joined> {
        let frame = parquet::read_frame(path)?;
        parquet::check_columns(&frame, Table::Kernels, path)?;
        let own = KernelRow::rows(&self.kernels)?;
        let devices: BTreeSet<&str> = own.iter().map(|row| row.device.as_str()).collect();
        let shapes: BTreeSet<_> = own.iter().map(shape).collect();
        let mut joined = Joined::default();
        let mut rows = Vec::new();
        for row in KernelRow::rows(&frame)? {
            check(&row, &devices).with_context(|| path.display().to_string())?;
            match &row.err {
                _ if !shapes.contains(&shape(&row)) => joined.n_elsewhere += 1,
                Some(err) => joined.failed.push(format!("{}: {err}", row.cell_id)),
                None => rows.push(row),
            }
        }
        joined.n_rows = rows.len();
        self.kernels.vstack_mut_owned(KernelRow::frame(&rows)?)?;
        self.kernels.rechunk_mut();
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let hash = hex(&Sha256::digest(&bytes));
        self.manifest.notices.push(format!(
            "{} rows of peers from {} (sha256 {hash}), not interleaved with this run's: they have no speed-up",
            joined.n_rows,
            path.display()
        ));
        Ok(joined)
    }
}

fn shape(row: &KernelRow) -> (String, String, String, String, i64) {
    let text = [&row.target, &row.workload, &row.load, &row.model_shape].map(Clone::clone);
    let [target, workload, load, model] = text;
    (target, workload, load, model, row.tensor_parallel)
}

fn check(row: &KernelRow, devices: &BTreeSet<&str>) -> anyhow::Result<()> {
    ensure!(
        row.method.starts_with(PREFIX),
        "expected methods called `{PREFIX}...`, got `{}`\n  hint: --peers takes what scripts/gpu-peers.py writes",
        row.method
    );
    ensure!(
        devices.contains(row.device.as_str()),
        "expected rows of {}, got {}\n  hint: run scripts/gpu-peers.py on the machine of the run",
        devices.iter().copied().collect::<Vec<_>>().join(" or "),
        row.device
    );
    Ok(())
}
