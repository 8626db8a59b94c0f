//! Group commit: one of the callers that wait does the work of all, and tells each what came of it.
//!
//! It knows nothing of files. Whoever comes while nobody leads is the *leader*: it does its own work
//! and takes all that waits, in the order of arrival, and what comes while it takes; ends it all as
//! one, hands the lead to the first of those who came after that, and tells each caller its own
//! answer. There is no thread of its own.
//!
//! # Locks
//!
//! 1. A queue's mutex is held to add or take work, a seat's to leave or take what it is told; no call
//!    ever holds two. Work is done and dropped while none is held.
//! 2. `led` is set exactly while somebody leads, or has been told to. Work is in the queue only then,
//!    so nobody waits without a leader.
//! 3. A leader that ends, by an answer or by a panic, has handed over, and has told every seat that it
//!    took: `Shift`'s `Drop` sees to both.

use crate::sync::{Arc, Condvar, Mutex, thread};
use std::collections::VecDeque;
use std::vec;

/// Work of type `W` that is done together, and answered one by one with an `R`.
pub(super) struct Group<W, R> {
    queue: Mutex<Queue<W, R>>,
    patience: u32,
}

struct Queue<W, R> {
    waiting: VecDeque<(W, Arc<Seat<W, R>>)>,
    led: bool,
    /// How many others the next leader may hope for: of those who were served last, and may be back
    /// soon, and those who waited meanwhile, all but one, which is the next leader.
    expected: usize,
}

/// Where one caller waits.
struct Seat<W, R> {
    told: Mutex<Told<W, R>>,
    wake: Condvar,
}

enum Told<W, R> {
    Nothing,
    /// To lead, with its own work.
    Lead(W),
    Answer(R),
}

impl<W, R> Group<W, R> {
    /// A leader that finds the queue empty yields to other threads, up to `patience` times in all, for
    /// as long as fewer have come than may be hoped for: callers who were answered together come back
    /// together, and a leader who did not wait for them would leave them out. A caller who is alone
    /// never waits, for then there is no other to hope for.
    ///
    /// Eight threads on two cores, on a disk that syncs in 0.25 ms, make groups of 7.8 with 64 yields.
    /// One group takes 0.75 ms: 0.63 in redb's commit, 0.07 in writing what is drawn, which hides most
    /// of the waiting, and 0.04 until the next leader begins; that the last leader tells the others for
    /// 0.03 ms of it delays nobody who leads.
    pub(super) fn new(patience: u32) -> Self {
        Group {
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                led: false,
                expected: 0,
            }),
            patience,
        }
    }

    /// Does `work`, with whatever else waits, and returns what came of it.
    ///
    /// `apply` is called at most once, on this thread if it leads: it draws the work of all, its own
    /// first and the others' in the order of arrival, and returns the answers in the same order. What
    /// it does not draw is for the next leader. Whoever it gives no answer, because it panicked or
    /// returned too few, is given an `unanswered`.
    pub(super) fn run(
        &self,
        work: W,
        apply: impl FnOnce(&mut dyn Iterator<Item = W>) -> Vec<R>,
        unanswered: impl Fn() -> R,
    ) -> R {
        let work = match self.join(work) {
            Ok(work) => work,
            Err(seat) => match seat.wait() {
                Ok(answer) => return answer,
                Err(work) => work,
            },
        };
        let mut shift = Shift {
            group: self,
            own: Some(work),
            seats: Vec::new(),
            patience: self.patience,
            answers: Vec::new().into_iter(),
            unanswered: &unanswered,
        };
        shift.answers = apply(&mut shift.by_ref().fuse()).into_iter();
        shift.answer()
    }

    /// The work back if its caller is to lead, or else where to wait.
    fn join(&self, work: W) -> Result<W, Arc<Seat<W, R>>> {
        let mut queue = self.queue.lock();
        if !std::mem::replace(&mut queue.led, true) {
            return Ok(work);
        }
        let seat = Arc::new(Seat::new());
        queue.waiting.push_back((work, Arc::clone(&seat)));
        Err(seat)
    }

    /// Ends a lead that served so many others: the first who waits takes it over, if anybody does.
    fn hand_over(&self, others: usize) {
        let mut queue = self.queue.lock();
        queue.expected = others + queue.waiting.len();
        let next = queue.waiting.pop_front();
        queue.led = next.is_some();
        drop(queue);
        if let Some((work, seat)) = next {
            seat.tell(Told::Lead(work));
        }
    }
}

impl<W, R> Seat<W, R> {
    fn new() -> Self {
        Seat {
            told: Mutex::new(Told::Nothing),
            wake: Condvar::default(),
        }
    }

    fn tell(&self, what: Told<W, R>) {
        *self.told.lock() = what;
        self.wake.notify_one();
    }

    /// The answer, or the caller's own work if it is to lead.
    fn wait(&self) -> Result<R, W> {
        let mut told = self.told.lock();
        loop {
            match std::mem::replace(&mut *told, Told::Nothing) {
                Told::Answer(answer) => return Ok(answer),
                Told::Lead(work) => return Err(work),
                Told::Nothing => told = self.wake.wait(told),
            }
        }
    }
}

