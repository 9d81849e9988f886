//! Marks as a PDF of one page, vector and with the font embedded, on `pdf-writer`.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::{
    Content, Filter, Finish as _, Name, Pdf, Rect, Ref, Str, TextStr,
    types::{CidFontType, FontFlags, LineCapStyle, LineJoinStyle, SystemInfo, UnicodeCmap},
};

use super::{
    font::{FONT, Measures},
    marks::{Across, Mark, Rgb, Text, Xy},
};

const FONT_KEY: Name<'_> = Name(b"F");
/// The tag of six letters says that the font is a part of DejaVu Sans.
const FONT_NAME: Name<'_> = Name(b"KVBNCH+DejaVuSans");
const IDENTITY: SystemInfo<'_> =
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };

/// Numbers of the objects in the file.
struct Ids {
    catalog: Ref,
    pages: Ref,
    page: Ref,
    content: Ref,
    font: Ref,
    cid_font: Ref,
    descriptor: Ref,
    file: Ref,
    unicode: Ref,
    info: Ref,
}

impl Ids {
    fn new() -> Self {
        let mut next = (1..).map(Ref::new);
        let mut id = || next.next().unwrap_or(Ref::new(1));
        Self {
            catalog: id(),
            pages: id(),
            page: id(),
            content: id(),
            font: id(),
            cid_font: id(),
            descriptor: id(),
            file: id(),
            unicode: id(),
            info: id(),
        }
    }
}

/// A picture of `width` x `height` units, each `points` wide, as a file. The same marks give the same bytes.
pub(super) fn document(
    marks: &[Mark],
    (width, height): (f64, f64),
    points: f64,
    title: &str,
) -> anyhow::Result<Vec<u8>> {
    let pen = Pen { font: Measures::new()?, height, points };
    let opacities = opacities(marks);
    let content = packed(&pen.content(marks, &opacities))?;
    let ids = Ids::new();
    let mut pdf = Pdf::new();
    pdf.catalog(ids.catalog).pages(ids.pages);
    pdf.pages(ids.pages).kids([ids.page]).count(1);
    let mut page = pdf.page(ids.page);
    page.media_box(Rect::new(0.0, 0.0, (width * points) as f32, (height * points) as f32));
    page.parent(ids.pages).contents(ids.content);
    let mut resources = page.resources();
    resources.fonts().pair(FONT_KEY, ids.font);
    let mut states = resources.ext_g_states();
    for (n, opacity) in opacities.iter().enumerate() {
        let mut state = states.insert(Name(state_name(n).as_bytes())).dict();
        state.pair(Name(b"Type"), Name(b"ExtGState")).pair(Name(b"ca"), *opacity as f32);
    }
    states.finish();
    resources.finish();
    page.finish();
    pdf.stream(ids.content, &content).filter(Filter::FlateDecode);
    embed(&mut pdf, &ids, &pen.font, marks)?;
    pdf.document_info(ids.info).title(TextStr(title)).creator(TextStr("kvbench"));
    Ok(pdf.finish())
}

