//! The few things a run folder asks of a file system, so that a test can make each of them fail.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Changes to a file system. Every one is durable when it returns.
pub(crate) trait Files: Send + Sync {
    /// Creates or overwrites a file.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Adds to the end of a file, creating it if need be.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to `len` bytes.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its parents.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealFiles;

impl Files for RealFiles {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        sync_parent(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// A rename is durable only once the folder that holds the name is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Name of the file beside `path` that is written before it takes its place.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Writes `bytes` beside `path`, then renames: a reader sees all of it or none.
pub(crate) fn write_aside(files: &dyn Files, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let tmp = aside(path);
    let written = files.write(&tmp, bytes).and_then(|()| files.rename(&tmp, path));
    if written.is_err() {
        // The half-written file only takes up room; that it cannot be removed is no news beside the first error.
        let _ = files.remove_file(&tmp);
    }
    written
        .with_context(|| {
        format!(
            "{}: could not be written ({} bytes)\n  hint: check free space and permissions; what was recorded before stays readable, \
             and `kvbench run --resume` goes on from there",
            path.display(),
            bytes.len()
        )
    })
}

#[cfg(test)]
pub(crate) mod faulty {
    //! A file system that dies at a chosen step: that step happens by half, and nothing happens after it.

    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// See the module.
    #[derive(Clone)]
    pub(crate) struct Dying {
        steps: Arc<AtomicUsize>,
        die_at: usize,
    }

    impl Dying {
        /// Dies at step `die_at`, counted from 0.
        pub(crate) fn at(die_at: usize) -> Self {
            Self { steps: Arc::default(), die_at }
        }

        /// Steps asked for so far.
        pub(crate) fn steps(&self) -> usize {
            self.steps.load(Ordering::SeqCst)
        }

        fn step(
            &self,
            whole: impl FnOnce() -> io::Result<()>,
            half: impl FnOnce(),
        ) -> io::Result<()> {
            let step = self.steps.fetch_add(1, Ordering::SeqCst);
            if step < self.die_at {
                return whole();
            }
            if step == self.die_at {
                half();
            }
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }

    impl Files for Dying {
        fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            let half = || RealFiles.write(path, &bytes[..bytes.len() / 2]).unwrap();
            self.step(|| RealFiles.write(path, bytes), half)
        }

        fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            let half = || RealFiles.append(path, &bytes[..bytes.len() / 2]).unwrap();
            self.step(|| RealFiles.append(path, bytes), half)
        }

        fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
            self.step(|| RealFiles.truncate(path, len), || ())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|| RealFiles.rename(from, to), || ())
        }

        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.step(|| RealFiles.remove_file(path), || ())
        }

        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.step(|| RealFiles.create_dir(path), || ())
        }

        fn remove_dir(&self, path: &Path) -> io::Result<()> {
            self.step(|| RealFiles.remove_dir(path), || ())
        }
    }
}
