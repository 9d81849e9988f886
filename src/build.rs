//! Puts the git revision of the source into the binary, so that every manifest can name it, and asks the linker of a release
//! build to keep functions with the same machine code once.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// lld's and gold's option. Rust promises nothing about addresses of functions, so all of them may be folded.
const FOLD: &str = "-Wl,--icf=all";

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    for path in [".git/HEAD", ".git/index"] {
        // Naming a file that does not exist (a source archive, a git worktree) would rebuild the crate every time.
        if Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let revision = git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    // Without a repository the revision is empty, and the manifest says that it is unknown.
    println!("cargo:rustc-env=KVBENCH_GIT_REV={}", revision.unwrap_or_default());
    if linker_folds() {
        println!("cargo:rustc-link-arg-bins={FOLD}");
    }
}

/// Tried on an empty program, since which linker rustc calls depends on target, toolchain and flags. Debug builds go without:
/// folded functions have each other's names in a backtrace.
fn linker_folds() -> bool {
    if variable("PROFILE") != "release" || variable("TARGET") != variable("HOST") {
        return false;
    }
    let folder = PathBuf::from(variable("OUT_DIR"));
    let source = folder.join("empty.rs");
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(variable("CARGO_ENCODED_RUSTFLAGS").split('\x1f').filter(|flag| !flag.is_empty()));
    rustc.arg("-Clink-arg=".to_owned() + FOLD).arg("-o").arg(folder.join("empty")).arg(source);
    rustc.output().is_ok_and(|output| output.status.success())
}

/// A variable that cargo sets for build scripts.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script through the environment what it builds"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
