//! How long something takes, and how often it happens: what a timer of go-metrics says.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// How often the moving averages move.
const TICK: Duration = Duration::from_secs(5);
/// The windows of the moving averages, in ticks: 1, 5 and 15 minutes.
const WINDOWS: [f64; 3] = [12.0, 60.0, 180.0];

/// The longest time that is told apart, in microseconds: a year.
const LONGEST: u64 = 365 * 86_400 * 1_000_000;

/// A timer; its memory is bounded, however often it is used.
pub struct Timer(Mutex<TimerState>);

#[derive(Clone)]
struct TimerState {
    /// Microseconds, to two digits.
    spread: Histogram<u64>,
    count: u64,
    sum: f64,
    squares: f64,
    min: u64,
    max: u64,
    /// Per second.
    rates: [f64; 3],
    moved: bool,
    since_tick: u64,
    ticked: Instant,
    begun: Instant,
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timer({})", self.lock().count)
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self(Mutex::new(TimerState::new(Instant::now())))
    }
}

impl Timer {
    /// Records one duration.
    pub fn record(&self, took: Duration) {
        self.lock().record(took, Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TimerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TimerState {
    fn new(now: Instant) -> Self {
        Self {
            spread: Histogram::new(2).expect("two digits are a legal precision"),
            count: 0,
            sum: 0.0,
            squares: 0.0,
            min: 0,
            max: 0,
            rates: [0.0; 3],
            moved: false,
            since_tick: 0,
            ticked: now,
            begun: now,
        }
    }

    fn record(&mut self, took: Duration, now: Instant) {
        self.tick(now);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // It grows to what it is given; a year is the most that it shall.
        let _ = self.spread.record((nanos / 1000).clamp(1, LONGEST));
        self.min = if self.count == 0 { nanos } else { self.min.min(nanos) };
        self.max = self.max.max(nanos);
        self.count += 1;
        self.since_tick += 1;
        self.sum += nanos as f64;
        self.squares += (nanos as f64).powi(2);
    }

    /// Brings the moving averages up to now.
    fn tick(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.ticked);
        let ticks = u32::try_from(past.as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX);
        if ticks == 0 {
            return;
        }
        let instant = self.since_tick as f64 / TICK.as_secs_f64();
        for (rate, window) in self.rates.iter_mut().zip(WINDOWS) {
            let alpha = 1.0 - (-1.0 / window).exp();
            *rate = if self.moved { *rate + alpha * (instant - *rate) } else { instant };
            // In the other ticks nothing has happened.
            *rate *= (1.0 - alpha).powf(f64::from(ticks - 1));
        }
        (self.moved, self.since_tick) = (true, 0);
        self.ticked += TICK * ticks;
    }
}

/// What timers say together. Times are in nanoseconds, rates per second.
pub(super) struct Timing {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// Over 1, 5 and 15 minutes, and since the start.
    pub(super) rates: [f64; 4],
    spread: Histogram<u64>,
}

impl Timing {
    /// Of all of them together.
    pub(super) fn of<'a>(timers: impl IntoIterator<Item = &'a Timer>) -> Self {
        let now = Instant::now();
        let mut all = TimerState::new(now);
        let mut rates = [0.0; 4];
        for timer in timers {
            let mut one = timer.lock();
            one.tick(now);
            if one.count > 0 {
                all.min = if all.count == 0 { one.min } else { all.min.min(one.min) };
                all.max = all.max.max(one.max);
                all.count += one.count;
                all.sum += one.sum;
                all.squares += one.squares;
                // Both grow as they must, so nothing is out of range.
                let _ = all.spread.add(&one.spread);
            }
            for (sum, rate) in rates.iter_mut().zip(one.rates) {
                *sum += rate;
            }
            let age = now.saturating_duration_since(one.begun).as_secs_f64();
            rates[3] += if age > 0.0 { one.count as f64 / age } else { 0.0 };
        }
        let n = all.count.max(1) as f64;
        let mean = all.sum / n;
        Self {
            count: all.count,
            sum: all.sum,
            min: all.min,
            max: all.max,
            mean,
            variance: (all.squares / n - mean.powi(2)).max(0.0),
            rates,
            spread: all.spread,
        }
    }

    /// How long the fastest part of them took, at most; `part` is from 0 to 1.
    pub(super) fn within(&self, part: f64) -> f64 {
        let micros = self.spread.value_at_quantile(part);
        (micros as f64 * 1000.0).min(self.max as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_timers_are_told_of_together() {
        let (one, two) = (Timer::default(), Timer::default());
        for (timer, ms) in [(&one, 10), (&one, 20), (&two, 30), (&two, 40)] {
            timer.record(Duration::from_millis(ms));
        }
        let told = Timing::of([&one, &two, &Timer::default()]);
        assert_eq!((told.count, told.min, told.max), (4, 10_000_000, 40_000_000));
        assert_eq!((told.sum, told.mean, told.variance), (1e8, 2.5e7, 1.25e14));
        assert!((19e6..=21e6).contains(&told.within(0.5)), "{}", told.within(0.5));
        assert_eq!(told.within(0.99), 4e7);
        let nothing = Timing::of([]);
        assert_eq!((nothing.count, nothing.min, nothing.mean), (0, 0, 0.0));
    }

    #[test]
    fn rates_follow_what_happens_and_fade() {
        let begun = Instant::now();
        let mut state = TimerState::new(begun);
        for second in 0..60 {
            state.record(Duration::from_millis(1), begun + Duration::from_secs(second));
        }
        state.tick(begun + Duration::from_secs(60));
        assert!(state.rates.iter().all(|r| (0.9..=1.1).contains(r)), "{:?}", state.rates);
        state.tick(begun + Duration::from_secs(120));
        let faded = (-1.0f64).exp();
        assert!((state.rates[0] - faded).abs() < 0.05, "{:?}", state.rates);
        assert!(state.rates[2] > 0.85, "{:?}", state.rates);
    }
}
