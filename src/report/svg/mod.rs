//! A [`Figure`] becomes SVG text or PNG bytes, a [`Sheet`] also PDF. The only place that knows plotters.
//!
//! `layout` turns the figure into a list of marks in a picture of 900 x 540, `print` a sheet into one of the width that a paper has;
//! here they are replayed on a backend. Both of plotters' backends count in whole pixels, so both draw at a multiple of that size
//! and the SVG keeps it in its view box.
//!
//! [`Sheet`]: super::figure::Sheet

mod font;
mod inline;
mod layout;
mod legend;
mod marks;
mod pdf;
mod piece;
pub mod print;

use std::sync::Once;

use anyhow::anyhow;
use plotters::{
    backend::{BitMapBackend, DrawingBackend, SVGBackend},
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, PathElement, Polygon},
    style::{
        Color, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Figure, png::encode};
use font::FONT;
#[cfg(test)]
pub(super) use inline::colours;
pub(super) use inline::{Owners, Sample, Told, inline, legend, swatch};
use marks::{Across, Mark, Rgb, Text, Xy};

/// Size of a picture in its own units.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
/// Steps of the SVG's integer coordinates in one unit.
const SVG_STEPS: u32 = 4;
/// Pixels of a PNG in one unit: sharp on dense screens and in print.
const PNG_PIXELS: u32 = 2;
/// The PNG is drawn this much larger still and averaged, since plotters' own smoothing leaves thick lines ragged.
const PNG_OVERSAMPLING: u32 = 2;

const FAMILY: &str = "sans-serif";

/// Draws a figure as an SVG document. The same figure gives the same bytes. Errors: see [`Figure::check`].
pub fn svg(figure: &Figure) -> anyhow::Result<String> {
    let (width, height) = pixels(SVG_STEPS);
    let inner = body(&marks_of(figure)?, (width, height))?;
    let title = escape(&figure.title);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{title}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{title}</title>{inner}"
    ))
}

/// What is inside the svg element of a picture of so many steps.
fn body(marks: &[Mark], steps: (u32, u32)) -> anyhow::Result<String> {
    let mut text = String::new();
    replay(SVGBackend::with_string(&mut text, steps), f64::from(SVG_STEPS), marks)?;
    let inner = text.split_once('>').map(|(_, inner)| inner.to_owned());
    inner.ok_or_else(|| anyhow!("expected an svg element from plotters, got none"))
}

/// Draws a figure as a PNG of 1800 x 1080. The same figure gives the same bytes. Errors: see [`Figure::check`].
pub fn png(figure: &Figure) -> anyhow::Result<Vec<u8>> {
    let marks = marks_of(figure)?;
    let (width, height) = pixels(PNG_PIXELS);
    Ok(encode(&raster(&marks, (width, height), f64::from(PNG_PIXELS))?, width, height, None))
}

/// RGB triples of a picture of so many pixels, of which so many are one unit.
fn raster(
    marks: &[Mark],
    (width, height): (u32, u32),
    pixels_a_unit: f64,
) -> anyhow::Result<Vec<u8>> {
    let size = (width * PNG_OVERSAMPLING, height * PNG_OVERSAMPLING);
    let mut fine = vec![0_u8; (size.0 * size.1 * 3) as usize];
    let scale = pixels_a_unit * f64::from(PNG_OVERSAMPLING);
    replay(BitMapBackend::with_buffer(&mut fine, size), scale, marks)?;
    Ok(averaged(&fine, size.0 as usize))
}

fn pixels(scale: u32) -> (u32, u32) {
    (WIDTH as u32 * scale, HEIGHT as u32 * scale)
}

fn marks_of(figure: &Figure) -> anyhow::Result<Vec<Mark>> {
    figure.check()?;
    register()?;
    Ok(layout::marks(figure, &text_width))
}

/// Both backends look the font up in a table of the process.
fn register() -> anyhow::Result<()> {
    static DONE: Once = Once::new();
    DONE.call_once(|| drop(register_font(FAMILY, FontStyle::Normal, FONT)));
    (FAMILY, 12.0)
        .into_font()
        .box_size("x")
        .map(drop)
        .map_err(|e| anyhow!("the embedded font cannot be used: {e}"))
}

/// Width of a text in picture units, measured large since the font counts in whole pixels.
fn text_width(text: &str, size: f64) -> f64 {
    const ZOOM: f64 = 8.0;
    let measured = (FAMILY, size * ZOOM).into_font().box_size(text);
    // The font was tried by `register`; a text it cannot measure is laid out as if wide.
    measured.map_or(size * text.chars().count() as f64, |(width, _)| f64::from(width) / ZOOM)
}

/// Mean of each square of `PNG_OVERSAMPLING`^2 pixels.
fn averaged(fine: &[u8], fine_width: usize) -> Vec<u8> {
    let n = PNG_OVERSAMPLING as usize;
    let stride = fine_width * 3;
    let mut out = Vec::with_capacity(fine.len() / (n * n));
    for band in fine.chunks_exact(stride * n) {
        for at in (0..stride).filter(|at| at / 3 % n == 0) {
            let square = (0..n * n).map(|i| u32::from(band[i / n * stride + at + i % n * 3]));
            out.push(((square.sum::<u32>() + (n * n / 2) as u32) / (n * n) as u32) as u8);
        }
    }
    out
}

fn replay<B: DrawingBackend>(backend: B, scale: f64, marks: &[Mark]) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let area = backend.into_drawing_area();
    area.fill(&RGBColor(255, 255, 255))?;
    for mark in marks {
        draw(&area, scale, mark)?;
    }
    Ok(area.present()?)
}

fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    scale: f64,
    mark: &Mark,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let to = |p: &Xy| ((p.0 * scale).round() as i32, (p.1 * scale).round() as i32);
    match mark {
        Mark::Path { points, color, width } => {
            let style = ShapeStyle {
                color: rgb(*color).to_rgba(),
                filled: false,
                stroke_width: thickness(*width, scale),
            };
            area.draw(&PathElement::new(points.iter().map(to).collect::<Vec<_>>(), style))?;
        }
        Mark::Fill { points, color, opacity } => {
            area.draw(&Polygon::new(
                points.iter().map(to).collect::<Vec<_>>(),
                rgb(*color).mix(*opacity).filled(),
            ))?;
        }
        Mark::Disc { center, radius, color } => {
            area.draw(&Circle::new(
                to(center),
                (radius * scale).round() as i32,
                rgb(*color).filled(),
            ))?;
        }
        Mark::Text(text) => area.draw_text(&text.text, &text_style(text, scale), to(&text.at))?,
    }
    Ok(())
}

fn thickness(width: f64, scale: f64) -> u32 {
    (width * scale).round().max(1.0) as u32
}

fn rgb(color: Rgb) -> RGBColor {
    RGBColor(color.0, color.1, color.2)
}

fn text_style(text: &Text, scale: f64) -> TextStyle<'static> {
    let across = match text.across {
        Across::Left => HPos::Left,
        Across::Centre => HPos::Center,
        Across::Right => HPos::Right,
    };
    let font = (FAMILY, text.size * scale).into_font();
    let font = if text.turned { font.transform(FontTransform::Rotate270) } else { font };
    TextStyle {
        font,
        color: rgb(text.color).to_backend_color(),
        pos: Pos::new(across, VPos::Center),
    }
}

/// Text for an XML attribute or element; XML has no control characters, not even escaped.
fn escape(text: &str) -> String {
    let allowed =
        |c: char| if c.is_control() && !matches!(c, '\t' | '\n' | '\r') { '\u{fffd}' } else { c };
    let text: String = text.chars().map(allowed).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
