//! Counting instructions of the machine code, where cuobjdump is at hand.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

/// cuobjdump: beside NVRTC (`lib/../bin`), below /usr/local/cuda, or on the path.
pub(crate) fn find(nvrtc: &Path) -> Option<PathBuf> {
    let beside = nvrtc.parent().and_then(Path::parent).map(|root| root.join("bin/cuobjdump"));
    let toolkit = PathBuf::from("/usr/local/cuda/bin/cuobjdump");
    let found = beside.into_iter().chain([toolkit]).find(|path| path.exists());
    found.or_else(|| {
        let name = PathBuf::from("cuobjdump");
        Command::new(&name).arg("--version").output().ok()?.status.success().then_some(name)
    })
}

/// Warp instructions of one pass of a kernel's main loop: the innermost loop with the most tensor-core instructions. `None` where the tool fails or there is no such loop.
pub(crate) fn main_loop(cuobjdump: &Path, cubin: &[u8], function: &str) -> Option<u32> {
    // Instances of several head dimensions share a name and are built at the same time.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("kvbench-{}-{number}.cubin", std::process::id()));
    std::fs::write(&file, cubin).ok()?;
    let output = Command::new(cuobjdump).arg("--dump-sass").arg(&file).output();
    let _ = std::fs::remove_file(&file);
    let text = String::from_utf8_lossy(&output.ok()?.stdout).into_owned();
    count_main_loop(&text, function)
}

/// One line of SASS: address and text.
fn instruction(line: &str) -> Option<(u32, &str)> {
    let rest = line.trim_start().strip_prefix("/*")?;
    let (address, rest) = rest.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok().filter(|_| address.len() <= 6)?;
    let text = rest.split(';').next()?.trim();
    (!text.is_empty()).then_some((address, text))
}

fn count_main_loop(sass: &str, function: &str) -> Option<u32> {
    let header = format!("Function : {function}");
    let lines = sass.lines().skip_while(|line| line.trim() != header).skip(1);
    let body: Vec<(u32, &str)> =
        lines.take_while(|line| !line.contains("Function :")).filter_map(instruction).collect();
    let is_tensor = |text: &&str| text.contains("HMMA") || text.contains("IMMA");
    let inside =
        |(from, to): (u32, u32)| body.iter().filter(move |(at, _)| (from..=to).contains(at));
    let tensor = |span| inside(span).filter(|(_, text)| is_tensor(text)).count();
    // A loop ends in a branch under a predicate; out-of-line code returns by one without.
    let spans: Vec<(u32, u32)> = body
        .iter()
        .filter(|(_, text)| text.starts_with('@'))
        .filter_map(|&(at, text)| Some((branch_target(text).filter(|&target| target < at)?, at)))
        .filter(|&span| tensor(span) > 0)
        .collect();
    // Of nested loops the inner one is where the time goes.
    let innermost = |&&(from, to): &&(u32, u32)| {
        !spans.iter().any(|&(a, b)| (a, b) != (from, to) && from <= a && b <= to)
    };
    let most = spans.iter().filter(innermost).max_by_key(|&&span| tensor(span))?;
    u32::try_from(inside(*most).count()).ok()
}

fn branch_target(text: &str) -> Option<u32> {
    let at = text.find("BRA")?;
    let hex =
        text[at..].split([' ', '`', '(', ')', ',']).find_map(|word| word.strip_prefix("0x"))?;
    u32::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SASS: &str = "
\t\tFunction : foo
        /*0000*/                   MOV R1, c[0x0][0x28] ;            /* 0x00 */
                                                                     /* 0xff */
        /*0010*/                   LDG.E R2, [R4] ;                  /* 0x00 */
        /*0020*/                   HMMA.16816.F32 R4, R8, R2, R4 ;   /* 0x00 */
        /*0030*/                   HMMA.16816.F32 R4, R8, R2, R4 ;   /* 0x00 */
        /*0040*/               @P0 BRA 0x10 ;                        /* 0x00 */
        /*0050*/                   IADD3 R1, R1, 1, RZ ;             /* 0x00 */
        /*0060*/               @P1 BRA `(.L_x_1) ;                   /* 0x00 */
        /*0070*/               @P1 BRA 0x0 ;                         /* 0x00 */
        /*0080*/                   EXIT ;                            /* 0x00 */
        /*0090*/                   HMMA.16816.F32 R4, R8, R2, R4 ;   /* 0x00 */
        /*00a0*/                   BRA 0x20 ;                        /* 0x00 */
\t\tFunction : bar
        /*0000*/                   EXIT ;                            /* 0x00 */
";

    #[test]
    fn the_shortest_loop_with_most_tensor_instructions_counts() {
        assert_eq!(count_main_loop(SASS, "foo"), Some(4));
        assert_eq!(count_main_loop(SASS, "bar"), None);
        assert_eq!(count_main_loop(SASS, "absent"), None);
    }
}
