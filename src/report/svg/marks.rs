//! The few shapes a picture is made of, and the looks that tell series apart.

/// A place in the picture, from its upper left corner.
pub(super) type Xy = (f64, f64);

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub(super) u8, pub(super) u8, pub(super) u8);

/// Ink of titles and labels.
pub(super) const INK: Rgb = Rgb(34, 34, 34);
/// Ink of captions, axes and lines to compare with.
pub(super) const GREY: Rgb = Rgb(96, 96, 96);
/// Grid lines.
pub(super) const FAINT: Rgb = Rgb(228, 228, 228);

/// Axes.
pub(super) const EDGE: Rgb = Rgb(140, 140, 140);
/// Stripes behind categories.
pub(super) const BAND: Rgb = Rgb(245, 246, 248);
/// What hollow markers are filled with.
pub(super) const PAPER: Rgb = Rgb(255, 255, 255);

/// One thing to draw, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    /// An open line.
    Path { points: Vec<Xy>, color: Rgb, width: f64 },
    /// An area whose edge does not cross itself.
    Fill { points: Vec<Xy>, color: Rgb, opacity: f64 },
    /// A filled circle.
    Disc { center: Xy, radius: f64, color: Rgb },
    /// One line of text.
    Text(Text),
}

/// One line of text, centred on its height.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    pub(super) at: Xy,
    pub(super) text: String,
    pub(super) size: f64,
    pub(super) color: Rgb,
    pub(super) across: Across,
    /// Read from bottom to top.
    pub(super) turned: bool,
}

/// Which part of a text lies on its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Across {
    Left,
    Centre,
    Right,
}

/// Okabe and Ito's palette, told apart with every common colour vision; black first, as the baseline comes first.
/// Their yellow is darkened, since it vanishes on white, and a grey is added.
pub(super) const PALETTE: [Rgb; 9] = [
    Rgb(0, 0, 0),
    Rgb(0, 114, 178),
    Rgb(213, 94, 0),
    Rgb(0, 158, 115),
    Rgb(204, 121, 167),
    Rgb(230, 159, 0),
    Rgb(86, 180, 233),
    Rgb(128, 128, 128),
    Rgb(160, 146, 0),
];

/// Colour of a slot.
pub(super) fn color(slot: usize) -> Rgb {
    PALETTE[slot % PALETTE.len()]
}

/// The colour mixed half with white, for lines behind measurements.
pub(super) fn pale(color: Rgb) -> Rgb {
    let half = |c: u8| (u16::from(c) + 255).div_ceil(2) as u8;
    Rgb(half(color.0), half(color.1), half(color.2))
}

/// Marker of a slot. Ten shapes beside nine colours: ninety slots look different.
pub(super) fn marker(slot: usize, (x, y): Xy, r: f64) -> Vec<Mark> {
    let color = color(slot);
    let at =
        |corners: &[Xy]| corners.iter().map(|c| (x + c.0 * r, y + c.1 * r)).collect::<Vec<_>>();
    let solid = |corners: &[Xy]| vec![Mark::Fill { points: at(corners), color, opacity: 1.0 }];
    let stroke = |corners: &[Xy]| Mark::Path { points: at(corners), color, width: 1.8 };
    let hollow = |corners: &[Xy]| {
        let mut ring = corners.to_vec();
        ring.push(corners[0]);
        vec![Mark::Fill { points: at(corners), color: PAPER, opacity: 1.0 }, stroke(&ring)]
    };
    const SQUARE: [Xy; 4] = [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)];
    const DIAMOND: [Xy; 4] = [(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)];
    match slot % 10 {
        0 => vec![Mark::Disc { center: (x, y), radius: r, color }],
        1 => solid(&SQUARE),
        2 => solid(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        3 => solid(&DIAMOND),
        4 => solid(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
        5 => vec![stroke(&[(-1.1, 0.0), (1.1, 0.0)]), stroke(&[(0.0, -1.1), (0.0, 1.1)])],
        6 => vec![stroke(&[(-0.9, -0.9), (0.9, 0.9)]), stroke(&[(-0.9, 0.9), (0.9, -0.9)])],
        7 => hollow(&SQUARE),
        8 => hollow(&DIAMOND),
        _ => hollow(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
    }
}

/// A dashed line along `points`.
pub(super) fn dashes(points: &[Xy], color: Rgb, width: f64) -> Vec<Mark> {
    const DASH: f64 = 6.0;
    const GAP: f64 = 4.0;
    let mut out = Vec::new();
    let mut travelled = 0.0;
    for pair in points.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        let length = (bx - ax).hypot(by - ay);
        let point = |at: f64| (ax + (bx - ax) * at / length, ay + (by - ay) * at / length);
        let mut at = 0.0;
        while at < length {
            let phase = (travelled + at) % (DASH + GAP);
            let step = if phase < DASH { DASH - phase } else { DASH + GAP - phase };
            let end = (at + step.max(1e-6)).min(length);
            if phase < DASH {
                out.push(Mark::Path { points: vec![point(at), point(end)], color, width });
            }
            at = end;
        }
        travelled += length;
    }
    out
}
