//! Buffers whole lines for a file that may be full, slow or broken.
//!
//! A line is taken completely or not at all. When the file takes nothing, lines wait as long as
//! there is room, and later ones are counted as lost. A write that was cut short continues where it
//! stopped, so that no line is broken when the disk has room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// The most bytes of lines that are written at a time or wait.
const ROOM: usize = 64 * 1024;

/// Counts what could not be written, for the reports.
#[derive(Debug, Default)]
pub struct Loss {
    lines: AtomicU64,
    /// The error of the last write. `None`: it succeeded.
    error: Mutex<Option<String>>,
}

impl Loss {
    /// How many lines are lost.
    pub fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Why nothing can be written now.
    pub fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}

#[derive(Debug)]
pub struct LineBuffer<W: Write> {
    output: W,
    waiting: Vec<u8>,
    /// How many bytes of `waiting` are already written.
    written: usize,
    loss: Arc<Loss>,
    is_failing: bool,
}

impl<W: Write> LineBuffer<W> {
    pub fn new(output: W, loss: Arc<Loss>) -> Self {
        Self {
            output,
            waiting: Vec::with_capacity(ROOM),
            written: 0,
            loss,
            is_failing: false,
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        while self.written < self.waiting.len() {
            match self.output.write(&self.waiting[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting.clear();
        self.written = 0;
        self.output.flush()
    }

    /// Writes as much as possible, and notes the result.
    fn write_out(&mut self) {
        match self.try_flush() {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    *self.loss.error.lock() = None;
                }
            }
            Err(error) => {
                self.waiting.drain(..self.written);
                self.written = 0;
                self.is_failing = true;
                *self.loss.error.lock() = Some(error.to_string());
            }
        }
    }
}

/// Each call writes one line. It never fails, because its caller could not report an error.
impl<W: Write> Write for LineBuffer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + line.len() > ROOM {
            self.write_out();
        }
        // A line longer than the whole buffer waits alone.
        if self.waiting.is_empty() || self.waiting.len() + line.len() <= ROOM {
            self.waiting.extend_from_slice(line);
        } else {
            self.loss.lines.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

/// What still waits is written, or lost with the buffer.
impl<W: Write> Drop for LineBuffer<W> {
    fn drop(&mut self) {
        self.write_out();
        let lost = self.waiting.iter().filter(|&&byte| byte == b'\n').count();
        self.loss.lines.fetch_add(lost as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room.
    #[derive(Debug, Default, Clone)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn give(&self, room: usize) {
            self.0.lock().1 += room;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock();
            if *room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(*room);
            *room -= count;
            text.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_whole_lines_which_are_counted_and_with_room_again_it_goes_on() {
        let (disk, loss) = (Disk::default(), Arc::new(Loss::default()));
        let mut buffer = LineBuffer::new(disk.clone(), loss.clone());
        // In the middle of a line.
        disk.give(150);
        let line = |number: usize| format!("{number:099}\n");
        for number in 0..2000 {
            buffer.write_all(line(number).as_bytes()).unwrap();
            buffer.flush().unwrap();
        }
        assert!(loss.error().is_some());
        let lost = loss.lines();
        assert!((1300..1400).contains(&lost), "{lost}");
        disk.give(usize::MAX / 2);
        buffer.write_all(line(2000).as_bytes()).unwrap();
        buffer.flush().unwrap();
        assert_eq!((loss.error(), loss.lines()), (None, lost));
        let text = disk.text();
        assert!(text.lines().all(|line| line.len() == 99), "{text}");
        assert_eq!(text.lines().count() as u64, 2001 - lost);
        assert!(text.ends_with(&line(2000)));
    }

    #[test]
    fn what_waits_when_the_buffer_goes_is_counted_as_lost() {
        let loss = Arc::new(Loss::default());
        let mut buffer = LineBuffer::new(Disk::default(), loss.clone());
        buffer.write_all(b"a\n").unwrap();
        buffer.write_all(b"b\n").unwrap();
        assert_eq!(loss.lines(), 0);
        drop(buffer);
        assert_eq!(loss.lines(), 2);
    }

    #[test]
    fn a_line_that_is_longer_than_all_the_room_is_written_too() {
        let disk = Disk::default();
        disk.give(usize::MAX / 2);
        let loss = Arc::new(Loss::default());
        let mut buffer = LineBuffer::new(disk.clone(), loss.clone());
        let long = "x".repeat(2 * ROOM) + "\n";
        for line in ["a\n", &long, "b\n"] {
            buffer.write_all(line.as_bytes()).unwrap();
        }
        buffer.flush().unwrap();
        assert_eq!(disk.text(), format!("a\n{long}b\n"));
        assert_eq!(loss.lines(), 0);
    }
}
