//! Memory goes back to the kernel after a burst of connections: what their handshakes left when
//! they have come, and the rest when they have gone.

use crate::{observe::conn::LiveTable, sys::process};

/// So many connections more or fewer are worth a look at all that was freed.
const MANY: usize = 1000;

/// After so many looks more, 15 s, what the tunnels held that were not needed any longer is free
/// too.
const AFTERWARDS: u32 = 37;

/// How many connections were open, at most and lately.
#[derive(Debug, Default)]
pub(super) struct MemoryTrimmer {
    most: usize,
    least: usize,
    last: usize,
    afterwards: u32,
}

impl MemoryTrimmer {
    /// Looks, now and then, how many connections are open.
    pub(super) fn look(&mut self, live: &LiveTable) {
        let open = live.len();
        let come = self.have_settled(open);
        let out = self.have_left(open);
        if come {
            process::release_freed_memory();
        }
        self.afterwards = if out { AFTERWARDS } else { self.afterwards.saturating_sub(1) };
        if out || self.afterwards == 1 {
            live.shrink();
            process::release_freed_memory();
        }
    }

    /// Whether many have come, more than were there, and no more are coming. Asked before
    /// [`MemoryTrimmer::have_left`].
    fn have_settled(&mut self, open: usize) -> bool {
        self.least = self.least.min(open);
        let come = open <= self.last && open - self.least >= MANY.max(self.least);
        if come {
            self.least = open;
        }
        come
    }

    /// Whether many have gone, more than stayed, and no more are going.
    fn have_left(&mut self, open: usize) -> bool {
        let going = open < std::mem::replace(&mut self.last, open);
        self.most = self.most.max(open);
        let out = !going && self.most - open >= MANY.max(open);
        if out {
            self.most = open;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_settled_once_when_no_more_are_coming() {
        let mut trimmer = MemoryTrimmer::default();
        let seen = [0, 400, 900, 1200, 1200, 1300, 1300, 3000, 3000, 10, 10, 1500, 1400];
        let mut come = Vec::new();
        for (at, open) in seen.into_iter().enumerate() {
            if trimmer.have_settled(open) {
                come.push((at, open));
            }
            trimmer.have_left(open);
        }
        assert_eq!(come, [(4, 1200), (8, 3000), (12, 1400)]);
    }

    #[test]
    fn it_have_left_once_when_the_last_of_many_has_gone() {
        let mut trimmer = MemoryTrimmer::default();
        let seen = [0, 900, 0, 0, 5000, 4000, 4000, 1200, 30, 30, 30, 20, 20, 2000, 2000, 20, 20];
        let out: Vec<_> = (0..).zip(seen).filter(|(_, open)| trimmer.have_left(*open)).collect();
        assert_eq!(out, [(9, 30), (16, 20)]);
    }
}
