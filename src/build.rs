//! Puts the git revision of the source into the binary, so that every manifest can name it.

use std::{path::Path, process::Command};

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
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
