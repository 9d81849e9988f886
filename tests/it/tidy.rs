//! House rules that the compiler cannot hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules by layer, low to high. A module may import from lower layers only: never from an equal, never from above.
/// The same table stands in the docs of `src/lib.rs`, which `the_docs_show_the_same_layers` holds to this one.
const LAYERS: &[&[&str]] = &[
    &["units", "stats"],
    &["method", "record"],
    &["kernel", "token", "predict"],
    &["route", "encoder"],
    &["scenario"],
    &["plan"],
    &["workload"],
    &["serve", "execute", "analyse"],
    &["report", "import"],
    &["cli"],
];

const FILE_LINES_MAX: usize = 500;
const BANNED: &[&str] = &["FIXME", "XXX", "todo!(", "unimplemented!(", "#[ignore", "dbg!("];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Drops `//` comments: a doc link to a higher module is not an import.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// First path segments after `crate::`, through one level of braces.
fn imports(code: &str) -> Vec<String> {
    code.match_indices("crate::")
        .flat_map(|(at, token)| segments(&code[at + token.len()..]))
        .collect()
}

fn segments(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![identifier(rest)];
    };
    let (mut depth, mut start, mut found) = (1, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (c == ',' && depth == 1) {
            found.push(identifier(&group[start..at]));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn module_of(relative: &str) -> &str {
    relative.split(['/', '.']).next().unwrap_or(relative)
}

/// What is wrong with the imports of one file, if anything.
fn wrong_edges(relative: &str, text: &str) -> Vec<String> {
    let module = module_of(relative);
    if ["main", "lib", "build"].contains(&module) {
        return Vec::new();
    }
    let Some(own) = layer_of(module) else {
        return vec![format!("src/{relative}: module '{module}' has no layer in tests/it/tidy.rs")];
    };
    imports(&code_of(text))
        .into_iter()
        .filter(|import| import != module && layer_of(import).is_none_or(|layer| layer >= own))
        .map(|import| format!("src/{relative}: {module} may not import {import}"))
        .collect()
}

fn each_source(check: impl Fn(&str, &str) -> Vec<String>) {
    let src = root().join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let errors: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            let relative = path.strip_prefix(&src).unwrap().to_str().unwrap();
            check(relative, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn layers_point_one_way() {
    each_source(wrong_edges);
}

#[test]
fn a_wrong_edge_is_seen() {
    assert_eq!(wrong_edges("analyse/mod.rs", "use crate::execute::clock;").len(), 1);
    assert_eq!(wrong_edges("units.rs", "use crate::{stats, record::{Row, Sink}};").len(), 2);
    assert_eq!(wrong_edges("cli/run.rs", "use crate::{plan, record::Row};").len(), 0);
    assert_eq!(wrong_edges("novel.rs", "").len(), 1);
}

#[test]
fn the_docs_show_the_same_layers() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for (number, layer) in LAYERS.iter().enumerate() {
        let names: Vec<String> = layer.iter().map(|name| format!("[`{name}`]")).collect();
        let row = format!("//! | {number} | {} |", names.join(", "));
        assert!(lib.contains(&row), "src/lib.rs lacks the row: {row}");
    }
}

#[test]
fn files_are_short() {
    each_source(|relative, text| {
        let n_lines = text.lines().count();
        if n_lines > FILE_LINES_MAX {
            vec![format!("src/{relative}: {n_lines} lines, at most {FILE_LINES_MAX}")]
        } else {
            Vec::new()
        }
    });
}

#[test]
fn nothing_is_left_for_later() {
    each_source(|relative, text| {
        BANNED
            .iter()
            .filter(|word| text.contains(**word))
            .map(|word| format!("src/{relative}: contains `{word}`"))
            .collect()
    });
}

#[test]
fn only_cli_prints() {
    each_source(|relative, text| {
        let prints =
            ["println!(", "print!(", "eprintln!(", "stdout()"].iter().any(|p| text.contains(p));
        if prints
            && module_of(relative) != "cli"
            && !["main.rs", "build.rs"].contains(&relative)
            && !relative.ends_with("tests.rs")
            && relative != "kernel/cuda/emu.rs" // compiled for tests alone
            && !code_is_test(text)
        {
            vec![format!("src/{relative}: prints; only cli may")]
        } else {
            Vec::new()
        }
    });
}

/// Tests may say that they were skipped.
fn code_is_test(text: &str) -> bool {
    let before = text.split("#[cfg(test)]").next().unwrap_or("");
    !["println!(", "print!(", "eprintln!(", "stdout()"].iter().any(|p| before.contains(p))
}

#[test]
fn the_eight_top_level_names_are_there() {
    for name in
        ["Cargo.toml", "src", "scenarios", "datasets", "kernels", "results", "scripts", "README.md"]
    {
        assert!(root().join(name).exists(), "{name} is missing");
    }
}
