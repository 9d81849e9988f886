//! The parent of an engine: a small process of its own that outlives kvbench by as long as it takes to end the engine.
//!
//! kvbench may die in any way, `kill -9` included; the pipe on this process's standard input then closes, and that is the
//! only message needed. Everything the engine has started is a descendant of this process (Linux makes it the reaper of
//! orphans), so that workers which left the engine's process group are found and ended as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::Context as _;

use super::clock;
use crate::scenario::StopSignal;

/// How often children are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long what an engine leaves behind has to end by itself.
const REST_GRACE: Duration = Duration::from_secs(5);

/// Runs `words` until they end or standard input closes, ends everything they started, and returns their exit code (128
/// and the signal where one ended them). With `out` the first line on it is the process id and all that they print goes to
/// standard error; without it their standard output is this process's.
///
/// # Errors
/// The program cannot be started.
pub fn supervise(
    words: &[String],
    signal: StopSignal,
    grace: Duration,
    out: Option<&mut dyn Write>,
) -> anyhow::Result<i32> {
    let (program, arguments) = words.split_first().context("expected a command, got nothing")?;
    become_reaper();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if out.is_some() {
        command.stdout(Stdio::from(std::io::stderr()));
    }
    // SAFETY: prctl is a plain system call and touches nothing that another thread of the parent could hold.
    unsafe {
        command.pre_exec(|| {
            // Should even this process be killed, the engine itself goes with it.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("{program}: cannot be started"))?;
    let pid = i32::try_from(child.id()).context("process id")?;
    if let Some(out) = out {
        writeln!(out, "{pid}").and_then(|()| out.flush()).context("standard output")?;
    }
    let gone = parent_gone();
    let code = wait(pid, &gone, signal, grace);
    end_rest(REST_GRACE.min(grace));
    Ok(code)
}

/// A session of its own, so that a Ctrl-C in the terminal is kvbench's alone, and the parent of orphans.
fn become_reaper() {
    // SAFETY: both calls change this process only; a failure (already a leader) changes nothing that is relied upon.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
}

/// Makes this process the parent of orphans below it: should a supervisor be killed, what it watched over is then found
/// by [`end_orphans`].
pub fn adopt_orphans() {
    // SAFETY: changes this process only; where the kernel cannot do it, orphans go to the init process as they always did.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Ends every descendant of this process but those in `known`, which were there before: what a killed supervisor left.
pub fn end_orphans(known: &[i32]) {
    let end = clock::now() + REST_GRACE;
    let mut ended = BTreeSet::new();
    loop {
        let mut left = descendants(std::process::id());
        left.retain(|pid| !known.contains(pid));
        for pid in &left {
            kill(*pid, libc::SIGKILL);
            ended.insert(*pid);
        }
        ended.retain(|pid| !is_reaped(*pid));
        // A process that the kernel cannot end (stuck in a driver) must not hold the run for ever.
        if (left.is_empty() && ended.is_empty()) || clock::now() >= end {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes one ended process off the table; also true of one that is not this process's own child.
fn is_reaped(pid: i32) -> bool {
    // SAFETY: a null status is allowed; nothing is written.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// A channel that closes with standard input.
fn parent_gone() -> mpsc::Receiver<()> {
    let (tell, gone) = mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An error of the pipe means the same as its end.
        let _ = std::io::stdin().read_to_end(&mut rest);
        drop(tell);
    });
    gone
}

/// Waits for the engine; once the parent is gone, asks it to end and then ends it.
fn wait(pid: i32, gone: &mpsc::Receiver<()>, signal: StopSignal, grace: Duration) -> i32 {
    let mut deadline = None;
    loop {
        if let Some(code) = reaped(pid) {
            return code;
        }
        match deadline {
            None if gone.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Disconnected) => {
                kill(pid, number(signal));
                deadline = Some(clock::now() + grace);
            }
            None => {}
            Some(end) if clock::now() >= end => {
                kill(pid, libc::SIGKILL);
                std::thread::sleep(LOOK);
            }
            Some(_) => std::thread::sleep(LOOK),
        }
    }
}

fn number(signal: StopSignal) -> i32 {
    match signal {
        StopSignal::Term => libc::SIGTERM,
        StopSignal::Int => libc::SIGINT,
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: sending a signal to a child of ours; one that has just ended makes the call fail and nothing else.
    unsafe { libc::kill(pid, signal) };
}

/// Takes every child that has ended off the table; the code of `wanted` if it was among them.
fn reaped(wanted: i32) -> Option<i32> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for one int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return None;
        }
        if pid == wanted {
            return Some(code(status));
        }
    }
}

fn code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Ends what is left: SIGTERM, then SIGKILL until nothing answers.
fn end_rest(grace: Duration) {
    descendants(std::process::id()).into_iter().for_each(|pid| kill(pid, libc::SIGTERM));
    let end = clock::now() + grace;
    loop {
        reaped(-1);
        let left = descendants(std::process::id());
        if left.is_empty() {
            return;
        }
        if clock::now() >= end {
            left.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        }
        std::thread::sleep(LOOK);
    }
}

/// Every living descendant of a process, from `/proc`.
pub fn descendants(root: u32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent) in parents() {
        children.entry(parent).or_default().push(pid);
    }
    let (mut found, mut open) = (Vec::new(), vec![i32::try_from(root).unwrap_or(i32::MAX)]);
    while let Some(parent) = open.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            found.push(pid);
            open.push(pid);
        }
    }
    found
}

/// Process and parent of everything that runs and is not a zombie.
fn parents() -> Vec<(i32, i32)> {
    let Ok(folders) = std::fs::read_dir("/proc") else { return Vec::new() };
    let of = |folder: std::fs::DirEntry| {
        let pid: i32 = folder.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.path().join("stat")).ok()?;
        // The name in parentheses may hold blanks and parentheses itself.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        (state != "Z").then_some((pid, parent))
    };
    folders.flatten().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_a_child_is_a_descendant() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60"])
            .process_group(0)
            .spawn()
            .unwrap();
        let both = || descendants(child.id()).len() == 2;
        while !both() {
            std::thread::sleep(LOOK);
        }
        let below = descendants(child.id());
        assert_eq!(below.len(), 2);
        below.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        child.wait().unwrap();
    }
}
