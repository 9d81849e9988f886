//! `kvbench plot`: figures for papers, each with its caption beside it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::builder::{EnumValueParser, TypedValueParser as _};

use super::{rank, report::write, scored, ui::Ui};
use crate::{
    analyse::{
        self, InFlight, Judgement, RequestFacts, RunData,
        negatives::{self, Found, Mode},
        pareto::{self, Front},
    },
    record::{TelemetryRow, parquet::TableRow as _},
    report::{
        ReportFiles,
        figure::{Sheet, Size},
        plots::{self, Judged, Kind},
        print,
        run::Source,
        versus::Printed,
    },
};

/// What `--format` names: a form of tables everywhere, a form of pictures after `plot`. One type, since clap hands the value of a
/// global flag down to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Of printed tables.
    Table(Printed),
    /// Of a picture's file.
    Picture(Picture),
}

impl Form {
    /// Form of tables: as text where the flag named a picture's.
    pub fn table(self) -> Printed {
        match self {
            Form::Table(format) => format,
            Form::Picture(_) => Printed::Text,
        }
    }
}

/// Form of a picture's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Picture {
    /// Vector, for the web and for LaTeX's svg package.
    Svg,
    /// 300 dots an inch.
    Png,
    /// Vector, for LaTeX.
    Pdf,
}

impl Picture {
    const ALL: [Picture; 3] = [Picture::Svg, Picture::Png, Picture::Pdf];

    /// Ending of its files.
    fn extension(self) -> &'static str {
        match self {
            Picture::Svg => "svg",
            Picture::Png => "png",
            Picture::Pdf => "pdf",
        }
    }

    /// What a path asks for by its ending.
    fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_lowercase();
        Self::ALL.into_iter().find(|picture| picture.extension() == ending)
    }

    fn draw(self, sheet: &Sheet, size: Size) -> anyhow::Result<Vec<u8>> {
        match self {
            Picture::Svg => Ok(print::svg(sheet, size)?.into_bytes()),
            Picture::Png => print::png(sheet, size),
            Picture::Pdf => print::pdf(sheet, size),
        }
    }
}

/// Losses at which negative samples are counted, percent: the paper's.
const THETA: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 10.0, 16.0, 24.0, 32.0];

/// Draw figures for a paper: as wide as a column or a page, fonts embedded, and each caption with n and what is left out beside it.
#[derive(Debug, Clone, clap::Args)]
pub struct PlotArgs {
    /// Folders that `kvbench run` made. Kernels of several runs that measured different shapes share one fig1.
    #[arg(required = true, value_name = "RUN_DIR")]
    pub runs: Vec<PathBuf>,
    /// What to draw, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    pub figure: Vec<Kind>,
    /// How wide: a column is 3.33 inches, a page 7.
    #[arg(long, value_enum, default_value = "column")]
    pub size: Size,
    /// Form of the files; by the ending of --out where that is a file, else svg.
    #[arg(long, value_parser = EnumValueParser::<Picture>::new().map(Form::Picture))]
    pub format: Option<Form>,
    /// A file that ends with .svg, .png or .pdf, or a folder; `figures` in the first run's folder unless given.
    #[arg(long, value_name = "FILE|DIR")]
    pub out: Option<PathBuf>,
    /// For negatives: which place of a run, as WORKLOAD/LOAD, or TARGET/WORKLOAD/LOAD where several targets ran the baseline.
    #[arg(long, value_name = "PLACE")]
    pub place: Option<String>,
    /// For negatives: where the data set lies now. As often as there are files.
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,
}

/// Where pictures go, and in which form.
struct Target {
    folder: PathBuf,
    /// Name of the only picture, without ending.
    stem: Option<String>,
    picture: Picture,
}