fn packed(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Degrees of opacity in use, each once, the full one first.
fn opacities(marks: &[Mark]) -> Vec<f64> {
    let mut out = vec![1.0];
    for mark in marks {
        if let Mark::Fill { opacity, .. } = mark
            && !out.iter().any(|known: &f64| known.total_cmp(opacity).is_eq())
        {
            out.push(*opacity);
        }
    }
    out
}

fn state_name(n: usize) -> String {
    format!("G{n}")
}

/// The font with what a reader needs to show it, and to copy text out of the page.
fn embed(pdf: &mut Pdf, ids: &Ids, font: &Measures<'_>, marks: &[Mark]) -> anyhow::Result<()> {
    pdf.type0_font(ids.font)
        .base_font(FONT_NAME)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(ids.cid_font)
        .to_unicode(ids.unicode);
    let mut cid = pdf.cid_font(ids.cid_font);
    cid.subtype(CidFontType::Type2).base_font(FONT_NAME).system_info(IDENTITY);
    cid.font_descriptor(ids.descriptor).cid_to_gid_map_predefined(Name(b"Identity"));
    cid.widths().consecutive(0, font.advances());
    cid.finish();
    let (ascent, descent) = font.ascent_descent();
    let [left, bottom, right, top] = font.bounds();
    pdf.font_descriptor(ids.descriptor)
        .name(FONT_NAME)
        .flags(FontFlags::NON_SYMBOLIC)
        .bbox(Rect::new(left, bottom, right, top))
        .italic_angle(0.0)
        .ascent(ascent)
        .descent(descent)
        .cap_height(CAPITALS as f32 * 1000.0)
        .stem_v(80.0)
        .font_file2(ids.file);
    let file = packed(FONT)?;
    let mut stream = pdf.stream(ids.file, &file);
    stream.filter(Filter::FlateDecode).pair(Name(b"Length1"), FONT.len() as i32);
    stream.finish();
    let unicode = unicode(font, marks);
    pdf.stream(ids.unicode, &unicode);
    Ok(())
}

/// Which character each glyph in use stands for.
fn unicode(font: &Measures<'_>, marks: &[Mark]) -> Vec<u8> {
    let texts = marks.iter().filter_map(|mark| match mark {
        Mark::Text(text) => Some(text.text.chars()),
        _ => None,
    });
    let characters: std::collections::BTreeSet<char> = texts.flatten().collect();
    let mut map = UnicodeCmap::new(Name(b"kvbench"), IDENTITY);
    for character in characters {
        map.pair(font.glyph(character), character);
    }
    map.finish().into_vec()
}

/// Height of capital letters and of figures, as a part of the font's size.
const CAPITALS: f64 = 0.729;

/// Turns marks, which count from the upper left corner, into the page's operators, which count from the lower left.
struct Pen {
    font: Measures<'static>,
    height: f64,
    points: f64,
}

impl Pen {
    fn content(&self, marks: &[Mark], opacities: &[f64]) -> Vec<u8> {
        let mut out = Content::new();
        out.set_line_cap(LineCapStyle::ButtCap).set_line_join(LineJoinStyle::RoundJoin);
        for mark in marks {
            self.mark(&mut out, mark, opacities);
        }
        out.finish().into_vec()
    }

    fn place(&self, (x, y): Xy) -> (f32, f32) {
        ((x * self.points) as f32, ((self.height - y) * self.points) as f32)
    }

    fn mark(&self, out: &mut Content, mark: &Mark, opacities: &[f64]) {
        match mark {
            Mark::Path { points, color, width } => {
                let (r, g, b) = parts(*color);
                out.set_stroke_rgb(r, g, b).set_line_width((width * self.points) as f32);
                self.outline(out, points);
                out.stroke();
            }
            Mark::Fill { points, color, opacity } => {
                self.ink(out, *color, *opacity, opacities);
                self.outline(out, points);
                out.close_path().fill_nonzero();
            }
            Mark::Disc { center, radius, color } => {
                self.ink(out, *color, 1.0, opacities);
                self.circle(out, *center, *radius);
                out.fill_nonzero();
            }
            Mark::Text(text) => self.text(out, text, opacities),
        }
    }

    fn ink(&self, out: &mut Content, color: Rgb, opacity: f64, opacities: &[f64]) {
        let state = opacities.iter().position(|known| known.total_cmp(&opacity).is_eq());
        let (r, g, b) = parts(color);
        out.set_parameters(Name(state_name(state.unwrap_or(0)).as_bytes())).set_fill_rgb(r, g, b);
    }

    fn outline(&self, out: &mut Content, points: &[Xy]) {
        for (n, point) in points.iter().enumerate() {
            let (x, y) = self.place(*point);
            if n == 0 {
                out.move_to(x, y)
            } else {
                out.line_to(x, y)
            };
        }
    }

    /// Four cubic curves; 0.5523 puts their middle on the circle.
    fn circle(&self, out: &mut Content, (x, y): Xy, r: f64) {
        let handle = 0.5523 * r;
        let at = |dx: f64, dy: f64| self.place((x + dx, y + dy));
        let (start_x, start_y) = at(r, 0.0);
        out.move_to(start_x, start_y);
        for (from, over, to) in [
            ((r, handle), (handle, r), (0.0, r)),
            ((-handle, r), (-r, handle), (-r, 0.0)),
            ((-r, -handle), (-handle, -r), (0.0, -r)),
            ((handle, -r), (r, -handle), (r, 0.0)),
        ] {
            let [a, b, c] = [from, over, to].map(|(dx, dy)| at(dx, dy));
            out.cubic_to(a.0, a.1, b.0, b.1, c.0, c.1);
        }
        out.close_path();
    }

    fn text(&self, out: &mut Content, text: &Text, opacities: &[f64]) {
        let glyphs: Vec<u16> = text.text.chars().map(|c| self.font.glyph(c)).collect();
        let (ascent, descent) = self.font.ascent_descent();
        // A mark's size is the height of a line, as plotters counts; a PDF's is that of the em.
        let size = text.size * 1000.0 / f64::from(ascent - descent);
        let thousandths: f32 = glyphs.iter().map(|glyph| self.font.advance(*glyph)).sum();
        let width = f64::from(thousandths) / 1000.0 * size;
        let back = match text.across {
            Across::Left => 0.0,
            Across::Centre => width / 2.0,
            Across::Right => width,
        };
        let drop = CAPITALS / 2.0 * size;
        let (x, y) = text.at;
        let (start, turn) = if text.turned {
            ((x + drop, y + back), [0.0, 1.0, -1.0, 0.0])
        } else {
            ((x - back, y + drop), [1.0, 0.0, 0.0, 1.0])
        };
        let (x, y) = self.place(start);
        let [a, b, c, d] = turn;
        let codes: Vec<u8> = glyphs.iter().flat_map(|glyph| glyph.to_be_bytes()).collect();
        self.ink(out, text.color, 1.0, opacities);
        out.begin_text().set_font(FONT_KEY, (size * self.points) as f32);
        out.set_text_matrix([a, b, c, d, x, y]).show(Str(&codes)).end_text();
    }
}

fn parts(Rgb(r, g, b): Rgb) -> (f32, f32, f32) {
    let part = |c: u8| f32::from(c) / 255.0;
    (part(r), part(g), part(b))
}
