//! What has to be said of runs whose answers are used.

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    record::{Manifest, manifest::Verdict},
    workload::sha256_file,
};

/// How many cells of a run are INVALID, and what that means for lengths. A client that did not keep up spoils times, which no length
/// depends on; a server that was not what it was meant to be may have answered otherwise.
pub(super) fn doubts(place: &str, manifest: &Manifest) -> Vec<String> {
    let invalid = |found: Vec<(&str, Verdict)>| -> BTreeSet<String> {
        let bad = found.into_iter().filter(|(_, verdict)| *verdict == Verdict::Invalid);
        bad.map(|(id, _)| id.to_owned()).collect()
    };
    let client = invalid(
        manifest.client_health.iter().map(|it| (it.cell_id.as_str(), it.verdict)).collect(),
    );
    let server =
        invalid(manifest.proofs.iter().map(|it| (it.cell_id.as_str(), it.verdict)).collect());
    let all = manifest.cells.len();
    let say = |cells: &BTreeSet<String>, what: &str| {
        let first = cells.first()?;
        Some(format!("{place}: {} of {all} cells {what} (such as {first})", cells.len()))
    };
    let said = [
        say(
            &client,
            "are INVALID since the client did not keep up: used all the same, lengths do not depend on times",
        ),
        say(
            &server,
            "are INVALID since the server was not as the scenario says: used all the same, so these lengths may be of another method",
        ),
    ];
    said.into_iter().flatten().collect()
}

/// Which of the named files are data sets of no run, and so serve nothing.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn unused(files: &[PathBuf], inputs: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    for file in files {
        if !inputs.contains(&sha256_file(file)?) {
            said.push(format!(
                "--data {}: is no data set of these runs (its sha256 is none of theirs), so it was not used",
                file.display()
            ));
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::manifest::{ClientFacts, ProofFacts, example};

    #[test]
    fn cells_that_are_invalid_are_told_of() {
        let ids = ["example/t/f16/w/closed-1/0", "example/t/f16/w/closed-1/1"];
        let mut manifest = example("r", &ids);
        assert_eq!(doubts("run", &manifest), Vec::<String>::new());
        manifest.client_health = vec![ClientFacts {
            cell_id: ids[1].to_owned(),
            verdict: Verdict::Invalid,
            reasons: vec!["starved".to_owned()],
            measured: serde_json::Value::Null,
        }];
        manifest.proofs = ids
            .map(|id| ProofFacts {
                cell_id: id.to_owned(),
                verdict: Verdict::Invalid,
                reasons: vec!["keeps q8_0".to_owned()],
                salt: None,
            })
            .into();
        let [client, server] = &doubts("run", &manifest)[..] else { panic!() };
        assert!(client.starts_with("run: 1 of 2 cells") && client.contains("do not depend"));
        assert!(server.starts_with("run: 2 of 2 cells") && server.contains("another method"));
    }

    #[test]
    fn a_file_of_no_run_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other] = ["own", "other"].map(|name| {
            let path = folder.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        });
        let inputs = BTreeSet::from([sha256_file(&own).unwrap()]);
        let said = unused(&[own, other.clone()], &inputs).unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(other.to_str().unwrap()), "{said:?}");
    }
}
