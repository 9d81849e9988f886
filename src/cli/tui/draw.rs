//! The board on a frame. Pure: what is shown depends on the board and the time alone.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Gauge, Paragraph, Wrap},
};

use super::board::{Board, Left, Level, Line as CellLine, Rate, State};
use crate::{
    record::TelemetryRow,
    scenario::MetricName,
    units::{human_bytes, ns_to_s, significant},
};

/// A reading older than this says how old it is, in seconds.
const OLD_S: f64 = 3.0;
/// Width from which two panels stand side by side.
const WIDE: u16 = 90;
/// Characters of a cell's bar.
const BAR: usize = 10;
/// Most lines of warnings.
const NOTICE_LINES: u16 = 8;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, now_ns: i64, color: bool) {
    let paint = Paint { color };
    let machine = board.machine.len().clamp(1, 4) as u16;
    let wide = frame.area().width >= WIDE;
    let middle = if wide { 6.max(machine + 2) } else { 6 + machine + 2 };
    let notices = notice_height(board, frame.area().width);
    let areas: [Rect; 5] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(middle),
        Constraint::Min(3),
        Constraint::Length(notices),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, areas[0], board, now_ns, paint);
    let [left, right] = if wide {
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(areas[1])
    } else {
        Layout::vertical([Constraint::Length(6), Constraint::Length(machine + 2)]).areas(areas[1])
    };
    frame.render_widget(panel(" now ", now(board, now_ns), paint), left);
    frame.render_widget(panel(" machine ", machine_lines(board, now_ns), paint), right);
    cells(frame, areas[2], board, paint);
    if notices > 0 {
        frame.render_widget(notice_panel(board, paint), areas[3]);
    }
    frame.render_widget(Paragraph::new(footer(board)).style(paint.dim()), areas[4]);
}

/// Colour where it is wanted; weight everywhere.
#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn of(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

fn panel<'a>(title: &'a str, lines: Vec<Line<'a>>, paint: Paint) -> Paragraph<'a> {
    Paragraph::new(lines).block(Block::bordered().title(title).border_style(paint.dim()))
}

fn header(frame: &mut Frame<'_>, area: Rect, board: &Board, now_ns: i64, paint: Paint) {
    let [title, folder, gauge] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
    let elapsed = duration(ns_to_s(board.elapsed_ns(now_ns)));
    let times = format!("{elapsed} elapsed, {}", left(board.left_s(now_ns)));
    let name = Span::styled(format!("kvbench run {}  ", board.title), paint.bold());
    frame.render_widget(Line::from(vec![name, Span::raw(times)]), title);
    frame.render_widget(Line::styled(board.folder.as_str(), paint.dim()), folder);
    let (done, failed) = board.n_done_failed();
    let all = board.lines.len();
    let failed = if failed == 0 { String::new() } else { format!(", {failed} with errors") };
    let bar = Gauge::default()
        .gauge_style(paint.of(Color::Cyan))
        .ratio(done as f64 / all.max(1) as f64)
        .label(format!("{done} of {all} cells{failed}"));
    frame.render_widget(bar, gauge);
}

/// An estimate and what it rests on.
fn left(left: Option<Left>) -> String {
    match left {
        None => "time left not known yet".to_owned(),
        Some(Left::ByPlan(s)) => format!("about {} left by the plan", duration(s)),
        Some(Left::ByBlocks(s)) => format!("about {} left", duration(s)),
    }
}

fn now<'a>(board: &'a Board, now_ns: i64) -> Vec<Line<'a>> {
    let label = if board.label.is_empty() { "not begun" } else { board.label.as_str() };
    let doing = match (&board.status, board.progress) {
        (Some(status), _) => status.clone(),
        (None, None) => "preparing and checking".to_owned(),
        (None, Some((done, total))) => match board.kernels {
            Some(true) => format!("round {done} of at most {total}"),
            _ => format!("{done} of {total} requests"),
        },
    };
    let rates = rates(board.kernels, board.rates(now_ns));
    vec![Line::raw(label), Line::raw(doing), Line::raw(rates), Line::raw(kv(board, now_ns))]
}

