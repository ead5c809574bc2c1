//! Memory that is not used now goes back to the kernel.
//!
//! Pingora reads bodies to a buffer of 64 KiB, which it keeps as long as the exchange lasts: every
//! page of it that was used once, by this exchange or by one before, costs memory while the
//! exchange stands still. The streams that read to it give its pages back then. `unsafe` as the
//! kernel is told so by address.

#![allow(unsafe_code, reason = "madvise(2) works on addresses")]

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;
use tokio::io::ReadBuf;

/// Those of the part that nothing has been read to yet: what stands there is lost. It is as good as
/// before for all that follows.
pub fn give_back(buf: &mut ReadBuf<'_>) {
    // SAFETY: nothing is written by this reference, so what is initialised stays so.
    let unfilled = unsafe { buf.unfilled_mut() };
    let page = page_size();
    let before = unfilled.as_ptr().addr().wrapping_neg() % page;
    let length = unfilled.len().saturating_sub(before) / page * page;
    if length == 0 {
        return;
    }
    let start = unfilled[before..].as_mut_ptr();
    // SAFETY: these are whole pages of a buffer that is lent to us alone, to be written to: nobody
    // reads what stands there. They stay mapped, and private memory without a file, as all of the
    // heap is, reads as zeros after this: as initialised as it was.
    let given = unsafe { madvise(start.cast(), length, Advice::LinuxDontNeed) };
    if let Err(error) = given {
        // Pages that are locked, for instance. They cost what they did.
        log::debug!("unused memory stays where it is: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_and_whole_pages_behind_it_go() {
        let page = page_size();
        let mut memory = vec![7; 5 * page];
        let mut buf = ReadBuf::new(&mut memory);
        buf.set_filled(page + 1);
        give_back(&mut buf);
        assert!(buf.filled().iter().all(|&byte| byte == 7));
        assert_eq!(buf.initialized().len(), 5 * page);
        let zeros = memory.iter().filter(|&&byte| byte == 0).count();
        assert!(zeros == 2 * page || zeros == 3 * page, "{zeros}");
        memory.fill(8);
        assert!(memory.iter().all(|&byte| byte == 8));
    }

    #[test]
    fn less_than_a_page_is_left_alone() {
        let mut memory = [7; 1];
        give_back(&mut ReadBuf::new(&mut memory));
        assert_eq!(memory, [7]);
    }
}
