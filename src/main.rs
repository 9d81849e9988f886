//! Parses, runs, prints one error line, exits: see [`kvbench::cli`].

fn main() -> std::process::ExitCode {
    kvbench::cli::main()
}
