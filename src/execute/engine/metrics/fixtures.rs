//! What tests of this folder share.

use std::path::Path;

use crate::scenario::{MetricName, MetricsFormat, MetricsSpec};

/// A spec of `/metrics` in Prometheus text.
pub(super) fn spec(names: &[(MetricName, &[&str])]) -> MetricsSpec {
    let sources =
        |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a source")).collect();
    MetricsSpec {
        path: "/metrics".to_owned(),
        format: MetricsFormat::Prometheus,
        names: names.iter().map(|(name, texts)| (*name, sources(texts))).collect(),
    }
}

/// A file that a real server answered with, below `$KVBENCH_SHARED/recorded`; `None`, and a word, where there is no such
/// folder. A folder that lacks the file is an error.
#[expect(
    clippy::disallowed_methods,
    reason = "where recorded answers lie is told to tests by the environment"
)]
pub(super) fn recorded(file: &str) -> Option<String> {
    let Ok(folder) = std::env::var("KVBENCH_SHARED") else {
        let word = format!("skipped {file}: KVBENCH_SHARED is not set\n");
        std::io::Write::write_all(&mut std::io::stderr(), word.as_bytes()).expect("stderr");
        return None;
    };
    let path = Path::new(&folder).join("recorded").join(file);
    Some(
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
}