/// One leader's turn, from its own work to the telling of the others; the work, one by one.
struct Shift<'a, W, R, U: Fn() -> R> {
    group: &'a Group<W, R>,
    own: Option<W>,
    /// Whose work was drawn after the leader's own.
    seats: Vec<Arc<Seat<W, R>>>,
    patience: u32,
    answers: vec::IntoIter<R>,
    unanswered: &'a U,
}

impl<W, R, U: Fn() -> R> Shift<'_, W, R, U> {
    fn answer(&mut self) -> R {
        self.answers.next().unwrap_or_else(self.unanswered)
    }
}

impl<W, R, U: Fn() -> R> Iterator for Shift<'_, W, R, U> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        if let Some(own) = self.own.take() {
            return Some(own);
        }
        loop {
            let mut queue = self.group.queue.lock();
            if let Some((work, seat)) = queue.waiting.pop_front() {
                drop(queue);
                self.seats.push(seat);
                return Some(work);
            }
            if self.seats.len() >= queue.expected {
                return None;
            }
            drop(queue);
            self.patience = self.patience.checked_sub(1)?;
            thread::yield_now();
        }
    }
}

/// The next one may begin, and its disk may work, while those who were served are still being told.
impl<W, R, U: Fn() -> R> Drop for Shift<'_, W, R, U> {
    fn drop(&mut self) {
        self.group.hand_over(self.seats.len());
        for seat in std::mem::take(&mut self.seats) {
            seat.tell(Told::Answer(self.answer()));
        }
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;

    type Numbers = Group<u32, Option<u32>>;
    type Works<'a> = &'a mut dyn Iterator<Item = u32>;

    /// Doubles all that it draws, and keeps what it was given.
    fn doubled(group: &Numbers, number: u32, seen: &Mutex<Vec<Vec<u32>>>) -> Option<u32> {
        let apply = |numbers: Works| {
            let numbers: Vec<u32> = numbers.collect();
            let answers = numbers.iter().map(|number| Some(number * 2)).collect();
            seen.lock().push(numbers);
            answers
        };
        group.run(number, apply, || None)
    }

    fn waiting(group: &Numbers) -> usize {
        group.queue.lock().waiting.len()
    }

    /// Holds the lead until `count` others wait, then ends it with `end`.
    fn lead_until_others_wait<R>(group: &Numbers, count: usize, end: impl FnOnce() -> R) -> R {
        while waiting(group) < count {
            thread::yield_now();
        }
        end()
    }

    #[test]
    fn a_caller_alone_does_its_own_work() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        assert_eq!(doubled(&group, 1, &seen), Some(2));
        assert_eq!(doubled(&group, 2, &seen), Some(4));
        assert_eq!(*seen.lock(), [[1], [2]]);
    }

    #[test]
    fn all_who_wait_are_served_at_once_in_the_order_of_arrival() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        let (leads, led) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let apply = |_: Works| {
                    leads.send(()).unwrap();
                    lead_until_others_wait(&group, 5, || vec![Some(0)])
                };
                assert_eq!(group.run(0, apply, || None), Some(0));
            });
            led.recv().unwrap();
            for number in 1..=5 {
                let (group, seen) = (&group, &seen);
                scope.spawn(move || assert_eq!(doubled(group, number, seen), Some(2 * number)));
                // When the last of them waits, the leader ends, and they may all be gone at once.
                while number < 5 && waiting(group) < number as usize {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(*seen.lock(), [[1, 2, 3, 4, 5]]);
    }

    #[test]
    fn what_comes_while_a_leader_draws_is_drawn_too() {
        let group = Numbers::new(0);
        let (leads, led) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let apply = |numbers: Works| {
                    let mut drawn = vec![numbers.next()];
                    leads.send(()).unwrap();
                    lead_until_others_wait(&group, 1, || drawn.extend(numbers.map(Some)));
                    drawn
                };
                assert_eq!(group.run(1, apply, || None), Some(1));
            });
            led.recv().unwrap();
            let apply = |_: Works| panic!("somebody else leads");
            assert_eq!(group.run(2, apply, || None), Some(2));
        });
    }

    #[test]
    fn a_leader_waits_for_those_who_were_served_last() {
        let group = &Numbers::new(u32::MAX);
        let (leads, led) = mpsc::channel();
        let (draws, drawing) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let apply = |_: Works| {
                    leads.send(()).unwrap();
                    lead_until_others_wait(group, 1, || vec![Some(0)])
                };
                assert_eq!(group.run(0, apply, || None), Some(0));
                // It is back when the next leader has begun.
                drawing.recv().unwrap();
                let apply = |_: Works| panic!("somebody else leads");
                assert_eq!(group.run(2, apply, || None), Some(2));
            });
            led.recv().unwrap();
            let apply = |numbers: Works| {
                let mut drawn = vec![numbers.next()];
                draws.send(()).unwrap();
                drawn.extend(numbers.map(Some));
                drawn
            };
            assert_eq!(group.run(1, apply, || None), Some(1));
        });
    }

    #[test]
    fn a_leader_that_panics_leaves_nobody_waiting() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        let (leads, led) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                // It draws nothing: what comes meanwhile is for the next leader.
                let apply = |_: Works| {
                    leads.send(()).unwrap();
                    lead_until_others_wait(&group, 3, || vec![Some(0)])
                };
                group.run(0, apply, || None)
            });
            led.recv().unwrap();
            let panics = scope.spawn(|| {
                let apply = |numbers: Works| {
                    assert_eq!(numbers.count(), 3);
                    panic!("the leader fails")
                };
                let run = || group.run(1, apply, || None);
                catch_unwind(AssertUnwindSafe(run)).is_err()
            });
            while waiting(&group) < 1 {
                thread::yield_now();
            }
            let followers = [2, 3].map(|number| {
                let (group, seen) = (&group, &seen);
                scope.spawn(move || doubled(group, number, seen))
            });
            assert!(panics.join().unwrap(), "its panic was swallowed");
            for follower in followers {
                assert_eq!(follower.join().unwrap(), None);
            }
        });
        assert_eq!(doubled(&group, 4, &seen), Some(8));
    }

    #[test]
    fn whoever_is_given_no_answer_is_told_so() {
        let group = Numbers::new(0);
        assert_eq!(group.run(1, |_: Works| Vec::new(), || None), None);
        let too_many = |_: Works| vec![Some(1), Some(2)];
        assert_eq!(group.run(1, too_many, || None), Some(1));
    }
}

