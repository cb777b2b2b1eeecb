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
    /// What the peer may still send.
    left: i64,
    /// What has come and nobody has taken.
    held: i64,
    /// What both may be together.
    size: i64,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { left: i64::from(size), held: 0, size: i64::from(size) }
    }

    /// What may still be on its way.
    pub(super) fn left(self) -> u64 {
        u64::try_from(self.left).unwrap_or(0)
    }

    /// What may be on its way and held together.
    pub(super) fn size(self) -> u32 {
        u32::try_from(self.size).unwrap_or(0)
    }

    /// Lets the peer send so many more.
    pub(super) fn widen(&mut self, by: u32) {
        self.left += i64::from(by);
        self.size += i64::from(by);
    }

    /// Counts what came; `false` if it was more than allowed.
    pub(super) fn charge(&mut self, bytes: usize) -> bool {
        self.left -= bytes as i64;
        self.held += bytes as i64;
        self.left >= 0
    }

    /// Counts what has been taken. Once half of the window is used up: the credit that fills it
    /// again, to twice its size or to what `most` says it may be now.
    pub(super) fn release(&mut self, bytes: usize, most: impl FnOnce() -> u32) -> Option<u32> {
        self.held -= bytes as i64;
        let open = self.left + self.held;
        if open > self.size / 2 {
            return None;
        }
        let size = (self.size * 2).min(i64::from(most()));
        let credit = u32::try_from(size - open).ok().filter(|credit| *credit > 0)?;
        self.size = size;
        self.left += i64::from(credit);
        Some(credit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_given_by_halves_and_the_window_grows_to_its_most() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.charge(100) && !window.charge(1));
        let mut window = ReceiveWindow::new(100);
        assert!(window.charge(60));
        assert_eq!((window.release(49, || 400), window.release(1, || 400)), (None, Some(150)));
        assert!(window.charge(140), "200, of which 10 are held");
        assert_eq!(window.release(150, || 400), Some(350));
        assert!(window.charge(300));
        assert_eq!(window.release(300, || 400), Some(300), "at its most");
    }

    #[test]
    fn a_window_shrinks_when_less_may_be_held() {
        let mut window = ReceiveWindow::new(400);
        assert!(window.charge(400));
        assert_eq!(window.release(200, || 250), Some(50));
        assert_eq!(window.release(125, || 250), Some(125), "125 were open, of which 75 held");
        assert!(window.charge(175) && !window.charge(1));
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
