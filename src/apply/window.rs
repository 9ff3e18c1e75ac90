//! Pure: how many bytes of requests may be out at once, where the way to the target is slower than what is sent.
//!
//! On a line that carries less than all requests need that are out together, each of them is late: it is given up, put in
//! doubt, and sent again with the others, and nothing ever arrives. So a request that was not answered in its time halves
//! what may be out, unless one as large that was sent later was answered: then the line is not to blame. While answers come
//! the window doubles again; where several were late together, up to below the size at which they were, for some minutes, or
//! every doubling would put keys in doubt. Times are monotonic, since any fixed point.

use std::collections::VecDeque;
use std::time::Duration;

/// What may always be out; a single write may be larger, and is then out alone.
const LEAST: usize = 32 << 10;
/// Between two doublings.
const GROW_EVERY: Duration = Duration::from_secs(10);
/// Requests that were answered are remembered, so many at most.
const MOST_ANSWERED: usize = 64;
/// A smaller size is remembered as too large only if requests were late together not long ago, too: a target that hesitated
/// once would be written slowly for minutes.
const LEAST_REMEMBERED: usize = 256 << 10;
/// For how long a size that was too large is not tried again.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The window of one kind of request.
#[derive(Debug, Clone)]
pub struct Window {
    most: usize,
    size: usize,
    too_large: Option<TooLarge>,
    shrunk: Option<Shrunk>,
    /// When several requests were late together last.
    late_together: Option<Duration>,
    changed_at: Duration,
    /// Whether a request was answered that was sent since it became smaller.
    works: bool,
    /// Requests that were answered, by when they were sent and their bytes: of two, the later one is here, and the earlier one
    /// if it was larger.
    answered: VecDeque<(Duration, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct TooLarge {
    size: usize,
    until: Duration,
}

/// The last time that the window became smaller: other requests that were sent before tell the same.
#[derive(Debug, Clone, Copy)]
struct Shrunk {
    at: Duration,
    out: usize,
    /// Whether it had worked before, since it last became smaller.
    worked: bool,
}

impl Window {
    /// `most`: bytes that are never exceeded, and that it begins with.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let (changed_at, answered) = (Duration::ZERO, VecDeque::new());
        Self { most, size: most, too_large: None, shrunk: None, late_together: None, changed_at, works: true, answered }
    }

    /// How many bytes may be sent besides those that are out; `None`: no request at all.
    #[must_use]
    pub const fn room(&self, out: usize) -> Option<usize> {
        match self.size.checked_sub(out) {
            None | Some(0) => None,
            room => room,
        }
    }

    /// The service answered a request of so many bytes, whatever it said.
    pub fn answered(&mut self, sent: Duration, now: Duration, bytes: usize) {
        self.remember(sent, bytes);
        if self.shrunk.is_some_and(|shrunk| sent < shrunk.at) {
            return;
        }
        self.works = true;
        if self.size >= self.most || now.saturating_sub(self.changed_at) < GROW_EVERY {
            return;
        }
        self.too_large = self.too_large.filter(|seen| now < seen.until);
        let most = self.too_large.map_or(self.most, |seen| seen.size.saturating_sub(seen.size / 4).max(LEAST));
        let grown = self.size.saturating_mul(2).min(most).min(self.most);
        if grown > self.size {
            (self.size, self.changed_at) = (grown, now);
        }
    }

    fn remember(&mut self, sent: Duration, bytes: usize) {
        if self.answered.iter().any(|(later, larger)| *later >= sent && *larger >= bytes) {
            return;
        }
        self.answered.retain(|(earlier, smaller)| *earlier > sent || *smaller > bytes);
        let at = self.answered.partition_point(|(earlier, _)| *earlier < sent);
        self.answered.insert(at, (sent, bytes));
        if self.answered.len() > MOST_ANSWERED {
            self.answered.pop_front();
        }
    }

    /// Whether a request that was sent later, and was as large, was answered.
    fn is_refuted(&self, sent: Duration, bytes: usize) -> bool {
        self.answered.iter().any(|(later, size)| *later > sent && *size >= bytes)
    }

    /// A request of so many bytes was not answered in its time, while so many were out with it. Answers whether the line seems
    /// too slow, and less may be out from now on.
    pub fn late(&mut self, sent: Duration, now: Duration, bytes: usize, out: usize) -> bool {
        if out <= LEAST || self.is_refuted(sent, bytes) {
            return false;
        }
        if let Some(shrunk) = self.shrunk.filter(|shrunk| sent < shrunk.at) {
            // Where nothing is answered at all, smaller sizes say no more than the first.
            let is_news = self.too_large.is_none_or(|seen| shrunk.worked && shrunk.out < seen.size);
            let again = self
                .late_together
                .replace(shrunk.at)
                .is_some_and(|before| before < shrunk.at && now - before < REMEMBERED);
            if is_news && (again || shrunk.out >= LEAST_REMEMBERED) {
                self.too_large = Some(TooLarge { size: shrunk.out, until: now + REMEMBERED });
            }
            return false;
        }
        let before = self.size;
        self.size = (self.size.min(out) / 2).max(LEAST).min(self.most);
        self.changed_at = now;
        self.shrunk = Some(Shrunk { at: now, out, worked: std::mem::take(&mut self.works) });
        self.size < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME_OUT: Duration = Duration::from_secs(5);
    const TICK: Duration = Duration::from_millis(100);

    /// A line that all requests that are out share evenly.
    struct Line {
        bytes_per_second: f64,
        out: Vec<(usize, f64, Duration)>,
        now: Duration,
        arrived: usize,
        late: usize,
    }

    impl Line {
        fn new(bytes_per_second: f64) -> Self {
            Self { bytes_per_second, out: Vec::new(), now: Duration::ZERO, arrived: 0, late: 0 }
        }

        /// Sends requests of this size whenever the window lets it, at most `most` at once.
        fn run(&mut self, window: &mut Window, time: Duration, size: usize, most: usize) {
            let end = self.now + time;
            while self.now < end {
                let bytes_out = |out: &[(usize, f64, Duration)]| out.iter().map(|each| each.0).sum::<usize>();
                while self.out.len() < most
                    && let Some(room) = window.room(bytes_out(&self.out))
                {
                    // As the lanes do it: a batch is as large as there is room, and one write of any size is let through.
                    let size = size.min(room.max(LEAST / 8));
                    self.out.push((size, size as f64, self.now));
                }
                self.now += TICK;
                let share = self.bytes_per_second * TICK.as_secs_f64() / self.out.len() as f64;
                self.out.iter_mut().for_each(|each| each.1 -= share);
                for (size, _, sent) in self.out.extract_if(.., |each| each.1 <= 0.0) {
                    self.arrived += size;
                    window.answered(sent, self.now, size);
                }
                while let Some(at) = self.out.iter().position(|each| self.now - each.2 >= TIME_OUT) {
                    let out = bytes_out(&self.out);
                    let (size, _, sent) = self.out.swap_remove(at);
                    self.late += 1;
                    window.late(sent, self.now, size, out);
                }
            }
        }
    }

    #[test]
    fn nothing_is_held_back_where_nothing_is_late() {
        let mut window = Window::new(1 << 20);
        assert_eq!(window.room(0), Some(1 << 20));
        window.answered(Duration::ZERO, Duration::from_secs(60), 1);
        assert_eq!((window.room(1), window.room(1 << 20)), (Some((1 << 20) - 1), None));
    }

    #[test]
    fn requests_that_are_late_together_are_one_sign() {
        let mut window = Window::new(16 << 20);
        let (sent, late) = (Duration::from_secs(1), Duration::from_secs(6));
        assert!(window.late(sent, late, 1 << 18, 1 << 20));
        assert!(!window.late(sent, late, 1 << 18, 1 << 20));
        assert_eq!(window.room(0), Some(1 << 19));
    }

    #[test]
    fn an_answer_that_is_lost_now_and_then_slows_nothing_down() {
        let mut window = Window::new(16 << 20);
        let at = Duration::from_secs;
        for second in 5..3600 {
            window.answered(at(second), at(second), 25 << 10);
            assert!(!window.late(at(second - 5), at(second), 25 << 10, 400 << 10));
            assert_eq!(window.room(0), Some(16 << 20), "{window:?} after {second} s");
        }
        // And where hardly anything is written, what comes next is not held back for minutes.
        let mut quiet = Window::new(16 << 20);
        for minute in 1..60 {
            assert!(!quiet.late(at(minute * 60), at(minute * 60 + 5), 1 << 10, 1 << 10));
            assert_eq!(quiet.room(0), Some(16 << 20));
        }
        // A target that hesitates once.
        quiet.late(at(4000), at(4005), 50 << 10, 100 << 10);
        quiet.late(at(4000), at(4005), 50 << 10, 50 << 10);
        for second in 4005..4105 {
            quiet.answered(at(second), at(second), 1 << 10);
        }
        assert_eq!(quiet.room(0), Some(16 << 20));
    }

    #[test]
    fn a_request_is_late_by_the_line_unless_one_as_large_came_through_after_it() {
        let at = Duration::from_secs;
        for (bytes, is_the_line) in [(1 << 10, true), (1 << 18, false)] {
            let mut window = Window::new(16 << 20);
            window.answered(at(2), at(3), bytes);
            assert_eq!(window.late(at(1), at(6), 1 << 18, 1 << 20), is_the_line, "{bytes} bytes were answered");
        }
    }

    #[test]
    fn a_target_that_was_silent_for_an_hour_is_written_at_full_speed_a_minute_after() {
        let mut window = Window::new(16 << 20);
        for minute in 1..60 {
            for _ in 0..4 {
                window.late(Duration::from_secs(60 * minute - 5), Duration::from_secs(60 * minute), 1 << 18, 1 << 20);
            }
        }
        assert_eq!(window.room(0), Some(LEAST));
        for second in 3600..3660 {
            window.answered(Duration::from_secs(second), Duration::from_secs(second), 1 << 10);
        }
        assert!(window.room(0) >= Some(1 << 20), "{window:?}");
    }

    #[test]
    fn a_size_that_was_too_large_is_tried_again_after_minutes_and_not_before() {
        let mut window = Window::new(16 << 20);
        let mut line = Line::new(100_000.0);
        line.run(&mut window, Duration::from_secs(120), 50 << 10, 16);
        let settled = line.late;
        line.run(&mut window, Duration::from_secs(170), 50 << 10, 16);
        assert!(line.late - settled <= 16, "{} are late while the size is known", line.late - settled);
        line.bytes_per_second = 1e9;
        line.run(&mut window, Duration::from_secs(900), 50 << 10, 16);
        assert_eq!(window.room(0), Some(16 << 20));
    }

    proptest! {
        #[test]
        fn a_line_of_any_speed_carries_most_of_what_it_can(
            kb_per_second in 8u32..4000,
            size in (1usize << 10)..(1 << 20),
            most in 1usize..64,
        ) {
            let speed = f64::from(kb_per_second) * 1000.0;
            let (mut window, mut line) = (Window::new(most * (15 << 20)), Line::new(speed));
            line.run(&mut window, Duration::from_secs(300), size, most);
            let before = line.arrived;
            line.run(&mut window, Duration::from_secs(600), size, most);
            let carried = (line.arrived - before) as f64;
            // What the requests that may be out can use, each for itself: they are answered once in a tick at most.
            let usable = (most * size.min(window.room(0).unwrap_or(0))) as f64 / TICK.as_secs_f64();
            prop_assert!(carried >= 0.3 * 600.0 * speed.min(usable), "{} of {}", carried, 600.0 * speed.min(usable));
        }
    }
}