/// Per second of the last ten, set-up and checks included.
fn rates(kernels: Option<bool>, rate: Option<Rate>) -> String {
    let Some(rate) = rate else { return "rates: after a second".to_owned() };
    match (kernels, rate.tokens) {
        (Some(true), _) => format!("{} timed launches/s", significant(rate.launches, 3)),
        (_, Some(tokens)) => format!(
            "{} requests/s, {} output tokens/s",
            significant(rate.requests, 3),
            significant(tokens, 3)
        ),
        (_, None) => format!(
            "{} requests/s, tokens not counted by the server",
            significant(rate.requests, 3)
        ),
    }
}

/// What the engine tells of its KV cache and its queue.
fn kv(board: &Board, now_ns: i64) -> String {
    if board.kernels == Some(true) {
        return "KV cache: no engine, so no usage".to_owned();
    }
    let level = |name| board.level(name);
    let percent = |v: f64| significant(100.0 * v, 2);
    let tokens = |v: f64| format!("{v:.0}");
    let used = level(MetricName::KvUsage).map(|usage| (span(usage, &percent) + " %", usage));
    let used = used.or_else(|| {
        let (used, all) = (level(MetricName::KvUsedTokens)?, level(MetricName::KvCapacityTokens)?);
        Some((format!("{} of {} tokens", span(used, &tokens), span(all, &tokens)), used))
    });
    let Some((used, told)) = used else { return "KV cache: the engine does not tell".to_owned() };
    let mut text = format!("KV cache {used}");
    for (name, word) in [(MetricName::Running, "running"), (MetricName::Waiting, "waiting")] {
        if let Some(level) = level(name) {
            text += &format!(", {} {word}", span(level, &tokens));
        }
    }
    text + &age(told.t_ns, now_ns)
}

/// One value, or the lowest and highest of several.
fn span(level: Level, show: &dyn Fn(f64) -> String) -> String {
    let (low, high) = (show(level.low), show(level.high));
    if low == high { low } else { format!("{low} to {high}") }
}

fn age(t_ns: i64, now_ns: i64) -> String {
    let s = ns_to_s(now_ns - t_ns);
    if s < OLD_S { String::new() } else { format!(" ({} ago)", duration(s)) }
}

fn machine_lines(board: &Board, now_ns: i64) -> Vec<Line<'static>> {
    if board.machine.is_empty() {
        return vec![Line::raw("not read yet")];
    }
    board.machine.iter().map(|row| Line::raw(device(row, now_ns))).collect()
}

/// One device; what it does not tell is left out, but for its power.
fn device(row: &TelemetryRow, now_ns: i64) -> String {
    let mut parts = vec![crate::units::harmless(&row.device)];
    parts.push(row.power_w.map_or("power not told".to_owned(), |w| format!("{w:.0} W")));
    let mut add = |value: Option<String>| parts.extend(value);
    add(row.sm_util_pct.map(|pct| format!("SM {pct:.0} %")));
    add(row.host_cpu_pct.map(|pct| format!("CPU {pct:.0} %")));
    let used = row.mem_used_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    add(used.map(|bytes| format!("{} used", human_bytes(bytes))));
    add(row.sm_clock_mhz.map(|mhz| format!("{mhz:.0} MHz")));
    add(row.temp_c.map(|c| format!("{c:.0} C")));
    let throttle = row.throttle.as_ref().filter(|reasons| !reasons.is_empty());
    add(throttle.map(|reasons| format!("throttled: {reasons}")));
    parts.join("  ") + &age(row.t_ns, now_ns)
}

