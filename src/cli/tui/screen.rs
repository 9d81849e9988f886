//! The terminal: taken over, drawn on and given back, whatever happens. The one place with state of the whole process, as a terminal
//! is one for all threads.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Read as _, Stderr, Write},
    os::unix::fs::OpenOptionsExt as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{cursor, queue, style, terminal};
use ratatui::{
    Terminal,
    backend::{Backend, ClearType, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
    style::{Color, Modifier},
};

/// Whether the view has the terminal.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// What others wrote to stderr meanwhile.
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Most bytes that are held.
const HELD_MAX: usize = 1 << 20;
const CTRL_C: u8 = 3;
const ESCAPE: u8 = 0x1b;

/// Why the view cannot be shown here, if it cannot.
#[expect(clippy::disallowed_methods, reason = "cli is where the environment is read")]
pub(super) fn hindrance() -> Option<&'static str> {
    let term = std::env::var("TERM").unwrap_or_default();
    if !io::stderr().is_terminal() {
        Some("stderr is none")
    } else if !io::stdout().is_terminal() {
        Some("stdout is none")
    } else if term.is_empty() || term == "dumb" {
        Some("TERM says that this one cannot place text (it is `dumb` or not set)")
    } else if !in_foreground() {
        Some("this run is in the background of its own")
    } else {
        None
    }
}

/// A background job that changes the terminal is stopped by it.
fn in_foreground() -> bool {
    // SAFETY: both calls read a number of the kernel's and touch no memory of ours.
    unsafe { libc::tcgetpgrp(libc::STDERR_FILENO) == libc::getpgrp() }
}

/// Takes the terminal over. A panic gives it back before it prints.
///
/// # Errors
/// The terminal refuses.
pub(super) fn open() -> io::Result<(Terminal<Screen>, Keys)> {
    let keys = Keys::open()?;
    terminal::enable_raw_mode()?;
    ACTIVE.store(true, Ordering::SeqCst);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        before(info);
    }));
    let opened = begin();
    if opened.is_err() {
        restore();
    }
    Ok((opened?, keys))
}

fn begin() -> io::Result<Terminal<Screen>> {
    let mut screen = Screen(BufWriter::with_capacity(1 << 16, io::stderr()));
    queue!(
        screen.0,
        terminal::EnterAlternateScreen,
        terminal::Clear(terminal::ClearType::All),
        cursor::Hide
    )?;
    Terminal::new(screen)
}

/// Gives the terminal back, if the view has it, and prints what was held.
pub(in crate::cli) fn restore() {
    if !ACTIVE.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut stderr = io::stderr().lock();
    // Nothing can be done about a terminal that is gone.
    drop(queue!(stderr, style::ResetColor, terminal::LeaveAlternateScreen, cursor::Show));
    drop(terminal::disable_raw_mode());
    let held = std::mem::take(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner));
    drop(stderr.write_all(&held).and_then(|()| stderr.flush()));
}

/// Whether the view has the terminal.
pub(super) fn is_active() -> bool {
    ACTIVE.load(Ordering::SeqCst)
}

/// Stderr for diagnostics: while the view has the terminal, what is written is held and printed when it gives it back.
#[derive(Debug)]
pub(in crate::cli) struct Aside;

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !is_active() {
            return io::stderr().write(bytes);
        }
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let room = HELD_MAX.saturating_sub(held.len());
        held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Keys typed at the terminal: a raw terminal tells Ctrl-C as a key.
#[derive(Debug)]
pub(super) struct Keys(File);

impl Keys {
    fn open() -> io::Result<Self> {
        let mut how = File::options();
        // An open of its own: not waiting must not change how others read stdin.
        how.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/dev/tty").map(Self)
    }

    /// How often the user asked to stop since the last call; does not wait.
    pub(super) fn stops(&mut self) -> usize {
        let mut typed = [0; 64];
        match self.0.read(&mut typed) {
            Ok(n) => asked(&typed[..n]),
            Err(_) => 0,
        }
    }
}

/// An arrow key or a terminal's answer is a sequence that begins with ESC, and its letters mean nothing.
fn asked(typed: &[u8]) -> usize {
    if typed.first() == Some(&ESCAPE) {
        return 0;
    }
    typed.iter().filter(|key| [b'q', b'Q', CTRL_C].contains(key)).count()
}

/// Ratatui's cells on a terminal as crossterm writes them.
#[derive(Debug)]
pub(super) struct Screen<W: Write = Stderr>(BufWriter<W>);

impl<W: Write> Screen<W> {
    fn look(&mut self, cell: &Cell) -> io::Result<()> {
        queue!(
            self.0,
            style::SetAttribute(style::Attribute::Reset),
            style::SetForegroundColor(color(cell.fg)),
            style::SetBackgroundColor(color(cell.bg))
        )?;
        for (modifier, attribute) in ATTRIBUTES {
            if cell.modifier.contains(modifier) {
                queue!(self.0, style::SetAttribute(attribute))?;
            }
        }
        Ok(())
    }
}

