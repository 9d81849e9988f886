//! Pictures for papers: as wide as a column or a page, with letters that can be read at that width, the legend below, and neither
//! title nor caption inside.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    SVG_STEPS, body, escape,
    font::FONT,
    layout::{Frame, Measure, Shape, below, cut, panels, words, x_lines},
    legend::{Entry, LEGEND_SAMPLE, entries, sample},
    marks::{Across, INK, Mark},
    pdf, raster, register, text_width,
};
use crate::report::{
    figure::{Figure, Sheet, Size},
    png::encode,
};

/// Units across a column or a page: the letters of numbers, 12 units high, are 6.7 points high in print.
fn units(size: Size) -> f64 {
    match size {
        Size::Column => 369.0,
        Size::Page => 775.0,
    }
}

/// Dots of a PNG in an inch, as journals ask for pictures with colour.
const DOTS_PER_INCH: f64 = 300.0;
const INCH_IN_METRES: f64 = 0.0254;
const POINTS_PER_INCH: f64 = 72.0;

const MARGIN: f64 = 5.0;
/// Right of the panels, where half of the last number may stand.
const RIGHT: f64 = 16.0;
/// Above the first panel, whose topmost number is centred on its edge.
const TOP: f64 = 9.0;
const LEGEND_SIZE: f64 = 12.5;
const LEGEND_LINE: f64 = 18.0;
const PART_TITLE: f64 = 22.0;
const PANEL_TITLE: f64 = 22.0;
const GAP: f64 = 18.0;

/// A sheet with every mark in place.
struct Laid {
    marks: Vec<Mark>,
    width: f64,
    height: f64,
}

/// Draws a sheet as an SVG document with the font inside. The same sheet gives the same bytes. Errors: see [`Figure::check`].
pub fn svg(sheet: &Sheet, size: Size) -> anyhow::Result<String> {
    let laid = laid(sheet, size)?;
    let steps = |units: f64| (units * f64::from(SVG_STEPS)).round() as u32;
    let (width, height) = (steps(laid.width), steps(laid.height));
    let inner = body(&laid.marks, (width, height))?;
    let (inches, title) = (size.inches(), escape(&title(sheet)));
    let high = inches * laid.height / laid.width;
    let font = STANDARD.encode(FONT);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{title}\" width=\"{inches}in\" height=\"{high:.4}in\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{title}</title>\n<style>@font-face{{font-family:\"kvbench DejaVu Sans\";\
         src:url(data:font/ttf;base64,{font})}} text{{font-family:\"kvbench DejaVu Sans\",sans-serif}}</style>{inner}"
    ))
}

/// Draws a sheet as a PNG of 300 dots an inch, which says so. Errors: see [`Figure::check`].
pub fn png(sheet: &Sheet, size: Size) -> anyhow::Result<Vec<u8>> {
    let laid = laid(sheet, size)?;
    let dots = size.inches() * DOTS_PER_INCH / laid.width;
    let pixels = |units: f64| (units * dots).round() as u32;
    let (width, height) = (pixels(laid.width), pixels(laid.height));
    let per_metre = (DOTS_PER_INCH / INCH_IN_METRES).round() as u32;
    Ok(encode(&raster(&laid.marks, (width, height), dots)?, width, height, Some(per_metre)))
}

/// Draws a sheet as a PDF of one page, vector, with the font inside. Errors: see [`Figure::check`].
pub fn pdf(sheet: &Sheet, size: Size) -> anyhow::Result<Vec<u8>> {
    let laid = laid(sheet, size)?;
    let points = size.inches() * POINTS_PER_INCH / laid.width;
    pdf::document(&laid.marks, (laid.width, laid.height), points, &title(sheet))
}

fn title(sheet: &Sheet) -> String {
    let titles: Vec<&str> = sheet.parts.iter().map(|part| part.title.as_str()).collect();
    titles.join("; ")
}

/// A part, its letter and how many panels stand side by side in it.
struct Part<'a> {
    figure: &'a Figure,
    title: String,
    columns: usize,
    /// Values that its horizontal axis has to show.
    xs: Vec<f64>,
}

impl Part<'_> {
    fn rows(&self) -> usize {
        self.figure.panels.len().div_ceil(self.columns)
    }

    /// Height of its panels with their labels and the horizontal axis.
    fn height(&self, panel: f64, x_lines: usize) -> f64 {
        let labelled = self.figure.panels.iter().any(|panel| !panel.label.is_empty());
        let header = if labelled { PANEL_TITLE } else { 0.0 };
        let rows = self.rows() as f64;
        rows * (panel + header) + (rows - 1.0) * GAP + below(x_lines)
    }
}

fn laid(sheet: &Sheet, size: Size) -> anyhow::Result<Laid> {
    register()?;
    for part in &sheet.parts {
        part.check()?;
    }
    let width = units(size);
    let measure: Measure<'_> = &text_width;
    let parts = parts(sheet, size);
    let mut marks = Vec::new();
    let mut top = TOP;
    for row in packed(&parts, if sheet.stacked || size == Size::Column { 1 } else { 3 }) {
        let columns = row.iter().map(|part| part.columns).sum();
        let panel = if sheet.stacked { STACKED } else { panel_height(size, columns) };
        let left = if sheet.stacked { STACKED_LEFT } else { 0.0 };
        let bottom = draw_row(row, [width, top, panel, left], measure, &mut marks);
        top = bottom + 10.0;
    }
    let height = legend(sheet, width, top, measure, &mut marks);
    Ok(Laid { marks, width, height: height.ceil() })
}

