//! Finds the ends of the events in a stream, in pieces of any size.
//!
//! Lines end with LF, CR or CRLF, and an empty line ends an event.
//!
//! ```text
//!                 any other byte              LF, or CR and no LF
//!   Boundary ────────────────────► Line ─────────────────────────────► LineStart
//!     ▲  ▲                          ▲ └── CR ──► CarriageReturn ── LF ──┘ │  │
//!     │  │                          └──────────── any other byte ─────────┘  │
//!     │  └─────────────────── LF, or CR where lines end with CR ─────────────┤
//!     └──────── LF ──── BlankLineFeed ◄──── CR where lines end with CRLF ────┘
//! ```
//!
//! An LF that follows a boundary belongs to the empty line, or is another empty line: both mean
//! nothing, and what was put between them means what it means anywhere.

/// The name of the field that makes an event one: without it clients dispatch nothing.
const DATA: &[u8] = b"data";

/// May stand in front of the first line.
const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// Follows an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventScanner {
    at: At,
    /// Whether the last line ended with CRLF. Then an empty line is taken to end so too.
    has_crlf: bool,
    /// Whether the present event has a line with data.
    has_data: bool,
    /// How many events have ended.
    events: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of the stream, after so many bytes of a byte order mark.
    Mark(u8),
    /// Between two events.
    Boundary,
    /// At the beginning of a line within an event.
    LineStart,
    /// Within a line, of which so many bytes are those of `data`.
    Name(u8),
    /// Within a line, behind its name or in a name that does not matter.
    Line,
    /// After the CR of a line.
    CarriageReturn,
    /// After the CR of an empty line whose LF is to come.
    BlankLineFeed,
}

/// A scanner's state, as it moves to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannerState {
    /// 0 to 2: so many bytes of a byte order mark. 3: between events. 4: at the beginning of a
    /// line. 5: in a line. 6: after its CR. 7: after the CR of an empty line. 8 and more: so many
    /// bytes of `data`, plus 8.
    pub position: u8,
    pub has_crlf: bool,
    pub has_data: bool,
    pub events: u64,
}

impl Default for EventScanner {
    fn default() -> Self {
        Self {
            at: At::Mark(0),
            has_crlf: false,
            has_data: false,
            events: 0,
        }
    }
}

impl EventScanner {
    /// Reads all of the bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut index = 0;
        while index < bytes.len() {
            index += self.read(&bytes[index..]);
        }
    }

    /// Reads up to the end of the present event. Returns how many bytes that are: all of them if
    /// the event does not end among them.
    pub fn feed_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut index = 0;
        while index < bytes.len() && !self.is_between_events() {
            index += self.read(&bytes[index..]);
        }
        index
    }

    /// Whether a comment may be put in here, and the stream may end here.
    pub fn is_between_events(&self) -> bool {
        matches!(self.at, At::Boundary | At::Mark(0))
    }

    /// How many events have ended that had data.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Reads one byte, or all those that change nothing. Returns how many.
    fn read(&mut self, bytes: &[u8]) -> usize {
        if self.at == At::Line {
            let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
            if end > 0 {
                return end;
            }
        }
        self.at = self.step(bytes[0]);
        1
    }

    fn step(&mut self, byte: u8) -> At {
        match (self.at, byte) {
            (At::Mark(seen), byte) if byte == BYTE_ORDER_MARK[usize::from(seen)] => match seen {
                2 => At::Boundary,
                seen => At::Mark(seen + 1),
            },
            // What came so far was the name of a field.
            (At::Mark(1..), b'\r' | b'\n') => self.end_line(byte),
            (At::Mark(1..), _) => At::Line,
            (At::Mark(_) | At::Boundary, b'\r' | b'\n') => At::Boundary,
            (At::LineStart, b'\n') => self.end_event(),
            (At::LineStart, b'\r') if self.has_crlf => {
                self.end_event();
                At::BlankLineFeed
            }
            (At::LineStart, b'\r') => self.end_event(),
            (At::CarriageReturn, b'\n') => {
                self.has_crlf = true;
                At::LineStart
            }
            (At::CarriageReturn, b'\r') => {
                self.has_crlf = false;
                self.end_event()
            }
            (At::CarriageReturn, byte) => {
                self.has_crlf = false;
                begin_line(byte)
            }
            (At::BlankLineFeed, b'\r' | b'\n') => At::Boundary,
            (At::Mark(_) | At::Boundary | At::LineStart | At::BlankLineFeed, byte) => {
                begin_line(byte)
            }
            (At::Name(4), b'\r' | b'\n' | b':') => {
                self.has_data = true;
                match byte {
                    b':' => At::Line,
                    byte => self.end_line(byte),
                }
            }
            (At::Name(_) | At::Line, b'\r' | b'\n') => self.end_line(byte),
            (At::Name(seen), byte) if DATA.get(usize::from(seen)) == Some(&byte) => {
                At::Name(seen + 1)
            }
            (At::Name(_) | At::Line, _) => At::Line,
        }
    }

    fn end_line(&mut self, byte: u8) -> At {
        match byte {
            b'\r' => At::CarriageReturn,
            _ => {
                self.has_crlf = false;
                At::LineStart
            }
        }
    }

    fn end_event(&mut self) -> At {
        self.events += u64::from(self.has_data);
        self.has_data = false;
        At::Boundary
    }

    pub fn state(&self) -> ScannerState {
        ScannerState {
            position: match self.at {
                At::Mark(seen) => seen,
                At::Boundary => 3,
                At::LineStart => 4,
                At::Line => 5,
                At::CarriageReturn => 6,
                At::BlankLineFeed => 7,
                At::Name(seen) => 8 + seen,
            },
            has_crlf: self.has_crlf,
            has_data: self.has_data,
            events: self.events,
        }
    }

    /// `None`: no scanner has this state.
    pub fn from_state(state: ScannerState) -> Option<Self> {
        Some(Self {
            at: match state.position {
                seen @ 0..=2 => At::Mark(seen),
                3 => At::Boundary,
                4 => At::LineStart,
                5 => At::Line,
                6 => At::CarriageReturn,
                7 => At::BlankLineFeed,
                name @ 9..=12 => At::Name(name - 8),
                _ => return None,
            },
            has_crlf: state.has_crlf,
            has_data: state.has_data,
            events: state.events,
        })
    }
}

fn begin_line(byte: u8) -> At {
    match byte {
        b'd' => At::Name(1),
        _ => At::Line,
    }
}

#[cfg(test)]
mod tests;
