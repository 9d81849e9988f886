//! Pictures into a folder.

use std::path::Path;

use anyhow::Context as _;

use crate::report::{png, run::Plot, svg};

/// Writes each figure as .svg and .png into a folder, which is made where it is missing.
///
/// # Errors
/// A folder or file that cannot be written, a figure that cannot be drawn.
pub(super) fn draw(folder: &Path, plots: &[Plot]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))?;
    for plot in plots {
        let files = [("svg", svg(&plot.figure)?.into_bytes()), ("png", png(&plot.figure)?)];
        for (extension, bytes) in files {
            let path = folder.join(format!("{}.{extension}", plot.name));
            std::fs::write(&path, bytes)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
        }
    }
    Ok(())
}
