//! Gives unused memory of read buffers back to the kernel.
//!
//! Pingora reads bodies into a buffer of 64 KiB, which it keeps during the whole exchange. Every
//! page of it that was ever used costs memory while the exchange stands still. Then the streams
//! that fill the buffer give its pages back. `unsafe`, because the kernel is given addresses.

#![allow(unsafe_code, reason = "madvise(2) works on addresses")]

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;
use tokio::io::ReadBuf;

/// Gives back the pages of the unfilled part. Their content is lost, and nothing else changes.
pub fn give_back(buf: &mut ReadBuf<'_>) {
    // SAFETY: nothing is written through this reference, so what is initialised stays initialised.
    let unfilled = unsafe { buf.unfilled_mut() };
    let page = page_size();
    let before = unfilled.as_ptr().addr().wrapping_neg() % page;
    let length = unfilled.len().saturating_sub(before) / page * page;
    if length == 0 {
        return;
    }
    let start = unfilled[before..].as_mut_ptr();
    // SAFETY: these are whole pages of a buffer that only we may write to, and nobody reads their
    // content. They stay mapped. They are private memory without a file, like the whole heap, so
    // they read as zeros afterwards: they are as initialised as before.
    let given = unsafe { madvise(start.cast(), length, Advice::LinuxDontNeed) };
    if let Err(error) = given {
        // For example locked pages. They cost as much memory as before.
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
