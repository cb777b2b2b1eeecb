//! Flow control (RFC 9113 §5.2, §6.9): how much each side may still send.

use super::{Code, Failure};

/// The largest window (RFC 9113 §6.9.1).
const MOST: i64 = (1 << 31) - 1;

/// What we may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWindow(i64);

impl SendWindow {
    pub(super) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// Zero while the peer allows nothing (a SETTINGS may have made it negative).
    pub(super) fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(super) fn used(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// A WINDOW_UPDATE, or the change of the initial window.
    pub(super) fn grow(&mut self, by: i64) -> Result<(), Failure> {
        self.0 += by;
        if self.0 > MOST {
            return Err(Failure::new(Code::FLOW_CONTROL_ERROR, "a window above 2^31-1"));
        }
        Ok(())
    }
}

/// What the peer may send. It starts small and doubles while what comes is taken in stride.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveWindow {
    left: i64,
    size: u32,
    most: u32,
    owed: u32,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32, most: u32) -> Self {
        Self { left: i64::from(size), size, most, owed: 0 }
    }

    /// Counts what came; `false` if it was more than allowed.
    pub(super) fn charge(&mut self, bytes: usize) -> bool {
        self.left -= bytes as i64;
        self.left >= 0
    }

    /// Counts what has been taken; the credit to give, once it is worth a frame.
    pub(super) fn release(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(bytes as u32);
        if self.owed < self.size / 2 {
            return None;
        }
        let larger = self.size.saturating_mul(2).min(self.most).max(self.size);
        let credit = self.owed + (larger - self.size);
        (self.owed, self.size) = (0, larger);
        self.left += i64::from(credit);
        Some(credit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_given_by_halves_and_the_window_grows_to_its_most() {
        let mut window = ReceiveWindow::new(100, 400);
        assert!(window.charge(100) && !window.charge(1));
        let mut window = ReceiveWindow::new(100, 400);
        assert!(window.charge(60));
        assert_eq!((window.release(49), window.release(1)), (None, Some(50 + 100)));
        assert!(window.charge(100));
        assert_eq!(window.release(100), Some(300));
        assert!(window.charge(200));
        assert_eq!(window.release(200), Some(200), "at its most");
    }

    #[test]
    fn a_send_window_may_fall_below_zero_but_not_rise_above_its_limit() {
        let mut window = SendWindow::new(10);
        window.used(10);
        window.grow(-5).unwrap();
        assert_eq!(window.left(), 0);
        window.grow(6).unwrap();
        assert_eq!(window.left(), 1);
        assert!(window.grow(MOST).is_err());
    }
}