/// Draws, writes each figure with its caption as .txt and .tex beside it, and prints the captions.
///
/// # Errors
/// A run that lacks what a figure is made of, more figures than a file can hold, a folder that cannot be written.
pub fn run(args: &PlotArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let target = Target::of(args)?;
    let runs: Vec<Loaded> =
        args.runs.iter().map(|dir| Loaded::read(dir, args, ui)).collect::<Result<_, _>>()?;
    let judged: Vec<Judged<'_>> = runs.iter().map(Loaded::judged).collect();
    let mut sheets: Vec<Sheet> = Vec::new();
    for kind in &args.figure {
        for (dir, run) in args.runs.iter().zip(&judged) {
            if plots::sheets(*kind, std::slice::from_ref(run)).is_empty() {
                return Err(lacking(dir, *kind));
            }
        }
        sheets.extend(plots::sheets(*kind, &judged));
    }
    if let Some(stem) = &target.stem {
        let [only] = sheets.as_mut_slice() else {
            let names: Vec<&str> = sheets.iter().map(|sheet| sheet.name.as_str()).collect();
            bail!(
                "--out: expected a folder for {} figures ({}), got a file\n  hint: name a folder, or draw one at a time",
                sheets.len(),
                names.join(", ")
            );
        };
        only.name.clone_from(stem);
    }
    write(&target.folder, &files(&sheets, args.size, target.picture)?)?;
    for sheet in &sheets {
        let file = target.folder.join(format!("{}.{}", sheet.name, target.picture.extension()));
        ui.note(&format!("figure: {}", file.display()));
        ui.out(&format!("{}: {}\n", sheet.name, sheet.caption))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lacking(dir: &Path, kind: Kind) -> anyhow::Error {
    let (needs, scenario) = kind.needs();
    anyhow::anyhow!(
        "{}: expected {needs} for the figure `{}`, got none\n  hint: `kvbench run {scenario}` makes a run that has them",
        dir.display(),
        kind.name()
    )
}

fn files(sheets: &[Sheet], size: Size, picture: Picture) -> anyhow::Result<ReportFiles> {
    let mut files = Vec::new();
    for sheet in sheets {
        let file = format!("{}.{}", sheet.name, picture.extension());
        let tex = plots::latex(sheet, size, &file);
        files.push((file, picture.draw(sheet, size)?));
        files.push((format!("{}.txt", sheet.name), plots::plain(sheet).into_bytes()));
        files.push((format!("{}.tex", sheet.name), tex.into_bytes()));
    }
    Ok(ReportFiles(files))
}

impl Target {
    fn of(args: &PlotArgs) -> anyhow::Result<Self> {
        let asked = match args.format {
            // `text` is the global flag's default.
            None | Some(Form::Table(Printed::Text)) => None,
            Some(Form::Picture(picture)) => Some(picture),
            Some(Form::Table(_)) => bail!(
                "--format: expected svg, png or pdf for a picture, got a format of tables\n  hint: write it after `plot`"
            ),
        };
        let first = args.runs.first().map(PathBuf::as_path).unwrap_or(Path::new("."));
        let out = args.out.clone().unwrap_or_else(|| first.join("figures"));
        let Some(named) = Picture::of(&out).filter(|_| !out.is_dir()) else {
            let picture = asked.unwrap_or(Picture::Svg);
            return Ok(Self { folder: out, stem: None, picture });
        };
        if asked.is_some_and(|asked| asked != named) {
            bail!(
                "--out: expected a name that ends with .{} as --format says, got {}",
                asked.map_or("", Picture::extension),
                out.display()
            );
        }
        let stem = out.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Ok(Self { folder, stem, picture: named })
    }
}

/// A run with what figures are made of.
struct Loaded {
    data: RunData,
    judgement: Judgement,
    facts: Vec<RequestFacts>,
    telemetry: Vec<TelemetryRow>,
    in_flight: Vec<InFlight>,
    peak_gflop_per_s: Option<f64>,
    fronts: Vec<Front>,
    found: Option<Found>,
}

impl Loaded {
    fn read(dir: &Path, args: &PlotArgs, ui: &Ui) -> anyhow::Result<Self> {
        let data = RunData::load(dir)?;
        let judgement = analyse::judge(&data)
            .with_context(|| format!("{}: cannot be judged", dir.display()))?;
        let wanted = args.figure.contains(&Kind::Negatives);
        let found = if wanted { Some(found(dir, args, ui)?) } else { None };
        let fronts = if args.figure.contains(&Kind::Pareto) { fronts(dir)? } else { Vec::new() };
        Ok(Self {
            fronts,
            judgement,
            facts: analyse::request_facts(&data)?,
            telemetry: TelemetryRow::rows(&data.telemetry)?,
            in_flight: analyse::in_flight(&data)?,
            peak_gflop_per_s: analyse::peak_gflop_per_s(&data)?,
            found,
            data,
        })
    }

    fn judged(&self) -> Judged<'_> {
        Judged {
            source: Source {
                manifest: &self.data.manifest,
                judgement: &self.judgement,
                facts: &self.facts,
                telemetry: &self.telemetry,
            },
            in_flight: &self.in_flight,
            peak_gflop_per_s: self.peak_gflop_per_s,
            fronts: &self.fronts,
            found: self.found.as_ref(),
        }
    }
}

/// Fronts of a run alone, without limits.
fn fronts(dir: &Path) -> anyhow::Result<Vec<Front>> {
    let runs = rank::open(&[dir.to_owned()])?;
    Ok(pareto::fronts(&runs, &[], None).0)
}

/// Negative samples of a run by the paper's Algorithm 1; a run without scores that cannot be scored lacks them.
fn found(dir: &Path, args: &PlotArgs, ui: &Ui) -> anyhow::Result<Found> {
    let source = scored::Source {
        run_dir: Some(dir.to_owned()),
        baseline: None,
        methods: Vec::new(),
        baseline_repeat: Vec::new(),
        place: args.place.clone(),
        data: args.data.clone(),
    };
    let (subjects, _) = source.read(ui).with_context(|| {
        let (_, scenario) = Kind::Negatives.needs();
        let dir = dir.display();
        format!(
            "{dir}: expected scores for the figure `negatives`\n  hint: `kvbench run {scenario}` makes a run that has them"
        )
    })?;
    let (found, excluded) = negatives::found(&subjects, &[], &THETA, Mode::Algorithm1, 0)?;
    for negatives::Excluded { method, why, n, example } in &excluded {
        ui.note(&format!("{method}: {n} rows left out, {why} (such as {example})"));
    }
    Ok(found)
}