/// Every order of few callers, or very many orders of more.
#[cfg(test)]
#[cfg(any(loom, shuttle))]
mod model {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[cfg(loom)]
    use loom::{sync::Arc as Shared, thread::spawn};
    #[cfg(shuttle)]
    use shuttle::{sync::Arc as Shared, thread::spawn};

    const CALLERS: u32 = if cfg!(loom) { 2 } else { 4 };

    fn explore(body: impl Fn() + Send + Sync + 'static) {
        #[cfg(loom)]
        {
            let mut builder = loom::model::Builder::new();
            let preemptions = std::env::var("PREEMPTIONS").ok();
            builder.preemption_bound = Some(preemptions.map_or(2, |bound| bound.parse().unwrap()));
            builder.check(body);
        }
        #[cfg(shuttle)]
        {
            let schedules = std::env::var("SHUTTLE_ITERS").ok();
            let schedules = schedules.map_or(1_000, |count| count.parse().unwrap());
            let body = Shared::new(body);
            let same = Shared::clone(&body);
            shuttle::check_random(move || same(), schedules);
            shuttle::check_pct(move || body(), schedules, 3);
        }
    }

    /// Every caller's work is done once and each is told its own answer, whoever leads; all in the
    /// order in which they were applied.
    #[test]
    fn every_caller_is_told_its_own_answer_once() {
        explore(|| {
            let group = Shared::new(Group::<u32, (u32, u32)>::new(1));
            let applied = Shared::new(Mutex::new(Vec::<u32>::new()));
            let run = |number: u32| {
                let (group, applied) = (Shared::clone(&group), Shared::clone(&applied));
                move || {
                    let apply = |works: &mut dyn Iterator<Item = u32>| {
                        let works: Vec<u32> = works.collect();
                        let mut applied = applied.lock();
                        let first = applied.len() as u32;
                        applied.extend(&works);
                        (first..).zip(works).collect()
                    };
                    group.run(number, apply, || panic!("unanswered"))
                }
            };
            let others: Vec<_> = (1..CALLERS).map(|number| spawn(run(number))).collect();
            let mut answers = vec![run(0)()];
            answers.extend(others.into_iter().map(|other| other.join().unwrap()));
            let mut applied = applied.lock().clone();
            for (place, number) in &answers {
                assert_eq!(applied[*place as usize], *number);
            }
            applied.sort_unstable();
            assert_eq!(applied, (0..CALLERS).collect::<Vec<_>>());
        });
    }

    /// A leader that panics leaves nobody waiting, and who comes later is served.
    #[test]
    fn nobody_waits_for_a_leader_that_panicked() {
        explore(|| {
            let group = Shared::new(Group::<bool, bool>::new(0));
            let run = |panics: bool| {
                let group = Shared::clone(&group);
                move || {
                    let apply = |works: &mut dyn Iterator<Item = bool>| {
                        let done = |panics| match panics {
                            true => resume_unwind(Box::new("planted")),
                            false => true,
                        };
                        works.map(done).collect()
                    };
                    let run = || group.run(panics, apply, || false);
                    catch_unwind(AssertUnwindSafe(run)).ok()
                }
            };
            let other = spawn(run(false));
            let planted = run(true)();
            assert_ne!(planted, Some(true), "the work that panics was done");
            other.join().unwrap();
            assert_eq!(run(false)(), Some(true));
        });
    }
}