const ATTRIBUTES: [(Modifier, style::Attribute); 4] = [
    (Modifier::BOLD, style::Attribute::Bold),
    (Modifier::DIM, style::Attribute::Dim),
    (Modifier::REVERSED, style::Attribute::Reverse),
    (Modifier::UNDERLINED, style::Attribute::Underlined),
];

impl<W: Write> Backend for Screen<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let (mut next, mut last) = (None, None);
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                queue!(self.0, cursor::MoveTo(x, y))?;
            }
            let look = (cell.fg, cell.bg, cell.modifier);
            if last != Some(look) {
                self.look(cell)?;
            }
            queue!(self.0, style::Print(cell.symbol()))?;
            (next, last) = (Some((x + 1, y)), Some(look));
        }
        queue!(self.0, style::SetAttribute(style::Attribute::Reset))
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        queue!(self.0, cursor::Hide)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        queue!(self.0, cursor::Show)
    }

    /// A view of the whole screen starts at its corner; asking the terminal would mix its answer with the keys.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        queue!(self.0, cursor::MoveTo(x, y))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        let region = match region {
            ClearType::All => terminal::ClearType::All,
            ClearType::AfterCursor => terminal::ClearType::FromCursorDown,
            ClearType::BeforeCursor => terminal::ClearType::FromCursorUp,
            ClearType::CurrentLine => terminal::ClearType::CurrentLine,
            ClearType::UntilNewLine => terminal::ClearType::UntilNewLine,
        };
        queue!(self.0, terminal::Clear(region))
    }

    fn size(&self) -> io::Result<Size> {
        let (width, height) = terminal::size()?;
        Ok(Size { width, height })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        let pixels = Size { width: 0, height: 0 };
        Ok(WindowSize { columns_rows: self.size()?, pixels })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn color(color: Color) -> style::Color {
    match color {
        Color::Reset => style::Color::Reset,
        Color::Black => style::Color::Black,
        Color::Red => style::Color::DarkRed,
        Color::Green => style::Color::DarkGreen,
        Color::Yellow => style::Color::DarkYellow,
        Color::Blue => style::Color::DarkBlue,
        Color::Magenta => style::Color::DarkMagenta,
        Color::Cyan => style::Color::DarkCyan,
        Color::Gray => style::Color::Grey,
        Color::DarkGray => style::Color::DarkGrey,
        Color::LightRed => style::Color::Red,
        Color::LightGreen => style::Color::Green,
        Color::LightYellow => style::Color::Yellow,
        Color::LightBlue => style::Color::Blue,
        Color::LightMagenta => style::Color::Magenta,
        Color::LightCyan => style::Color::Cyan,
        Color::White => style::Color::White,
        Color::Rgb(r, g, b) => style::Color::Rgb { r, g, b },
        Color::Indexed(index) => style::Color::AnsiValue(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    fn drawn(cells: &[(u16, u16, Cell)]) -> String {
        let mut screen = Screen(BufWriter::new(Vec::new()));
        screen.draw(cells.iter().map(|(x, y, cell)| (*x, *y, cell))).unwrap();
        String::from_utf8(screen.0.into_inner().unwrap()).unwrap()
    }

    fn cell(symbol: &'static str, style: Style) -> Cell {
        let mut cell = Cell::new(symbol);
        cell.set_style(style);
        cell
    }

    #[test]
    fn neighbours_of_one_look_are_one_piece_of_text() {
        let plain = Style::new();
        let text =
            drawn(&[(3, 1, cell("a", plain)), (4, 1, cell("b", plain)), (9, 1, cell("c", plain))]);
        assert!(text.contains("ab") && !text.contains("bc"), "{text:?}");
        assert!(text.starts_with("\u{1b}[2;4H") && text.contains("\u{1b}[2;10H"), "{text:?}");
    }

    #[test]
    fn a_look_does_not_outlive_its_cells() {
        let text = drawn(&[
            (0, 0, cell("a", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))),
            (1, 0, cell("b", Style::new())),
        ]);
        let after_a = text.split_once('a').unwrap().1;
        assert!(after_a.contains("\u{1b}[0m") && text.ends_with("\u{1b}[0m"), "{text:?}");
        assert!(text.split_once('a').unwrap().0.contains("\u{1b}[1m"), "{text:?}");
    }

    #[test]
    fn only_the_keys_for_it_stop_a_run() {
        assert_eq!(asked(b"q"), 1);
        assert_eq!(asked(&[CTRL_C, CTRL_C]), 2);
        assert_eq!(asked(b"wxyz \r"), 0);
        // Arrow up; an answer of the terminal's that holds the letter.
        assert_eq!(asked(b"\x1b[A"), 0);
        assert_eq!(asked(b"\x1bP>|qterm\x1b\\"), 0);
    }
}