fn parts(sheet: &Sheet, size: Size) -> Vec<Part<'_>> {
    let together: Vec<f64> = sheet.parts.iter().flat_map(Figure::xs).collect();
    let several = sheet.parts.len() > 1;
    let lettered = sheet.parts.iter().zip('a'..='z');
    lettered
        .map(|(figure, letter)| Part {
            figure,
            title: if several { format!("({letter}) {}", figure.title) } else { String::new() },
            columns: columns(figure.panels.len(), size),
            xs: if sheet.stacked { together.clone() } else { figure.xs() },
        })
        .collect()
}

/// How many panels stand side by side.
fn columns(panels: usize, size: Size) -> usize {
    match (size, panels) {
        (_, 0..=1) => 1,
        (Size::Column, _) => 2,
        (Size::Page, 2..=3) => panels,
        (Size::Page, 4) => 2,
        (Size::Page, 5..=6) => 3,
        (Size::Page, _) => 4,
    }
}

/// Parts in rows: side by side where so many panels or fewer come together, else below one another.
fn packed<'p, 'f>(parts: &'p [Part<'f>], most: usize) -> Vec<&'p [Part<'f>]> {
    let mut rows = Vec::new();
    let mut from = 0;
    for to in 1..=parts.len() {
        let panels = |part: &Part<'_>| part.columns + most * (part.rows() - 1);
        let more = parts.get(to).map(panels);
        let here: usize = parts[from..to].iter().map(panels).sum();
        if more.is_none_or(|more| here + more > most) {
            rows.push(&parts[from..to]);
            from = to;
        }
    }
    rows
}

/// Height of a panel of which several lie below one another, and room left of it for a title of two lines and numbers.
const STACKED: f64 = 110.0;
const STACKED_LEFT: f64 = 80.0;

/// Height of one panel.
fn panel_height(size: Size, columns: usize) -> f64 {
    match (size, columns) {
        (Size::Column, 1) => 200.0,
        (Size::Column, _) => 150.0,
        (Size::Page, 1) => 300.0,
        (Size::Page, 2) => 220.0,
        (Size::Page, _) => 180.0,
    }
}

/// Draws parts side by side from `top` on, in a picture of this width with panels of this height and so much room left of them, and
/// tells where they end.
fn draw_row(
    row: &[Part<'_>],
    [width, top, panel, room]: [f64; 4],
    measure: Measure<'_>,
    out: &mut Vec<Mark>,
) -> f64 {
    let width = width - MARGIN - RIGHT;
    let columns: usize = row.iter().map(|part| part.columns).sum();
    let each = (width - GAP * (row.len() - 1) as f64) / columns as f64;
    let titled = row.iter().any(|part| !part.title.is_empty());
    let start = top + if titled { PART_TITLE } else { 0.0 };
    let lines = |part: &Part<'_>| x_lines(part.figure, each * part.columns as f64, measure);
    let x_lines = row.iter().map(lines).max().unwrap_or(1);
    let bottom = start + row.iter().map(|part| part.height(panel, x_lines)).fold(0.0, f64::max);
    let mut left = MARGIN;
    for part in row {
        let right = left + each * part.columns as f64;
        if titled {
            let title = cut(part.title.clone(), 13.0, right - left, measure);
            out.push(words((left, top + PART_TITLE / 2.0), &title, 13.0, INK, Across::Left));
        }
        let frame = Frame { left, top: start, right, bottom };
        let (rows, columns, xs) = (part.rows(), part.columns, part.xs.as_slice());
        let shape = Shape { rows, columns, xs, x_lines, left: room };
        out.extend(panels(part.figure, &shape, frame, measure));
        left = right + GAP;
    }
    bottom
}

/// The legend of all parts, each name once, in lines below them; tells where the picture ends.
fn legend(sheet: &Sheet, width: f64, top: f64, measure: Measure<'_>, out: &mut Vec<Mark>) -> f64 {
    let mut named: Vec<Entry<'_>> = Vec::new();
    for entry in sheet.parts.iter().flat_map(entries) {
        if !named.iter().any(|known| known.name() == entry.name()) {
            named.push(entry);
        }
    }
    let (mut x, mut y) = (MARGIN, top + LEGEND_LINE / 2.0);
    for entry in &named {
        let room = width - 2.0 * MARGIN - LEGEND_SAMPLE;
        let name = cut(entry.name().to_owned(), LEGEND_SIZE, room, measure);
        let wide = LEGEND_SAMPLE + measure(&name, LEGEND_SIZE);
        if x > MARGIN && x + wide > width - MARGIN {
            (x, y) = (MARGIN, y + LEGEND_LINE);
        }
        out.extend(sample(entry, (x, y)));
        out.push(words((x + LEGEND_SAMPLE, y), &name, LEGEND_SIZE, INK, Across::Left));
        x += wide + GAP;
    }
    if named.is_empty() { top + MARGIN } else { y + LEGEND_LINE / 2.0 + MARGIN }
}

#[cfg(test)]
#[path = "print_tests.rs"]
mod tests;