/// As many cells as there is room for, those that run a third from the top.
fn cells(frame: &mut Frame<'_>, area: Rect, board: &Board, paint: Paint) {
    let room = usize::from(area.height.saturating_sub(2));
    let all = board.lines.len();
    let running = board.lines.iter().position(|line| line.state == State::Running);
    let open = || board.lines.iter().position(|line| line.state == State::Waiting);
    let anchor = running.or_else(open).unwrap_or(all);
    let first = anchor.saturating_sub(room / 3).min(all.saturating_sub(room));
    let last = (first + room).min(all);
    let title = match all {
        0 => " no cells ".to_owned(),
        _ => format!(" cells {} to {last} of {all} ", first + 1),
    };
    let width = usize::from(area.width.saturating_sub(2));
    let lines = board.lines[first..last].iter().map(|line| cell(line, board, width, paint));
    frame.render_widget(panel(&title, lines.collect(), paint), area);
}

fn cell<'a>(line: &'a CellLine, board: &Board, width: usize, paint: Paint) -> Line<'a> {
    let (word, style) = match (line.state, line.n_failed) {
        (State::Waiting, _) => ("waiting", paint.dim()),
        (State::Running, 0) => ("running", paint.of(Color::Cyan).add_modifier(Modifier::BOLD)),
        (State::Running, _) => ("running", paint.of(Color::Red).add_modifier(Modifier::BOLD)),
        (State::Done, 0) => ("done   ", paint.of(Color::Green)),
        (State::Done, _) => ("FAILED ", paint.of(Color::Red)),
    };
    let count = count(line, board);
    // The word, two gaps and the count; the rest is the id's, of which the end says most.
    let room = width.saturating_sub(word.len() + 4 + count.chars().count());
    let id =
        shortened(line.id.strip_prefix(&format!("{}/", board.title)).unwrap_or(&line.id), room);
    let gap = " ".repeat(room.saturating_sub(id.chars().count()));
    Line::from(vec![Span::styled(word, style), Span::raw(format!("  {id}{gap}  {count}"))])
}

fn count(line: &CellLine, board: &Board) -> String {
    let failed = match line.n_failed {
        0 => String::new(),
        1 => ", 1 error".to_owned(),
        n => format!(", {n} errors"),
    };
    let told = match line.n_good {
        0 => String::new(),
        1 => "1 row".to_owned(),
        n => format!("{n} rows"),
    };
    let told =
        if told.is_empty() { failed.trim_start_matches(", ").to_owned() } else { told + &failed };
    match (line.state, board.progress) {
        (State::Running, Some((done, total))) => format!("{told} {}", bar(done, total)),
        _ => told,
    }
}

fn bar(done: u64, total: u64) -> String {
    let share = done as f64 / total.max(1) as f64;
    let full = ((share * BAR as f64) as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

/// The end of a text where all of it does not fit.
fn shortened(text: &str, room: usize) -> String {
    let n = text.chars().count();
    if n <= room {
        return text.to_owned();
    }
    if room == 0 {
        return String::new();
    }
    let kept: String = text.chars().skip(n - (room - 1)).collect();
    format!("…{kept}")
}

/// Lines that the notices need, as far as they get them.
fn notice_height(board: &Board, width: u16) -> u16 {
    let width = usize::from(width.saturating_sub(2)).max(1);
    let lines = |text: &String| text.chars().count().div_ceil(width);
    let needed: usize = board.notices.iter().map(lines).sum();
    if needed == 0 {
        0
    } else {
        u16::try_from(needed).unwrap_or(NOTICE_LINES).min(NOTICE_LINES) + 2
    }
}

fn notice_panel<'a>(board: &'a Board, paint: Paint) -> Paragraph<'a> {
    let title = format!(" {} to note, newest first ", board.notices.len());
    let lines: Vec<Line<'_>> = board.notices.iter().map(|text| Line::raw(text.as_str())).collect();
    Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(Block::bordered().title(title).border_style(paint.of(Color::Yellow)))
}

fn footer(board: &Board) -> &'static str {
    if board.stopping {
        "stopping: rows are kept, what is under way is finished or given up; q or Ctrl-C again: end at once"
    } else {
        "q or Ctrl-C: stop; rows are kept and --resume goes on"
    }
}

/// A duration for people: seconds, minutes or hours.
fn duration(s: f64) -> String {
    let s = s.max(0.0).round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s:02} s"),
        (h, min, _) => format!("{h} h {min:02} min"),
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
